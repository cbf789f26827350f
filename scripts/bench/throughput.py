#!/usr/bin/env python3
"""Concurrent streams on one node over HTTP against mlx-lm's own BatchGenerator and against rows run one by one.

    scripts/bench/throughput.py [--streams 1,2,4,8,16] [--rounds N] [--threads N] [--fast] [--keep FOLDER]

Real daemons (one batches, one is `--reproducible`) and mlx-lm in a process of its own, on the same folder (layers of
Llama-1B's shape), same BLAS, dtype and threads; in each round all take their turn, in changing order. Prompts are
ragged. Two rates: `decode`, tokens a second while every stream is decoding, and `whole`, all tokens over the time from
the request to the last token, prompts included. One JSON line for each number of streams; ratios are medians over the
rounds.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).parent))

import make_checkpoint  # noqa: E402
from line_process import LineProcess  # noqa: E402

from tests.integration.harness import NodeProcess, nodes  # noqa: E402

# Llama-3.2-1B's layers, a quarter of them, with a smaller vocabulary: as scripts/bench/ring.py.
SHAPE = make_checkpoint.Shape(hidden=2048, layers=4, ffn=8192, heads=32, kv_heads=8, vocab=32000)
END_OF_TEXT = 257  # of make_checkpoint's tokenizer; banned, so that every stream runs to its end

REFERENCE = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from exo_node.engine.blas import preload_blas
blas = preload_blas()
from mlx_lm.generate import BatchGenerator
from mlx_lm.utils import load_model
model, _ = load_model(Path({folder!r}))
for line in sys.stdin:
    request = json.loads(line)
    generator = BatchGenerator(model, max_tokens=request["tokens"], completion_batch_size=32)
    start = time.perf_counter()
    numbers = {{uid: n for n, uid in enumerate(generator.insert(request["prompts"]))}}
    stamps = [[] for _ in numbers]
    while any(len(one) < request["tokens"] for one in stamps):
        for response in generator.next_generated():
            stamps[numbers[response.uid]].append(time.perf_counter() - start)
    generator.close()
    print(json.dumps({{"stamps": stamps, "blas": blas}}), flush=True)
"""


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


def prompts(streams: int, seed: int) -> list[list[int]]:
    """Random bytes behind the begin mark, 12 to 57 tokens."""
    numbers = random.Random(seed)
    return [[256, *(numbers.randrange(32, 127) for _ in range(11 + 3 * i))] for i in range(streams)]


class MlxLm:
    """mlx-lm's BatchGenerator in a process of its own, asked a line at a time."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._process = LineProcess(REFERENCE.format(root=str(ROOT), folder=str(folder)), environment)
        self.blas = ""

    def generate(self, asked: list[list[int]], tokens: int) -> Rates:
        answer = self._process.ask(prompts=asked, tokens=tokens)
        self.blas = answer["blas"]
        return rates(answer["stamps"])

    def close(self) -> None:
        self._process.close()


class Streams:
    """A node's streamed completions, as many at once as there are prompts."""

    def __init__(self, node: NodeProcess, model: str) -> None:
        self.model, self.address = model, node.api.removeprefix("http://").split(":")
        status, instance = node.request("POST", "/v1/instances", {"model": model, "nodes": [node.node_id]})
        if status != 200:
            raise SystemExit(f"cannot place {model}: {instance}")

    def generate(self, asked: list[list[int]], tokens: int) -> Rates:
        stamps: list[list[float]] = [[] for _ in asked]
        barrier = threading.Barrier(len(asked))
        threads = [
            threading.Thread(target=self._one, args=(ids, tokens, barrier, found))
            for ids, found in zip(asked, stamps, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if any(len(one) != tokens for one in stamps):
            raise SystemExit(f"streams of {[len(one) for one in stamps]} tokens instead of {tokens}")
        return rates(stamps)

    def _one(self, ids: list[int], tokens: int, barrier: threading.Barrier, stamps: list[float]) -> None:
        host, port = self.address
        connection = http.client.HTTPConnection(host, int(port), timeout=600)
        connection.connect()
        # Log-probabilities make every token an event with a length: pieces of random text may be held back otherwise.
        body: dict[str, Any] = {"model": self.model, "prompt": ids, "max_tokens": tokens, "temperature": 0}
        body |= {"stream": True, "logprobs": 0, "logit_bias": {str(END_OF_TEXT): -100}}
        barrier.wait()
        start = time.perf_counter()
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        while line := response.readline():
            if line.startswith(b"data: {"):
                now = time.perf_counter() - start
                for choice in json.loads(line[6:])["choices"]:
                    stamps += [now] * len((choice.get("logprobs") or {}).get("tokens", ()))
        connection.close()


def measure(folder: Path, work: Path, arguments: argparse.Namespace) -> None:
    environment = {"OPENBLAS_NUM_THREADS": str(arguments.threads)}
    common = ["--inference-engine", "mlx", "--models-dir", str(folder.parent), "--discovery-module", "none"]
    common += ["--max-sequences", "16", "--max-context", "512", "--api-port", "0"]
    reference = MlxLm(folder, environment)
    try:
        with (
            nodes(work / "batched", common, env=environment) as (batched,),
            nodes(work / "alone", [*common, "--reproducible"], env=environment) as (alone,),
        ):
            parties: dict[str, Callable[[list[list[int]], int], Rates]] = {
                "ours": Streams(batched, folder.name).generate,
                "mlx_lm": reference.generate,
                "one_by_one": Streams(alone, folder.name).generate,
            }
            if arguments.fast:
                del parties["one_by_one"]
            for party in parties.values():
                party(prompts(2, 0), 8)
            for streams in arguments.streams:
                found: dict[str, list[Rates]] = {name: [] for name in parties}
                for number in range(arguments.rounds):
                    shift = number % len(parties)
                    order = [*parties][shift:] + [*parties][:shift]
                    for name in order:
                        found[name].append(parties[name](prompts(streams, number), arguments.tokens))
                print(json.dumps(line(streams, found, arguments, reference.blas)), flush=True)
    finally:
        reference.close()


def line(streams: int, found: dict[str, list[Rates]], arguments: argparse.Namespace, blas: str) -> dict[str, Any]:
    ours = found["ours"]
    result: dict[str, Any] = {"bench": "throughput one node over HTTP / mlx-lm BatchGenerator", "streams": streams}
    for name in (name for name in found if name != "ours"):
        for kind in ("decode", "whole"):
            pairs = [getattr(a, kind) / getattr(b, kind) for a, b in zip(ours, found[name], strict=True)]
            result[f"{kind}_ratio_{name}"] = round(statistics.median(pairs), 3)
            result[f"{kind}_ratio_{name}_range"] = [round(min(pairs), 3), round(max(pairs), 3)]
    for name, rounds in found.items():
        result[f"{name}_tokens_per_s"] = round(statistics.median(one.decode for one in rounds), 2)
    return {
        **result,
        "rounds": arguments.rounds,
        "tokens": arguments.tokens,
        "threads": arguments.threads,
        "blas": blas,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="BLAS threads of every party")
    parser.add_argument("--fast", action="store_true", help="leave out the rows one by one")
    parser.add_argument("--keep", type=Path, help="folder for the checkpoint (default: a temporary one)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        folder = make_checkpoint.make((arguments.keep or work / "models") / "bench-a", SHAPE)
        measure(folder, work, arguments)


if __name__ == "__main__":
    main()
