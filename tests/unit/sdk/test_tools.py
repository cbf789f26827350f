"""The tool loop."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from exo_node.sdk.replies import wrap
from exo_node.sdk.tools import Collected, Conversation, ToolDefinition, arun_tools, as_openai, run_tools


def call(name: str, arguments: str, call_id: str = "c1") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def answer(content: str | None, *calls: dict[str, Any]) -> Any:
    message = {"role": "assistant", "content": content, "tool_calls": list(calls)}
    usage = {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}
    return wrap({"choices": [{"message": message}], "usage": usage})


def test_calls_of_one_round_run_side_by_side() -> None:
    """Two handlers that wait for each other both end: they run at once; usage adds up over the rounds."""
    meet = threading.Barrier(2, timeout=10)
    script = [answer(None, call("a", '{"x": 1}', "1"), call("b", "{}", "2")), answer("done")]

    def a(x: int) -> str:
        meet.wait()
        return f"a{x}"

    def b() -> dict[str, int]:
        meet.wait()
        return {"b": 2}

    result = run_tools(lambda messages: script.pop(0), Conversation([], {"a": a, "b": b}))
    assert (result.response, result.rounds, result.usage.total_tokens) == ("done", 2, 6)
    assert [m["content"] for m in result.messages if m["role"] == "tool"] == ["a1", '{"b": 2}']
    assert [(one.name, one.result) for one in result.tool_calls] == [("a", "a1"), ("b", '{"b": 2}')]


async def test_coroutine_handlers_are_awaited() -> None:
    """The async loop takes coroutines and plain functions alike."""
    script = [answer(None, call("a", "{}", "1"), call("b", "{}", "2")), answer("done")]

    async def ask(messages: list[dict[str, Any]]) -> Any:
        return script.pop(0)

    async def a() -> str:
        return "async"

    result = await arun_tools(ask, Conversation([], {"a": a, "b": lambda: "sync"}))
    assert [one.result for one in result.tool_calls] == ["async", "sync"]


@pytest.mark.parametrize(
    ("arguments", "name", "told"),
    [("{", "a", "JSONDecodeError"), ("[1]", "a", "no JSON object"), ("{}", "zzz", "there is no tool 'zzz'")],
)
def test_what_goes_wrong_is_told_to_the_model(arguments: str, name: str, told: str) -> None:
    """Bad arguments and unknown tools become the tool's answer, so that the model can do better."""
    script = [answer(None, call(name, arguments)), answer("sorry")]
    result = run_tools(lambda messages: script.pop(0), Conversation([], {"a": lambda: "ok"}))
    assert told in result.tool_calls[0].result


def test_rounds_are_bounded() -> None:
    """A model that never stops calling is stopped, by name of the setting."""
    with pytest.raises(RuntimeError, match=r"after 3 rounds \(max_rounds\)"):
        run_tools(lambda _: answer(None, call("a", "{}")), Conversation([], {"a": lambda: "again"}, max_rounds=3))


def test_streamed_calls_are_put_together() -> None:
    """Arguments that come in pieces, of two calls mixed, become two whole calls."""
    collected = Collected()
    pieces: list[tuple[int, dict[str, Any]]] = [
        (0, {"id": "1", "function": {"name": "a", "arguments": '{"x"'}}),
        (1, {"id": "2", "function": {"name": "b", "arguments": "{}"}}),
        (0, {"function": {"arguments": ": 1}"}}),
    ]
    for index, piece in pieces:
        collected.add({"choices": [{"delta": {"tool_calls": [{"index": index, **piece}]}}]})
    assert [one["function"]["arguments"] for one in collected.message()["tool_calls"]] == ['{"x": 1}', "{}"]


def test_definitions_become_openais_tools() -> None:
    """`ToolDefinition` and plain dictionaries both work."""
    plain = {"type": "function", "function": {"name": "b"}}
    first, second = as_openai([ToolDefinition("a", "does a"), plain])
    assert (first["function"]["name"], first["function"]["parameters"]["type"], second) == ("a", "object", plain)
