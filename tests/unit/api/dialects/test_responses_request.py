"""Requests of the Responses API as chats."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exo_node.api.dialects.responses_request import Asked, Given, decode
from exo_node.errors import InvalidRequest

GIVEN = Given(id="resp_" + "b" * 32, created=1700000000)
HELLO = {"role": "user", "content": "Hello"}


def asked(**body: Any) -> Asked:
    return decode({"model": "m", "input": "Hello", **body}, GIVEN)


def test_the_least() -> None:
    """A text alone: a plain chat, stored, with the defaults repeated."""
    one = asked()
    assert one.chat == {"messages": [HELLO], "model": "m", "stream": False}
    assert (one.store, one.background, one.stream, one.summary, one.obfuscated) == (True, False, False, False, False)
    assert not one.sealed
    assert one.echo == {
        "id": GIVEN.id, "object": "response", "created_at": 1700000000, "background": False, "instructions": None,
        "max_output_tokens": None, "max_tool_calls": None, "metadata": {}, "model": "m", "parallel_tool_calls": True,
        "previous_response_id": None, "prompt_cache_key": None, "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None, "service_tier": "auto", "store": True, "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"}, "tool_choice": "auto", "tools": [],
        "top_logprobs": 0, "top_p": 1.0, "truncation": "disabled",
    }  # fmt: skip


def test_null_and_empty_are_absent() -> None:
    """What openai-agents sends unasked changes nothing."""
    names = (
        "instructions", "tools", "tool_choice", "text", "reasoning", "include", "metadata", "store", "stream", "user",
        "parallel_tool_calls", "max_output_tokens", "temperature", "top_p", "top_logprobs", "truncation",
        "service_tier", "previous_response_id", "conversation", "prompt", "background", "max_tool_calls",
        "stream_options", "unknown",
    )  # fmt: skip
    assert asked(**dict.fromkeys(names)) == asked(client_metadata={"session": "s"})
    assert asked(tools=[], include=[], metadata={}, reasoning={}, text={}) == asked()


def test_everything() -> None:
    """What a chat has too goes into it, by its name there; the answer repeats what the spec says."""
    one = asked(
        instructions="Be kind", temperature=0.5, top_p=0.9, max_output_tokens=20, top_logprobs=2, user="u", seed=7,
        include=["message.output_text.logprobs", "reasoning.encrypted_content"], metadata={"a": "b"}, store=False,
        reasoning={"effort": "low", "summary": "auto"}, safety_identifier="s", prompt_cache_key="k", stream=True,
        service_tier="flex", truncation="auto", max_tool_calls=3, stream_options={"include_obfuscation": True},
        exo={"strategy": "cost"},
    )  # fmt: skip
    assert one.chat == {
        "messages": [{"role": "system", "content": "Be kind"}, HELLO], "temperature": 0.5, "top_p": 0.9, "user": "u",
        "safety_identifier": "s", "prompt_cache_key": "k", "service_tier": "flex", "model": "m", "seed": 7,
        "exo": {"strategy": "cost"}, "stream": True, "stream_options": {"include_usage": True},
        "reasoning_effort": "low", "max_completion_tokens": 20, "logprobs": True, "top_logprobs": 2,
    }  # fmt: skip
    assert (one.store, one.summary, one.sealed, one.obfuscated) == (False, True, True, True)
    told = ("metadata", "user", "max_tool_calls", "truncation", "reasoning")
    assert {name: one.echo[name] for name in told} == {
        "metadata": {"a": "b"}, "user": "u", "max_tool_calls": 3, "truncation": "auto",
        "reasoning": {"effort": "low", "summary": "auto"},
    }  # fmt: skip


def test_history_comes_first_and_instructions_are_this_requests() -> None:
    """Earlier items come before the new ones; in the background the chat is streamed whatever the client gets."""
    earlier = asked(instructions="Old").items
    one = decode({"input": "More", "background": True}, Given(id=GIVEN.id, created=1, history=earlier))
    assert one.chat["messages"] == [HELLO, {"role": "user", "content": "More"}]
    assert (one.chat["stream"], one.stream) == (True, False)
    assert [item["content"][0]["text"] for item in one.items] == ["More"]


NAMES = st.sampled_from([
    "input", "instructions", "tools", "tool_choice", "text", "reasoning", "include", "metadata", "store", "stream",
    "background", "truncation", "type", "role", "content", "id", "name", "parameters", "strict", "format", "schema",
    "mode", "effort", "summary", "call_id", "arguments", "output", "detail", "input_text", "message", "function_call",
    "function_call_output", "item_reference", "function", "allowed_tools", "user", "assistant", "json_schema", "auto",
    "required", "input_image", "image_url", "stream_options", "encrypted_content",
])  # fmt: skip
FIELDS = st.sampled_from([
    "input", "instructions", "tools", "tool_choice", "text", "reasoning", "include", "metadata", "store", "stream",
    "background", "truncation", "stream_options", "temperature", "unknown",
])  # fmt: skip
ANYTHING = st.recursive(
    NAMES | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(FIELDS, ANYTHING, max_size=4), st.lists(st.dictionaries(NAMES, ANYTHING, max_size=5), max_size=3)
)
def test_anything_is_decoded_or_refused(body: dict[str, Any], items: list[Any]) -> None:
    """Whatever JSON comes, the answer is a request or a 400, never a bug."""
    for sent in (body, {**body, "input": items}):
        try:
            assert decode(sent, GIVEN).chat["messages"]
        except InvalidRequest as refused:
            assert refused.param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"max_tokens": 9}, "max_tokens"),
        ({"personality": "friendly"}, "personality"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"messages": [HELLO]}, "messages"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"background": True, "store": False}, "background"),
        ({"include": ["everything"]}, "include"),
        ({"truncation": "middle"}, "truncation"),
        ({"reasoning": 7}, "reasoning"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"reasoning": {"summary": "concise"}}, "reasoning.summary"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {"a": 7}}, "metadata.a"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"stream_options": {}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_obfuscation": 1}}, "stream_options.include_obfuscation"),
    ],
)
def test_what_is_not_done_is_named(body: dict[str, Any], param: str) -> None:
    """A wrong or unsupported field is a 400 with its name."""
    with pytest.raises(InvalidRequest) as caught:
        asked(**body)
    assert (caught.value.param, caught.value.status) == (param, 400)
