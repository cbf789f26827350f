"""OpenAI's chat and completion events as Ollama's answers: NDJSON lines, or one object. Pure, but for its clocks.

Shapes: https://docs.ollama.com/api/chat and .../generate . Durations are nanoseconds as measured here: the prompt's
from the request's beginning (or the end of its loading) to the first content, the answer's from there to its end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from exo_node.api.dialects.base import arguments_of, text_of
from exo_node.errors import ExoError
from exo_node.routing.call import INVALID_TOOL_CALL, UpstreamError

Clock = Callable[[], int]  # nanoseconds
DONE_REASONS = {"tool_calls": "stop", "function_call": "stop"}  # what Ollama says of them; others keep their names


def rfc3339(ns: int) -> str:
    """Nanoseconds since 1970 as Ollama writes a time."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{_second(seconds)}.{rest:09d}Z"


def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class OllamaEncoder:
    """`base.Encoder`; besides it `take` and `collected`, for an answer that is sent whole.

    `form` is the route's, `model` the name as it was asked for. `load_ns`: how long the request waited for its model.
    """

    def __init__(
        self,
        form: Literal["chat", "generate"],
        model: str,
        *,
        wall: Clock = time.time_ns,
        ticks: Clock = time.perf_counter_ns,
    ) -> None:
        self.load_ns = 0
        self._chat = form == "chat"
        self._model = model
        self._wall, self._ticks = wall, ticks
        self._began = ticks()
        self._first: int | None = None
        self._finish: str | None = None
        self._usage: Mapping[str, Any] | None = None
        self._calls: dict[int, _Call] = {}
        self._told = 0  # calls that are in the answer already
        self._taken: list[dict[str, Any]] = []
        self._head = b'{"model":%b,"created_at":"' % orjson.dumps(model)
        self._text = b'Z","message":{"role":"assistant","content":' if self._chat else b'Z","response":'
        self._tail = b'},"done":false}\n' if self._chat else b',"done":false}\n'
        self._at = (0, b"")  # a second, and its text

    def feed(self, event: Mapping[str, Any]) -> bytes:
        choices = event.get("choices")
        if choices:
            choice = choices[0]
            delta = choice.get("delta")
            if delta and self._first is not None and choice.get("finish_reason") is None and _is_text(choice, delta):
                return self._line(delta["content"])  # as nearly always
        return b"".join(map(self._frame, self._pieces(event)))

    def end(self) -> bytes:
        return self._frame(self._closing({}))

    def fail(self, error: ExoError) -> bytes:
        return orjson.dumps({"error": error.message}) + b"\n"

    def whole(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        self._first = self._began + self.load_ns  # unknown when it began to be said: all of the time is the answer's
        choices = [{**choice, "delta": choice.get("message")} for choice in answer.get("choices") or ()]
        self.take({**answer, "choices": choices})
        return self.collected()

    def take(self, event: Mapping[str, Any]) -> None:
        """Keep an event's part of the answer for `collected`."""
        self._taken.extend(self._pieces(event))

    def collected(self) -> dict[str, Any]:
        """The complete answer of what was taken."""
        told: dict[str, Any] = {}
        for piece in self._taken:
            for name, item in piece.items():
                told[name] = told[name] + item if name in told else item
        return self._object(self._closing(told))

    def nothing(self, reason: str) -> dict[str, Any]:
        """The answer to a request that only loads ("load") or unloads ("unload") its model."""
        durations = {"total_duration": self._ticks() - self._began, "load_duration": self.load_ns}
        return self._object({"done_reason": reason, **durations})

    def _pieces(self, event: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
        """What an event adds: `content`, `thinking`, `tool_calls`, `logprobs`, those that there are."""
        self._usage = event.get("usage") or self._usage
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            text = text_of(delta.get("content")) or delta.get("refusal") or choice.get("text")
            thought = delta.get("reasoning_content") or delta.get("reasoning")
            piece: dict[str, Any] = {}
            if text:
                piece["content"] = text
            if isinstance(thought, str) and thought:
                piece["thinking"] = thought
            for one in delta.get("tool_calls") or ():
                self._add_call(one)
            self._finish = choice.get("finish_reason") or self._finish
            if calls := self._complete_calls():
                piece["tool_calls"] = calls
            if said := logprobs(choice.get("logprobs")):
                piece["logprobs"] = said
            if (piece or self._calls) and self._first is None:
                self._first = self._ticks()
            if piece:
                yield piece

    def _add_call(self, delta: Mapping[str, Any]) -> None:
        index = delta.get("index")
        call = self._calls.setdefault(len(self._calls) if index is None else index, _Call())
        function = delta.get("function") or {}
        call.id = delta.get("id") or call.id
        call.name += function.get("name") or ""
        call.arguments.append(arguments_of(function))

    def _complete_calls(self) -> list[dict[str, Any]]:
        """Calls to which nothing more comes: all but the last one, and at the end that too. Ollama tells whole ones."""
        found = list(self._calls.values())
        ready = found[self._told : None if self._finish is not None else -1]
        said = [_tool_call(self._told + i, call) for i, call in enumerate(ready)]
        self._told += len(said)
        return said

    def _closing(self, told: dict[str, Any]) -> dict[str, Any]:
        now = self._ticks()
        first = now if self._first is None else self._first
        found = {
            **told,
            "done_reason": DONE_REASONS.get(self._finish or "stop", self._finish or "stop"),
            "total_duration": now - self._began,
            "load_duration": self.load_ns,
            "prompt_eval_duration": max(first - self._began - self.load_ns, 1),
            "eval_duration": max(now - first, 1),  # clients divide by it
        }
        if self._usage is not None:
            found["prompt_eval_count"] = self._usage.get("prompt_tokens")
            found["eval_count"] = self._usage.get("completion_tokens")
        return found

    def _object(self, piece: Mapping[str, Any]) -> dict[str, Any]:
        """A piece of the answer (its last one where it has a `done_reason`) in the route's shape."""
        rest = dict(piece)
        said: dict[str, Any] = {name: rest.pop(name) for name in ("content", "thinking", "tool_calls") if name in rest}
        content = said.pop("content", "")
        found: dict[str, Any] = {"model": self._model, "created_at": rfc3339(self._wall())}
        if self._chat:
            found["message"] = {"role": "assistant", "content": content, **said}
        else:
            found |= {"response": content, **said}
        return {**found, "done": "done_reason" in rest, **rest}

    def _frame(self, piece: Mapping[str, Any]) -> bytes:
        if piece.keys() == {"content"}:
            return self._line(piece["content"])
        return orjson.dumps(self._object(piece)) + b"\n"

    def _line(self, text: str) -> bytes:
        seconds, rest = divmod(self._wall(), 1_000_000_000)
        if seconds != self._at[0]:
            self._at = (seconds, _second(seconds).encode())
        return b"%b%b.%09d%b%b%b" % (self._head, self._at[1], rest, self._text, orjson.dumps(text), self._tail)


def _is_text(choice: Mapping[str, Any], delta: Mapping[str, Any]) -> bool:
    """Whether an event holds text and nothing else."""
    text = delta.get("content")
    return (
        isinstance(text, str)
        and bool(text)
        and not (
            delta.get("tool_calls")
            or delta.get("reasoning_content")
            or delta.get("reasoning")
            or choice.get("logprobs")
        )
    )


def _tool_call(index: int, call: _Call) -> dict[str, Any]:
    text = "".join(call.arguments).strip()
    try:
        arguments = orjson.loads(text) if text else {}
    except orjson.JSONDecodeError:
        arguments = None
    if not isinstance(arguments, dict):
        problem = f"the model called {call.name!r} with arguments that are no JSON object"
        raise UpstreamError(problem, "malformed", code=INVALID_TOOL_CALL)
    made = {"function": {"index": index, "name": call.name, "arguments": arguments}}
    return {"id": call.id, **made} if call.id else made


def logprobs(value: Any) -> list[dict[str, Any]]:
    """A choice's `logprobs`, a chat's or a completion's, as Ollama lists them."""
    if not isinstance(value, dict):
        return []
    if value.get("content") is not None:
        return [
            {**_logprob(one), "top_logprobs": [_logprob(top) for top in one.get("top_logprobs") or ()]}
            for one in value["content"]
        ]
    tops = value.get("top_logprobs") or []
    return [
        {
            "token": token,
            "logprob": amount,
            "bytes": list(token.encode()),
            "top_logprobs": [
                {"token": text, "logprob": one, "bytes": list(text.encode())}
                for text, one in ((tops[i] if i < len(tops) else None) or {}).items()
            ],
        }
        for i, (token, amount) in enumerate(
            zip(value.get("tokens") or (), value.get("token_logprobs") or (), strict=False)
        )
    ]


def _logprob(one: Mapping[str, Any]) -> dict[str, Any]:
    return {"token": one["token"], "logprob": one["logprob"], "bytes": one.get("bytes")}
