#!/usr/bin/env python3
"""What a client waits when a part of its ring dies in an answer: detect + plan + load + connect + replay.

    scripts/bench/recovery.py [--trials N] [--kind K] [--busy N] [--engine E] [--threads N] [--keep FOLDER] [--fast]

Three nodes, a made model on two of them, a client at the third; `--busy` other answers keep the engines at work. In
each trial something is killed when the client has 24 tokens of an answer to a prompt of 200; then everything is healed.

- `detect_ms`: from the kill (this process's monotonic clock, which the nodes share) to where the node that serves the
  client noticed it; p99 of all kinds that kill, bar 200 ms. A runner that only hangs (`hang`) is noticed by silence.
- `plan_ms`, `load_ms`, `connect_ms`: as that node tells (`GET /v1/recoveries`); `replay_ms`: the rest.
- `ratio`: the whole, from the kill to the next token, over the prediction: the usual time of placing that ring, and the
  tokens that are computed again (of all answers: they share the engines) at the rate of a prompt; both are measured
  before each kind, with nothing else going on, as a broken ring computes nothing. For `hang` the 2 s of silence are
  added. Bars: median 1.25, p95 2.

One JSON line for each kind, then one of all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import references
from bench_nodes import BEGIN, made, percentile

from tests.chaos.fleet import Fleet, load

KINDS = {  # name: (how, whole node, ring's place)
    "follower-runner": ("kill", False, 1),
    "head-runner": ("kill", False, 0),
    "follower-node": ("kill", True, 1),
    "head-node": ("kill", True, 0),
    "hang": ("stop", False, 1),
}
RING = "bc"
PROMPT, BEFORE, AFTER = 200, 24, 12  # tokens; more than are under way when it happens
LETTERS = range(97, 123)  # every token of an answer is one letter: an event each
WARM = 5  # placements and prompts by which a prediction is made
SILENCE_MS = 2000.0  # after which a runner that only hangs is taken for lost (--peer-timeout)
GIVE_UP_S = 120.0
PARTS = ("detect_ms", "plan_ms", "load_ms", "connect_ms", "replay_ms")
# What exo does (EXO.md, section 3): measured with two nodes of v1, the last stage killed at 5 s.
EXO_V1 = {
    "silence_s": "35.5, where the client gave up (exo's own timeout: 900)",
    "then": "end of file without an error, finish_reason or [DONE]; nothing is retried",
    "dead_node_leaves_topology_s": 20,
    "source": "EXO.md section 3, measured on exo v1",
}


class Answer(threading.Thread):
    """One streamed answer of letters, with the moment of each."""

    def __init__(
        self, fleet: Fleet, model: str, seed: int, tokens: int, on_token: Callable[[int], bool] = lambda count: False
    ) -> None:
        """`on_token` is told of each token in this thread; it hangs up where that gives True."""
        super().__init__(daemon=True)
        self.stamps: list[float] = []
        self.request_id = self.fault = ""
        self.start_s = 0.0
        self._fleet, self._on_token = fleet, on_token
        self.ids = [BEGIN, *((seed * 31 + at * at) % 95 + 32 for at in range(PROMPT - 1))]
        self.body: dict[str, Any] = {
            "model": model,
            "prompt": self.ids,
            "max_tokens": tokens,
            "temperature": 0,
            "stream": True,
            "logit_bias": {str(letter): 100 for letter in LETTERS},
        }

    def run(self) -> None:
        connection = self._fleet.api.connection(GIVE_UP_S)
        self.start_s = time.monotonic()
        connection.request("POST", "/v1/completions", json.dumps(self.body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            self.fault = f"{response.status} {response.read()[:300]!r}"
        while not self.fault and (line := response.readline()):
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                self.fault = str(event["error"])
            elif event["choices"] and event["choices"][0]["text"]:
                self.request_id = event["id"]
                self.stamps.append(time.monotonic())
                if self._on_token(len(self.stamps)):
                    break
        connection.close()


@contextmanager
def busy(fleet: Fleet, model: str, count: int) -> Iterator[None]:
    """So many other answers, one after the other, until the end of the block."""
    done = threading.Event()

    def go_on(index: int) -> None:
        number = 0
        while not done.is_set():
            number += 1
            Answer(fleet, model, 1000 + 97 * index + number, 400, lambda _: done.is_set()).run()

    threads = [threading.Thread(target=go_on, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()


def placed(fleet: Fleet, model: str) -> tuple[dict[str, Any], float]:
    """The ring, and the seconds that it took."""
    start = time.monotonic()
    status, instance = fleet.place(RING, model)
    if status != 200:
        raise SystemExit(f"cannot place {model}: {instance}")
    found: dict[str, Any] = instance
    return found, time.monotonic() - start


def measured(fleet: Fleet, model: str) -> dict[str, float]:
    """Milliseconds of placing that ring, and of each token of a prompt."""
    loads, prompts = [], []
    for number in range(WARM):
        loads.append(placed(fleet, model)[1])
        for again in range(2):
            one = Answer(fleet, model, 500 + number, 1)
            one.body["prompt"] = [*one.ids, *one.ids[1:], 32 + again]
            one.body["prompt"][1] = 40 + again  # nothing of it is in the prefix cache
            one.run()
            if not one.stamps:
                raise SystemExit(f"no answer: {one.fault}")
        prompts.append((one.stamps[0] - one.start_s) / len(one.body["prompt"]))
        fleet.clear()
    return {"load_ms": 1000 * statistics.median(loads), "prefill_ms_per_token": 1000 * statistics.median(prompts)}


def trial(fleet: Fleet, model: str, kind: str, seed: int, count: int) -> dict[str, float]:
    """The parts of one gap in milliseconds."""
    how, whole_node, at = KINDS[kind]
    placed(fleet, model)
    letter = RING[at]
    aimed = fleet.processes(letter, runner_only=not whole_node)
    struck: list[float] = []

    def on_token(number: int) -> bool:
        if number == BEFORE:
            struck.append(time.monotonic())
            fleet.strike(how, aimed, letter)
        return number == BEFORE + AFTER

    answer = Answer(fleet, model, seed, 400, on_token)
    with busy(fleet, model, count):
        answer.run()
    if answer.fault or not struck:
        raise SystemExit(f"{kind}: the answer was lost: {answer.fault or 'no token came'}")
    after = [stamp for stamp in answer.stamps if stamp > struck[0]]
    moments = [struck[0], *after]
    back = max(zip(moments, after, strict=False), key=lambda pair: pair[1] - pair[0])[1]
    records = told(fleet, answer.request_id)
    record = records[0]
    parts = {
        "detect_ms": 1000 * (record["noticed_s"] - struck[0]),
        "plan_ms": record["plan_ms"] + record.get("fence_ms", 0.0),
        "load_ms": record["load_ms"],
        "connect_ms": record["connect_ms"],
    }
    total = 1000 * (back - struck[0])
    fleet.heal(revive=False)
    return {
        **parts,
        "replay_ms": total - sum(parts.values()),
        "total_ms": total,
        "replayed_tokens": record["replayed_tokens"],
        "replayed_of_all": sum(one["replayed_tokens"] for one in records),
    }


def told(fleet: Fleet, request_id: str) -> list[dict[str, Any]]:
    """What the clients' node tells of the recovery of this answer, and after it of those that shared it."""
    known = fleet.recoveries()
    ours = [one for one in known if one["request_id"].startswith(request_id)]
    if not ours:
        raise SystemExit(f"GET /v1/recoveries does not tell of {request_id}: {known[-3:]}")
    epoch = (ours[-1]["instance_id"], ours[-1]["epoch"])
    others = [one for one in known if (one["instance_id"], one["epoch"]) == epoch and one is not ours[-1]]
    return [ours[-1], *others]


