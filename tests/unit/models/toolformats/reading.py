"""Feeds answers to parsers, in pieces, and puts together what comes out."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from exo_node.models.toolformats.base import Options, Parsed, Parser, ToolFormat

SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "get_weather": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    "add": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}},
}


@dataclass
class Read:
    """All that an answer said. Calls are [name, arguments as text]."""

    text: str = ""
    reasoning: str = ""
    calls: list[list[str]] = field(default_factory=list)

    def take(self, parsed: Parsed) -> None:
        self.text += parsed.text
        self.reasoning += parsed.reasoning
        for delta in parsed.calls:
            if delta.index == len(self.calls):
                assert delta.id
                assert delta.name
                self.calls.append([delta.name, ""])
            else:
                assert delta.index == len(self.calls) - 1
                assert not delta.name
            self.calls[delta.index][1] += delta.arguments

    @property
    def parsed_calls(self) -> list[tuple[str, Any]]:
        return [(name, json.loads(arguments)) for name, arguments in self.calls]


def read_with(parser: Parser, pieces: Iterable[str]) -> Read:
    out = Read()
    for piece in pieces:
        out.take(parser.feed(piece))
    out.take(parser.finish())
    assert parser.calls == len(out.calls)
    return out


def read(family: ToolFormat, *pieces: str, parallel: bool = True) -> Read:
    return read_with(family.parser(Options(schemas=SCHEMAS, parallel=parallel)), pieces)


def cut(text: str, places: Iterable[int]) -> list[str]:
    """`text` in pieces, cut at the places (modulo its length)."""
    ends = sorted({place % (len(text) + 1) for place in places} | {0, len(text)})
    return [text[a:b] for a, b in itertools.pairwise(ends)]


class Words:
    """A detokenizer of which every id is a text."""

    def __init__(self, *texts: str) -> None:
        self._texts = texts

    def push(self, ids: Any) -> str:
        return "".join(self._texts[i] for i in ids)

    def finish(self) -> str:
        return ""
