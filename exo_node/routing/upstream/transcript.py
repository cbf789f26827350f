"""What one backend's stream has said so far: read from its events as they pass, with a few dict look-ups each."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping, Sequence
from typing import Any

from exo_node.routing.call import Batch, Call, UpstreamError
from exo_node.types import Usage

MAX_TOKENS = 10**12  # of one answer: more is no count of tokens
MAX_PARTIAL = 8 * 1024 * 1024  # characters: an answer beyond it is not kept, so it cannot be continued


class Transcript:
    """Reads events in order.

    `content` is true from the first event that a client would notice: text, reasoning, a tool call, a refusal, audio,
    or a reason to finish. `special` is true while the batch just read holds a usage report, an end, or anything else
    that its reader must look at. `parts` is the text of choice 0.
    """

    __slots__ = (
        "_backend", "_begun", "_expected", "characters", "content", "extras", "finished", "head", "ids", "parts",
        "pieces", "special", "usage",
    )  # fmt: skip

    def __init__(self, call: Call, backend: str = "a backend") -> None:
        self._backend = backend
        self._expected = choices(call)
        self._begun: set[int] = set()  # of several choices, those that were heard of
        self.content = False
        self.special = False
        self.parts: list[str] = []
        self.ids: list[int] = []
        self.characters = 0
        self.pieces = 0  # events with text, or with what is made of tokens, too
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
        read.parts, read.ids, read.characters, read.pieces, read.finished = [], [], 0, 0, {}
        with contextlib.suppress(AttributeError, TypeError):
            read._take(batch)
        del self.parts[len(self.parts) - len(read.parts) :]
        self.characters -= read.characters
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
                    if self._expected > 1:
                        self._begun.add(choice.get("index") or 0)
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
        if made := beside_text(delta):
            self.characters += made
            self.pieces += 1

    def over(self) -> None:
        """Its provider says that this is all. Some make one choice, whatever `n` says: then there are no more."""
        if self.finished and self._begun <= self.finished.keys():
            self._expected = len(self.finished)

    @property
    def complete(self) -> bool:
        """Whether every choice has its finish_reason."""
        return len(self.finished) >= self._expected

    @property
    def text(self) -> str:
        return "".join(self.parts)


def beside_text(said: Mapping[str, Any]) -> int:
    """Characters of a message, or a piece of one, that tokens made beside its text: thoughts, a refusal, calls.

    Raises `AttributeError` or `TypeError` where the calls are not of OpenAI's shape.
    """
    texts = [said.get("reasoning_content") or said.get("reasoning"), said.get("refusal")]
    calls = said.get("tool_calls") or ()
    functions = [call.get("function") for call in calls] if calls else []
    for function in (*functions, said.get("function_call")):
        if function:
            texts += (function.get("name"), function.get("arguments"))
    return sum([len(text) for text in texts if isinstance(text, str)])


def length_of(data: Mapping[str, Any] | None) -> int:
    """Characters of a whole answer that tokens were used for, in all its choices: to estimate what it does not say."""
    choices = data.get("choices") if data else None
    length = 0
    for choice in choices if isinstance(choices, list) else ():
        length += len(said_in(choice))
        message = choice.get("message") if isinstance(choice, Mapping) else None
        if isinstance(message, Mapping):
            with contextlib.suppress(AttributeError, TypeError):  # calls of another shape: what else there is counts
                length += beside_text(message)
    return length


def said_in(choice: Any) -> str:
    """The text of a whole answer's choice, "" where it has none."""
    if not isinstance(choice, dict):
        return ""
    message = choice.get("message")
    text = message.get("content") if isinstance(message, dict) else choice.get("text")
    return text if isinstance(text, str) else ""


def choices(call: Call) -> int:
    """How many choices the answer to `call` has."""
    n = call.body.get("n")
    prompts = call.body.get("prompt") if call.kind == "completion" else None
    many = len(prompts) if isinstance(prompts, list) and prompts and not isinstance(prompts[0], int) else 1
    return (n if isinstance(n, int) and n > 0 else 1) * many


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
    """A count of tokens; None for what is none (nobody is paid back for a negative one, nor keeps books of 10^19)."""
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else None


def whole_usage(data: Mapping[str, Any]) -> Usage | None:
    """What a whole answer reports. Vectors and rankings may say the total only, rankings in Cohere's `meta`."""
    usage, meta = data.get("usage"), data.get("meta")
    if (found := read_usage(usage)) is not None:
        return found
    told = [usage]
    if isinstance(meta, Mapping):
        told += (meta.get("tokens"), meta.get("billed_units"))
    for one in told[1:]:
        if (found := read_usage(one)) is not None:
            return found
    if "choices" not in data:
        for one in told:
            if isinstance(one, Mapping) and (total := _count(one.get("total_tokens"))):
                return Usage(total, 0)
    return None
