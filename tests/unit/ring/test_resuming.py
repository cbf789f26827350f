"""ring/resuming.py: a generation across losses of its ring, with scripted heads."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

import pytest

from exo_node.errors import DeadlineExceeded, ExoError, NoCapacity, PeerUnavailable, RingBroken, Unauthorized
from exo_node.ring import resuming
from exo_node.ring.recovering import Recovered
from exo_node.ring.resuming import BARREN, RecoveryRecord, deltas
from exo_node.transport.generated.exo.v1 import ring_pb2
from exo_node.types import Instance

OLD = Instance(
    instance_id="i", model_id="m", digest="d", assignments=(), addresses=(), coordinator="", epoch=1, context=64,
    slots=1, state="ready",
)  # fmt: skip
Said = ring_pb2.GenerateDelta | ExoError


class Ring:
    """Heads, one an epoch: each says what it is given, or fails. `back`: what a recovery answers, or raises."""

    def __init__(self, *heads: Sequence[Said], back: ExoError | None = None, **changes: Any) -> None:
        self.heads = list(heads)
        self.back = back
        self.changes = changes
        self.asked: list[ring_pb2.GenerateRequest] = []
        self.recovered: list[Instance] = []

    def client(self, instance: Instance) -> Any:
        return self

    async def generate(self, request: ring_pb2.GenerateRequest) -> AsyncGenerator[ring_pb2.GenerateDelta, None]:
        self.asked.append(request)
        for one in self.heads.pop(0):
            if isinstance(one, ExoError):
                raise one
            yield one

    async def recover(self, instance: Instance) -> Recovered:
        self.recovered.append(instance)
        if self.back is not None:
            raise self.back
        return Recovered(dataclasses.replace(instance, epoch=instance.epoch + 1, **self.changes))


def say(index: int, *ids: int, **fields: Any) -> ring_pb2.GenerateDelta:
    return ring_pb2.GenerateDelta(index=index, ids=ids, **fields)


async def hear(ring: Ring, deadline: float | None = None, **fields: Any) -> tuple[list[int], list[RecoveryRecord]]:
    records: list[RecoveryRecord] = []
    message = ring_pb2.GenerateRequest(instance_id="i", request_id="r", prompt_ids=[1, 2], max_tokens=9, **fields)
    found = [
        token async for one in deltas(cast(Any, ring), OLD, message, deadline, records.append) for token in one.ids
    ]
    return found, records


async def test_what_was_said_goes_with_the_next_question_and_is_not_said_again() -> None:
    """Tokens, attempt and KV sequence; the record tells what the loss has cost."""
    gone = PeerUnavailable("stage 1 of the ring is gone")
    ring = Ring(
        [say(0, 5, sequence=7), say(1, 6), gone], [say(2, 8, replayed_tokens=3), say(3, 9, finish_reason="stop")]
    )
    found, records = await hear(ring)
    assert found == [5, 6, 8, 9]
    first, second = ring.asked
    assert (list(first.generated_ids), first.attempt, first.sequence) == ([], 0, 0)
    assert (list(second.generated_ids), second.attempt, second.sequence) == ([5, 6], 1, 7)
    assert [one.epoch for one in ring.recovered] == [1]
    (record,) = records
    assert (record.request_id, record.epoch, record.replayed_tokens, record.known_tokens) == ("r", 2, 3, 4)
    assert record.cause == gone.message


async def test_what_has_no_tokens_has_its_record_too() -> None:
    """A vector, or a prompt's log-probabilities, after a loss."""
    ring = Ring([PeerUnavailable("gone")], [say(0, finish_reason="stop", embedding=b"1234")])
    assert [one.known_tokens for one in (await hear(ring))[1]] == [2]


async def test_the_kv_of_another_instance_is_not_asked_for() -> None:
    """A ring that stands in for the broken one knows nothing of its sequences."""
    ring = Ring([say(0, 5, sequence=7), RingBroken("")], [say(1, 6, finish_reason="stop")], instance_id="other")
    await hear(ring)
    assert (ring.asked[1].instance_id, ring.asked[1].sequence) == ("other", 0)


async def test_a_head_that_miscounts_or_ends_early_is_a_broken_ring() -> None:
    """What it said before stands; the next one goes on from there."""
    ring = Ring([say(0, 5), say(2, 7)], [say(1, 6)], [say(2, 7, finish_reason="length")])
    assert (await hear(ring))[0] == [5, 6, 7]


