"""The watch over instances whose head is here. On real nodes: test_lifecycle.py."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

import pytest

from exo_node.errors import NoCapacity, PeerUnavailable
from exo_node.ring.caretaker import Caretaker, missing_stages
from exo_node.ring.leases import LEASE_MS, renewed
from exo_node.ring.registry import InstanceRegistry
from exo_node.transport.generated.exo.v1 import node_pb2
from exo_node.types import Assignment, Instance, NodeState, Shard
from tests.unit.ring.test_instances import node


def instance(instance_id: str, follower: str) -> Instance:
    """Of two stages; the head is on node a."""
    return Instance(
        instance_id=instance_id, model_id="m", digest="d", addresses=("", ""), coordinator="a", epoch=1, context=8,
        slots=1, state="ready", assignments=(Assignment("a", Shard("m", 0, 1, 2), "mlx", "CPU"),
                                             Assignment(follower, Shard("m", 1, 2, 2), "mlx", "CPU")),
    )  # fmt: skip


class Host:
    """Node a with the heads of two instances."""

    committed = {"x": instance("x", "b"), "y": instance("y", "c")}  # noqa: RUF012

    def __init__(self, *ended: Instance) -> None:
        self.ended = list(ended)

    def shards(self) -> list[tuple[str, int]]:
        return [("x", 0), ("y", 0)]

    def take_ended(self) -> list[Instance]:
        ended, self.ended = self.ended, []
        return ended


class Cluster:
    """Node a sees b and c, with a shard each."""

    node_id = "a"

    def states(self) -> dict[str, NodeState]:
        return {"b": NodeState(node=node("b"), shards=(("x", 1),)), "c": NodeState(node=node("c"), shards=(("y", 1),))}


class Member:
    """Takes renewals; while it `hangs`, it answers none."""

    def __init__(self) -> None:
        self.hangs = asyncio.Event()
        self.asked: asyncio.Queue[node_pb2.RenewLeaseRequest] = asyncio.Queue()
        self.unloaded: asyncio.Queue[str] = asyncio.Queue()

    async def renew_lease(self, request: node_pb2.RenewLeaseRequest) -> node_pb2.RenewLeaseResponse:
        self.asked.put_nowait(request)
        if self.hangs.is_set():
            await asyncio.Event().wait()
        raise PeerUnavailable("gone")

    async def unload_shard(self, request: node_pb2.UnloadShardRequest) -> node_pb2.UnloadShardResponse:
        self.unloaded.put_nowait(request.instance_id)
        return node_pb2.UnloadShardResponse(found=True)


class Recoveries:
    """Brings nothing back, and says whom it was asked for; it fails with those of `hopeless`."""

    def __init__(self, *hopeless: str, error: Exception | None = None) -> None:
        self.hopeless = hopeless
        self.error = error or NoCapacity("nobody is left")
        self.asked: asyncio.Queue[str] = asyncio.Queue()

    async def __call__(self, instance: Instance) -> None:
        self.asked.put_nowait(instance.instance_id)
        if instance.instance_id in self.hopeless:
            raise self.error
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def watching(
    members: dict[str, Member], *ended: Instance, recover: Recoveries | None = None
) -> AsyncIterator[tuple[Caretaker, InstanceRegistry]]:
    """Node a's caretaker at work; `ended`: instances whose runner here has ended."""
    host, cluster = cast(Any, Host(*ended)), cast(Any, Cluster())
    registry = InstanceRegistry(cluster, host, lambda: ())
    keeper = Caretaker(
        cluster=cluster,
        host=host,
        registry=registry,
        member=lambda name: cast(Any, members[name]),
        recover=recover or Recoveries(),
        changed=lambda: None,
    )
    watch = asyncio.create_task(keeper.watch())
    try:
        yield keeper, registry
    finally:
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch


async def test_a_member_that_hangs_keeps_no_other_from_its_renewals() -> None:
    """Each is asked for its own instances, whatever the others do; a failure ends nothing."""
    members = {name: Member() for name in "abc"}
    async with watching(members) as (keeper, _):
        for round_ in range(2):
            if round_:
                members["b"].hangs.set()
                keeper.notice()
            for name, ids in (("b", ["x"]), ("c", ["y"]), ("a", ["x", "y"])):
                asked = await members[name].asked.get()
                assert (list(asked.instance_ids), asked.lease_ms) == (ids, LEASE_MS)


async def test_where_a_head_has_ended_the_ring_is_brought_back() -> None:
    """Also while nobody asks for anything; another node's is its own business. Where that fails the others end too, and
    the next of the model is packed as it was."""
    members = {name: Member() for name in "abc"}
    gone = replace(instance("gone", "b"), model_id="other", quantize=4)
    lost = replace(gone, instance_id="lost")
    theirs = replace(gone, instance_id="theirs", assignments=gone.assignments[::-1])
    recoveries = Recoveries("lost")
    async with watching(members, gone, theirs, lost, recover=recoveries) as (keeper, registry):
        assert [await recoveries.asked.get() for _ in range(2)] == ["gone", "lost"]
        assert await members["b"].unloaded.get() == "lost"
        assert registry.bits({"other"}) == 4
        keeper.notice()
        await members["b"].asked.get()
    assert members["b"].unloaded.empty()
    assert recoveries.asked.empty()


