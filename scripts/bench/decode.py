#!/usr/bin/env python3
"""One stream on one node over HTTP, without speculation: tokens a second against others and against the memory.

    scripts/bench/decode.py [--engine mlx|tinygrad|both] [--bits 0,8,4] [--pairs N] [--threads N]
                            [--llama-python PYTHON] [--keep FOLDER] [--fast]

A real daemon on a made checkpoint (layers of Llama-1B's shape), kept in float32 (0) or packed into 8 or 4 bits on load,
and beside it, each in a process of its own, same folder, prompt and threads, in turns of changing order:

- mlx-lm's generate at the same bits with the same BLAS: `mlx_lm`, bar 0.97 (for the engine mlx);
- transformers on torch, float32 only;
- llama.cpp (F32, Q8_0, Q4_0) by llama-cpp-python, where `--llama-python` has that and gguf (not dependencies of ours);
- `limit`: the bytes of weights that a token reads over the best rate at which as many threads read an array of that
  size here, measured before, between and after the rounds.

One JSON line for each engine and number of bits. A ratio is ours over theirs in tokens/s; a party that is not to be had
is null, with the reason in `missing`. `engine_ms` is what the engine takes for a token, LM head included, in a process
that does nothing else: `step_ms` less that is the ring's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import references
from bench_nodes import BEGIN, PROMPT, NodeProcess, made, nodes, place, rate, ratio, stats, tokens_of, turns
from memory_read import MemoryRead
from references import Reference
from solo import Solo


def measure(node: NodeProcess, folder: Path, work: Path, engine: str, bits: int, options: Any) -> dict[str, Any]:
    prompt, tokens = [BEGIN, *PROMPT.encode()], options.tokens
    instance = place(node, folder.name, [node.node_id], **({"quantize": bits} if bits else {}))
    weights = stats(node, instance["id"])[0]["weight_bytes"]
    memory = MemoryRead(options.threads, weights)
    others = {
        "mlx_lm": references.mlx_lm(folder, options.threads, bits),
        "torch": references.torch(folder, options.threads, bits),
        "llama_cpp": references.llama_cpp(folder, options.threads, bits, options.llama_python, work),
    }
    there = {name: one for name, one in others.items() if isinstance(one, Reference)}
    missing = {name: one for name, one in others.items() if isinstance(one, str)}
    try:
        parties: dict[str, Callable[[int], float]] = {
            "ours": lambda _: rate(tokens_of(node, folder.name, prompt, tokens)),
            **{name: lambda _, one=one: one.rate(prompt, tokens) for name, one in there.items()},  # type: ignore[misc]
            "memory": lambda _: memory.measure(),
        }
        for name, party in there.items():
            try:
                party.rate(prompt, 4)  # warm
            except EOFError:
                missing[name] = "its process ended: see its error above"
                del parties[name]
        tokens_of(node, folder.name, prompt, 4)
        memory.measure()
        found = turns(parties, options.pairs)
        memory.measure()
    finally:
        memory.close()
        for party in there.values():
            party.close()
    node.request("DELETE", f"/v1/instances/{instance['id']}")
    shard = {**instance["shards"][0], "engine": engine}
    solo = Solo(folder, shard, references.threads_of(options.threads), 1, bits)
    engine_s = solo.of(1, tokens)[0]
    solo.close()
    limit = memory.bytes_per_s / weights
    ours = statistics.median(found["ours"])
    ratios = {name: ratio(found["ours"], found[name]) for name in others if name not in missing}
    return {
        "bench": "decode: one stream, one node over HTTP",
        "engine": engine,
        "bits": bits,
        "ratio": ratios["mlx_lm"]["median"],
        "ratios": {**ratios, **dict.fromkeys(missing)},
        "of_limit": round(ours / limit, 3),
        "tokens_per_s": {
            "ours": round(ours, 2),
            **{name: round(statistics.median(found[name]), 2) for name in ratios},
            "limit": round(limit, 2),
        },
        "missing": missing,
        "weight_mb": round(weights / 1e6, 1),
        "memory_gb_per_s": round(memory.bytes_per_s / 1e9, 2),
        "step_ms": round(1000 / ours, 2),
        "engine_ms": round(1000 * engine_s, 2),
        "pairs": options.pairs,
        "threads": options.threads,
        "blas": others["mlx_lm"].blas if isinstance(others["mlx_lm"], Reference) else "",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("mlx", "tinygrad", "both"), default="both")
    parser.add_argument("--bits", type=lambda text: [int(one) for one in text.split(",")], default=[0, 8, 4])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--llama-python", default=sys.executable, help="an interpreter with llama_cpp and gguf")
    parser.add_argument("--keep", type=Path, help="folder for the checkpoint (default: a temporary one)")
    parser.add_argument("--fast", action="store_true", help="a small model, few tokens, one thread: shows that it runs")
    options = parser.parse_args()
    if options.fast:
        options.pairs, options.tokens, options.bits, options.threads = 2, 12, options.bits[:1], 1
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        folder = made(options.keep or work / "models", options.fast)
        for engine in ("mlx", "tinygrad") if options.engine == "both" else (options.engine,):
            arguments = ["--inference-engine", engine, "--models-dir", str(folder.parent), "--no-speculation"]
            arguments += ["--discovery-module", "none", "--max-context", "512"]
            with nodes(work / engine, arguments, env=references.threads_of(options.threads)) as (node,):
                for bits in options.bits:
                    print(json.dumps(measure(node, folder, work, engine, bits, options)), flush=True)


if __name__ == "__main__":
    main()
