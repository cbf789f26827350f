"""Lists in pages."""

from __future__ import annotations

import pytest

from exo_node.api.pages import boolean, page, whole_number
from exo_node.errors import InvalidRequest


def test_page() -> None:
    """One more than the limit says that there is more; an empty list has no ends."""
    rows = [{"id": str(i)} for i in range(3)]
    assert page(rows, 2) == {
        "object": "list",
        "data": rows[:2],
        "first_id": "0",
        "last_id": "1",
        "has_more": True,
    }
    assert page(rows, 3)["has_more"] is False
    assert page([], 3) == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


@pytest.mark.parametrize("text", ["0", "101", "-1", "1.5", "x", "", "9" * 30, "¹"])
def test_wrong_limits(text: str) -> None:
    """What is no number from 1 to the highest is a 400."""
    with pytest.raises(InvalidRequest):
        whole_number({"limit": text}, "limit", 20, 100)


def test_queries() -> None:
    """Absent is the default; the ends are allowed."""
    assert whole_number({}, "limit", 20, 100) == 20
    assert whole_number({"limit": "100"}, "limit", 20, 100) == 100
    assert whole_number({"after": "0"}, "after", -1, 2**53, low=0) == 0


def test_switches() -> None:
    """Absent is false; what is neither is a 400."""
    assert [boolean(query, "stream") for query in ({}, {"stream": "false"}, {"stream": "true"})] == [False, False, True]
    with pytest.raises(InvalidRequest):
        boolean({"stream": "1"}, "stream")
