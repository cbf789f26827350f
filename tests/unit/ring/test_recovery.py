"""ring/recovery.py: what ends a recovery, and what is one more round. Whole ones: integration/test_recovery.py."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Callable
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
from exo_node.ring.connecting import SPARE_STAGE
from exo_node.ring.loading import ShardLoader
from exo_node.ring.recovery import Recovery, _Round
from exo_node.ring.registry import InstanceRegistry
from exo_node.ring.successors import Successors
from exo_node.transport.convert import instance_to_pb
from exo_node.transport.generated.exo.v1 import node_pb2, ring_pb2
from exo_node.types import NodeInfo, Spare
from tests.unit.cluster.test_placement import node
from tests.unit.cluster.test_replacing import ring
from tests.unit.ring.test_registry import MINE, Host, Peers
from tests.unit.ring.test_successors import Holder, after


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


class Shelves:
    """A node's runners among all `runners`, (node id, stage): what waits aside takes the place that is asked for."""

    def __init__(self, name: str, runners: set[tuple[str, int]]) -> None:
        self.name = name
        self.runners = runners

    async def reserve_shard(self, request: node_pb2.ReserveShardRequest) -> node_pb2.ReserveShardResponse:
        return node_pb2.ReserveShardResponse()

    async def load_shard(self, request: node_pb2.LoadShardRequest) -> AsyncGenerator[node_pb2.LoadProgress, None]:
        self.runners.discard((self.name, SPARE_STAGE + request.stage))
        self.runners.add((self.name, request.stage))
        yield node_pb2.LoadProgress(ready=node_pb2.ShardReady())

    async def unload_shard(self, request: node_pb2.UnloadShardRequest) -> node_pb2.UnloadShardResponse:
        self.runners.discard((self.name, request.stage))
        return node_pb2.UnloadShardResponse()


@pytest.mark.parametrize("moves", [False, True])
async def test_who_has_stepped_in_is_let_go_where_its_round_fails(
    monkeypatch: pytest.MonkeyPatch, *, moves: bool
) -> None:
    """A spare, or what was loaded aside for a drain: the next round knows it neither as that nor as a stage of the
    ring, and its node would take no other runner of that stage."""
    old = ring(("a", "mlx"), ("b", "mlx"))
    runners = {("a", 0), ("b", 1)}
    if not moves:
        old = dataclasses.replace(old, spares=(Spare(1, dataclasses.replace(old.assignments[1], node_id="c")),))
        runners.add(("c", SPARE_STAGE + 1))

    class Cluster(Peers):
        def nodes(self) -> dict[str, NodeInfo]:
            return {name: node(name) for name in ("a", "b", "c")}

    class Round(Rounds):
        _round = Recovery._round

        async def _fence(self, one: Any) -> None:
            one.held = {0: ring_pb2.FenceResponse()}

        async def _plan(self, *args: Any, **options: Any) -> Successors:
            return await after(old, {1}, node("a"), node("c"), spares=old.spares)

    async def lost(*args: Any, **options: Any) -> None:
        raise PeerUnavailable("another stage is gone")

    monkeypatch.setattr(recovery, "connect", lost)
    made = Round()
    made._cluster = cast(Any, Cluster())
    made._loader = ShardLoader("a", lambda name: cast(Any, Shelves(name, runners)))
    with pytest.raises(PeerUnavailable):
        async for _ in made._round(_Round(old, 9, {1}), {"b"}, moves=moves):
            pass
    assert runners == {("a", 0)}


async def planned(old: tuple[str, str], live: list[NodeInfo], member: Callable[[str], Holder]) -> Successors:
    """Who takes over in the round after the loss of stage 1 of a ring of `old`, where these live and hold nothing."""

    class Cluster(Peers):
        def nodes(self) -> dict[str, NodeInfo]:
            return {one.node_id: one for one in live}

        def draining(self) -> tuple[str, ...]:
            return ()

    class Shards(Host):
        def shards(self) -> list[tuple[str, int]]:
            return []

    made = Rounds()
    made._cluster, made._host = cast(Any, Cluster()), cast(Any, Shards())
    made._member = cast(Any, member)
    one = _Round(dataclasses.replace(ring(*((name, "mlx") for name in old)), digest="d"), 9, {1})
    return await made._plan(one, {1}, set(), moves=False)


async def test_who_has_answered_its_fence_and_is_gone_is_lost_too() -> None:
    """While the fence waits for another stage's long step: nobody can be told to keep what it holds."""

    found = await planned(("e", "b"), [node("a"), node("c")], lambda name: Holder())
    assert found.kept == frozenset()
    assert sorted(at.node_id for at in found.shelf.instance.assignments) == ["a", "c"]


async def test_a_node_that_is_late_is_waited_for_where_nobody_else_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have to read the model's files first: better late than never."""
    monkeypatch.setattr(recovery, "PATIENCE_S", 0.01)

    class Late(Holder):
        def __init__(self, name: str) -> None:
            self.name = name

        async def describe_model(self, request: node_pb2.DescribeModelRequest) -> node_pb2.DescribeModelResponse:
            if self.name == "d":
                await asyncio.sleep(0.1)
            return await super().describe_model(request)

    found = await planned(("a", "b"), [node("a", 0), node("d")], Late)
    assert [at.node_id for at in found.shelf.instance.assignments] == ["a", "d"]


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
