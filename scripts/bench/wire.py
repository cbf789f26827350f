#!/usr/bin/env python3
"""A hop's bytes: (a) copies between the engine's array and the message, against plain protobuf in the same run, and
what packing prompts as int8 takes and saves; (b) what int8 does to the logits of trained models. One JSON line each.

    scripts/bench/wire.py [--part a|b|all] [--repeat N] [--fast]

(a) is codec time in microseconds on this CPU, out (array to bytes) and in (bytes to array), medians of interleaved
runs. gRPC's own copies and the kernel's are the same for all and not in it. (b) cuts a model in two after each of its
layers, prefills prompts over the cut with and without int8 rows, and then decodes greedily: largest difference of a
logit, of the first token's probability, and how many of the texts are equal.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from exo_node.engine.base import EngineRow, Hidden, LoadPlan, ShardEngine  # noqa: E402
from exo_node.ring.connecting import SLOW_BYTES_PER_S  # noqa: E402
from exo_node.ring.messages import Epoch, Row, Step  # noqa: E402
from exo_node.ring.wire import read_step, step_frame  # noqa: E402
from exo_node.transport.codec import StepFrame  # noqa: E402
from exo_node.types import Dtype, Shard  # noqa: E402

MODELS = {"demo": ROOT / "exo_node" / "models" / "demo", "stories260K": ROOT.parent / "shared/models/stories260K"}
PROMPTS = 40
DECODED = 32
SHAPES: dict[str, tuple[int, int, Dtype]] = {  # tokens, width
    "chunk of 256, 2048 float32": (256, 2048, "float32"),
    "chunk of 256, 4096 bfloat16": (256, 4096, "bfloat16"),
    "8 decoding rows, 4096 bfloat16": (8, 4096, "bfloat16"),
}


def plain_out(step: Step) -> bytes:
    """As the generated code has it: the array's bytes, assigned, serialized."""
    frame = step_frame("i", step)
    frame.message.data = bytes(frame.pieces[0])
    return frame.message.SerializeToString()


def read(data: bytes) -> Any:
    """Of a message that protobuf wrote, `from_bytes` takes the payload as protobuf gives it: parsed, then copied."""
    hidden = read_step(StepFrame.from_bytes(data)).hidden
    assert hidden is not None
    return np.frombuffer(hidden.data, np.uint8)


def part_a(name: str, repeat: int) -> dict[str, Any]:
    count, width, dtype = SHAPES[name]
    values = np.random.default_rng(0).standard_normal((count, width)).astype(np.float32)
    array = values if dtype == "float32" else (values.view(np.uint32) >> 16).astype(np.uint16)
    lengths = [1] * count if "decoding" in name else [count]
    rows = tuple(Row(index, 0, length, 1) for index, length in enumerate(lengths))
    step = Step(Epoch(1, ""), 1, rows=rows, hidden=Hidden(dtype, (count, width), array.data.cast("B")))
    ways: dict[str, Callable[[], bytes]] = {
        "protobuf": lambda: plain_out(step),
        "ours": lambda: step_frame("i", step).to_bytes(),
        "int8": lambda: step_frame("i", step, int8=True).to_bytes(),
    }
    times: dict[str, list[float]] = {f"{way}_{side}": [] for way in ways for side in ("out", "in")}
    size = {way: len(out()) for way, out in ways.items()}
    for _ in range(repeat):
        for way, out in ways.items():
            begun = time.perf_counter()
            data = out()
            written = time.perf_counter()
            read(data)
            times[f"{way}_out"].append(written - begun)
            times[f"{way}_in"].append(time.perf_counter() - written)
    median = {key: statistics.median(found) for key, found in times.items()}
    both = {way: median[f"{way}_out"] + median[f"{way}_in"] for way in ways}
    saved = (size["ours"] - size["int8"]) / SLOW_BYTES_PER_S
    return {
        "bench": f"wire.a {name}: copies / plain protobuf's",
        "ratio": round(both["ours"] / both["protobuf"], 3),
        **{f"{key}_us": round(found * 1e6, 1) for key, found in median.items()},
        "bytes": size["ours"],
        "int8_bytes": size["int8"],
        "int8_saves_ms_at_1_gbit": round(saved * 1000, 2),
        "int8_costs_ms": round((both["int8"] - both["ours"]) * 1000, 2),
    }


