"""Chat answers as Anthropic's messages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from exo_node.api.dialects.anthropic_response import AnthropicEncoder
from exo_node.errors import ExoError, NoCapacity
from exo_node.routing.call import Call
from tests.unit.api.dialects.test_anthropic_blocks import assembled, events

USAGE = {"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 3}}
COUNTED = {"input_tokens": 7, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 3, "output_tokens": 4}


def encoder(tokens: int = 0, **options: Any) -> AnthropicEncoder:
    one = AnthropicEncoder("msg_1", "asked", **options)
    one.asked(Call(id="c", kind="chat", model="asked", body={}, stream=True, deadline=1e9, prompt_tokens=tokens))
    return one


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"model": "served", "choices": [{"index": 0, "delta": delta, "finish_reason": finish, **more}]}


def streamed(one: AnthropicEncoder, *chunks: dict[str, Any]) -> list[dict[str, Any]]:
    return events(b"".join(map(one.feed, chunks)) + one.end())


def call(index: int, arguments: str, call_id: str = "", name: str = "") -> dict[str, Any]:
    function = {"arguments": arguments, **({"name": name} if name else {})}
    return {"index": index, "function": function, **({"id": call_id} if call_id else {})}


def test_the_events_of_a_stream() -> None:
    """Exactly Anthropic's, in their order, the estimate first and the true usage last."""
    one = encoder(9)
    made = streamed(
        one,
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "Hi"}),
        chunk({}, "stop"),
        {"choices": [], "usage": USAGE},
    )
    assert made == [
        {"type": "message_start", "message": {
            "id": "msg_1", "type": "message", "role": "assistant", "model": "served", "content": [],
            "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 9, "output_tokens": 0}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": COUNTED},
        {"type": "message_stop"},
    ]  # fmt: skip


def test_tools_and_thoughts_in_a_stream() -> None:
    """Reasoning, text and mixed calls; a finish of "stop" after calls is tool_use all the same."""
    one = encoder()
    raw = b"".join(
        map(one.feed, [
            chunk({"role": "assistant", "reasoning_content": "hm"}),
            chunk({"content": "Look", "tool_calls": None}),
            chunk({"tool_calls": [call(0, "", "a", "f"), call(1, '{"y"', "b", "g")]}),
            chunk({"tool_calls": [call(0, '{"x": 1}')]}),
            chunk({"tool_calls": [call(1, ": 2}")]}),
            chunk({}, "stop"),
        ])
    )  # fmt: skip
    ending = one.end()
    assert [block["type"] for block in assembled(raw + ending)] == ["thinking", "text", "tool_use", "tool_use"]
    assert [block.get("input") for block in assembled(raw + ending)][2:] == [{"x": 1}, {"y": 2}]
    assert events(ending)[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}


@pytest.mark.parametrize(
    ("finish", "stop", "said"),
    [
        ("stop", None, ("end_turn", None)),
        ("stop", "END", ("stop_sequence", "END")),
        ("stop", "other", ("end_turn", None)),
        ("stop", 128001, ("end_turn", None)),
        ("length", None, ("max_tokens", None)),
        ("content_filter", None, ("refusal", None)),
        ("tool_calls", None, ("end_turn", None)),
    ],
)
def test_stop_reasons(finish: str, stop: Any, said: tuple[str, str | None]) -> None:
    """The same whole and streamed; which stop string it was is told where the backend tells it."""
    more = {} if stop is None else {"stop_reason": stop}
    delta = streamed(encoder(stops=frozenset({"END"})), chunk({"content": "x"}), chunk({}, finish, **more))[-2]["delta"]
    answer = {"choices": [{"message": {"content": "x"}, "finish_reason": finish, **more}]}
    whole = encoder(stops=frozenset({"END"})).whole(answer)
    assert (delta["stop_reason"], delta["stop_sequence"]) == (whole["stop_reason"], whole["stop_sequence"]) == said


def test_a_whole_answer() -> None:
    """Blocks in order: thoughts, text, calls."""
    message = {
        "role": "assistant", "reasoning_content": "hm", "content": "Look",
        "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": '{"x": 1}'}},
                       {"id": "b", "function": {"name": "g", "arguments": ""}}],
    }  # fmt: skip
    choice = {"message": message, "finish_reason": "tool_calls"}
    assert encoder().whole({"model": "served", "choices": [choice], "usage": USAGE}) == {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "served",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "exo"},
            {"type": "text", "text": "Look"},
            {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
            {"type": "tool_use", "id": "b", "name": "g", "input": {}},
        ],
        "stop_reason": "tool_use", "stop_sequence": None, "usage": COUNTED,
    }  # fmt: skip


