"""cluster/replacing.py: who takes the place of a lost stage."""

from __future__ import annotations

import dataclasses
from typing import Any

from exo_node.cluster.replacing import Replacement, replace_stages, spare_for, stage_size
from exo_node.cluster.stage_memory import MemoryRules
from exo_node.types import Assignment, Instance, Shard, Spare
from tests.unit.cluster.test_placement import MB, model, node

RULES = MemoryRules()
SPEC = model(4)  # 10 MB a layer, 5 MB for the head


def ring(*places: tuple[str, str]) -> Instance:
    """Of (node, engine), two layers a stage."""
    return Instance(
        instance_id="i", model_id="m", digest="d", addresses=("",) * len(places), coordinator="a", epoch=1, context=8,
        slots=1, state="ready",
        assignments=tuple(Assignment(name, Shard("m", 2 * i, 2 * i + 2, 4), engine, "CPU")
                          for i, (name, engine) in enumerate(places)),
    )  # fmt: skip


def after(
    instance: Instance, lost: set[int], *nodes: Any, spares: tuple[Spare, ...] = (), freed: Any = None, unfit: str = ""
) -> Any:
    return replace_stages(
        instance, lost, SPEC, {one.node_id: one for one in nodes}, spares, RULES, freed=freed or {}, unfit=unfit
    )


def places(found: Replacement | None) -> list[tuple[str, str]]:
    assert found is not None
    return [(one.node_id, one.engine) for one in found.assignments]


def test_a_runner_that_ended_comes_back_where_it_was() -> None:
    """Its node has the memory and the files; it need not be the freest."""
    old = ring(("a", "mlx"), ("b", "mlx"))
    found = after(old, {1}, node("a"), node("b", 10 * MB), node("c"), freed={("b", "CPU"): 10 * MB})
    assert places(found) == [("a", "mlx"), ("b", "mlx")]
    assert found.sizes == {1: 20 * MB}
    assert found.assignments[1].shard == old.assignments[1].shard


def test_a_lost_nodes_stage_goes_to_the_freest_outside_the_ring() -> None:
    """Those within have their own part already: they come last, on a device that is free."""
    old = ring(("a", "mlx"), ("b", "mlx"))
    assert places(after(old, {1}, node("a"), node("c", 30 * MB), node("d", 40 * MB))) == [("a", "mlx"), ("d", "mlx")]
    assert after(old, {1}, node("a")) is None  # one device holds one stage of a ring
    two = node("a", gpus=2)
    head = dataclasses.replace(
        old, assignments=(dataclasses.replace(old.assignments[0], device="CUDA:0"), old.assignments[1])
    )
    found = after(head, {1}, two)
    assert [(one.node_id, one.device) for one in found.assignments] == [("a", "CUDA:0"), ("a", "CUDA:1")]


def test_a_node_where_it_came_to_nothing_is_the_last_to_be_asked() -> None:
    """Its own node too; where nobody else has room it is asked again."""
    old = ring(("a", "mlx"), ("b", "mlx"))
    for nodes, home in (((node("b"), node("c", 25 * MB)), "c"), ((node("b"), node("c", 5 * MB)), "b")):
        assert places(after(old, {1}, node("a"), *nodes, unfit="b"))[1] == (home, "mlx")


def test_the_same_engine_is_worth_more_than_room() -> None:
    """Another engine makes other bits: only where nobody has the same one."""
    old = ring(("a", "mlx"), ("b", "mlx"))
    tiny = node("t", 900 * MB, engines=("tinygrad",))
    assert places(after(old, {1}, node("a"), tiny, node("c", 25 * MB))) == [("a", "mlx"), ("c", "mlx")]
    assert places(after(old, {1}, node("a"), tiny)) == [("a", "mlx"), ("t", "tinygrad")]


def test_the_same_kind_of_device_is_worth_more_than_room() -> None:
    """Another one computes in another precision, which makes other bits; another engine makes more of them."""
    old = ring(("a", "mlx"), ("b", "mlx"))
    roomy, narrow = node("c", 900 * MB, gpus=1), node("d", 25 * MB)
    assert places(after(old, {1}, node("a"), roomy, narrow)) == [("a", "mlx"), ("d", "mlx")]
    assert places(after(old, {1}, node("a"), roomy)) == [("a", "mlx"), ("c", "mlx")]
    foreign = node("e", 900 * MB, engines=("tinygrad",))
    assert places(after(old, {1}, node("a"), node("c", 100 * MB, gpus=1), foreign)) == [("a", "mlx"), ("c", "mlx")]


def test_a_spare_comes_first_and_is_not_loaded() -> None:
    """It holds the layers: nothing is to be loaded for it."""
    old = ring(("a", "mlx"), ("b", "mlx"))
    spare = Spare(1, Assignment("c", old.assignments[1].shard, "mlx", "CPU"))
    found = after(old, {1}, node("a"), node("b"), node("c"), spares=(spare,))
    assert (places(found), dict(found.sizes), found.used) == ([("a", "mlx"), ("c", "mlx")], {}, (spare,))


def test_two_lost_stages_do_not_share_what_is_free() -> None:
    """Each takes its bytes from what the other one left."""
    old = ring(("a", "mlx"), ("b", "mlx"))
    found = after(old, {0, 1}, node("c", 26 * MB), node("d", 25 * MB))
    assert places(found) == [("c", "mlx"), ("d", "mlx")]
    assert found.sizes == {0: 25 * MB, 1: 20 * MB}
    assert after(old, {0, 1}, node("c", 26 * MB), node("d", 19 * MB)) is None


def test_a_spare_is_never_on_the_node_that_it_is_to_outlive() -> None:
    """Its bytes are those of the stage."""
    old = ring(("a", "mlx"), ("b", "mlx"))
    nodes = {one.node_id: one for one in (node("a"), node("b"), node("c", 500 * MB))}
    taken = {("a", "CPU"), ("b", "CPU")}
    free = {name: one.memory_free for name, one in nodes.items()}
    found = spare_for(old, 0, SPEC, nodes, taken, RULES, None, free)
    assert found is not None
    assert (found[0].node_id, found[1]) == ("c", 25 * MB)
    assert stage_size(old, 0, old.assignments[0], SPEC, nodes["a"], RULES, None) == 25 * MB
    del nodes["c"]
    assert spare_for(old, 0, SPEC, nodes, taken, RULES, None, free) is None
