"""ring/registry.py: which instances a node knows of, from whom, and for how long."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import pytest

from exo_node.ring.registry import InstanceRegistry
from exo_node.types import Assignment, Instance, NodeState, Shard, Spare
from tests.unit.ring.test_instances import node

MINE = Instance(
    instance_id="mine",
    model_id="m",
    digest="d",
    assignments=(Assignment("a", Shard("m", 0, 1, 1), "mlx", "CPU"),),
    addresses=("127.0.0.1:1",),
    coordinator="a",
    epoch=1,
    context=8,
    slots=1,
    state="ready",
)
THEIRS = dataclasses.replace(
    MINE, instance_id="theirs", assignments=(Assignment("b", Shard("m", 0, 1, 1), "mlx", "CPU"),), coordinator="b"
)


class Peers:
    """Node b tells `instances`."""

    node_id = "a"

    def __init__(self, *instances: Instance) -> None:
        self.instances = instances

    def states(self) -> dict[str, NodeState]:
        return {"b": NodeState(node=node("b"), instances=self.instances)}


class Host:
    """Holds a shard of each of `instances`."""

    def __init__(self, *instances: Instance) -> None:
        self.committed = {one.instance_id: one for one in instances}


def registry(peers: Peers, host: Host, *loading: Instance) -> InstanceRegistry:
    return InstanceRegistry(cast(Any, peers), cast(Any, host), lambda: loading)


def ids(instances: list[Instance]) -> list[str]:
    return sorted(one.instance_id for one in instances)


def test_what_is_known_and_whose_it_is() -> None:
    """Ours are those whose head is here; a shard of another's ring is not ours to publish."""
    loading = dataclasses.replace(MINE, instance_id="loading", state="loading")
    one = registry(Peers(THEIRS), Host(MINE, THEIRS), loading)
    assert ids(one.owned()) == ["mine"]
    assert ids(one.published()) == ["loading", "mine"]
    assert ids(one.all()) == ["loading", "mine", "theirs"]


def test_ready_wins_over_a_stale_loading() -> None:
    """A coordinator may call an instance loading a moment longer than its head does."""
    stale = dataclasses.replace(THEIRS, state="loading")
    one = registry(Peers(THEIRS), Host(), stale)
    assert [found.state for found in one.all()] == ["ready"]


def test_find_ready_prefers_our_own_and_skips_the_excluded() -> None:
    """The head on this node saves a way; what is lost or excluded is not offered."""
    one = registry(Peers(THEIRS), Host(MINE))
    found = one.find_ready({"m"})
    assert found is not None
    assert found.instance_id == "mine"
    found = one.find_ready({"m"}, exclude={"mine"})
    assert found is not None
    assert found.instance_id == "theirs"
    one.lose(THEIRS)
    assert one.find_ready({"m"}, exclude={"mine"}) is None
    assert one.find_ready({"other"}) is None


def test_what_is_on_its_way_back_is_not_passed_over() -> None:
    """Only an instance whose latest epoch is the broken one, or of which nothing is known any more."""
    peers = Peers(THEIRS)
    one = registry(peers, Host(MINE))
    one.lose(THEIRS)
    one.lose(dataclasses.replace(THEIRS, instance_id="gone"))
    assert one.beyond_use() == ["gone", "theirs"]
    for state in ("loading", "ready"):
        peers.instances = (dataclasses.replace(THEIRS, epoch=2, state=state),)
        assert one.beyond_use() == ["gone"]


def test_a_fresh_instance_is_known_until_its_owner_tells_of_it() -> None:
    """Between the answer of a placement and the owner's next state, nobody places the model a second time."""
    peers = Peers()
    one = registry(peers, Host())
    one.remember(THEIRS)
    assert ids(one.all()) == ["theirs"]
    peers.instances = (THEIRS,)
    assert one.tidy() == {("theirs", 1)}
    peers.instances = ()
    assert one.all() == []
    one.remember(THEIRS)
    one.forget("theirs")
    assert one.all() == []


