#!/usr/bin/env python3
"""Where one decoding step's time goes on the head's machine, and what is not the engine as a share of a 20 ms step.

    scripts/bench/step_profile.py [--rows 1,8] [--steps N] [--vocab N] [--temperature T] [--top-p P] [--fast]

Microseconds a step of the head, in a ring of two, a JSON line for each number of rows; `ratio` is their sum over 20 ms,
bar 0.1. All of it is counted one after another, though the daemon's part and the mask run beside the engine. What the
other stage does is not counted: half of two hops, its codec.

- `scheduler`, `stage` (checks of a step, its vectors in bytes), `codec` (messages of the ring), `sampler` (over
  `--vocab` logits), `rest` (what else the worker does): timed inside the real workers of a head and a follower in this
  process, with an engine that only waits;
- `mask`: what an answer bound to a JSON schema costs beside: waiting for a mask that was begun a step ago, applying it,
  advancing (the bundled model's vocabulary; grammar.py has 128k tokens); counted though most requests have none;
- `transport`: sending a step and receiving one, which is half of the two hops of a real ring of two runner processes
  whose stages wait 20 ms (`hops_us`: both, from one stage's report to the next one's beginning);
- `detokenizer`: tokens to text;
- `http`: CPU that a real daemon spends on a token of a streamed chat (from the runner's message to the socket), less
  that.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from bench_nodes import NodeProcess, nodes, place, stream, streams
from grammar import DEMO, SCHEMA
from runner_ring import runner_ring

from exo_node.engine.base import EngineRow, Hidden
from exo_node.models.tokenizer import Tokenizer
from exo_node.ring import events, workers
from exo_node.ring.constraint import Constraint, Vocabulary
from exo_node.ring.head_data import RingSetup
from exo_node.ring.kv_account import Pool
from exo_node.ring.messages import Epoch
from exo_node.ring.sampler import Sampler
from exo_node.ring.sequences import Job
from exo_node.ring.shard import ShardLogic
from exo_node.ring.stage import Stage
from exo_node.ring.text import TextAssembler
from exo_node.transport.codec import StepFrame
from exo_node.types import Grammar, SamplingParams
from tests.integration import runners

STEP_US = 20_000
HIDDEN = 2048
DEMO_VOCAB = 1280
NO_END: dict[str, Any] = {"logit_bias": {"2": -100}}  # the bundled model's end of text
STORY = "Once upon a time a cat found a warm computer and slept on it. "


class WaitingEngine:
    """What a `Stage` asks of an engine, without arithmetic: it waits, as one that computes elsewhere."""

    name = "waiting"

    def __init__(self, vocab: int, rows: int, wait_s: float) -> None:
        self._wait_s = wait_s
        self._logits = (4 * np.random.default_rng(0).standard_normal((rows, vocab))).astype(np.float32)
        self._vectors = bytes(HIDDEN * 2)

    def forward(self, rows: Sequence[EngineRow], hidden: Hidden | None) -> int:
        time.sleep(self._wait_s)
        return sum(row.length if hidden is None else row.n_outputs for row in rows)

    def export(self, activation: int, dtype: str) -> Hidden:
        assert dtype == "bfloat16"
        return Hidden("bfloat16", (activation, HIDDEN), self._vectors * activation)

    def logits(self, activation: Any, outputs: Sequence[int]) -> Any:
        return self._logits[: len(outputs)]

    def truncate(self, slot: int, length: int) -> None:
        pass


class Timers:
    """Microseconds by label; what a timed call spends in another timed call is not its own."""

    def __init__(self) -> None:
        self.us: Counter[str] = Counter()
        self.counting = True
        self._inside = [0.0]

    @contextmanager
    def patched(self, places: Sequence[tuple[Any, str, str]]) -> Iterator[None]:
        """(owner, name of a function, label): timed within the block."""
        kept = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
        for (owner, name, function), (_, _, label) in zip(kept, places, strict=True):
            setattr(owner, name, self._timed(function, label))
        try:
            yield
        finally:
            for owner, name, function in kept:
                setattr(owner, name, function)

    def _timed(self, function: Callable[..., Any], label: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._inside.append(0.0)
            begun = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent = time.perf_counter() - begun
                own = spent - self._inside.pop()
                self._inside[-1] += spent
                if self.counting:
                    self.us[label] += round(own * 1e9) / 1e3  # type: ignore[assignment]

        return call


class _Outlet:
    def __init__(self) -> None:
        self.sent: deque[bytes] = deque()

    def send(self, epoch: Epoch, step: bytes) -> None:
        self.sent.append(step)

    def receive(self) -> StepFrame:
        return StepFrame.from_bytes(self.sent.popleft())

    def notify(self, epoch: Epoch, notices: Sequence[Any]) -> None:
        pass


def worker_us(
    rows: int, vocab: int, steps: int, constraints: Sequence[Any], wait_s: float, sampling: SamplingParams
) -> dict[str, float]:
    """Microseconds a step of the head by label, of `rows` sequences that decode on a ring of two."""
    pool, epoch = Pool(rows, 4096, 64), Epoch(1, "bench")
    outlets = [_Outlet(), _Outlet()]
    engine: Any = WaitingEngine(vocab, rows, wait_s)
    stages = [Stage(engine, ShardLogic(pool)) for _ in range(2)]
    head = workers.HeadWorker("bench", stages[0], outlets[0])
    follower = workers.FollowerWorker("bench", stages[1], outlets[1])
    setup = RingSetup(
        epoch=epoch, n_stages=2, slots=rows, context=4096, max_chunk=64, vocab_size=vocab, vector_bytes=HIDDEN * 2
    )
    follower.handle(events.Configure(epoch, 1, 2, "bfloat16", None, Future()))
    head.handle(events.Configure(epoch, 0, 2, "bfloat16", setup, Future()))
    for row in range(rows):
        job = Job(request_id=str(row), prompt=(5, 6, 7 + row), max_tokens=4000, sampling=sampling)
        head.handle(events.Submit(row, job, constraints[row] if constraints else None))
    timers, count = Timers(), 0
    ring: Any = head.head
    places = [
        *((ring, name, "scheduler") for name in ("next_step", "home", "token", "measured")),
        *((one, name, "stage") for one in stages[:1] for name in ("run", "report")),
        *((stages[0], name, "stage") for name in ("logits",)),
        *((engine, name, "engine") for name in ("forward", "export", "logits")),
        *((workers, name, "codec") for name in ("step_frame", "read_step", "pass_on", "add_report", "read_epoch")),
        *((outlet, "receive", "codec") for outlet in outlets),
        (StepFrame, "to_bytes", "codec"),
        (Sampler, "draw", "sampler"),
        *((one, name, "sampler") for one in constraints for name in ("allowed", "advance")),
        (head, "handle", "rest"),
        (head, "advance", "rest"),
    ]

    def trip() -> int:
        """All that can be sent, round the ring once: how many steps came home."""
        while head.advance():
            pass
        found = 0
        for out, into in ((outlets[0], follower), (outlets[1], head)):
            timers.counting = into is head
            while out.sent:
                into.handle(events.StepIn(out.receive(), time.perf_counter_ns()))
                found += into is head
        timers.counting = True
        return found

    for _ in range(20):
        trip()
    with timers.patched(places):
        while count < steps:
            count += trip()
    # With micro-batches a step carries some of the rows only: what counts is a turn of all of them.
    turns = count / max(1, ring.micro_batches)
    return {label: us / turns for label, us in timers.us.items()}


def constraints_of(rows: int, executor: ThreadPoolExecutor) -> list[Constraint]:
    grammar = Grammar("json_schema", json.dumps(SCHEMA))
    matcher = Vocabulary.load(DEMO, DEMO_VOCAB).compile(grammar)
    made = [Constraint(matcher.deep_copy(), DEMO_VOCAB, grammar, executor) for _ in range(rows)]
    for one in made:
        one.begin(())
    return made


async def transport_us(rows: int, tokens: int, folder: Path) -> float:
    """Microseconds between one stage's report and the next one's beginning, of two hops (there and back)."""
    model = runners.model_folder(folder, num_hidden_layers=2, fake_step_seconds=STEP_US / 1e6, hidden_size=HIDDEN)
    sizes: dict[str, Any] = {"slots": rows, "context": 256, "max_chunk": 16, "speculation": False}
    async with runner_ring(model, 2, 2, **sizes, delays=False) as ring:
        await asyncio.gather(*(ring.stamps([1, 2, 3 + row], tokens, str(row)) for row in range(rows)))
        found = []
        for hop in (await ring.head()).hops:
            inside = sum(one.engine_us + one.codec_us + one.queue_us for one in hop.reports)
            found.append(hop.total_us - inside)
    return statistics.median(found)


def detokenizer_us(tokens: int) -> float:
    """Microseconds a token, on the bundled model's story."""
    tokenizer = Tokenizer.load(DEMO)
    ids = tokenizer.encode(STORY * 20, add_special_tokens=False)
    times = []
    for _ in range(max(1, tokens // len(ids))):
        assembler = TextAssembler(tokenizer.detokenizer(()), ())
        begun = time.perf_counter()
        for token in ids:
            assembler.push(token, None)
        times.append((time.perf_counter() - begun) / len(ids) * 1e6)
    return min(times)


def daemon_us(node: NodeProcess, rows: int, tokens: int) -> float:
    """CPU microseconds of the daemon (its children are processes of their own) for a token of `rows` streamed chats."""
    daemon = psutil.Process(node.process.pid)

    def chat(row: int) -> None:
        messages = [{"role": "user", "content": f"{row}. {STORY}"}]
        body = {"model": "demo", "messages": messages, "max_tokens": tokens, "temperature": 0, **NO_END}
        stream(node, "/v1/chat/completions", body, lambda: None)

    before, begun = daemon.cpu_times(), time.perf_counter()
    with ThreadPoolExecutor(rows) as clients:
        list(clients.map(chat, range(rows)))
    after, seconds = daemon.cpu_times(), time.perf_counter() - begun
    time.sleep(1)
    idle = daemon.cpu_times()
    rate = sum(idle[:2]) - sum(after[:2])  # of a second in which nobody asked anything
    return (sum(after[:2]) - sum(before[:2]) - rate * seconds) / (rows * tokens) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=lambda text: [int(one) for one in text.split(",")], default=[1, 8])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--vocab", type=int, default=128_256)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--fast", action="store_true", help="few steps: shows that it runs")
    options = parser.parse_args()
    if options.fast:
        options.steps = 60
    sampling = SamplingParams(temperature=options.temperature, top_p=options.top_p, seed=7)
    with (
        ThreadPoolExecutor(1) as executor,
        tempfile.TemporaryDirectory() as temporary,
        nodes(Path(temporary) / "home", ["--discovery-module", "none", "--no-speculation"]) as (node,),
    ):
        place(node, "demo", [node.node_id])
        streams(node, "demo", [[1, 20]], 40, **NO_END)
        text_us = detokenizer_us(20_000)
        for rows in options.rows:
            us = worker_us(rows, options.vocab, options.steps, (), 0.0005, sampling)
            bare = worker_us(rows, DEMO_VOCAB, options.steps, (), 0.005, sampling)
            bound = worker_us(rows, DEMO_VOCAB, options.steps, constraints_of(rows, executor), 0.005, sampling)
            us.pop("engine")
            us["mask"] = max(0.0, bound["sampler"] - bare["sampler"])
            hops = asyncio.run(transport_us(rows, min(40, options.steps), Path(temporary)))
            us["transport"] = hops / 2
            us["detokenizer"] = rows * text_us
            us["http"] = max(0.0, rows * (daemon_us(node, rows, 800 // rows) - text_us))
            line = {"bench": "step_profile: what is not the engine / a step of 20 ms", "rows": rows}
            line |= {"ratio": round(sum(us.values()) / STEP_US, 4), "bar": 0.1, "vocab": options.vocab}
            line |= {"temperature": options.temperature, "top_p": options.top_p, "hops_us": round(hops)}
            print(json.dumps(line | {"us": {name: round(value, 1) for name, value in us.items()}}), flush=True)


if __name__ == "__main__":
    main()
