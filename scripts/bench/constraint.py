#!/usr/bin/env python3
"""What a grammar costs: tokens/s of a real node with one against without, in interleaved pairs of the same run; and, on
the bundled model's vocabulary and on one of 128k tokens trained here, the time of a vocabulary, a schema and a mask.

    scripts/bench/constraint.py [--engine mlx|tinygrad] [--pairs N] [--at-once N] [--no-large]

Prints one JSON line. `ratio` is tokens/s with over without a grammar; masks are microseconds on one thread, without a
forward pass beside them.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import tokenizers  # noqa: E402

from exo_node.ring.constraint import Constraint, Vocabulary  # noqa: E402
from exo_node.types import Grammar  # noqa: E402
from tests.integration.harness import NodeProcess, nodes  # noqa: E402

DEMO = Path(str(resources.files("exo_node"))) / "models" / "demo"
TOKENS, END = 200, 2  # tokens of an answer; the bundled model's end-of-text token, kept away
LARGE = 128_256
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "rows": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"}, "kind": {"enum": ["red", "green", "blue"]}, "at": {"type": "integer"},
                    "when": {"type": "string", "format": "date-time"}, "notes": {"type": "string", "maxLength": 60},
                },
                "required": ["name", "kind", "at", "when", "notes"],
                "additionalProperties": False,
            },
            "minItems": 1000,
        },
    },
    "required": ["title", "rows"],
    "additionalProperties": False,
}  # fmt: skip


def rate(node: NodeProcess, at_once: int, grammar: bool) -> float:
    """Tokens/s of `at_once` answers of `TOKENS` tokens each."""
    body = {
        "model": "demo", "prompt": "Once", "max_tokens": TOKENS, "temperature": 1, "seed": 1, "n": at_once,
        **({"guided_json": SCHEMA} if grammar else {"logit_bias": {str(END): -100}}),
    }  # fmt: skip
    begun = time.perf_counter()
    status, answer = node.request("POST", "/v1/completions", body)
    seconds = time.perf_counter() - begun
    assert status == 200 and answer["usage"]["completion_tokens"] == TOKENS * at_once, answer
    return TOKENS * at_once / seconds


def large_tokenizer(folder: Path) -> Path:
    """A byte-level BPE over the standard library's sources."""
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = byte_level(add_prefix_space=False), tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=LARGE - 256, special_tokens=["<s>", "</s>"], initial_alphabet=byte_level.alphabet(),
        show_progress=False,
    )  # fmt: skip
    sources = Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")
    tokenizer.train_from_iterator((path.read_text(errors="ignore") for path in sources), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text('{"eos_token_id": 1, "bos_token_id": 0}')
    return folder


def masks(folder: Path, size: int, answers: int = 5) -> dict[str, Any]:
    """Times of a vocabulary (ms), of a schema (ms), and of masks and tokens along answers drawn evenly (us)."""
    begun = time.perf_counter()
    vocabulary = Vocabulary.load(folder, size)
    loaded = time.perf_counter()
    grammar = Grammar("json_schema", json.dumps(SCHEMA))
    matcher = vocabulary.compile(grammar)
    compiled = time.perf_counter()
    rng, mask_us, advance_us = random.Random(1), [], []
    with ThreadPoolExecutor(1) as executor:
        for _ in range(answers):
            constraint = Constraint(matcher.deep_copy(), size, grammar, executor)
            constraint.begin(())
            for _ in range(TOKENS):
                started = time.perf_counter()
                allowed = constraint.allowed()
                drawn = time.perf_counter()
                token = int(rng.choice(np.flatnonzero(allowed).tolist()))
                advanced = time.perf_counter()
                constraint.advance(token)
                mask_us.append((drawn - started) * 1e6)
                advance_us.append((time.perf_counter() - advanced) * 1e6)
    cut = statistics.quantiles(mask_us, n=100)
    return {
        "tokens": size,
        "vocabulary_ms": round((loaded - begun) * 1e3, 1),
        "schema_ms": round((compiled - loaded) * 1e3, 2),
        "mask_us": {"p50": round(cut[49]), "p99": round(cut[98]), "max": round(max(mask_us))},
        "advance_us": round(statistics.median(advance_us), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", default="mlx")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--no-large", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, nodes(
        Path(folder) / "home", ["--inference-engine", options.engine]
    ) as (node,):  # fmt: skip
        for grammar in (False, True):
            rate(node, options.at_once, grammar)  # loads the model and the vocabulary
        pairs = [(rate(node, options.at_once, True), rate(node, options.at_once, False)) for _ in range(options.pairs)]
    found = {"demo": masks(DEMO, 1280)}
    if not options.no_large:
        with tempfile.TemporaryDirectory() as folder:
            found["large"] = masks(large_tokenizer(Path(folder)), LARGE)
    print(
        json.dumps(
            {
                "engine": options.engine,
                "at_once": options.at_once,
                "tokens_per_s": {"with": round(pairs[-1][0], 1), "without": round(pairs[-1][1], 1)},
                "ratio": round(statistics.median(one / other for one, other in pairs), 3),
                **found,
            }
        )
    )


if __name__ == "__main__":
    main()