async def test_a_recovery_that_fails_by_a_bug_of_ours_is_not_begun_again_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is logged with its traceback, and the instance is given up as after any other failure."""
    members = {name: Member() for name in "abc"}
    lost = replace(instance("lost", "b"), model_id="other")
    recoveries = Recoveries("lost", error=KeyError("a bug"))
    async with watching(members, lost, recover=recoveries) as (keeper, _):
        assert await recoveries.asked.get() == "lost"
        assert await members["b"].unloaded.get() == "lost"
        keeper.notice()
        await members["b"].asked.get()
    assert recoveries.asked.empty()
    (told,) = [one for one in caplog.records if one.exc_info]
    assert "instance lost of other is gone" in told.message


async def test_a_new_epoch_s_stage_has_the_time_that_a_new_instance_s_has() -> None:
    """Its node's state may reach us later than the instance: what has only just been brought back is not broken again
    for that."""
    members = {name: Member() for name in "abc"}
    recoveries = Recoveries()
    async with watching(members, recover=recoveries) as (keeper, _):
        await members["a"].asked.get()
        keeper._seen = {key: (0.0, listed) for key, (_, listed) in keeper._seen.items()}  # long ago
        # Its follower goes on at c, which does not list that shard yet.
        keeper._host.committed = {**Host.committed, "x": replace(instance("x", "c"), epoch=2)}
        keeper.notice()
        while "x" not in (await members["c"].asked.get()).instance_ids:
            pass
        for _ in range(2):
            keeper.notice()
            await members["c"].asked.get()
    assert recoveries.asked.empty()


async def test_a_stage_that_was_there_is_missed_at_once() -> None:
    """However new its epoch is."""
    members = {name: Member() for name in "abc"}
    recoveries = Recoveries()
    async with watching(members, recover=recoveries) as (keeper, _):
        await members["c"].asked.get()
        without = {"b": NodeState(node=node("b"), shards=(("x", 1),)), "c": NodeState(node=node("c"))}
        cast(Any, keeper._cluster).states = lambda: without
        keeper.notice()
        assert await asyncio.wait_for(recoveries.asked.get(), 2) == "y"


async def test_a_lost_stage_is_noticed_and_what_a_request_found_broken_too() -> None:
    """Each once at a time; one that is being taken down is left alone."""
    members = {name: Member() for name in "abc"}
    recoveries = Recoveries()
    async with watching(members, recover=recoveries) as (keeper, registry):
        await members["a"].asked.get()
        registry.lose(instance("x", "b"))
        keeper.notice()
        assert await recoveries.asked.get() == "x"
        keeper.notice()
        for _ in range(2):
            await members["a"].asked.get()
    assert recoveries.asked.empty()


async def test_shards_that_wait_for_slower_ones_keep_their_leases() -> None:
    """While an instance is placed its nodes are asked again and again, whether they answer or not; then no more."""
    members = {name: Member() for name in "ab"}
    async with renewed(lambda name: cast(Any, members[name]), instance("x", "b"), every_s=0):
        for _ in range(2):
            for member in members.values():
                assert list((await member.asked.get()).instance_ids) == ["x"]
    left = [one.asked.qsize() for one in members.values()]
    await asyncio.sleep(0)
    assert [one.asked.qsize() for one in members.values()] == left


OF_THREE = Instance(
    instance_id="i",
    model_id="m",
    digest="d",
    assignments=(
        Assignment("a", Shard("m", 0, 1, 3), "mlx", "CPU"),
        Assignment("b", Shard("m", 1, 2, 3), "mlx", "CPU"),
        Assignment("a", Shard("m", 2, 3, 3), "mlx", "CPU:1"),
    ),
    addresses=("", "", ""),
    coordinator="a",
    epoch=1,
    context=8,
    slots=1,
    state="ready",
)


class Shards:
    """Lists the shards of node a."""

    def __init__(self, *shards: tuple[str, int]) -> None:
        self._shards = shards

    def shards(self) -> list[tuple[str, int]]:
        return list(self._shards)


def missing(host: Shards, states: dict[str, NodeState]) -> list[int]:
    return missing_stages(OF_THREE, "a", cast(Any, host), states)


def test_nothing_is_missing_while_every_runner_is_listed() -> None:
    """Our own runners count as we host them, a peer's as it lists them."""
    assert missing(Shards(("i", 0), ("i", 2)), {"b": NodeState(node=node("b"), shards=(("i", 1),))}) == []


def test_a_gone_node_and_an_ended_runner_are_missing() -> None:
    """A node that left, a peer's runner that ended, and one of our own that ended are each named."""
    assert missing(Shards(("i", 0), ("i", 2)), {}) == [1]
    assert missing(Shards(("i", 0), ("i", 2)), {"b": NodeState(node=node("b"))}) == [1]
    assert missing(Shards(("i", 0)), {"b": NodeState(node=node("b"), shards=(("i", 1),))}) == [2]
