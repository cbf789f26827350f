"""Placement: which nodes hold which layers."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_node.cluster.placement import PlacementPlan, plan_placement, rendezvous
from exo_node.cluster.stage_memory import MemoryRules
from exo_node.errors import ExoError, InvalidRequest, NoCapacity
from exo_node.types import Device, ModelSpec, NodeInfo

MB = 10**6


def model(n_layers: int = 8, layer: int = 10 * MB, embed: int = 5 * MB, head: int = 0, kv_width: int = 0) -> ModelSpec:
    return ModelSpec(
        model_id="m", path="/m", architecture="llama", config={}, n_layers=n_layers, hidden_size=64, vocab_size=100,
        max_context=4096, dtype="float32", layer_bytes=(layer,) * n_layers, embed_bytes=embed, head_bytes=head,
        n_params=1, kv_width=kv_width,
    )  # fmt: skip


def node(node_id: str, free: int = 1000 * MB, engines: tuple[str, ...] = ("mlx",), gpus: int = 0) -> NodeInfo:
    devices = tuple(Device(f"CUDA:{i}", "cuda", "gpu", free // gpus, free // gpus) for i in range(gpus))
    return NodeInfo(
        node_id=node_id, boot_id="b", name=node_id, version="1", addresses=(), grpc_port=1, api_port=2, engines=engines,
        devices=devices or (Device("CPU", "cpu", "cpu", free, free),), memory_total=free, memory_free=free,
    )  # fmt: skip


def plan(spec: ModelSpec, nodes: list[NodeInfo], **options: Any) -> PlacementPlan:
    return plan_placement(spec, nodes, **{"slots": 4, "context": 1024, **options})


def ranges(placed: PlacementPlan) -> list[tuple[str, int, int]]:
    return [(a.node_id, a.shard.start_layer, a.shard.end_layer) for a in placed.assignments]


def test_one_node_is_enough() -> None:
    """A model that fits on one node is not split; the freest node takes it."""
    placed = plan(model(), [node("a"), node("b", 2000 * MB)])
    assert ranges(placed) == [("b", 0, 8)]
    assert placed.stage_bytes == (85 * MB,)


def test_packed_weights_stay_narrow() -> None:
    """Of a quantized model only scales and vectors are widened to what a CPU computes in."""
    spec = dataclasses.replace(model(), dtype="bfloat16", layer_packed=(8 * MB,) * 8, outer_packed=4 * MB)
    assert plan(spec, [node("a")]).stage_bytes == (8 * (8 + 2 * 2) * MB + (4 + 2) * MB,)


def test_a_draft_model_is_the_heads_burden() -> None:
    """Its weights and its KV pool, of few sequences, are counted on the head alone; what is too big is told with it."""
    draft = dataclasses.replace(model(2, MB, 4 * MB, kv_width=100), model_id="d", max_context=512, dtype="bfloat16")
    alone = 2 * 6 * MB + 100 * 2 * 4 * 512 * 4
    assert plan(model(), [node("a")], slots=64, draft=draft).stage_bytes == (85 * MB + alone,)
    two = plan(model(), [node("a", 60 * MB), node("b", 60 * MB)], draft=draft)
    assert ranges(two) == [("a", 0, 3), ("b", 3, 8)]
    assert two.stage_bytes == (35 * MB + alone, 50 * MB)
    with pytest.raises(NoCapacity, match="m with draft model d needs"):
        plan(model(), [node("a", 86 * MB)], draft=draft)


def test_states_count_by_sequence_not_by_token() -> None:
    """A layer with recurrent state takes its state once a slot, however few tokens the pool shrinks to."""
    spec = model(kv_width=1000)
    rules = MemoryRules(states=lambda spec, engine, element: (5000 * element,) * 6 + (0,) * 2)
    state, token = 6 * 5000 * 4, 2 * 1000 * 4
    assert plan(spec, [node("a")], rules=rules).stage_bytes == (85 * MB + 4 * state + 4 * 1024 * token,)
    tight = plan(spec, [node("a", 100 * MB)], rules=rules)
    assert (tight.slots, tight.kv_tokens) == (4, 1024)
    assert tight.stage_bytes == (85 * MB + 4 * state + 1024 * token,)


def test_what_a_stage_keeps_of_what_it_sends_counts() -> None:
    """All but the last one; no more than the tokens of its pool can be."""
    rules, vectors = MemoryRules(log=MB), 4 * 256 * 64 * 4
    nodes = [node(name, 200 * MB) for name in "abc"]
    plain, logged = (plan(model(), nodes, min_nodes=3, rules=one) for one in (MemoryRules(), rules))
    more = [after - before for after, before in zip(logged.stage_bytes, plain.stage_bytes, strict=True)]
    assert (ranges(logged), more) == (ranges(plain), [MB, MB, 0])
    small = plan(model(), nodes, min_nodes=3, rules=rules, slots=4, context=256)
    assert small.stage_bytes[1] - plan(model(), nodes, min_nodes=3, slots=4, context=256).stage_bytes[1] == vectors
    assert plan(model(), nodes, rules=rules).stage_bytes == plan(model(), nodes).stage_bytes


def test_smallest_number_of_nodes() -> None:
    """As many nodes as needed, no more, in proportion to what is free."""
    nodes = [node("a", 40 * MB), node("b", 50 * MB), node("c", 20 * MB)]
    assert ranges(plan(model(), nodes)) == [("b", 0, 4), ("a", 4, 8)]


def test_min_nodes() -> None:
    """`min_nodes` spreads a small model: three equal nodes, five nodes with one layer each."""
    assert [n for n, _, _ in ranges(plan(model(), [node("c"), node("a"), node("b")], min_nodes=3))] == ["a", "b", "c"]
    five = plan(model(5), [node(str(i)) for i in range(5)], min_nodes=5)
    assert [end - start for _, start, end in ranges(five)] == [1] * 5


def test_order_and_engines_as_asked() -> None:
    """Named nodes form the ring in that order with their engines, however much memory they have."""
    nodes = [node("a", 900 * MB, ("mlx", "tinygrad")), node("b", 500 * MB, ("mlx", "tinygrad")), node("c")]
    placed = plan(model(), nodes, node_ids=["b", "a"], engines=["tinygrad", "mlx"])
    assert [(a.node_id, a.engine) for a in placed.assignments] == [("b", "tinygrad"), ("a", "mlx")]
    assert {a.engine for a in plan(model(), nodes[:2], min_nodes=2, engines=["tinygrad"]).assignments} == {"tinygrad"}


def test_head_bytes_count_on_the_head() -> None:
    """Embedding and LM head are the head's; a tied LM head counts once."""
    tied = plan(model(2, embed=50 * MB), [node("a"), node("b")], min_nodes=2)
    untied = plan(model(2, embed=50 * MB, head=50 * MB), [node("a"), node("b")], min_nodes=2)
    assert (tied.stage_bytes, untied.stage_bytes) == ((60 * MB, 10 * MB), (110 * MB, 10 * MB))


