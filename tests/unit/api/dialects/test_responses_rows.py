"""Responses as they travel between nodes."""

from __future__ import annotations

import json

import pytest

from exo_node.api.dialects.responses_request import Given
from exo_node.api.dialects.responses_rows import Head, head_of, packed, unpacked
from exo_node.store_responses import MIRRORED, ResponseRow


@pytest.mark.parametrize("events", [None, [b"event: a\ndata: \xc3\xa4\n\n", b"event: b\ndata: 2\n\n"]])
def test_a_row_travels(events: list[bytes] | None) -> None:
    """All of it but the id of the key, which is another one elsewhere."""
    row = ResponseRow(
        id="r", owner="key-1", node="a", created=1.5, previous="p", input=[{"id": "i"}], response={"id": "r"},
        events=events, asker="hash", term=7, mirror="b",
    )  # fmt: skip
    there = unpacked(json.loads(json.dumps(packed(row))))
    assert (there.owner, "key-1" in json.dumps(packed(row))) == (MIRRORED, False)
    assert {**packed(there)} == packed(row)
    assert there.events == events


def test_a_head_travels() -> None:
    """The next maker is told the very same request."""
    head = Head(
        body={"input": "ä", "seed": None}, id="r", created=3, history=[{"id": "h"}], stored={"s": {"id": "s"}},
        model="demo", seed=2**62, key_id="key-1", asker="hash", priority="low", no_cache=True,
    )  # fmt: skip
    assert head_of(head.dumped()) == head
    assert head.given == Given(id="r", created=3, history=[{"id": "h"}], stored={"s": {"id": "s"}})