def test_claudes_own_thoughts() -> None:
    """With their signatures, so that they can go back; not shown where the client does not want to see them."""
    given = [{"type": "thinking", "thinking": "hm", "signature": "SIG"}, {"type": "redacted_thinking", "data": "D"}]
    message = {"content": [{"type": "text", "text": "x"}], "reasoning_content": "hm", "thinking_blocks": given}
    answer = {"choices": [{"message": message, "finish_reason": "stop"}]}
    assert encoder().whole(answer)["content"] == [*given, {"type": "text", "text": "x"}]
    assert encoder(show_thoughts=False).whole(answer)["content"][0]["thinking"] == ""
    one = encoder()
    raw = one.feed(chunk({"reasoning_content": "hm"})) + one.feed(chunk({"thinking_blocks": [given[0], given[1]]}))
    assert assembled(raw + one.end()) == given


def test_arguments_that_are_no_object() -> None:
    """They are an error, unless the answer was cut there: then the call is left out and the stop_reason says why."""
    message = {"content": "x", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": '{"x'}}]}
    with pytest.raises(ExoError, match="no JSON object"):
        encoder().whole({"choices": [{"message": message, "finish_reason": "tool_calls"}]})
    cut = encoder().whole({"choices": [{"message": message, "finish_reason": "length"}]})
    assert (len(cut["content"]), cut["stop_reason"]) == (1, "max_tokens")


def test_an_answer_without_usage_is_estimated() -> None:
    """From the lengths; an empty answer is complete too."""
    assert streamed(encoder(5), chunk({"content": "12345"}))[-2]["usage"] == {
        "input_tokens": 5,
        "output_tokens": 2,
    }
    assert [event["type"] for event in streamed(encoder())] == ["message_start", "message_delta", "message_stop"]


def test_context_edits_are_said_not_to_be_made() -> None:
    """Only where they were asked for."""
    edits: dict[str, Any] = {"context_management": {"applied_edits": []}}
    assert streamed(encoder(edits_context=True))[1].items() >= edits.items()
    assert encoder(edits_context=True).whole({"choices": [{"message": {}}]}).items() >= edits.items()


def test_a_broken_stream_ends_with_an_error_event() -> None:
    """In Anthropic's shape, with its type."""
    raw = encoder().fail(NoCapacity("full"))
    assert raw.startswith(b"event: error\ndata: ")
    assert json.loads(raw.split(b"data: ")[1])["error"] == {"type": "overloaded_error", "message": "full"}


def test_arguments_that_are_an_object() -> None:
    """TGI's, streamed and whole."""
    odd = {**call(0, "", "c1", "f"), "function": {"name": "f", "arguments": {"city": "Oslo"}}}
    one = encoder()
    (made,) = assembled(one.feed(chunk({"tool_calls": [odd]})) + one.feed(chunk({}, "tool_calls")) + one.end())
    answer = {"choices": [{"message": {"content": None, "tool_calls": [odd]}, "finish_reason": "tool_calls"}]}
    (whole,) = encoder().whole({**answer, "usage": USAGE})["content"]
    assert made["input"] == whole["input"] == {"city": "Oslo"}
