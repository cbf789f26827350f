"""How hidden states travel round a ring, and where to; `connect` itself runs in every integration test with a ring."""

from __future__ import annotations

import pytest

from exo_node.ring.connecting import SLOW_BYTES_PER_S, join_host_port, packs_prompts, widest
from exo_node.types import Dtype


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
