"""ring/recovering.py: the asker's side of a recovery."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest

from exo_node.errors import ExoError, NoCapacity, PeerUnavailable, RingBroken
from exo_node.ring import recovering
from exo_node.ring.recovering import RecoveryClient
from exo_node.ring.registry import InstanceRegistry
from exo_node.transport.convert import instance_to_pb
from exo_node.transport.generated.exo.v1 import node_pb2
from exo_node.types import Instance
from tests.unit.ring.test_instances import node
from tests.unit.ring.test_registry import MINE, THEIRS, Host, Peers

BACK = dataclasses.replace(MINE, epoch=2)


class Cluster(Peers):
    """Node a alone."""

    def nodes(self) -> dict[str, Any]:
        return {"a": node("a")}


class Coordinator:
    """Answers one thing after the other."""

    def __init__(self, *answers: Instance | ExoError) -> None:
        self.answers = list(answers)
        self.asked: list[node_pb2.RecoverRequest] = []

    async def __call__(self, request: node_pb2.RecoverRequest) -> AsyncGenerator[node_pb2.PlaceProgress, None]:
        self.asked.append(request)
        answer = self.answers.pop(0)
        yield node_pb2.PlaceProgress(stage="fencing")
        if isinstance(answer, ExoError):
            raise answer
        times = node_pb2.RecoveryTimes(load_us=7)
        yield node_pb2.PlaceProgress(stage="ready", instance=instance_to_pb(answer), times=times)


def asker(coordinator: Coordinator, *told: Instance) -> tuple[RecoveryClient, InstanceRegistry]:
    cluster = cast(Any, Cluster(*told))
    registry = InstanceRegistry(cluster, cast(Any, Host(MINE)), lambda: ())
    return RecoveryClient(cluster, registry, coordinator), registry


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovering, "PAUSE_S", 0.0)


async def test_the_new_epoch_is_known_at_once() -> None:
    """Before its owner tells of it; the old one is offered to nobody."""
    coordinator = Coordinator(BACK)
    client, registry = asker(coordinator)
    found = await client.resume(MINE)
    assert (found.instance, found.times.load_us) == (BACK, 7)
    assert registry.find_ready({"m"}) == BACK
    assert (await client.recover(MINE)).instance == BACK
    assert len(coordinator.asked) == 1  # who comes late asks nobody


async def test_another_ring_of_the_same_model_goes_on_at_once() -> None:
    """For a request, not for the ring's own sake; one of other weights or engines, on another kind of device (which
    computes in another precision), or with less room, is none."""
    client, _ = asker(Coordinator(BACK), THEIRS)
    assert (await client.resume(MINE)).instance == THEIRS
    assert (await client.recover(MINE)).instance == BACK
    place = tuple(dataclasses.replace(at, device="CPU:1") for at in THEIRS.assignments)
    second = dataclasses.replace(THEIRS, assignments=place)
    assert (await asker(Coordinator(BACK), second)[0].resume(MINE)).instance == second
    foreign = tuple(dataclasses.replace(at, engine="tinygrad") for at in THEIRS.assignments)
    narrow = tuple(dataclasses.replace(at, device="METAL") for at in THEIRS.assignments)
    for change in ({"digest": "e"}, {"context": 4}, {"assignments": foreign}, {"assignments": narrow}):
        other = dataclasses.replace(THEIRS, **cast(Any, change))
        client, _ = asker(Coordinator(BACK), other)
        assert (await client.resume(MINE)).instance == BACK


async def test_a_coordinator_that_dies_is_replaced() -> None:
    """The next try goes to whom the members that are left pick; not for ever."""
    client, _ = asker(Coordinator(PeerUnavailable("gone"), BACK))
    assert (await client.recover(MINE)).instance == BACK
    client, _ = asker(Coordinator(*[PeerUnavailable("gone")] * recovering.TRIES))
    with pytest.raises(PeerUnavailable):
        await client.recover(MINE)


async def test_who_is_behind_takes_what_the_other_made() -> None:
    """A stale epoch means that another coordinator was faster."""
    behind = RingBroken("another was faster", code="stale_epoch")
    ahead = dataclasses.replace(MINE, epoch=5, assignments=THEIRS.assignments)
    client, _ = asker(Coordinator(behind), ahead)
    assert (await client.recover(MINE)).instance == ahead


@pytest.mark.parametrize("error", [NoCapacity("full"), RingBroken("taken off", code="instance_removed")])
async def test_what_cannot_be_brought_back_is_not_asked_for_again(error: ExoError) -> None:
    """The reason is the coordinator's."""
    coordinator = Coordinator(error)
    client, _ = asker(coordinator)
    with pytest.raises(type(error)):
        await client.recover(MINE)
    assert len(coordinator.asked) == 1