def test_narrow_weights_are_widened_on_a_cpu() -> None:
    """A bfloat16 checkpoint takes twice its bytes where it is computed in float32, and its own on a GPU."""
    spec = dataclasses.replace(model(), dtype="bfloat16")
    assert plan(spec, [node("a")]).stage_bytes == (170 * MB,)
    assert plan(spec, [node("a", gpus=1)]).stage_bytes == (85 * MB,)


def test_pool_shrinks_before_refusing() -> None:
    """Memory for sequences is halved first, then the context; the plan says so. All slots stay where sequences take
    memory as they grow, elsewhere there are fewer."""
    spec = model(kv_width=1000)  # 8 layers x 1000 x 4 bytes = 32 kB a token
    roomy = plan(spec, [node("a", 300 * MB)])
    assert (roomy.slots, roomy.context, roomy.kv_tokens) == (4, 1024, 4096)
    tight = plan(spec, [node("a", 130 * MB)])
    assert (tight.slots, tight.context, tight.kv_tokens) == (4, 1024, 1024)
    tighter = plan(spec, [node("a", 95 * MB)])
    assert (tighter.slots, tighter.context, tighter.kv_tokens) == (4, 256, 256)
    fixed = plan(spec, [node("a", 130 * MB, engines=("tinygrad",))])
    assert (fixed.slots, fixed.context, fixed.kv_tokens) == (1, 1024, 1024)
    assert any("made smaller" in reason for reason in tighter.reasons)


def test_a_window_takes_less_memory() -> None:
    """Layers that keep a part of each sequence count for that, but never for more than the pool holds."""
    spec = model(kv_width=1000)

    def kept(spec: ModelSpec, engine: str, context: int) -> list[int]:
        return [min(100, context)] * 6 + [context] * 2

    windows = plan(spec, [node("a")], rules=MemoryRules(kept=kept))
    assert windows.stage_bytes == (85 * MB + 1000 * 4 * (6 * 4 * 100 + 2 * 4096),)
    tight = plan(
        spec, [node("a", 110 * MB)], rules=MemoryRules(kept=kept)
    )  # 4 sequences may still be in it, of 1024 tokens in all
    assert (tight.slots, tight.kv_tokens) == (4, 1024)
    assert tight.stage_bytes == (85 * MB + 1000 * 4 * (6 * 4 * 100 + 2 * 1024),)
    one = plan(spec, [node("a")], slots=1, context=64, rules=MemoryRules(kept=kept))
    assert one.stage_bytes == (85 * MB + 1000 * 4 * 8 * 64,)


