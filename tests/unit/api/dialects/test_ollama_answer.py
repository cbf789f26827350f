"""OpenAI's events as Ollama's lines and objects."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import pytest

from exo_node.api.dialects.ollama_answer import OllamaEncoder, rfc3339
from exo_node.errors import ExoError
from exo_node.routing.call import UpstreamError

MS = 1_000_000
USAGE: dict[str, Any] = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}


def encoder(form: Any = "chat") -> OllamaEncoder:
    """Its clock goes on by a millisecond with each look."""
    ticks = count(0, MS)
    return OllamaEncoder(form, "m:latest", wall=lambda: 1_700_000_000_000_000_005, ticks=lambda: next(ticks))


def event(finish: str | None = None, logprobs: Any = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": logprobs}]}


def said(made: OllamaEncoder, *events: dict[str, Any]) -> list[dict[str, Any]]:
    raw = b"".join(map(made.feed, events)) + made.end()
    assert raw.endswith(b"\n")
    return [json.loads(line) for line in raw.splitlines()]


def call(index: int, arguments: str, **more: Any) -> dict[str, Any]:
    name = {"name": more.pop("name")} if "name" in more else {}
    return {"index": index, **more, "function": {**name, "arguments": arguments}}


def test_a_stream() -> None:
    """A line per piece of text, none for the role, and the last one with reason, counts and times."""
    lines = said(encoder(), event(role="assistant", content=""), event(content="H\n"), event(content="ü"),
                 event("length"), USAGE)  # fmt: skip
    at = {"model": "m:latest", "created_at": "2023-11-14T22:13:20.000000005Z"}
    assert lines[:2] == [
        {**at, "message": {"role": "assistant", "content": text}, "done": False} for text in ("H\n", "ü")
    ]
    assert lines[2] == {
        **at, "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "length",
        "total_duration": 2 * MS, "load_duration": 0, "prompt_eval_duration": MS, "eval_duration": MS,
        "prompt_eval_count": 3, "eval_count": 2,
    }  # fmt: skip


def test_a_completion() -> None:
    """A generate answer has `response`, whether a chat or a completion makes it."""
    events = [{"choices": [{"index": 0, "text": text, "finish_reason": None}]} for text in ("a", "b")]
    for given in (events, [event(content="a"), event(content="b")]):
        assert [line["response"] for line in said(encoder("generate"), *given)] == ["a", "b", ""]


def test_loading_is_told_apart() -> None:
    """The time for loading is not the prompt's."""
    made = encoder()
    made.load_ns = MS // 4
    last = said(made, event(content="a"))[-1]
    assert (last["load_duration"], last["prompt_eval_duration"]) == (MS // 4, MS - MS // 4)
    assert made.nothing("load")["done_reason"] == "load"


def test_thoughts() -> None:
    """Reasoning is `thinking`, under either of its names."""
    lines = said(encoder(), event(reasoning_content="hm"), event(reasoning="so"), event(content="A"))
    assert [line["message"].get("thinking") for line in lines] == ["hm", "so", None, None]
    assert said(encoder("generate"), event(reasoning_content="hm"))[0]["thinking"] == "hm"


def test_tool_calls_come_whole() -> None:
    """Pieces of arguments are put together; each call is told once, as an object, and the reason is Ollama's "stop"."""
    lines = said(
        encoder(),
        event(tool_calls=[call(0, "", id="x", name="a")]),
        event(tool_calls=[call(0, '{"n"')]),
        event(tool_calls=[call(0, ":1}"), call(1, "", id="y", name="b")]),
        event("tool_calls"),
    )
    told = [one for line in lines for one in line["message"].get("tool_calls", ())]
    assert told == [
        {"id": "x", "function": {"index": 0, "name": "a", "arguments": {"n": 1}}},
        {"id": "y", "function": {"index": 1, "name": "b", "arguments": {}}},
    ]
    assert (len(lines), lines[-1]["done_reason"]) == (3, "stop")


@pytest.mark.parametrize("arguments", ['{"n":', "[1]"])
def test_arguments_that_are_no_object(arguments: str) -> None:
    """They are the model's failure."""
    with pytest.raises(UpstreamError, match="'a'"):
        encoder().feed(event("tool_calls", tool_calls=[call(0, arguments, name="a")]))


def test_logprobs() -> None:
    """Tokens with their alternatives, from a chat and from a completion."""
    top = {"token": "H", "logprob": -0.1, "bytes": [72]}
    chat = {"content": [{**top, "top_logprobs": [top]}]}
    legacy = {"tokens": ["H"], "token_logprobs": [-0.1], "top_logprobs": [{"H": -0.1}]}
    made = encoder()
    made.feed(event(content="x"))
    for given in (event(logprobs=chat, content="H"), {"choices": [{"text": "H", "logprobs": legacy}]}):
        assert json.loads(made.feed(given))["logprobs"] == [{**top, "top_logprobs": [top]}]


def test_a_whole_answer() -> None:
    """What was streamed, in one object; or what came whole."""
    made = encoder()
    logprobs = {"content": [{"token": "a", "logprob": 0.0}]}
    for delta in ({"reasoning_content": "h"}, {"reasoning_content": "m"}):
        made.take(event(**delta))
    for text in "ab":
        made.take(event(content=text, logprobs=logprobs))
    made.take(event("stop", tool_calls=[call(0, "{}", name="f")]))
    made.take(USAGE)
    answer = made.collected()
    calls = [{"function": {"index": 0, "name": "f", "arguments": {}}}]
    assert answer["message"] == {"role": "assistant", "content": "ab", "thinking": "hm", "tool_calls": calls}
    assert (answer["done"], answer["eval_count"], len(answer["logprobs"])) == (True, 2, 2)
    whole = encoder().whole({"choices": [{"message": {"content": "ab"}, "finish_reason": "stop"}], "usage": {}})
    assert (whole["message"]["content"], whole["done_reason"]) == ("ab", "stop")


def test_a_failure() -> None:
    """A broken stream ends with an error's line."""
    assert encoder().fail(ExoError("the ring is gone")) == b'{"error":"the ring is gone"}\n'


def test_times() -> None:
    """RFC 3339 with nanoseconds."""
    assert rfc3339(1) == "1970-01-01T00:00:00.000000001Z"


@pytest.mark.parametrize("streamed", [True, False])
def test_odd_shapes(streamed: bool) -> None:
    """Parts of content (Mistral's, its thoughts beside the text) and arguments that are an object (TGI's)."""
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "Hi"}]
    delta = {"content": parts, "tool_calls": [call(0, {"city": "Oslo"}, name="f")]}  # type: ignore[arg-type]
    if streamed:
        lines = said(encoder(), event(content="a"), event("tool_calls", **delta))
        text = "".join(line["message"]["content"] for line in lines)
        message = lines[1]["message"]
    else:
        message = encoder().whole({"choices": [{"message": delta, "finish_reason": "tool_calls"}]})["message"]
        text = "a" + message["content"]
    assert (text, message["tool_calls"][0]["function"]["arguments"]) == ("aHi", {"city": "Oslo"})
