"""ring/successors.py: who holds which layers of a ring that has lost stages."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any, cast

import pytest

from exo_node.errors import NoCapacity
from exo_node.ring.connecting import SPARE_STAGE
from exo_node.ring.library import spec_to_json
from exo_node.ring.successors import Successors, successors
from exo_node.transport.generated.exo.v1 import node_pb2
from exo_node.types import Assignment, Instance, NodeInfo, Spare
from tests.unit.cluster.test_placement import MB, model, node
from tests.unit.cluster.test_replacing import ring

LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 4}
SPEC = dataclasses.replace(model(4, layer=100 * MB), digest="d", config=LLAMA)


class Holder:
    """A node that has the model."""

    async def describe_model(self, request: node_pb2.DescribeModelRequest) -> node_pb2.DescribeModelResponse:
        if request.model != "m":
            return node_pb2.DescribeModelResponse(availability="unknown", code="model_not_found")
        return node_pb2.DescribeModelResponse(availability="local", spec_json=spec_to_json(SPEC))


async def after(old: Instance, lost: set[int], *nodes: NodeInfo, **options: Any) -> Successors:
    named = {one.node_id: one for one in nodes}
    options = {"running": False, "known": named, "loaded": range(len(old.assignments)), **options}
    spares, holder = options.pop("spares", ()), options.pop("holder", Holder())
    member = holder if isinstance(holder, type) else lambda name: holder
    return await successors(cast(Any, member), "a", old, lost, named, spares, epoch=9, **options)


async def test_the_cut_stays_and_only_what_is_lost_is_loaded() -> None:
    """In a newer epoch; spares that are left go on being spares."""
    old = ring(("a", "mlx"), ("b", "mlx"))
    spares = tuple(
        Spare(stage, Assignment("c", old.assignments[stage].shard, "mlx", f"CPU:{stage}")) for stage in (0, 1)
    )
    old = dataclasses.replace(old, spares=spares)
    found = await after(old, {1}, node("a"), node("c"), spares=spares)
    assert (found.same_cut, set(found.kept), found.shelf.sizes) == (True, {0}, {})
    assert [one.node_id for one in found.shelf.instance.assignments] == ["a", "c"]
    assert (found.shelf.instance.epoch, found.shelf.instance.spares) == (9, spares[:1])
    assert set(found.shelf.stages) == {0, 1}
    plain = await after(ring(("a", "mlx"), ("b", "mlx")), {1}, node("a"), node("d"))
    assert set(plain.shelf.sizes) == {1}
    assert set(plain.shelf.aside().stages) == {SPARE_STAGE + 1}


async def test_without_another_place_the_model_is_cut_anew() -> None:
    """Over those who are left, whose memory the old ring gives back; nobody keeps what it held."""
    old = ring(("a", "mlx"), ("b", "mlx"))
    found = await after(old, {1}, node("a", 500 * MB))
    assert (found.same_cut, found.kept) == (False, frozenset())
    assert [(one.node_id, one.shard.start_layer, one.shard.end_layer) for one in found.shelf.instance.assignments] == [
        ("a", 0, 4)
    ]
    with pytest.raises(NoCapacity, match="m lost a part and does not fit what is left"):
        await after(old, {1}, node("a", 200 * MB), running=True)


async def test_a_node_that_takes_nothing_keeps_what_it_holds() -> None:
    """One that is drained, and could not give its stage away, goes on in the ring when another one is lost."""
    old = ring(("a", "mlx"), ("b", "mlx"))
    found = await after(old, {1}, node("b"), known={"a": node("a"), "b": node("b")})
    assert (set(found.kept), set(found.shelf.sizes)) == ({0}, {1})
    assert len(found.shelf.dtypes()) == 2


async def test_a_gpu_s_memory_is_given_back_too() -> None:
    """A discrete GPU tells its own: a stage whose runner hangs comes back on the one that it fills, and another cut has
    the room that the old one leaves."""
    old = ring(("a", "mlx"), ("b", "mlx"))
    old = dataclasses.replace(
        old, assignments=tuple(dataclasses.replace(at, device="CUDA:0") for at in old.assignments)
    )
    found = await after(old, {1}, node("a", gpus=1), node("b", 0, gpus=1))
    assert (found.same_cut, found.shelf.instance.assignments) == (True, old.assignments)
    found = await after(old, {1}, node("a", 500 * MB, gpus=1))
    assert [(one.node_id, one.shard.end_layer) for one in found.shelf.instance.assignments] == [("a", 4)]
    with pytest.raises(NoCapacity):
        await after(old, {1}, node("a", 500 * MB, gpus=1), running=True)


async def test_memory_that_is_back_already_is_not_counted_twice() -> None:
    """Of stages that their nodes list no more."""
    old = ring(("a", "mlx"), ("b", "mlx"))
    full = node("a", 300 * MB), node("b", 0)
    assert (await after(old, {1}, *full)).same_cut
    with pytest.raises(NoCapacity):
        await after(old, {0, 1}, *full, loaded=())


async def test_a_spare_gives_way_where_no_place_is_left() -> None:
    """Its stage lives, another one is lost: its memory and its device are for that one."""
    old = ring(("a", "mlx"), ("b", "mlx"))
    spare = Spare(0, Assignment("c", old.assignments[0].shard, "mlx", "CPU"))
    old = dataclasses.replace(old, spares=(spare,))
    found = await after(old, {1}, node("a", 0), node("c", 0), spares=(spare,))
    assert (found.same_cut, set(found.kept), set(found.shelf.sizes)) == (True, {0}, {1})
    assert [one.node_id for one in found.shelf.instance.assignments] == ["a", "c"]
    assert (found.shelf.instance.spares, found.used) == ((), ())


async def test_as_many_nodes_as_were_wanted_where_they_are_there() -> None:
    """`min_nodes` of the placement holds in its recovery; fewer are better than none."""
    old = dataclasses.replace(ring(("a", "mlx"), ("b", "mlx")), min_nodes=2)
    busy = node("c", 300 * MB)  # too little for a whole stage of the old cut, enough for a part of another
    two = await after(old, {1}, node("a", 2000 * MB), busy)
    assert (two.same_cut, [one.node_id for one in two.shelf.instance.assignments]) == (False, ["a", "c"])
    alone = await after(old, {1}, node("a", 2000 * MB))
    assert [one.node_id for one in alone.shelf.instance.assignments] == ["a"]


async def test_no_draft_model_is_fetched_for_a_recovery() -> None:
    """The answers that wait would wait for that too: they go on without guesses."""
    fetched = False

    class Online(Holder):
        async def describe_model(self, request: node_pb2.DescribeModelRequest) -> node_pb2.DescribeModelResponse:
            nonlocal fetched
            if request.model == "m":
                return await super().describe_model(request)
            fetched = fetched or request.fetch
            spec = spec_to_json(SPEC) if request.fetch else ""
            return node_pb2.DescribeModelResponse(availability="fetchable", spec_json=spec)

    old = dataclasses.replace(ring(("a", "mlx"), ("b", "mlx")), draft_model="small")
    found = await after(old, {1}, node("a"), node("b"), holder=Online())
    assert (fetched, found.shelf.draft, found.shelf.instance.draft_model) == (False, None, "")


async def test_who_takes_long_to_say_what_he_has_is_not_waited_for() -> None:
    """A node that has only just come may have to read the model's files from end to end first."""
    late = asyncio.Event()

    class Late(Holder):
        def __init__(self, name: str) -> None:
            self.name = name

        async def describe_model(self, request: node_pb2.DescribeModelRequest) -> node_pb2.DescribeModelResponse:
            if self.name == "d":
                await late.wait()
            return await super().describe_model(request)

    old = ring(("a", "mlx"), ("b", "mlx"))
    nodes = node("a"), node("c"), node("d", 2000 * MB)
    found = await after(old, {1}, *nodes, holder=Late, patience_s=0.01)
    assert [one.node_id for one in found.shelf.instance.assignments] == ["a", "c"]
    late.set()
    found = await after(old, {1}, *nodes, holder=Late, patience_s=None)
    assert [one.node_id for one in found.shelf.instance.assignments] == ["a", "d"]


async def test_other_files_are_another_model_and_a_draft_is_no_condition() -> None:
    """Where the files have changed nothing can go on; without its draft model the ring only guesses less."""
    old = ring(("a", "mlx"), ("b", "mlx"))
    with pytest.raises(NoCapacity, match="have changed"):
        await after(dataclasses.replace(old, digest="other"), {1}, node("a"), node("b"))
    found = await after(dataclasses.replace(old, draft_model="small"), {1}, node("a"), node("b"))
    assert (found.shelf.draft, found.shelf.instance.draft_model) == (None, "")
