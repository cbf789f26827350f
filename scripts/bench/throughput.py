#!/usr/bin/env python3
"""Concurrent streams on nodes over HTTP against what the machine can give at most, and against mlx-lm's BatchGenerator.

    scripts/bench/throughput.py [--nodes 1,2,3] [--streams 1,2,4,8,16] [--rounds N] [--threads N] [--keep FOLDER]
    scripts/bench/throughput.py --waiting [--tokens N]
    ... [--fast | --whole]

Real daemons on this machine hold a made model (4 layers of Llama-3.2-1B's shape; `--whole`: its 16 layers and its
vocabulary, 4.9 GB, twice that in memory with the stages that are timed alone) together; prompts are ragged. `decode` is
tokens a second while every stream is decoding, `whole` all tokens over the time from the request to the last one.

`ratio` is decode over X' (bar 0.85 on 2 nodes): the best, over the numbers m of micro-batches of b = streams / m rows,
of min(X(m, b), cores x b / CPU-seconds of one micro-batch's step over all stages), where X(m, b) =
min(m b / (all stages' times + hops), b / the slowest stage) (PEERS.md 4). A stage's times are taken with the same
engine and threads in a process of its own, while nothing else runs. A machine's speed changes from minute to minute, so
they are taken anew before and after each round, whose X' is the larger of the two; `ratio` is the rounds' median, least
and most. A hop is what a single stream's steps take beside engines. `ratio_side_by_side` is over the same X(m, b) with
stages' times taken while all of them run at once: cores that share memory are slower then, whatever feeds them.

On one node also, in turns of changing order: mlx-lm's own BatchGenerator on the same folder, with the same BLAS, dtype
and threads (`mlx_lm`, bar 1.0), and a node that is `--reproducible`, i.e. computes row by row.

`--waiting`: a ring of 8 runner processes whose stages wait 20 ms, 64 streams, over X(m, b) with the step and the trip
of one stream in the same ring (bar 0.9; `ratio_without_hops` is over X where hops take no time): that stages overlap
where cores do not limit them. One JSON line for each number of nodes and of streams.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import references
import waiting_ring
from bench_nodes import BEGIN, NodeProcess, hop_samples, made, nodes, place, ratio, streams, tokens_of, turns
from solo import Solo

ROWS_APART = "row_by_row"  # the party that is `--reproducible`


@dataclass(frozen=True)
class Rates:
    """Tokens a second over all streams."""

    decode: float
    whole: float


def rates(stamps: Sequence[Sequence[float]]) -> Rates:
    """From each stream's token times, in seconds since the request.

    >>> rates([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]])
    Rates(decode=2.0, whole=1.5)
    """
    start, end = max(one[0] for one in stamps), min(one[-1] for one in stamps)
    inside = sum(start < stamp <= end for one in stamps for stamp in one)
    return Rates(inside / (end - start), sum(map(len, stamps)) / max(one[-1] for one in stamps))


def prompts(count: int, seed: int) -> list[list[int]]:
    """Random bytes behind the begin mark, 12 to 57 tokens."""
    numbers = random.Random(seed)
    return [[BEGIN, *(numbers.randrange(32, 127) for _ in range(11 + 3 * i))] for i in range(count)]


def most(rows: int, stages: Sequence[Callable[[int], tuple[float, float]]], hop: float, cores: int) -> dict[str, Any]:
    """X' and where it lies: `stages` give (seconds, CPU-seconds) of a step of so many rows.

    >>> most(4, [lambda rows: (0.1, 0.1)] * 2, 0.0, 2)["x"]
    20.0
    >>> most(4, [lambda rows: (0.1, 0.4)] * 2, 0.0, 2)["limited_by"]
    'cores'
    """
    best: dict[str, Any] = {"x": 0.0}
    for m in range(1, min(rows, 4 * len(stages)) + 1):
        found = [stage(-(-rows // m)) for stage in stages]
        limits = {
            "trip": rows / (sum(seconds for seconds, _ in found) + (len(stages) * hop if len(stages) > 1 else 0.0)),
            "slowest stage": rows / (m * max(seconds for seconds, _ in found)),
            "cores": cores * rows / (m * sum(cpu for _, cpu in found)),
        }
        name = min(limits, key=limits.__getitem__)
        if limits[name] > best["x"]:
            best = {"x": round(limits[name], 2), "limited_by": name, "m": m}
    return best


def side_by_side(rows: int, m: int, stages: Sequence[Solo], hop: float) -> float:
    """X(m, b) of stages that all compute at once."""
    with ThreadPoolExecutor(len(stages)) as pool:
        found = list(pool.map(lambda stage: stage.again(-(-rows // m), 30), stages))
    return float(min(rows / (sum(found) + len(stages) * hop), rows / (m * max(found))))


def measure(folder: Path, work: Path, count: int, options: argparse.Namespace) -> None:
    """All numbers of streams on `count` nodes."""
    threads = options.threads or max(1, (os.cpu_count() or 1) // count)
    environment = references.threads_of(threads)
    common = ["--inference-engine", options.engine, "--models-dir", str(folder.parent), "--no-speculation"]
    common += ["--max-sequences", str(max(options.streams)), "--max-context", "512"]
    alone = count == 1
    with contextlib.ExitStack() as stack:
        ring = stack.enter_context(nodes(work / f"ring-{count}", *[common] * count, env=environment))
        model = folder.name
        instance = place(ring[0], model, [node.node_id for node in ring])
        tokens_of(ring[0], model, prompts(1, 0)[0], 24)
        hop = statistics.median(one["hop_us"] for one in hop_samples(ring[0], instance["id"])[-20:]) / 1e6
        shards = [{**one, "engine": options.engine} for one in instance["shards"]]
        stages = [Solo(folder, shard, environment, max(options.streams)) for shard in shards]
        for one in stages:
            stack.callback(one.close)
        times = [one.of(1) for one in stages]

        def limit_of(number: int) -> dict[str, Any]:
            for one in stages:
                one.forget()
            limit = most(number, [one.of for one in stages], hop, os.cpu_count() or 1)
            if not alone:
                limit["side_by_side"] = round(side_by_side(number, limit["m"], stages, hop), 2)
            return limit

        limits: list[dict[str, Any]] = []  # before the first round, and after each

        def ours(asked: Sequence[Sequence[int]]) -> list[list[float]]:
            if not limits:
                limits.append(limit_of(len(asked)))
            found = streams(ring[0], model, asked, options.tokens)
            limits.append(limit_of(len(asked)))
            return found

        parties: dict[str, Callable[[Sequence[Sequence[int]]], list[list[float]]]] = {"ours": ours}
        blas = ""
        if alone and options.engine == "mlx":
            reference = references.mlx_lm(folder, threads)
            stack.callback(reference.close)
            parties["mlx_lm"] = lambda asked: reference.generate(asked, options.tokens, batched=True)
            parties["mlx_lm"](prompts(2, 0))
            blas = reference.blas
        if alone and not options.fast:
            apart: list[NodeProcess] = stack.enter_context(
                nodes(work / "apart", [*common, "--reproducible"], env=environment)
            )
            place(apart[0], model, [apart[0].node_id])
            parties[ROWS_APART] = lambda asked: streams(apart[0], model, asked, options.tokens)
        for number in options.streams:
            limits.clear()
            found = turns(
                {
                    name: lambda seed, party=party, number=number: rates(party(prompts(number, seed)))  # type: ignore[misc]
                    for name, party in parties.items()
                },
                options.rounds,
            )
            fields = {
                "model": model,
                "nodes": count,
                "streams": number,
                "engine": options.engine,
                "threads": threads,
                "blas": blas,
            }
            fields |= {"hop_us": round(hop * 1e6), "solo_ms": [round(seconds * 1e3, 2) for seconds, _ in times]}
            print(json.dumps(line(found, limits, fields | {"tokens": options.tokens})), flush=True)


def line(found: dict[str, list[Rates]], limits: Sequence[dict[str, Any]], fields: dict[str, Any]) -> dict[str, Any]:
    """`limits`: X' before the first round and after each."""
    ours = [one.decode for one in found["ours"]]

    def over(name: str) -> dict[str, float]:
        return ratio(ours, [max(before[name], after[name]) for before, after in pairwise(limits)])

    result: dict[str, Any] = {"bench": "throughput of streams over HTTP / X'", "ratio": over("x")}
    if "side_by_side" in limits[0]:
        result["ratio_side_by_side"] = over("side_by_side")
    for name in (name for name in found if name != "ours"):
        for kind in ("decode", "whole"):
            pairs = [getattr(one, kind) for one in found["ours"]], [getattr(one, kind) for one in found[name]]
            result[f"{kind}_ratio_{name}"] = ratio(*pairs)
    result["tokens_per_s"] = {
        name: round(statistics.median(one.decode for one in all_), 2) for name, all_ in found.items()
    }
    return {**result, "rounds": [round(one, 2) for one in ours], "limits": limits, **fields}


