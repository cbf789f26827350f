"""Stored responses as they travel between nodes, and what a new maker is told of one. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from exo_node.api.dialects.responses_items import Item
from exo_node.api.dialects.responses_request import Given
from exo_node.store_responses import MIRRORED, ResponseRow
from exo_node.types import Priority

_FIELDS = ("id", "node", "created", "previous", "input", "response", "asker", "term", "mirror")


def packed(row: ResponseRow) -> dict[str, Any]:
    """JSON-ready; without the key's id, which is this machine's own."""
    events = None if row.events is None else b"".join(row.events).decode()
    return {**{name: getattr(row, name) for name in _FIELDS}, "events": events}


def unpacked(value: Mapping[str, Any]) -> ResponseRow:
    """A row that another node has sent."""
    events = value["events"]
    frames = None if events is None else [one.encode() + b"\n\n" for one in events.split("\n\n")[:-1]]
    return ResponseRow(owner=MIRRORED, events=frames, **{name: value[name] for name in _FIELDS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a response is made of: the client's `body`, what it was `given`, the `model` that it asks for, and how the
    maker asked for it. `key_id` is an API key's on the first maker's machine, for the spend log."""

    body: Mapping[str, Any]
    id: str
    created: int
    history: list[Item]
    stored: Mapping[str, Item]
    model: str
    seed: int
    key_id: str
    asker: str
    priority: Priority
    no_cache: bool

    @property
    def given(self) -> Given:
        return Given(id=self.id, created=self.created, history=self.history, stored=self.stored)

    def dumped(self) -> bytes:
        return json.dumps({one.name: getattr(self, one.name) for one in fields(self)}, separators=(",", ":")).encode()


def head_of(raw: bytes) -> Head:
    return Head(**json.loads(raw))
