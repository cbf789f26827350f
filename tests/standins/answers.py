"""What the stand-ins say: pure functions of the request, the same in every wire format."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.standins.script import Script

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
DIMENSIONS = 8


def text_of(content: Any) -> str:
    """The text of a message's content (a string or a list of parts)."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    return ""


def answer_to(question: str) -> str:
    """The text that every stand-in gives to a conversation whose last user message is `question`."""
    return f"You said: {question}. I count: {' '.join(NUMBERS)}."


def pieces(text: str) -> list[str]:
    """Words, each with the blank before it: what the stand-ins call tokens. Joined they are `text`."""
    found: list[str] = []
    start = 0
    for i in range(1, len(text)):
        if text[i] == " " and text[i - 1] != " ":
            found.append(text[start:i])
            start = i
    return [*found, text[start:]] if text else []


@dataclass(frozen=True, slots=True)
class Said:
    """One answer: `tokens` to send now (what comes after a prefix), `finish` in OpenAI's words, counts for usage."""

    tokens: tuple[str, ...]
    finish: str
    prompt_tokens: int
    tools: tuple[tuple[str, dict[str, Any]], ...] = ()

    @property
    def text(self) -> str:
        return "".join(self.tokens)

    @property
    def completion_tokens(self) -> int:
        return len(self.tokens) + 5 * len(self.tools)


def say(
    script: Script,
    messages: Sequence[tuple[str, str]],
    *,
    limit: int | None = None,
    tools: Sequence[tuple[str, dict[str, Any]]] = (),
    json_object: bool = False,
    schema: Any = None,
) -> Said:
    """Answer `messages` ((role, text) pairs). A last assistant message is a prefix: the answer goes on from it.

    `limit` is max_tokens. `tools` are (name, JSON schema of the parameters): the first one is called unless the last
    message is a tool's result or the script says otherwise. The answer is an object of the JSON schema `schema`, where
    there is one with properties, else a `json_object` with the text in it.
    """
    prompt_tokens = sum(len(pieces(text)) for _, text in messages)
    role, last = messages[-1] if messages else ("user", "")
    calls = script.tool_calls
    if calls is None:
        calls = () if role in ("tool", "assistant") or not tools else ((tools[0][0], arguments(tools[0][1])),)
    if calls:
        return Said((), script.finish or "tool_calls", prompt_tokens, calls)
    prefix = last if role == "assistant" else ""
    heard = [text for r, text in messages if r in ("user", "tool")]
    text = script.text
    if text is None and script.chunks is not None:
        text = " ".join(NUMBERS[i % len(NUMBERS)] for i in range(script.chunks))
    if text is None:
        text = answer_to(heard[-1] if heard else "")
        if isinstance(schema, dict) and schema.get("properties"):
            text = json.dumps(arguments(schema))
        elif json_object:
            text = '{"answer": "' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"}'
    # A provider that strips the end of a prefix still goes on in the right place.
    rest = text[len(prefix) :] if text.startswith(prefix) else text
    tokens = pieces(rest)
    cut = limit is not None and len(tokens) > limit
    return Said(tuple(tokens[:limit] if cut else tokens), script.finish or ("length" if cut else "stop"), prompt_tokens)


def arguments(schema: Any) -> dict[str, Any]:
    """Arguments that fit a JSON schema's required properties (all of them where none is required)."""
    properties = schema.get("properties") or {} if isinstance(schema, dict) else {}
    names = schema.get("required") or list(properties) if isinstance(schema, dict) else []
    return {name: _example(properties.get(name) or {}) for name in names}


def _example(schema: dict[str, Any]) -> Any:
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "object":
        return arguments(schema)
    return {"integer": 3, "number": 1.5, "boolean": True, "array": [], "null": None}.get(str(kind), "Paris")


def embedding(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """A unit-length-ish vector that depends on the text alone; exact in float32."""
    seed = hashlib.sha256(text.encode()).digest()
    return [(seed[i % 32] - 128) / 256 for i in range(dimensions)]


def embedding_base64(vector: Sequence[float]) -> str:
    """OpenAI's `encoding_format: base64`: little-endian float32."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def relevance(query: str, document: str) -> float:
    """Share of the query's words that the document holds."""
    words = set(query.lower().split())
    return round(len(words & set(document.lower().split())) / max(1, len(words)), 4)
