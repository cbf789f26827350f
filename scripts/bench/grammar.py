#!/usr/bin/env python3
"""What a grammar costs: tokens/s of a real node with a JSON schema against without, in interleaved pairs of the same
run; and, on the bundled model's vocabulary and on one of 128k tokens trained here, the time of a vocabulary, a schema
and a mask.

    scripts/bench/grammar.py [--engine mlx|tinygrad] [--pairs N] [--at-once N] [--threads N] [--no-large] [--fast]

Prints one JSON line. `ratio` is tokens/s with over without on a made model of Llama-1B's layers (bar 0.9), `demo` the
same on the bundled model, whose steps of a millisecond or two leave a mask no time; nothing is drafted. Masks are
microseconds on one thread, without a forward pass beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import references
import tokenizers
from bench_nodes import END, NodeProcess, made, nodes, place, ratio

from exo_node.ring.constraint import Constraint, Vocabulary
from exo_node.types import Grammar

DEMO = Path(str(resources.files("exo_node"))) / "models" / "demo"
TOKENS = 200  # of an answer
ENDS = {"demo": 2}  # the end-of-text token, kept away where no grammar does so
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


def rate(node: NodeProcess, model: str, at_once: int, tokens: int, grammar: bool) -> float:
    """Tokens/s of `at_once` answers of `tokens` tokens each."""
    body = {
        "model": model, "prompt": "Once", "max_tokens": tokens, "temperature": 1, "seed": 1, "n": at_once,
        **({"guided_json": SCHEMA} if grammar else {"logit_bias": {str(ENDS.get(model, END)): -100}}),
    }  # fmt: skip
    begun = time.perf_counter()
    status, answer = node.request("POST", "/v1/completions", body)
    seconds = time.perf_counter() - begun
    assert status == 200 and answer["usage"]["completion_tokens"] == tokens * at_once, answer
    return tokens * at_once / seconds


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


def compared(node: NodeProcess, model: str, tokens: int, options: argparse.Namespace) -> dict[str, Any]:
    """Pairs of with and without, after both have been warmed."""
    place(node, model, [node.node_id])
    for grammar in (False, True):
        rate(node, model, options.at_once, 8, grammar)  # loads the vocabulary
    pairs = [
        [rate(node, model, options.at_once, tokens, grammar) for grammar in (True, False)] for _ in range(options.pairs)
    ]
    with_, without = ([pair[side] for pair in pairs] for side in (0, 1))
    rates = {"with": round(statistics.median(with_), 1), "without": round(statistics.median(without), 1)}
    return {"tokens_per_s": rates, "ratios": ratio(with_, without)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="mlx")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--no-large", action="store_true", help="leave out the vocabulary of 128k tokens")
    parser.add_argument("--keep", type=Path, help="folder for the checkpoint (default: a temporary one)")
    parser.add_argument("--fast", action="store_true", help="a small model, one pair: shows that it runs")
    options = parser.parse_args()
    if options.fast:
        options.pairs, options.threads, options.no_large = 1, 1, True
    with tempfile.TemporaryDirectory() as temporary:
        folder = made(options.keep or Path(temporary) / "models", options.fast)
        arguments = ["--inference-engine", options.engine, "--models-dir", str(folder.parent), "--no-speculation"]
        arguments += ["--discovery-module", "none"]
        with nodes(Path(temporary) / "home", arguments, env=references.threads_of(options.threads)) as (node,):
            large = compared(node, folder.name, 64, options)
            demo = compared(node, "demo", TOKENS, options)
    found = {"demo": masks(DEMO, 1280)}
    if not options.no_large:
        with tempfile.TemporaryDirectory() as temporary:
            found["large"] = masks(large_tokenizer(Path(temporary)), LARGE)
    line = {"bench": "grammar: tokens/s with a JSON schema / without", "ratio": large["ratios"]["median"], "bar": 0.9}
    line |= {**large, "demo": demo, "masks": found, "engine": options.engine, "at_once": options.at_once}
    print(json.dumps(line | {"threads": options.threads}))


if __name__ == "__main__":
    main()
