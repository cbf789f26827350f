"""ring/fencing.py: which stages of a ring are lost, with scripted runners."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from exo_node.errors import DeadlineExceeded, ExoError, PeerUnavailable, RingBroken
from exo_node.ring.fencing import fence
from exo_node.transport.generated.exo.v1 import ring_pb2


class Runner:
    """Is reached or not (`hangs`: neither), then answers with its number or fails."""

    def __init__(self, number: int = 1, *, reach: ExoError | None = None, fails: ExoError | None = None) -> None:
        self.number, self.fails, self.unreachable = number, fails, reach
        self.hangs = False

    async def reach(self, timeout: float) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.unreachable is not None:
            raise self.unreachable

    async def fence(self, request: ring_pb2.FenceRequest) -> ring_pb2.FenceResponse:
        if self.fails is not None:
            raise self.fails
        return ring_pb2.FenceResponse(highest=self.number)


async def fenced(*runners: Runner, silence_s: float = 3600.0) -> dict[int, int]:
    found = await fence(cast(Any, dict(enumerate(runners))), ring_pb2.FenceRequest(), silence_s)
    return {stage: answer.highest for stage, answer in found.items()}


async def test_those_that_answer_are_not_lost() -> None:
    """A refused connection and a call that fails are both losses."""
    gone = Runner(reach=PeerUnavailable("refused"))
    late = Runner(fails=DeadlineExceeded("no answer"))
    assert await fenced(Runner(5), gone, Runner(6), late) == {0: 5, 2: 6}
    assert await fenced() == {}


async def test_one_that_hangs_is_not_waited_for_when_the_others_have_answered() -> None:
    """They show how long it takes; alone it has all the time that silence may last."""
    hung = Runner()
    hung.hangs = True
    assert await fenced(Runner(5), hung) == {0: 5}
    assert await fenced(hung, silence_s=0.01) == {}


async def test_a_coordinator_that_is_behind_hears_so() -> None:
    """It is no loss that somebody else was faster."""
    with pytest.raises(RingBroken):
        await fenced(Runner(5), Runner(fails=RingBroken("behind", code="stale_epoch")))
