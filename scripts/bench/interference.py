#!/usr/bin/env python3
"""What a long prompt does to streams that are decoding: the worst gap between their tokens over the usual one.

    scripts/bench/interference.py [--runs N] [--engine E] [--threads N] [--keep FOLDER] [--simulated] [--fast]

8 streams decode when a prompt of 4,000 tokens arrives; what counts is the time from its arrival to its first token.

- `simulated`: the real head on a simulated clock (ring_world.py), on 1, 2, 3 and 5 stages, with hops of 0, 5 and 20 ms,
  whose steps take 20 ms until memory no longer limits them: from 40 tokens on ("memory") or from 5 on ("compute").
  `ratio` is the worst case's worst gap over its median gap before the arrival; bar 3.
- `real`: one node over HTTP with a made model: `p99_ms` over all gaps of all runs, `ratio` p99 over the usual median.

One JSON line each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import references
from bench_nodes import BEGIN, END, NodeProcess, made, nodes, percentile, place, stream
from ring_world import RingWorld, gaps

STREAMS = 8
STEP_S = 0.02  # a stage's least: reading its weights
TOKEN_S = {"memory": STEP_S / 40, "compute": STEP_S / 5}  # a stage's arithmetic


def stage_time(token_s: float, tokens: int) -> float:
    return max(STEP_S, token_s * tokens)


def simulated(kind: str, stages: int, hop: float, prompt: int) -> dict[str, Any]:
    """One case on the simulated clock. The last stream is the prompt's."""
    one = partial(stage_time, TOKEN_S[kind])
    step = one(STREAMS) * stages + hop * stages
    late, world = STREAMS + 1, RingWorld([one] * stages, hop)
    prompts = [40 + 5 * ticket for ticket in range(1, late)]
    arrival = 2 * sum(prompts) * TOKEN_S[kind] + 100 * step  # all have been decoding for a while
    # As many tokens as outlast the long prompt, however it is cut.
    tokens = 200 + round((arrival + prompt * TOKEN_S[kind] * 2 + prompt / 16 * STEP_S) / step)
    for ticket, length in enumerate(prompts, 1):
        world.submit(ticket, length, min(tokens, 4000))
    world.at(arrival, lambda: world.submit(late, prompt, 2))
    world.run()
    end = world.stamps[late][0]
    streams = [world.stamps[ticket] for ticket in range(1, late)]
    usual = statistics.median(gap for one in streams for gap in gaps(one, arrival - 40 * step, arrival))
    worst = max(gap for one in streams for gap in gaps(one, arrival, end))
    return {
        "limited_by": kind,
        "stages": stages,
        "hop_ms": round(hop * 1e3),
        "ratio": round(worst / usual, 2),
        "usual_ms": round(usual * 1e3, 1),
        "worst_ms": round(worst * 1e3, 1),
        "first_token_s": round(end - arrival, 2),
        "all_decoding": all(stamps[-1] >= end for stamps in streams),
    }


def simulated_line(prompt: int) -> dict[str, Any]:
    cases = [
        simulated(kind, stages, hop, prompt)
        for kind in TOKEN_S
        for stages in (1, 2, 3, 5)
        for hop in ((0.0, 0.005, 0.02) if stages > 1 else (0.0,))
    ]
    return {
        "bench": "interference: worst gap while a long prompt arrives / usual gap, simulated clock",
        "ratio": max(case["ratio"] for case in cases),
        "bar": 3,
        "prompt": prompt,
        "cases": cases,
    }


def real_run(node: NodeProcess, model: str, prompt: int, seed: int) -> tuple[list[float], list[float], float]:
    """(gaps before the prompt came, gaps from then to its first token, seconds to that)."""
    done, begun = threading.Event(), threading.Barrier(STREAMS + 1)
    found: list[list[float]] = [[] for _ in range(STREAMS)]
    body = {"model": model, "temperature": 0, "logprobs": 0, "logit_bias": {str(END): -100}}
    counted = threading.Semaphore(0)  # a count for each token of each stream

    def decode(index: int) -> None:
        ids = [BEGIN, *((seed + 17 * index + 3 * at) % 95 + 32 for at in range(20 + 3 * index))]
        asked = {**body, "prompt": ids, "max_tokens": 4000}

        def leave(stamp: float) -> bool:
            counted.release()
            return done.is_set()

        begun.wait()
        found[index], _ = stream(node, "/v1/completions", asked, leave=leave)

    threads = [threading.Thread(target=decode, args=(index,)) for index in range(STREAMS)]
    for thread in threads:
        thread.start()
    late: list[float] = []
    try:
        begun.wait()
        for _ in range(STREAMS * 24):
            counted.acquire()
        before = sum(1 for _ in range(10**6) if counted.acquire(blocking=False))  # what else has come by now
        ids = [BEGIN, *((seed * 31 + at * at) % 95 + 32 for at in range(prompt - 1))]
        late, _ = stream(node, "/v1/completions", {**body, "prompt": ids, "max_tokens": 1})
    finally:
        done.set()
        for thread in threads:
            thread.join()
    usual, during = [], []
    for stamps in found:
        # All streams began with the barrier; the prompt came when each had about this many tokens.
        at = min(24 + before // STREAMS, len(stamps) - 2)
        arrival = stamps[at]
        usual += gaps(stamps[8:], 0.0, arrival)
        during += gaps(stamps, arrival, arrival + late[0])
    return usual, during, late[0]


def real(folder: Path, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    arguments = ["--inference-engine", options.engine, "--models-dir", str(folder.parent), "--no-speculation"]
    arguments += ["--discovery-module", "none", "--max-context", "8192", "--max-sequences", str(STREAMS + 1)]
    runs = []
    with nodes(work / "home", arguments, env=references.threads_of(options.threads)) as (node,):
        place(node, folder.name, [node.node_id])
        real_run(node, folder.name, 200, 0)  # warm
        for number in range(options.runs):
            runs.append(real_run(node, folder.name, options.prompt, number + 1))
    usual = statistics.median(gap for run in runs for gap in run[0])
    during: Sequence[float] = [gap for run in runs for gap in run[1]]
    return {
        "bench": "interference: p99 gap while a long prompt arrives / usual gap, one node over HTTP",
        "ratio": round(percentile(during, 0.99) / usual, 2),
        "usual_ms": round(usual * 1e3, 1),
        "p50_ms": round(statistics.median(during) * 1e3, 1),
        "p99_ms": round(percentile(during, 0.99) * 1e3, 1),
        "worst_ms": round(max(during) * 1e3, 1),
        "first_token_s": round(statistics.median(run[2] for run in runs), 2),
        "gaps": len(during),
        "runs": options.runs,
        "prompt": options.prompt,
        "engine": options.engine,
        "threads": options.threads,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=4000)
    parser.add_argument("--engine", default="mlx")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--simulated", action="store_true", help="only the simulated clock")
    parser.add_argument("--keep", type=Path, help="folder for the checkpoint (default: a temporary one)")
    parser.add_argument("--fast", action="store_true", help="one short run of a small model: shows that it runs")
    options = parser.parse_args()
    if options.fast:
        options.runs, options.threads, options.prompt = 1, 1, 400
    print(json.dumps(simulated_line(4000)), flush=True)
    if options.simulated:
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        print(json.dumps(real(made(options.keep or work / "models", options.fast), work, options)))


if __name__ == "__main__":
    main()
