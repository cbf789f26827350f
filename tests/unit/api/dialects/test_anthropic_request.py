"""Bodies of Anthropic's Messages API as chats."""

from __future__ import annotations

from typing import Any

import pytest

from exo_node.api.dialects.anthropic_request import decode, decode_prompt, unknown_fields
from exo_node.errors import InvalidRequest
from exo_node.routing.anthropic_extras import KEY

HELLO = [{"role": "user", "content": "hi"}]
TOOL = {"name": "look", "description": "d", "input_schema": {"$schema": "s", "type": "object"}}


def chat(**fields: Any) -> dict[str, Any]:
    return decode({"model": "m", "max_tokens": 9, "messages": HELLO, **fields}, "msg_1").body


def test_the_plain_request() -> None:
    """Nothing is in the chat that the client did not say."""
    assert chat() == {"model": "m", "messages": HELLO, "max_tokens": 9, KEY: {}}


def test_every_field() -> None:
    """Each under OpenAI's name; Anthropic's accounting is left out."""
    made = chat(
        system="s", stop_sequences=["x", "y"], temperature=0.5, top_p=0.9, top_k=5, metadata={"user_id": "u"},
        stream=True, service_tier="auto", thinking={"type": "enabled", "budget_tokens": 2000, "display": "omitted"},
        tools=[{**TOOL, "strict": True, "cache_control": {"type": "ephemeral"}, "input_examples": [{"a": 1}]}],
        tool_choice={"type": "tool", "name": "look", "disable_parallel_tool_use": True},
        output_config={"effort": "high", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        exo={"strategy": "cost"}, cache_control={"type": "ephemeral"},
    )  # fmt: skip
    function = {"name": "look", "parameters": TOOL["input_schema"], "strict": True,
                "description": 'd\nExamples of input: [{"a": 1}]'}  # fmt: skip
    assert made == {
        "model": "m", "max_tokens": 9, "messages": [{"role": "system", "content": "s"}, *HELLO],
        "stop": ["x", "y"], "temperature": 0.5, "top_p": 0.9, "top_k": 5, "user": "u",
        "stream": True, "stream_options": {"include_usage": True},
        "tools": [{"type": "function", "function": function, "cache_control": {"type": "ephemeral"}}],
        "tool_choice": {"type": "function", "function": {"name": "look"}}, "parallel_tool_calls": False,
        "response_format": {"type": "json_schema",
                            "json_schema": {"name": "answer", "strict": True, "schema": {"type": "object"}}},
        KEY: {"thinking": {"type": "enabled", "budget_tokens": 2000}, "effort": "high"},
        "exo": {"strategy": "cost"},
    }  # fmt: skip


def test_unknown_fields() -> None:
    """Anthropic's own are known, whatever is made of them, and null is as good as absent."""
    known = ("model", "messages", "tools", "context_management", "mcp_servers", "betas", "output_format", "exo")
    assert unknown_fields(dict.fromkeys((*known, "seed"), 1) | {"stop": None}) == ["seed"]


def test_tool_choices() -> None:
    """Each has OpenAI's word; without tools only those that ask for none are taken."""
    said = {kind: chat(tools=[TOOL], tool_choice={"type": kind})["tool_choice"] for kind in ("auto", "any", "none")}
    assert said == {"auto": "auto", "any": "required", "none": "none"}
    assert "tool_choice" not in chat(tool_choice={"type": "auto"})
    assert "parallel_tool_calls" not in chat(tools=[TOOL], tool_choice={"type": "none"})


def test_a_prefill_is_told() -> None:
    """The backend is to go on with it."""
    messages = [*HELLO, {"role": "assistant", "content": "Once"}]
    assert chat(messages=messages)[KEY] == {"prefill": True}


def test_a_prompt_needs_no_limit() -> None:
    """`count_tokens` sends no max_tokens."""
    assert decode_prompt({"model": "m", "messages": HELLO, "tools": [TOOL]}).body["tools"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": None}, "messages"),
        ({"temperature": 1.5}, "temperature"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"metadata": "x"}, "metadata"),
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"thread": {"type": "create"}}, "thread"),
        ({"tools": {}}, "tools"),
        ({"tools": [5]}, "tools[0]"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
        ({"tools": [{"name": "x"}]}, "tools[0].input_schema"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "auto"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "must"}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "other"}}, "tool_choice.name"),
        ({"thinking": {"type": "some"}}, "thinking.type"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"output_config": {"effort": "much"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    """The error names Anthropic's field."""
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    assert caught.value.param == param
