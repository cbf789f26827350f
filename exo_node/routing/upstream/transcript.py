"""What one backend's stream has said so far: read from its events as they pass, with a few dict look-ups each."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

from exo_node.routing.call import CHARACTERS_PER_TOKEN, Batch, Call, UpstreamError
from exo_node.types import Usage

MAX_PARTIAL = 8 * 1024 * 1024  # characters: an answer beyond it is not kept, so it cannot be continued


class Transcript:
    """Reads events in order.

    `content` is true from the first event that a client would notice: text, reasoning, a tool call, a refusal, audio,
    or a reason to finish. `special` is true while the batch just read holds a usage report, an end, or anything else
    that its reader must look at. `parts` is the text of choice 0.
    """

    __slots__ = (
        "_backend", "_expected", "characters", "content", "extras", "finished", "head", "ids", "others", "parts",
        "pieces", "special", "usage",
    )  # fmt: skip

    def __init__(self, call: Call, backend: str = "a backend") -> None:
        self._backend = backend
        self._expected = choices(call)
        self.content = False
        self.special = False
        self.parts: list[str] = []
        self.ids: list[int] = []
        self.characters = 0
        self.others = 0  # characters of thoughts, refusals and tool calls, which are paid for, too
        self.pieces = 0  # events with text
        self.finished: dict[int, str] = {}  # choice -> finish_reason
        self.extras: set[str] = set()  # fields of deltas beside role and content
        self.head: dict[str, Any] = {}  # id, created, model of the stream
        self.usage: Usage | None = None

    def take(self, batch: Batch) -> None:
        """Raises `UpstreamError` ("malformed") where an event is not of OpenAI's shape; then nothing of it was said."""
        try:
            self._take(batch)
        except (AttributeError, TypeError) as e:
            self._take_back(batch)
            raise UpstreamError(f"{self._backend}: it sent an event not of OpenAI's shape", "malformed") from e

    def _take(self, batch: Batch) -> None:
        if batch.texts is None:
            self.special = self._read(batch.events)
            if batch.token_ids:
                self.ids += batch.token_ids
        else:
            special = self._read(batch.first) if batch.first else False
            text = "".join(batch.texts)
            self.content = True  # one event of their kind was looked at
            self.pieces += len(batch.texts)
            if self.characters <= MAX_PARTIAL:
                self.parts.append(text)
            self.characters += len(text)
            self.special = (bool(batch.last) and self._read(batch.last)) or special

    def _take_back(self, batch: Batch) -> None:
        """Forget what was read of a batch up to its odd event: who goes on must say it, since it does not go out."""
        read = copy.copy(self)
        read.parts, read.ids, read.characters, read.others, read.pieces, read.finished = [], [], 0, 0, 0, {}
        with contextlib.suppress(AttributeError, TypeError):
            read._take(batch)
        del self.parts[len(self.parts) - len(read.parts) :]
        self.characters -= read.characters
        self.others -= read.others
        self.pieces -= read.pieces
        for index in read.finished:
            self.finished.pop(index, None)

    def _read(self, events: Sequence[dict[str, Any]]) -> bool:
        """Whether one of them is special."""
        special = False
        for event in events:
            given = event.get("choices")
            if given:
                for choice in given:
                    delta = choice.get("delta")
                    if delta is None:
                        text = choice.get("text")
                    else:
                        text = delta.get("content")
                        if len(delta) > 1 or "content" not in delta:
                            self._look(delta)
                    if text and not isinstance(text, str):  # a list of parts (Mistral's, with its thoughts)
                        if not isinstance(text, list):
                            raise TypeError
                        self.content = True
                        self.extras.add("parts of content")
                    elif text:
                        self.content = True
                        self.pieces += 1
                        if self.characters <= MAX_PARTIAL and not choice.get("index"):
                            self.parts.append(text)
                        self.characters += len(text)
                    reason = choice.get("finish_reason")
                    if reason:  # "" says nothing: some send it with every event
                        self.finished[choice.get("index") or 0] = reason
                        self.content = special = True
            if event.get("usage"):
                self.usage = read_usage(event["usage"]) or self.usage
                special = True
            if not self.head:
                self.head = {name: event[name] for name in ("id", "object", "created", "model") if name in event}
        return special

    def _look(self, delta: Mapping[str, Any]) -> None:
        for name, value in delta.items():
            if value and name not in ("role", "content"):
                self.extras.add(name)
                self.content = True
                self.others += _length(name, value, delta)

    @property
    def complete(self) -> bool:
        """Whether every choice has its finish_reason."""
        return len(self.finished) >= self._expected

    @property
    def text(self) -> str:
        return "".join(self.parts)

    @property
    def tokens(self) -> int:
        """An estimate of the text's."""
        return max(self.pieces, math.ceil(self.characters / CHARACTERS_PER_TOKEN))


def choices(call: Call) -> int:
    """How many choices the answer to `call` has."""
    n = call.body.get("n")
    prompts = call.body.get("prompt") if call.kind == "completion" else None
    many = len(prompts) if isinstance(prompts, list) and prompts and not isinstance(prompts[0], int) else 1
    return (n if isinstance(n, int) and n > 0 else 1) * many


def characters_of(answer: Mapping[str, Any]) -> int:
    """All that a whole answer says: its choices' texts, thoughts, refusals and tool calls."""
    total = 0
    for choice in answer.get("choices") or ():
        message = choice.get("message")
        said = message if isinstance(message, Mapping) else {"content": choice.get("text")}
        content = said.get("content")
        total += len(content) if isinstance(content, str) else 0
        total += sum([_length(name, value, said) for name, value in said.items() if value])
    return total


# What an answer is made of beside its text. Thoughts have one of two names, or both.
_TOLD = frozenset({"reasoning_content", "reasoning", "refusal", "tool_calls"})


def _length(name: str, value: Any, said: Mapping[str, Any]) -> int:
    if name not in _TOLD or (name == "reasoning" and said.get("reasoning_content")):
        return 0
    if isinstance(value, str):
        return len(value)
    calls = [call.get("function") for call in value if isinstance(call, Mapping)] if isinstance(value, list) else []
    parts = [one.get(key) for one in calls if isinstance(one, Mapping) for key in ("name", "arguments")]
    return sum([len(part) for part in parts if isinstance(part, str)])


def read_usage(value: Any) -> Usage | None:
    """OpenAI's usage object; None where it is not one. Embeddings and images have no completion tokens.

    All zero is none: so a LiteLLM proxy says that its provider has reported nothing.
    """
    if not isinstance(value, dict):
        return None
    prompt = _count(value.get("prompt_tokens", value.get("input_tokens")))
    completion = _count(value.get("completion_tokens", value.get("output_tokens")))
    if not prompt and not completion:
        return None
    details = value.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    return Usage(prompt or 0, completion or 0, cached or 0)


def _count(value: Any) -> int | None:
    """A count of tokens; None for what is none (nobody is paid back for a negative one)."""
    return value if isinstance(value, int) and value >= 0 else None
