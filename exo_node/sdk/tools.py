"""Running a model's tool calls: the handlers of one round side by side, the rounds one after another, bounded."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from exo_node.sdk.replies import Reply, wrap

MAX_ROUNDS = 8
Handlers = Mapping[str, Callable[..., Any]]


@dataclass(frozen=True, slots=True)
class ToolDefinition:
    """A function that a model may call; `parameters` is its JSON schema."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})

    def to_openai(self) -> dict[str, Any]:
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


def as_openai(tools: Sequence[ToolDefinition | Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [tool.to_openai() if isinstance(tool, ToolDefinition) else dict(tool) for tool in tools]


class Conversation:
    """The messages of a tool loop, and what it has used. Pure but for `run`, which calls the handlers."""

    def __init__(self, messages: Sequence[Mapping[str, Any]], handlers: Handlers, max_rounds: int = MAX_ROUNDS) -> None:
        if max_rounds < 1:
            raise ValueError(f"max_rounds must be at least 1, got {max_rounds}")
        self.messages: list[dict[str, Any]] = [dict(message) for message in messages]
        self.calls: list[dict[str, Any]] = []
        self.rounds = 0
        self.usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        self._handlers = handlers
        self._max_rounds = max_rounds

    def add(self, message: Mapping[str, Any], usage: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        """Take the model's message in; its tool calls, which are to be run before the next round ([]: it is done).

        Raises `RuntimeError` when the model still wants tools after the last round.
        """
        self.rounds += 1
        for name in self.usage:
            self.usage[name] += int((usage or {}).get(name) or 0)
        calls = [dict(call) for call in message.get("tool_calls") or ()]
        kept: dict[str, Any] = {"role": "assistant", "content": message.get("content")}
        if calls:
            kept["tool_calls"] = calls
        self.messages.append(kept)
        if calls and self.rounds >= self._max_rounds:
            raise RuntimeError(f"the model still calls tools after {self._max_rounds} rounds (max_rounds)")
        return calls

    def run(self, calls: Sequence[Mapping[str, Any]]) -> None:
        """Call the handlers, each in a thread of its own."""
        with ThreadPoolExecutor(len(calls)) as pool:
            self._answer(calls, list(pool.map(self._call, calls)))

    async def arun(self, calls: Sequence[Mapping[str, Any]]) -> None:
        """The same; coroutine handlers are awaited, others run in threads."""

        async def one(call: Mapping[str, Any]) -> Any:
            handler = self._handlers.get(call["function"]["name"])
            if handler is not None and inspect.iscoroutinefunction(handler):
                try:
                    return await handler(**arguments_of(call))
                except Exception as error:  # the model is told, and may do better
                    return _failed(error)
            return await asyncio.to_thread(self._call, call)

        self._answer(calls, await asyncio.gather(*(one(call) for call in calls)))

    def result(self) -> Reply:
        """`response` is the last text; `messages` the whole conversation; `tool_calls` what was run."""
        reply: Reply = wrap(
            {
                "response": self.messages[-1].get("content") or "",
                "messages": self.messages,
                "tool_calls": self.calls,
                "rounds": self.rounds,
                "usage": self.usage,
            }
        )
        return reply

    def _call(self, call: Mapping[str, Any]) -> Any:
        name = call["function"]["name"]
        handler = self._handlers.get(name)
        if handler is None:
            return {"error": f"there is no tool {name!r}; there are: {', '.join(self._handlers) or 'none'}"}
        try:
            return handler(**arguments_of(call))
        except Exception as error:  # the model is told, and may do better
            return _failed(error)

    def _answer(self, calls: Sequence[Mapping[str, Any]], results: Sequence[Any]) -> None:
        for call, result in zip(calls, results, strict=True):
            text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)
            self.messages.append({"role": "tool", "tool_call_id": call.get("id"), "content": text})
            function = call["function"]
            self.calls.append({"name": function["name"], "arguments": function["arguments"], "result": text})


class Collected:
    """Puts the message of a streamed answer together."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self.usage: Mapping[str, Any] | None = None
        self.finish_reason: str | None = None

    def add(self, chunk: Mapping[str, Any]) -> None:
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk.get("choices") or ():
            if choice.get("index"):
                continue  # of several answers the first
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            delta = choice.get("delta") or {}
            self._text.append(delta.get("content") or "")
            for piece in delta.get("tool_calls") or ():
                call = self._calls.setdefault(
                    piece.get("index") or 0,
                    {"id": None, "type": "function", "function": {"name": "", "arguments": ""}},
                )
                call["id"] = piece.get("id") or call["id"]
                function = piece.get("function") or {}
                call["function"]["name"] += function.get("name") or ""
                call["function"]["arguments"] += function.get("arguments") or ""

    def message(self) -> dict[str, Any]:
        calls = [self._calls[index] for index in sorted(self._calls)]
        told: dict[str, Any] = {"role": "assistant", "content": "".join(self._text) or None}
        return {**told, "tool_calls": calls} if calls else told


def run_tools(ask: Callable[[list[dict[str, Any]]], Any], conversation: Conversation) -> Reply:
    """Ask, run, ask again until the model is done."""
    while True:
        answer = ask(conversation.messages)
        calls = conversation.add(answer["choices"][0]["message"], answer.get("usage"))
        if not calls:
            return conversation.result()
        conversation.run(calls)


async def arun_tools(ask: Callable[[list[dict[str, Any]]], Any], conversation: Conversation) -> Reply:
    while True:
        answer = await ask(conversation.messages)
        calls = conversation.add(answer["choices"][0]["message"], answer.get("usage"))
        if not calls:
            return conversation.result()
        await conversation.arun(calls)


def stream_tools(ask: Callable[[list[dict[str, Any]]], Iterator[Reply]], conversation: Conversation) -> Iterator[Reply]:
    """Every chunk of every round, as it comes; the handlers run between the rounds."""
    while True:
        collected = Collected()
        for chunk in ask(conversation.messages):
            collected.add(chunk)
            yield chunk
        calls = conversation.add(collected.message(), collected.usage)
        if not calls:
            return
        conversation.run(calls)


async def astream_tools(
    ask: Callable[[list[dict[str, Any]]], AsyncIterator[Reply]], conversation: Conversation
) -> AsyncIterator[Reply]:
    while True:
        collected = Collected()
        async for chunk in ask(conversation.messages):
            collected.add(chunk)
            yield chunk
        calls = conversation.add(collected.message(), collected.usage)
        if not calls:
            return
        await conversation.arun(calls)


def arguments_of(call: Mapping[str, Any]) -> dict[str, Any]:
    """Raises `ValueError` where they are no JSON object."""
    arguments = json.loads(call["function"]["arguments"] or "{}")
    if not isinstance(arguments, dict):
        raise ValueError("the arguments are no JSON object")
    return arguments


def _failed(error: Exception) -> dict[str, str]:
    return {"error": f"{type(error).__name__}: {error}"}