def test_context_of_the_model_is_the_limit() -> None:
    """More context than the model has is never reserved."""
    assert plan(model(), [node("a")], context=10**6).context == 4096


def test_missing_bytes() -> None:
    """A refusal names what is needed, free and missing, and what would help."""
    with pytest.raises(NoCapacity, match=r"85,000,000 bytes .* 60,000,000 are free .* 25,000,000 bytes are miss"):
        plan(model(), [node("a", 40 * MB), node("b", 20 * MB)])


def test_no_cut_fits() -> None:
    """Enough bytes in all, but none of the nodes can hold a layer: said so."""
    with pytest.raises(NoCapacity, match="no cut between layers"):
        plan(model(3, embed=0), [node("a", 15 * MB), node("b", 15 * MB)])


def test_several_devices() -> None:
    """A node may take one stage per device, by itself when the model needs it or when asked."""
    gpus = node("a", 80 * MB, gpus=2)
    assert ranges(plan(model(4), [gpus])) == [("a", 0, 2), ("a", 2, 4)]
    placed = plan(model(2), [gpus], node_ids=["a", "a"])
    assert {a.device for a in placed.assignments} == {"CUDA:0", "CUDA:1"}
    with pytest.raises(InvalidRequest, match=r"named 3 times, it has 2 device"):
        plan(model(), [gpus], node_ids=["a", "a", "a"])


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"min_nodes": 9}, InvalidRequest, "min_nodes 9: m has 8 layers"),
        ({"min_nodes": 3}, NoCapacity, "min_nodes 3: 2 node"),
        ({"min_nodes": 0}, InvalidRequest, "min_nodes 0"),
        ({"node_ids": ["a", "z"]}, InvalidRequest, "no node 'z'; there are a, b"),
        ({"node_ids": ["a", "a"]}, InvalidRequest, "named 2 times"),
        ({"node_ids": ["a"] * 9}, InvalidRequest, "9 stages, m 8 layers"),
        ({"node_ids": ["a"], "min_nodes": 2}, InvalidRequest, "contradicts"),
        ({"node_ids": ["a"], "engines": ["tinygrad"]}, InvalidRequest, "cannot run engine 'tinygrad'; it has mlx"),
        ({"engines": ["tinygrad"]}, InvalidRequest, "no node has engine 'tinygrad'"),
        ({"engines": ["mlx", "mlx"]}, InvalidRequest, "engines has 2 entries, nodes 0"),
        ({"slots": 0}, InvalidRequest, "slots 0"),
    ],
)
def test_refusals(options: dict[str, Any], error: type[ExoError], words: str) -> None:
    """A request that contradicts itself, the model or the cluster is refused in one line with both sides."""
    with pytest.raises(error, match=words):
        plan(model(), [node("a"), node("b")], **options)


@given(
    st.lists(st.integers(1, 200), min_size=1, max_size=6),
    st.integers(1, 24),
    st.integers(1, 4),
    st.integers(0, 100),
    st.randoms(use_true_random=False),
)
def test_properties(frees: list[int], n_layers: int, min_nodes: int, kv_width: int, random: Any) -> None:
    """Every plan covers all layers in order, holds every capacity, uses enough nodes, and does not depend on the order
    in which nodes are listed; every refusal is an `ExoError` for the user."""
    nodes = [node(f"n{i}", free * MB) for i, free in enumerate(frees)]
    spec = model(n_layers, kv_width=kv_width)
    shuffled = random.sample(nodes, len(nodes))
    try:
        placed = plan(spec, nodes, min_nodes=min_nodes)
    except (NoCapacity, InvalidRequest) as error:
        with pytest.raises(type(error)):
            plan(spec, shuffled, min_nodes=min_nodes)
        return
    assert placed == plan(spec, shuffled, min_nodes=min_nodes)
    assert [i for _, start, end in ranges(placed) for i in range(start, end)] == list(range(n_layers))
    free = {n.node_id: n.memory_free for n in nodes}
    assert all(size <= free[a.node_id] for a, size in zip(placed.assignments, placed.stage_bytes, strict=True))
    assert len({a.node_id for a in placed.assignments}) == len(placed.assignments) >= min_nodes


def test_rendezvous() -> None:
    """All nodes pick the same coordinator; a node that leaves moves only the models that it coordinated."""
    ids = [f"node-{i}" for i in range(5)]
    before = {f"m{i}": rendezvous(f"m{i}", ids) for i in range(50)}
    assert before == {m: rendezvous(m, ids[::-1]) for m in before}
    assert len(set(before.values())) == 5
    after = {m: rendezvous(m, ids[:-1]) for m in before}
    assert all(after[m] == before[m] for m in before if before[m] != ids[-1])
