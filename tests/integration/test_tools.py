"""Tools and reasoning on a real node with the bundled model, as OpenAI's SDK asks for them."""

from __future__ import annotations

import json
import time
from typing import Any

import jsonschema
import openai
import pytest

from tests.integration.harness import NodeProcess

pytestmark = pytest.mark.engine_mlx
WEATHER: dict[str, Any] = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "unit": {"enum": ["C", "F"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
SUM: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["a"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "add", "parameters": SUM}},
]
SCHEMAS = {"weather": WEATHER, "add": SUM}
HELLO: Any = [{"role": "user", "content": "What is 2 + 3?"}]
NAMED: Any = {"type": "function", "function": {"name": "weather"}}


def ask(client: openai.OpenAI, messages: Any = HELLO, **fields: Any) -> Any:
    return client.chat.completions.create(
        model="demo", messages=messages, temperature=0, max_tokens=200, tools=TOOLS, **fields
    )


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_forced_calls_streamed_and_whole(node: NodeProcess, choice: Any) -> None:
    """Arguments match the schema, the content is null, and the stream's pieces make up the same call."""
    client = node.client()
    whole = ask(client, tool_choice=choice, parallel_tool_calls=False).choices[0]
    assert (whole.finish_reason, whole.message.content) == ("tool_calls", None)
    (call,) = whole.message.tool_calls
    jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])
    if choice is NAMED:
        assert call.function.name == "weather"
    with client.chat.completions.stream(
        model="demo", messages=HELLO, temperature=0, max_tokens=200, tools=TOOLS, tool_choice=choice,
        parallel_tool_calls=False,
    ) as stream:  # fmt: skip
        for _ in stream:
            pass
        final = stream.get_final_completion().choices[0]
    assert final.finish_reason == "tool_calls"
    assert final.message.tool_calls is not None
    (streamed,) = final.message.tool_calls
    assert (streamed.function.name, streamed.function.arguments) == (call.function.name, call.function.arguments)
    assert streamed.id.startswith("call_")


def test_no_calls_where_none_are_wanted(node: NodeProcess) -> None:
    """none is as if there were no tools; auto leaves it to the model."""
    client = node.client()
    plain = client.chat.completions.create(model="demo", messages=HELLO, temperature=0).choices[0].message.content
    none = ask(client, tool_choice="none").choices[0]
    assert (none.message.content, none.message.tool_calls, none.finish_reason) == (plain, None, "stop")
    auto = ask(client).choices[0]
    assert auto.finish_reason == "stop"
    assert auto.message.content


def test_a_round_of_tools(node: NodeProcess) -> None:
    """The SDK's own message with its calls goes back with a result, and is answered in words."""
    client = node.client()
    message = ask(client, tool_choice="required", parallel_tool_calls=False).choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "5"}
    answer = ask(client, [*HELLO, message, result], tool_choice="none").choices[0]
    assert answer.finish_reason in ("stop", "length")
    assert answer.message.tool_calls is None


def test_a_call_cut_by_the_limit(node: NodeProcess) -> None:
    """It is given as far as it came, with the reason length."""
    for limit in (8, 32):
        answer = node.client().chat.completions.create(
            model="demo", messages=HELLO, temperature=0, max_tokens=limit, tools=TOOLS, tool_choice=NAMED
        )
        assert answer.choices[0].finish_reason == "length"
        assert not answer.choices[0].message.content
        assert (answer.usage is not None and answer.usage.completion_tokens) == limit


def test_the_older_form(node: NodeProcess) -> None:
    """functions and function_call are answered in kind."""
    status, body = node.request(
        "POST",
        "/v1/chat/completions",
        {
            "model": "demo", "messages": HELLO, "max_tokens": 200, "temperature": 0,
            "functions": [{"name": "add", "parameters": SUM}], "function_call": {"name": "add"},
        },
    )  # fmt: skip
    assert status == 200
    (choice,) = body["choices"]
    assert (choice["finish_reason"], choice["message"]["function_call"]["name"]) == ("function_call", "add")
    jsonschema.validate(json.loads(choice["message"]["function_call"]["arguments"]), SUM)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "enable_thinking"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
            "messages[0].content[0].type",
        ),
    ],
)
def test_what_this_model_cannot_do(node: NodeProcess, fields: dict[str, Any], param: str) -> None:
    """It is a 400 that names the field, never dropped."""
    status, body = node.request("POST", "/v1/chat/completions", {"model": "demo", "messages": HELLO, **fields})
    assert status == 400, body
    assert (body["error"]["param"], body["error"]["code"]) == (param, "unsupported_parameter")


def test_what_changes_nothing(node: NodeProcess) -> None:
    """Clients send much that asks for nothing, or for what is done anyway."""
    status, body = node.request(
        "POST",
        "/v1/chat/completions",
        {
            "model": "demo", "messages": HELLO, "reasoning_effort": "none", "store": True, "metadata": {"a": "b"},
            "prediction": {"type": "content", "content": "x"}, "verbosity": "low", "service_tier": "auto",
            "user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "tools": [], "enable_thinking": False,
        },
    )  # fmt: skip
    assert status == 200, body
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": 0}


def test_large_requests_take_bounded_time(node: NodeProcess) -> None:
    """A megabyte of tool schemas is told that it is too long; 200 messages are answered."""
    properties = {f"field_{i}": {"type": "string", "description": "x" * 300} for i in range(3000)}
    large = [{"type": "function", "function": {"name": "f", "parameters": {"properties": properties}}}]
    began = time.monotonic()
    status, body = node.request(
        "POST", "/v1/chat/completions", {"model": "demo", "messages": HELLO, "tools": large, "tool_choice": "required"}
    )
    assert (status, body["error"]["code"]) == (400, "context_length_exceeded")
    many = [{"role": ("user", "assistant")[i % 2], "content": "a"} for i in range(199)]
    status, body = node.request("POST", "/v1/chat/completions", {"model": "demo", "messages": many, "max_tokens": 4})
    assert status == 200, body
    assert time.monotonic() - began < 60