class Pair:
    """A model in two MLX shards, cut after `cut` layers, joined by serialized steps."""

    def __init__(self, folder: Path, cut: int) -> None:
        from exo_node.engine.select import create_engine
        from exo_node.models.quantizing import shard_source
        from exo_node.models.spec import read_spec

        spec = read_spec(folder, folder.name)
        self.engines: list[ShardEngine] = []
        for index, (start, end) in enumerate([(0, cut), (cut, spec.n_layers)]):
            shard = Shard(folder.name, start, end, spec.n_layers)
            plan = LoadPlan(
                config=spec.config,
                shard=shard,
                is_head=index == 0,
                compute_dtype="float32",
                slots=1,
                context=512,
                max_chunk=256,
                device="CPU",
            )
            engine = create_engine("mlx")
            engine.load(plan, shard_source(spec, shard, index == 0, quantize=0), lambda done, total: None)
            self.engines.append(engine)

    def forward(self, position: int, ids: list[int], int8: bool) -> Any:
        """Logits after the last of `ids`."""
        head, follower = self.engines
        row = EngineRow(0, position, len(ids), np.asarray(ids, np.int32), 1)
        out = head.export(head.forward([row], None), "float32")
        step = Step(Epoch(1, ""), 1, rows=(Row(1, position, len(ids), 1),), hidden=out)
        received = read_step(StepFrame.from_bytes(step_frame("i", step, int8=int8).to_bytes()))
        assert received.hidden is not None
        home = follower.export(
            follower.forward([EngineRow(0, position, len(ids), None, 1)], received.hidden), "float32"
        )
        return head.logits(home)[0]

    def answer(self, ids: list[int], int8: bool) -> tuple[Any, list[int]]:
        """(logits after the prompt, greedy tokens)."""
        for engine in self.engines:
            engine.truncate(0, 0)
        first = logits = self.forward(0, ids, int8)
        tokens: list[int] = []
        while len(tokens) < DECODED:
            tokens.append(int(np.argmax(logits)))
            logits = self.forward(len(ids) + len(tokens) - 1, tokens[-1:], int8)
        return first, tokens


def prompts(name: str, folder: Path) -> list[list[int]]:
    """The demo's held-out questions as chats; slices of the published story."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if name == "demo":
        sys.path.insert(0, str(ROOT / "scripts"))
        from demo_heldout import HELD_OUT

        from exo_node.models.chat_template import ChatTemplate

        config = json.loads((folder / "tokenizer_config.json").read_text())
        tokens = {key: value for key, value in config.items() if key.endswith("_token") and isinstance(value, str)}
        template = ChatTemplate(config["chat_template"], tokens)
        texts = [template.render([{"role": "user", "content": question}]) for question, _ in HELD_OUT[:PROMPTS]]
        return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    story = (folder / "EXPECTED.md").read_text().split("```\n")[1]
    ids = [1, *tokenizer.encode(story, add_special_tokens=False).ids]
    return [ids[: 8 + 4 * index] for index in range(PROMPTS) if 8 + 4 * index <= len(ids)]


def part_b(name: str, folder: Path, most: int) -> dict[str, Any]:
    from exo_node.models.spec import read_spec

    asked = prompts(name, folder)[:most]
    errors, spans, chances, same, first = [], [], [], 0, 0
    cuts = range(1, read_spec(folder, name).n_layers)
    for cut in cuts:
        pair = Pair(folder, cut)
        for ids in asked:
            full, text = pair.answer(ids, False)
            packed, other = pair.answer(ids, True)
            errors.append(float(np.abs(full - packed).max()))
            spans.append(float(full.max() - full.min()))
            chances.append(float(np.abs(softmax(full) - softmax(packed)).max()))
            same += text == other
            first += int(np.argmax(full)) == int(np.argmax(packed))
        for engine in pair.engines:
            engine.close()
    total = len(cuts) * len(asked)
    return {
        "bench": f"wire.b int8 prefill / float32, {name}",
        "ratio": round(same / total, 4),
        "texts": total,
        "texts_equal": same,
        "first_tokens_equal": first,
        "logit_error_max": round(max(errors), 4),
        "logit_error_median": round(statistics.median(errors), 4),
        "logit_span_median": round(statistics.median(spans), 2),
        "probability_error_max": round(max(chances), 4),
        "prompt_tokens": [min(map(len, asked)), max(map(len, asked))],
    }


def softmax(logits: Any) -> Any:
    powers = np.exp(logits.astype(np.float64) - logits.max())
    return powers / powers.sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["a", "b", "all"], default="all")
    parser.add_argument("--repeat", type=int, default=200)
    parser.add_argument("--fast", action="store_true", help="three runs and two prompts: only shows that it runs")
    chosen = parser.parse_args()
    most = 2 if chosen.fast else PROMPTS
    if chosen.part != "b":
        for name in SHAPES:
            print(json.dumps(part_a(name, 3 if chosen.fast else chosen.repeat)), flush=True)
    if chosen.part != "a":
        for name, folder in MODELS.items():
            if folder.is_dir():
                print(json.dumps(part_b(name, folder, most)), flush=True)


if __name__ == "__main__":
    main()
