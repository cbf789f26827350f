"""What the benches of generation share: made shapes, nodes asked over HTTP, and turns taken in changing order."""

from __future__ import annotations

import http.client
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import make_checkpoint  # noqa: E402

from tests.integration.harness import SHARED_MODELS, NodeProcess, nodes  # noqa: E402

__all__ = ["ROOT", "SHARED_MODELS", "NodeProcess", "nodes"]

# Llama-3.2-1B's layers, a quarter of them, with a smaller vocabulary: a step takes far more than the 5 ms below which a
# comparison would measure Python alone.
LARGE = make_checkpoint.Shape(hidden=2048, layers=4, ffn=8192, heads=32, kv_heads=8, vocab=32000)
# All of it: 16 layers and its vocabulary, 4.9 GB. What a daemon and a client spend on a token is shared by four times
# the arithmetic, as it is with the real model.
WHOLE = make_checkpoint.Shape(hidden=2048, layers=16, ffn=8192, heads=32, kv_heads=8, vocab=128256)
SMALL = make_checkpoint.Shape(hidden=512, layers=6, ffn=2048, heads=16, kv_heads=8, vocab=4000)  # for --fast
BEGIN, END = 256, 257  # of make_checkpoint's tokenizer; the end is banned, so that every stream runs to its own
PROMPT = "The quick brown fox jumps over the lazy dog."
T = TypeVar("T")


def made(models: Path, fast: bool, whole: bool = False) -> Path:
    """The folder of a made checkpoint below `models`."""
    if whole:
        return make_checkpoint.make(models / "bench-whole", WHOLE)
    return make_checkpoint.make(models / ("bench-small" if fast else "bench-a"), SMALL if fast else LARGE)


def place(node: NodeProcess, model: str, node_ids: Sequence[str], **fields: Any) -> dict[str, Any]:
    """The model's instance on these nodes, in this order; `fields` go beside (`quantize`)."""
    asked = {"model": model, "nodes": list(node_ids), "min_nodes": len(node_ids), **fields}
    status, instance = node.request("POST", "/v1/instances", asked, timeout=600)
    if status != 200:
        raise SystemExit(f"cannot place {model}: {instance}")
    found: dict[str, Any] = instance
    return found


def stats(node: NodeProcess, instance_id: str) -> list[dict[str, Any]]:
    """Each stage's figures, the head's first."""
    status, found = node.request("GET", f"/v1/instances/{instance_id}/stats")
    assert status == 200, found
    stages: list[dict[str, Any]] = found["stages"]
    return stages


def stream(
    node: NodeProcess,
    path: str,
    body: Mapping[str, Any],
    ready: Callable[[], object] = lambda: None,
    leave: Callable[[float], bool] = lambda stamp: False,
) -> tuple[list[float], list[dict[str, Any]]]:
    """(seconds from the request to each event, the events) of one streamed answer.

    A plain client: what an SDK spends on its own objects (1-3 ms a token here) is not the ring's. `ready` is called
    once connected, before the request; `leave` is asked at each event whether to hang up.
    """
    host, port = node.api.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=600)
    connection.connect()
    ready()
    start = time.perf_counter()
    connection.request("POST", path, json.dumps({**body, "stream": True}), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise SystemExit(f"{path}: {response.status} {response.read()[:500]!r}")
    stamps, lines = [], []
    while line := response.readline():
        if line.startswith(b"data: {"):
            stamps.append(time.perf_counter() - start)
            lines.append(line[6:])
            if leave(stamps[-1]):
                break
    connection.close()
    return stamps, [json.loads(line) for line in lines]  # not sooner: nodes and clients share the cores


def tokens_of(
    node: NodeProcess,
    model: str,
    prompt: Sequence[int] | str,
    tokens: int,
    ready: Callable[[], object] = lambda: None,
    **fields: Any,
) -> list[float]:
    """Seconds from the request to each token of a greedy completion; a made checkpoint's end mark is banned.

    Log-probabilities make every token an event with a length: pieces of random text may be held back otherwise.
    """
    body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "logprobs": 0}
    stamps, events = stream(node, "/v1/completions", {**body, "logit_bias": {str(END): -100}, **fields}, ready)
    found: list[float] = []
    for stamp, event in zip(stamps, events, strict=True):
        for choice in event["choices"]:
            found += [stamp] * len((choice.get("logprobs") or {}).get("tokens", ()))
    if len(found) != tokens:
        raise SystemExit(f"a stream of {len(found)} tokens instead of {tokens}")
    return found


def streams(
    node: NodeProcess, model: str, asked: Sequence[Sequence[int]], tokens: int, **fields: Any
) -> list[list[float]]:
    """`tokens_of` of all prompts at once."""
    found: list[list[float]] = [[] for _ in asked]
    barrier = threading.Barrier(len(asked))

    def one(index: int) -> None:
        found[index] = tokens_of(node, model, asked[index], tokens, barrier.wait, **fields)

    threads = [threading.Thread(target=one, args=(index,)) for index in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if any(len(each) != tokens for each in found):
        raise SystemExit("a stream failed: see above")
    return found


def rate(stamps: Sequence[float]) -> float:
    """Tokens a second from the first token to the last.

    >>> rate([1.0, 1.5, 2.0])
    2.0
    """
    return (len(stamps) - 1) / (stamps[-1] - stamps[0])


def turns(parties: Mapping[str, Callable[[int], T]], rounds: int) -> dict[str, list[T]]:
    """What each party gives in each round; who begins changes. A party is told the round's number."""
    found: dict[str, list[T]] = {name: [] for name in parties}
    names = [*parties]
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            found[name].append(parties[name](number))
    return found


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Of pairs: median, least and most.

    >>> ratio([2.0, 3.0, 9.0], [2.0, 2.0, 3.0])
    {'median': 1.5, 'min': 1.0, 'max': 3.0}
    """
    pairs = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {
        "median": round(statistics.median(pairs), 4),
        "min": round(min(pairs), 4),
        "max": round(max(pairs), 4),
    }


def percentile(values: Sequence[float], share: float) -> float:
    """
    >>> percentile([3.0, 1.0, 2.0], 0.5)
    2.0
    """
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def hop_samples(head: NodeProcess, instance_id: str) -> list[dict[str, float]]:
    """The head's last steps that took the whole ring, each as microseconds per hop (a ring of one: per step).

    A trip's time is taken by the head from the start of its own part to the return; what the engines computed is taken
    off it.
    """
    found = []
    for sample in stats(head, instance_id)[0]["hops"]:
        stages = sample["stages"]
        hops = len(stages)
        engine, queue, codec = (sum(one[f"{name}_us"] for one in stages) for name in ("engine", "queue", "codec"))
        outside = sample["total_us"] - engine
        found.append(
            {
                "hop_us": outside / hops,
                "engine_us": engine / hops,
                "queue_us": queue / hops,
                "codec_us": codec / hops,
                "wire_us": (outside - queue - codec) / hops,
            }
        )
    return found
