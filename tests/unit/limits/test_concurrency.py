"""limits/concurrency.py: calls of a key at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_node.errors import RateLimited
from exo_node.limits.api_keys import KeyInfo
from exo_node.limits.concurrency import UNKNOWN_S, Running

TWO = KeyInfo(id="k", name="ci", concurrency=2)


def test_as_many_as_may_and_no_more() -> None:
    """The error names the key and says when one of its calls will probably have ended."""
    running = Running()
    running.enter(TWO, "a", 0.0)
    running.enter(TWO, "b", 1.0)
    with pytest.raises(RateLimited, match=r"API key 'ci' may have 2 requests at once") as refused:
        running.enter(TWO, "c", 1.0)
    assert (refused.value.code, refused.value.retry_after) == ("concurrency_limit_exceeded", UNKNOWN_S)
    running.leave("a", 4.0)  # took four seconds
    running.enter(TWO, "c", 4.0)
    with pytest.raises(RateLimited) as refused:
        running.enter(TWO, "d", 4.5)
    assert refused.value.retry_after == 0.5  # b has had 3.5 of the usual four
    running.enter(KeyInfo(id="other"), "e", 4.5)
    assert (running.count("k"), running.count("other")) == (2, 0)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9))))
def test_nothing_leaks(acts: list[tuple[bool, int]]) -> None:
    """Whatever comes, goes, goes twice or was refused: the count is of those that are there."""
    running, there = Running(), set[str]()
    for number, (comes, which) in enumerate(acts):
        call = str(which)
        if comes and call not in there:
            try:
                running.enter(TWO, call, float(number))
            except RateLimited:
                assert len(there) == 2
                continue
            there.add(call)
        elif not comes:
            running.leave(call, float(number))
            there.discard(call)
        assert running.count("k") == len(there) <= 2
