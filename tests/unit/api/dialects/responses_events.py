"""Streams of the Responses API, read as strictly as the official SDK's types are written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_args

from openai.types.responses import Response, ResponseStreamEvent

TYPES = {get_args(one.model_fields["type"].annotation)[0]: one for one in get_args(get_args(ResponseStreamEvent)[0])}


def parsed(raw: bytes) -> list[Any]:
    """The events of a stream: framed as they should be, numbered from 0 without a gap, each of its type."""
    events = []
    frames = raw.split(b"\n\n")
    assert frames.pop() == b""
    for frame in frames:
        name, data = frame.split(b"\n")
        event = json.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + event["type"].encode()
        events.append(TYPES[event["type"]].model_validate(event, strict=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    return events


def response(data: Mapping[str, Any]) -> Response:
    """A response object, of its type."""
    return Response.model_validate(data, strict=True)


def names(events: list[Any]) -> list[str]:
    return [event.type.removeprefix("response.") for event in events]