def line(kind: str, trials: Sequence[dict[str, float]], costs: dict[str, float], count: int) -> dict[str, Any]:
    totals = [one["total_ms"] for one in trials]
    silence_ms = SILENCE_MS if KINDS[kind][0] == "stop" else 0.0
    predicted = [
        silence_ms + costs["load_ms"] + one["replayed_of_all"] * costs["prefill_ms_per_token"] for one in trials
    ]
    ratios = [total / wanted for total, wanted in zip(totals, predicted, strict=True)]
    return {
        "bench": "recovery: silence that a client hears / predicted load and prefill",
        "kind": kind,
        "ratio": round(statistics.median(ratios), 3),
        "bar": 1.25,
        "ratio_p95": round(percentile(ratios, 0.95), 3),
        "bar_p95": 2.0,
        "total_ms": rounded(totals),
        "parts": {name: rounded([one[name] for one in trials]) for name in PARTS},
        "replayed_tokens": statistics.median(one["replayed_tokens"] for one in trials),
        "replayed_of_all": statistics.median(one["replayed_of_all"] for one in trials),
        "predicted_ms": rounded(predicted),
        "measured": {name: round(value, 3) for name, value in costs.items()},
        "trials": len(trials),
        "busy": count,
        "machine": load(),
        "exo_v1": EXO_V1,
    }


def rounded(values: Sequence[float]) -> dict[str, float]:
    """Median, p95 and the most."""
    found = {"median": statistics.median(values), "p95": percentile(values, 0.95), "max": max(values)}
    return {name: round(value, 1) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, help="of each kind (20; with --fast 3)")
    parser.add_argument("--kind", choices=KINDS, action="append", help="only these (repeatable)")
    parser.add_argument("--busy", type=int, default=3, help="other answers at the same time (3)")
    parser.add_argument("--engine", choices=("mlx", "tinygrad"), default="mlx")
    parser.add_argument("--threads", type=int, default=1, help="of BLAS in each runner (1)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the made checkpoint here")
    parser.add_argument("--fast", action="store_true", help="a small model: shows that it runs")
    options = parser.parse_args()
    trials = options.trials or (3 if options.fast else 20)
    detected: list[float] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = made(options.keep or Path(temporary) / "models", options.fast)
        arguments = ("--models-dir", str(folder.parent), "--no-speculation", "--max-sequences", str(options.busy + 1))
        work, env = Path(temporary) / "work", references.threads_of(options.threads)
        with Fleet(work, options.engine, "plain", None, arguments, letters="abc", env=env) as fleet:
            for kind in options.kind or KINDS:
                costs = measured(fleet, folder.name)  # of each kind anew: a machine is not always as busy
                found = [trial(fleet, folder.name, kind, number, options.busy) for number in range(trials)]
                if KINDS[kind][0] == "kill":
                    detected += [one["detect_ms"] for one in found]
                print(json.dumps(line(kind, found, costs, options.busy)), flush=True)
    if detected:
        whole = {"bench": "recovery: a death is noticed, engines busy", "bar_ms": 200, "trials": len(detected)}
        print(json.dumps({**whole, "p99_ms": round(percentile(detected, 0.99), 1), "all": rounded(detected)}))


if __name__ == "__main__":
    main()
