"""ring/placing.py: dtypes and addresses of a ring; the acts themselves run in the integration tests."""

from __future__ import annotations

import dataclasses

import pytest

from exo_node.errors import InvalidRequest
from exo_node.ring.placing import (
    SLOW_BYTES_PER_S,
    check_sizes,
    compute_dtype,
    draft_message,
    join_host_port,
    packs_prompts,
    widest,
)
from exo_node.types import Device, Dtype, ModelSpec, NodeInfo

SPEC = ModelSpec("m", "", "llama", {}, 2, 8, 16, 64, "bfloat16", (1, 1), 1, 1, 4, 8)
NODE = NodeInfo(
    node_id="a",
    boot_id="b",
    name="",
    version="",
    addresses=(),
    grpc_port=0,
    api_port=0,
    engines=("mlx",),
    devices=(Device("CPU", "cpu", "", 1, 1), Device("CUDA:0", "cuda", "", 1, 1)),
    memory_total=1,
    memory_free=1,
)


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (["float32"], "float32"),
        (["bfloat16", "bfloat16"], "bfloat16"),
        (["bfloat16", "float16"], "float32"),
        (["float16", "float32"], "float32"),
    ],
)
def test_hidden_states_never_lose_precision(dtypes: list[Dtype], expected: str) -> None:
    """Equal dtypes travel as they are; different ones meet in float32: bf16 never travels as fp16."""
    assert widest(dtypes) == expected


def test_a_cpu_computes_in_float32_and_a_gpu_as_stored() -> None:
    """The compute dtype follows the device of the stage."""
    assert compute_dtype(SPEC, NODE, "CPU") == "float32"
    assert compute_dtype(SPEC, NODE, "CUDA:0") == "bfloat16"
    assert compute_dtype(dataclasses.replace(SPEC, dtype="float16"), NODE, "CUDA:0") == "float16"


@pytest.mark.parametrize(
    ("wanted", "bytes_per_s", "expected"),
    [
        (["auto", "auto"], SLOW_BYTES_PER_S - 1, True),
        (["auto", "auto"], SLOW_BYTES_PER_S, False),
        (["auto", "auto"], 0, False),  # not measured
        (["on", "auto"], 0, True),
        (["auto", "on"], SLOW_BYTES_PER_S, False),  # the sender's word counts
        (["on", "off"], 1, False),
        (["off", "on"], 1, False),
        (["auto", ""], 1, False),  # a version that knows nothing of it
        (["auto", "newer"], 1, False),
    ],
)
def test_prompts_are_packed_where_all_nodes_agree_and_the_link_is_slow(
    wanted: list[str], bytes_per_s: int, expected: bool
) -> None:
    """`auto` goes by the probed link, `on` by nothing; on the last hop what is sampled from is never packed."""
    assert packs_prompts(wanted, 0, bytes_per_s) == expected
    assert not packs_prompts(wanted, 1, bytes_per_s)
    assert not packs_prompts(["on"], 0, 1)


def test_ipv6_literals_get_brackets() -> None:
    """A scoped link-local address keeps its scope inside the brackets."""
    assert join_host_port("10.0.0.1", 5) == "10.0.0.1:5"
    assert join_host_port("fe80::1%eth0", 5) == "[fe80::1%eth0]:5"


def test_a_draft_model_computes_as_its_device_does() -> None:
    """What the head's node is told of it."""
    told = draft_message(dataclasses.replace(SPEC, model_id="d", digest="x"), NODE, "CUDA:0")
    assert (told.model_id, told.digest, told.compute_dtype) == ("d", "x", "bfloat16")


def test_vocabularies_of_other_sizes_are_refused_before_anything_is_loaded() -> None:
    """Some padding at the end is none of that."""
    sized = [dataclasses.replace(SPEC, config={"vocab_size": size}) for size in (151_936, 152_064, 32_000)]
    check_sizes(sized[0], sized[1])
    with pytest.raises(InvalidRequest, match="151936 and 32000 tokens"):
        check_sizes(sized[0], sized[2])
