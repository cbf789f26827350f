"""ring/recovery.py: what ends a recovery, and what is one more round. Whole ones: integration/test_recovery.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest

from exo_node.errors import (
    CheckpointError,
    DeadlineExceeded,
    ExoError,
    NoCapacity,
    PeerUnavailable,
    RingBroken,
    Unauthorized,
)
from exo_node.ring import recovery
from exo_node.ring.recovery import Recovery
from exo_node.ring.registry import InstanceRegistry
from exo_node.transport.convert import instance_to_pb
from exo_node.transport.generated.exo.v1 import node_pb2
from tests.unit.ring.test_registry import MINE, Host, Peers


class Placer:
    def __init__(self) -> None:
        self.loading: dict[str, Any] = {}

    def lock(self, model: str) -> asyncio.Lock:
        return asyncio.Lock()


class Rounds(Recovery):
    """Each round fails as it is told, after the load on these nodes has; then one comes to its end."""

    def __init__(self, *failures: tuple[ExoError, str]) -> None:
        cluster = cast(Any, Peers())
        registry = InstanceRegistry(cluster, cast(Any, Host(MINE)), lambda: ())
        super().__init__(
            cluster, cast(Any, Host(MINE)), cast(Any, None), registry, cast(Any, Placer()), silence_s=1,
            changed=lambda: None,
        )  # fmt: skip
        self.failures = list(failures)
        self.unfit: list[dict[str, int]] = []
        self.given_up = False
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.ended: list[str] = []

    async def _round(self, one: Any, avoid: set[str], *, moves: bool) -> AsyncGenerator[node_pb2.PlaceProgress, None]:
        self.unfit.append(dict(one.unfit))
        yield node_pb2.PlaceProgress(stage="fencing")
        try:
            await self.may_go_on.wait()
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        self.ended.append("well")
        if self.failures:
            error, nodes = self.failures.pop(0)
            one.work.failed |= set(nodes)
            raise error

    def _missing(self, instance: Any) -> set[int]:
        return {1}

    async def _give_up(self, one: Any) -> None:
        self.given_up = True


async def rounds(made: Rounds) -> int:
    request = node_pb2.RecoverRequest(instance=instance_to_pb(MINE))
    return len([update async for update in made.recover(request)])


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "PAUSE_S", 0.0)


@pytest.mark.parametrize(
    "error",
    [
        PeerUnavailable("gone"),
        RingBroken("broke"),
        DeadlineExceeded("a stage hangs"),
        Unauthorized("the key has changed", code="key_dropped"),
        NoCapacity("the lease ran out", code="reservation_lost"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_happens_meanwhile_is_one_more_round(error: ExoError) -> None:
    """A death, a stage that hangs, another key: none of it ends the instance."""
    made = Rounds((error, ""))
    assert await rounds(made) == 2
    assert not made.given_up


async def begun(made: Rounds, *avoid: str) -> asyncio.Task[int]:
    """A recovery whose round is under way."""
    request = node_pb2.RecoverRequest(instance=instance_to_pb(MINE), avoid=avoid)
    made.may_go_on.clear()
    first = asyncio.Event()

    async def ask() -> int:
        count = 0
        async for _ in made.recover(request):
            count += 1
            first.set()
        return count

    asking = asyncio.create_task(ask())
    await first.wait()
    return asking


async def test_who_asks_may_go_away() -> None:
    """The round goes on for all who wait for it, however many of them lose their patience; a drain ends with its
    asker, and all end with their node."""
    made = Rounds()
    asking = await begun(made)
    other = asyncio.create_task(rounds(made))
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert made.ended == []
    made.may_go_on.set()
    await other
    assert made.ended[0] == "well"

    made = Rounds()
    asking = await begun(made, "a")
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert made.ended == ["cancelled"]

    made = Rounds()
    asking = await begun(made)
    await made.close()
    await asyncio.gather(asking, return_exceptions=True)
    assert (made.ended, asking.cancelled()) == (["cancelled"], True)


async def test_a_bug_of_ours_is_told_to_who_asks_and_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever is there still."""
    made = Rounds((cast(Any, KeyError("a bug")), ""))
    with pytest.raises(KeyError, match="a bug"):
        await rounds(made)
    assert [one.message for one in caplog.records if one.exc_info] == ["recovery of mine failed"]


async def test_a_node_that_cannot_load_is_known_to_the_next_round() -> None:
    """Whatever it says; how often it has failed is counted."""
    made = Rounds((CheckpointError("its disk is bad"), "c"), (PeerUnavailable("its runner died"), "c"))
    assert await rounds(made) == 3
    assert made.unfit == [{}, {"c": 1}, {"c": 2}]


async def test_what_no_round_can_mend_is_given_up() -> None:
    """At once where nobody failed; and who asked is not told to ask again."""
    made = Rounds((NoCapacity("it fits nowhere"), ""))
    with pytest.raises(NoCapacity):
        await rounds(made)
    assert made.given_up
    made = Rounds(*[(PeerUnavailable("its runner died"), "c")] * recovery.ROUNDS)
    with pytest.raises(RingBroken, match="its runner died") as caught:
        await rounds(made)
    assert (made.given_up, caught.value.code) == (True, "given_up")
