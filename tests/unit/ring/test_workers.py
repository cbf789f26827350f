"""Generations through a whole ring in one process."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from exo_node.errors import EngineFailed, PeerUnavailable, RingBroken
from exo_node.ring.events import Cancel, Fence, Holdings, Lost, Submit
from exo_node.ring.messages import Epoch, Failure
from exo_node.ring.sequences import Delta, Failed, Job, Pooling
from exo_node.ring.workers import failure_error
from exo_node.transport.codec import StepFrame
from exo_node.types import SamplingParams
from tests.unit.ring.fakering import FakeRing, oracle

GREEDY = SamplingParams(temperature=0.0)
PROMPTS = [tuple(range(1, 2 + length)) for length in (0, 1, 3, 4, 5, 8, 11, 13)]


def ring_of(n_stages: int, slots: int = 8) -> FakeRing:
    ring = FakeRing(n_stages, slots=slots, wire="bfloat16")
    ring.configure(1)
    ring.settle()
    return ring


@pytest.mark.parametrize("n_stages", [1, 2, 3, 4])
@pytest.mark.parametrize("slots", [2, 8])
def test_eight_at_once_each_get_their_text(n_stages: int, slots: int) -> None:
    """Company, waiting for slots and the number of stages never change a text; in the end every pool is empty."""
    ring = ring_of(n_stages, slots)
    for ticket, prompt in enumerate(PROMPTS):
        ring.head.handle(Submit(ticket, Job(request_id=str(ticket), prompt=prompt, max_tokens=9, sampling=GREEDY)))
    ring.settle()
    for ticket, prompt in enumerate(PROMPTS):
        assert ring.tokens(ticket) == oracle(prompt, 9, frozenset())
        assert isinstance(ring.ended(ticket), Delta)
    assert set(ring.pools()) == {(0, 0)}


def test_prompts_are_packed_on_every_hop_but_the_last() -> None:
    """Where a stage packs, prefill rows travel as int8; decode rows never do, and the next stage reads both."""
    ring = ring_of(3)
    for worker in ring.workers[:-1]:
        worker.stage.int8_rows = True
    ring.head.handle(Submit(1, Job(request_id="a", prompt=(1, 2, 3, 4), max_tokens=3, sampling=GREEDY)))
    packed: list[list[tuple[int, ...]]] = [[], [], []]
    while ring.ended(1) is None:
        ring.head.advance()
        for hop in range(3):
            for step in ring.hops[hop]:
                message = StepFrame.from_bytes(step).message
                if message.rows:
                    packed[hop].append(tuple(message.int8_rows))
            ring.deliver(hop)
    assert packed == [[(0,), (), ()], [(0,), (), ()], [(), (), ()]]
    assert isinstance(ring.ended(1), Delta)


def test_samples_are_the_same_in_company() -> None:
    """With a seed a sampled text does not depend on the company or the stages either."""
    job = Job(request_id="a", prompt=(1, 2, 3), max_tokens=12, sampling=SamplingParams(seed=5))
    alone = ring_of(1)
    alone.head.handle(Submit(1, job))
    alone.settle()
    crowded = ring_of(3)
    for ticket in range(2, 6):
        crowded.head.handle(Submit(ticket, Job(request_id=str(ticket), prompt=(4,) * ticket, max_tokens=9)))
    crowded.head.handle(Submit(1, job))
    crowded.settle()
    assert crowded.tokens(1) == alone.tokens(1)
    assert len(set(alone.tokens(1))) > 3


def test_a_cancel_frees_every_slot() -> None:
    """The drop reaches every shard though nobody else generates."""
    ring = ring_of(3)
    ring.head.handle(Submit(1, Job(request_id="a", prompt=(1, 2, 3), max_tokens=20, sampling=GREEDY)))
    for _ in range(4):
        ring.head.advance()
        for hop in (0, 1, 2):
            ring.deliver(hop)
    assert ring.pools()[0][0] == 1
    ring.head.handle(Cancel(1))
    ring.settle()
    assert set(ring.pools()) == {(0, 0)}


def test_a_lost_neighbour_is_named_to_every_caller() -> None:
    """The stage behind the gap sends word home, and the error names who is missing."""
    ring = ring_of(3)
    ring.head.handle(Submit(1, Job(request_id="a", prompt=(1, 2, 3), max_tokens=20, sampling=GREEDY)))
    ring.head.advance()
    ring.workers[2].handle(Lost(Epoch(1, "c"), 1, PeerUnavailable("stage 1 is gone")))
    ring.settle()
    end = ring.ended(1)
    assert isinstance(end, Failed)
    assert isinstance(end.error, PeerUnavailable)
    assert end.error.message == "stage 1 is gone"


@pytest.mark.parametrize("last", ["fence", "configure"])
def test_who_begins_an_epoch_may_go_away_meanwhile(monkeypatch: pytest.MonkeyPatch, last: str) -> None:
    """A coordinator that dies while a stage is busy waits for no answer: the stage keeps what it has, and the next
    coordinator finds it as it is."""
    ring = ring_of(2)
    ring.head.handle(Submit(1, Job(request_id="a", prompt=(1, 2, 3), max_tokens=20, sampling=GREEDY)))
    ring.head.advance()

    def gone() -> Future[Any]:
        future: Future[Any] = Future()
        assert future.cancel()
        return future

    for worker in ring.workers:
        worker.handle(Fence(Epoch(2, "c"), gone()))
    if last == "configure":
        with monkeypatch.context() as patch:
            patch.setattr("tests.unit.ring.fakering.Future", gone)
            ring.configure(2)
    held = [Future[Holdings]() for _ in ring.workers]
    for worker, future in zip(ring.workers, held, strict=True):
        worker.handle(Fence(Epoch(3, "d"), future))
    assert [len(one.result(0).held) for one in held] == ([1, 0] if last == "fence" else [0, 0])
    following = 1 + max(one.result(0).highest for one in held)
    assert all(one.done() for one in ring.configure(3, "d", next_sequence=following))
    ring.head.handle(Submit(2, Job(request_id="a", prompt=(1, 2, 3), max_tokens=9, sampling=GREEDY)))
    ring.settle()
    assert ring.tokens(2) == oracle((1, 2, 3), 9, frozenset())


def test_a_runner_without_an_epoch_refuses_generations() -> None:
    """Nothing runs before Configure."""
    ring = FakeRing(1)
    ring.head.handle(Submit(1, Job(request_id="a", prompt=(1,), max_tokens=1)))
    assert isinstance(ring.ended(1), Failed)


@pytest.mark.parametrize(
    ("what", "fields"),
    [
        ("logits", {"max_tokens": 9}),
        ("scores", {"max_tokens": 0, "prompt_logprobs": 0}),
        ("scores", {"max_tokens": 9, "prompt_logprobs": 0}),  # whose answer was to begin with the same step
        ("states", {"max_tokens": 0, "pooling": Pooling("mean")}),
    ],
)
def test_numbers_that_are_none_fail_one_request_only(
    what: str, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An overflow that one prompt brings about costs nobody else an answer, and what was computed of it is not kept."""
    ring = FakeRing(2, max_chunk=32, prefix_cache=True)
    ring.configure(1)
    prompt = tuple(range(1, 21))
    bad = Job(request_id="bad", prompt=prompt, sampling=GREEDY, **fields)
    good = Job(request_id="good", prompt=(4, 5), max_tokens=9, sampling=GREEDY)
    ring.head.handle(Submit(1, bad))
    ring.head.handle(Submit(2, good))
    stage, true = ring.head.stage, getattr(ring.head.stage, what)

    def overflow(*args: Any) -> Any:
        out = np.array(true(*args))
        out[0] = np.nan
        monkeypatch.undo()
        return out

    monkeypatch.setattr(stage, what, overflow)
    ring.settle()
    end = ring.ended(1)
    assert isinstance(end, Failed)
    assert isinstance(end.error, EngineFailed)
    assert ring.tokens(2) == oracle(good.prompt, 9, frozenset())
    assert set(ring.pools()) == {(0, 0)}


def test_failures_become_errors() -> None:
    """A lost peer stays one, everything else is a broken ring that names the stage."""
    assert isinstance(failure_error(Failure(1, "peer_unavailable", "gone")), PeerUnavailable)
    error = failure_error(Failure(1, "engine_failed", "no memory"))
    assert isinstance(error, RingBroken)
    assert (error.message, error.code) == ("stage 1: no memory", "engine_failed")