def numbers(text: str) -> list[int]:
    return [int(one) for one in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=numbers, default=[1, 2, 3])
    parser.add_argument("--streams", type=numbers, default=[1, 2, 4, 8, 16])
    parser.add_argument("--engine", default="mlx")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, help="of each stream (48; 160 where stages wait)")
    parser.add_argument("--threads", type=int, help="BLAS threads of every process (cores / nodes)")
    parser.add_argument("--waiting", action="store_true", help="the ring whose stages wait, alone")
    parser.add_argument("--fast", action="store_true", help="a small model and few streams: shows that it runs")
    parser.add_argument("--whole", action="store_true", help="the whole 1B shape: 16 layers, 128,256 words")
    parser.add_argument("--keep", type=Path, help="folder for the checkpoint (default: a temporary one)")
    options = parser.parse_args()
    options.tokens = options.tokens or (160 if options.waiting else 48)
    if options.fast and options.whole:
        parser.error("--fast or --whole")
    if options.fast:
        options.streams, options.rounds, options.tokens, options.threads = [1, 4], 1, 16, 1
        options.nodes = options.nodes[:2]
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        if options.waiting:
            print(json.dumps(waiting_ring.measure(work, 64, options.tokens)), flush=True)
            return
        folder = made(options.keep or work / "models", options.fast, options.whole)
        for count in options.nodes:
            measure(folder, work, count, options)


if __name__ == "__main__":
    main()