async def test_log_probabilities_of_the_prompt_are_told_once() -> None:
    """Those that were heard are skipped when the prompt is read again; after a token none are asked for."""
    one, two, three = (ring_pb2.TokenLogprobs(logprob=-value) for value in (1.0, 2.0, 3.0))
    ring = Ring(
        [say(0, prompt_logprobs=[one, two]), RingBroken("")],
        [say(0, prompt_logprobs=[one]), say(0, 5, prompt_logprobs=[two, three]), RingBroken("")],
        [say(1, 6, finish_reason="stop")],
    )
    heard: list[float] = []
    message = ring_pb2.GenerateRequest(instance_id="i", prompt_ids=[1, 2, 3, 4], prompt_logprobs=0)
    async for delta in deltas(cast(Any, ring), OLD, message, None, lambda record: None):
        heard += [entry.logprob for entry in delta.prompt_logprobs]
    assert heard == [-1.0, -2.0, -3.0]
    assert [one.HasField("prompt_logprobs") for one in ring.asked] == [True, True, False]


async def test_one_that_breaks_every_ring_is_given_up() -> None:
    """After some losses without a token between them; with tokens it goes on for as long as it takes."""
    ring = Ring(*([[RingBroken("")]] * (BARREN + 1)))
    with pytest.raises(RingBroken):
        await hear(ring)
    assert len(ring.asked) == BARREN + 1
    heads: list[Sequence[Said]] = [[say(i, i), RingBroken("")] for i in range(8)]
    assert (await hear(Ring(*heads, [say(8, 8, finish_reason="stop")])))[0] == list(range(9))


async def test_a_head_whose_node_has_just_gone_is_lost_as_any_other() -> None:
    """At the first question, and at the one after a recovery: another stream may have found an epoch whose head's node
    is no more."""

    class Gone(Ring):
        def client(self, instance: Instance) -> Any:
            if instance.epoch in (1, 3):
                raise PeerUnavailable("node a has no connection to node b: try again")
            return self

    ring = Gone([say(0, 5), RingBroken("")], [say(1, 6, finish_reason="stop")])
    assert (await hear(ring))[0] == [5, 6]
    assert [one.epoch for one in ring.recovered] == [1, 2, 3]


async def test_where_nothing_can_go_on_the_error_says_both_reasons() -> None:
    """What broke, and why it stays so; a newer attempt of the same request is no loss at all."""
    with pytest.raises(RingBroken, match=r"broke; it cannot be brought back: full") as caught:
        await hear(Ring([say(0, 5), RingBroken("broke")], back=NoCapacity("full")))
    assert caught.value.code == "ring_lost"
    with pytest.raises(RingBroken, match=r"holds 4 tokens, and this answer has 4"):
        await hear(Ring([say(0, 5, 6), RingBroken("broke")], context=4))
    ring = Ring([RingBroken("taken over", code="replaced")])
    with pytest.raises(RingBroken, match="taken over"):
        await hear(ring)
    assert not ring.recovered


async def test_a_call_that_a_key_rotation_has_ended_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the same ring, which is not broken; a node that has no part in the new key is told so in the end."""
    monkeypatch.setattr(resuming, "REDIAL_PAUSE_S", 0.0)
    dropped = Unauthorized("trusted no more", code="key_dropped")
    ring = Ring([say(0, 5, sequence=7), dropped], [say(1, 6, finish_reason="stop")])
    assert (await hear(ring))[0] == [5, 6]
    second = ring.asked[1]
    assert (list(second.generated_ids), second.attempt, second.sequence) == ([5], 1, 7)
    for error, asked in ((dropped, BARREN + 1), (Unauthorized("no", code="wrong_instance_token"), 1)):
        ring = Ring(*([[error]] * (BARREN + 1)))
        with pytest.raises(Unauthorized):
            await hear(ring)
        assert len(ring.asked) == asked
    assert not ring.recovered


async def test_the_deadline_holds_across_losses() -> None:
    """The head is told what is left; where nothing is, the request ends."""
    ring = Ring([say(0, 5), RingBroken("")], [say(1, 6, finish_reason="stop")])
    await hear(ring, time.monotonic() + 100, timeout_ms=100_000)
    assert 0 < ring.asked[1].timeout_ms <= 100_000

    class Slow(Ring):
        async def recover(self, instance: Instance) -> Recovered:
            import asyncio

            await asyncio.Event().wait()
            raise AssertionError

    with pytest.raises(DeadlineExceeded, match="before it was brought back"):
        await hear(Slow([say(0, 5), RingBroken("broke")]), time.monotonic() + 0.01)