def test_a_load_that_was_refused_is_gone_with_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its coordinator's state comes on another stream, a moment after the answer; should it be ready after all, it is
    there, and what is told for longer is true again."""
    peers = Peers(dataclasses.replace(THEIRS, state="loading"))
    one = registry(peers, Host())
    assert ids(one.all()) == ["theirs"]
    one.refused("theirs")
    assert one.all() == []
    one.tidy()
    assert one.all() == []
    peers.instances = (THEIRS,)
    assert ids(one.all()) == ["theirs"]
    peers.instances = (dataclasses.replace(THEIRS, state="loading"),)
    assert one.all() == []
    monkeypatch.setattr("exo_node.ring.registry.STATE_LAG_S", 0.0)
    assert ids(one.all()) == ["theirs"]


def test_tidy_forgets_lost_ones_that_are_gone() -> None:
    """An id is remembered as broken only while somebody still tells of it."""
    one = registry(Peers(THEIRS), Host())
    one.lost |= {"theirs": 1, "gone": 1}
    one.tidy()
    assert one.lost == {"theirs": 1}


def test_what_follows_a_lost_instance_is_packed_alike() -> None:
    """Until a new one is placed, a model's next instance gets the bits of the one that was lost."""
    one = registry(Peers(), Host(MINE))
    assert one.bits({"m", "org/m"}) == 0
    one.lose(dataclasses.replace(MINE, quantize=4))
    assert (one.all(), one.bits({"m", "org/m"}), one.bits({"other"})) == ([], 4, 0)
    one.remember(dataclasses.replace(MINE, instance_id="next", quantize=4))
    assert one.bits({"m"}) == 0
    late = registry(Peers(THEIRS), Host(MINE))
    late.lose(dataclasses.replace(MINE, quantize=4))  # when another is there already
    assert late.bits({"m"}) == 0


def test_an_instance_without_its_heads_node_falls_to_the_first_that_is_left() -> None:
    """Unless its owner took it down, or somebody has brought it back already."""
    orphan = dataclasses.replace(
        MINE, instance_id="o", assignments=(Assignment("z", Shard("m", 0, 1, 2), "mlx", "CPU"),
                                            Assignment("a", Shard("m", 1, 2, 2), "mlx", "CPU")),
    )  # fmt: skip
    behind = dataclasses.replace(orphan, assignments=orphan.assignments[:1] + THEIRS.assignments + MINE.assignments)
    assert ids(registry(Peers(), Host(MINE, orphan)).orphans()) == ["o"]
    assert registry(Peers(), Host(behind)).orphans() == []
    assert registry(Peers(dataclasses.replace(orphan, epoch=2)), Host(orphan)).orphans() == []
    one = registry(Peers(), Host(orphan))
    one.removed.append("o")
    assert one.orphans() == []


def test_a_spare_outlives_the_ring_that_it_was_for() -> None:
    """Where none of the ring's own stages is left, the node of its first spare has it brought back: also while nobody
    asks for anything."""
    lost = dataclasses.replace(
        MINE, assignments=(Assignment("z", Shard("m", 0, 1, 1), "mlx", "CPU"),), spares=(Spare(0, MINE.assignments[0]),)
    )
    assert ids(registry(Peers(), Host(lost)).orphans()) == ["mine"]
    both = dataclasses.replace(lost, spares=(Spare(0, THEIRS.assignments[0]), *lost.spares))
    assert registry(Peers(), Host(both)).orphans() == []  # b sees to it


def test_a_ring_that_others_have_brought_back_without_us_is_given_up() -> None:
    """Once its new epoch serves; an older telling means nothing."""
    new = dataclasses.replace(THEIRS, instance_id="mine", epoch=2)
    one = registry(Peers(new), Host(MINE))
    assert ids(one.superseded()) == ["mine"]
    assert one.owned() == []
    assert [found.epoch for found in one.all()] == [2]
    assert registry(Peers(dataclasses.replace(new, state="loading")), Host(MINE)).superseded() == []
    assert registry(Peers(dataclasses.replace(new, epoch=1)), Host(MINE)).superseded() == []
