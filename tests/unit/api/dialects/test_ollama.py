"""Ollama's chat and generate requests as OpenAI's."""

from __future__ import annotations

import json
from typing import Any

import pytest

from exo_node.api.dialects.ollama import addressed, decode_chat, decode_generate
from exo_node.errors import InvalidRequest

STREAM = {"stream": True, "stream_options": {"include_usage": True}}
PNG = "iVBORw0KGgoAAAA"
HI = [{"role": "user", "content": "Hi"}]


def chat(**fields: Any) -> Any:
    return decode_chat({"model": "m", "messages": HI, **fields})


def generate(**fields: Any) -> Any:
    return decode_generate({"model": "m", "prompt": "Hi", **fields}, 99)


def test_a_chat() -> None:
    """A backend is always asked for a stream with its usage; the client gets one unless it says no."""
    asked = chat(options={"num_predict": 3}, keep_alive="1s", format="json")
    assert (asked.model, asked.kind, asked.stream, asked.keep_alive_s) == ("m", "chat", True, 1)
    assert asked.body == {"messages": HI, "max_tokens": 3, "response_format": {"type": "json_object"}, **STREAM}
    assert chat(stream=False).stream is False
    assert chat(logprobs=True, top_logprobs=2).body["top_logprobs"] == 2


def test_what_clients_send_unasked() -> None:
    """Empty tools, an empty format, nulls, and fields that nobody knows ask for nothing."""
    asked = chat(tools=[], format="", options=None, think=None, keep_alive=None, stream=None, truncate=True, more=1)
    assert asked.body == {"messages": HI, **STREAM}


@pytest.mark.parametrize("asked", [chat(messages=[]), chat(messages=None), generate(prompt=""), generate(prompt=None)])
def test_nothing_to_answer(asked: Any) -> None:
    """Without messages, or with an empty prompt, only the model is loaded."""
    assert (asked.kind, asked.body) == (None, {})


def test_tools() -> None:
    """Calls without ids get some; answers find theirs by name, else in order; arguments travel as text."""
    calls = [{"function": {"name": name, "arguments": {"n": i}}} for i, name in enumerate(("a", "b", "a"))]
    answers = [{"role": "tool", "tool_name": name, "content": name} for name in ("b", "a", "other")]
    asked = chat(
        messages=[*HI, {"role": "assistant", "content": "", "tool_calls": calls}, *answers],
        tools=[{"function": {"name": "a"}}],
    )
    sent = asked.body["messages"]
    assert asked.body["tools"] == [{"type": "function", "function": {"name": "a"}}]
    assert [call["id"] for call in sent[1]["tool_calls"]] == ["call_1", "call_2", "call_3"]
    assert [json.loads(call["function"]["arguments"]) for call in sent[1]["tool_calls"]] == [{"n": i} for i in range(3)]
    assert sent[1]["content"] is None
    assert [one["tool_call_id"] for one in sent[2:]] == ["call_2", "call_1", "call_3"]


def test_ids_of_calls() -> None:
    """Ids that a client kept are used."""
    call = {"id": "x", "function": {"name": "a", "arguments": {}}}
    sent = chat(messages=[{"role": "assistant", "tool_calls": [call, {**call, "id": "y"}]},
                          {"role": "tool", "tool_call_id": "y", "content": "1"}]).body["messages"]  # fmt: skip
    assert sent[1]["tool_call_id"] == "y"


def test_images() -> None:
    """Base64 images become parts beside the text."""
    sent = chat(messages=[{"role": "user", "content": "What?", "images": [PNG, "/9j/AAAA"]}]).body["messages"]
    urls = [part["image_url"]["url"] for part in sent[0]["content"][1:]]
    assert sent[0]["content"][0] == {"type": "text", "text": "What?"}
    assert urls == [f"data:image/png;base64,{PNG}", "data:image/jpeg;base64,/9j/AAAA"]
    assert generate(images=[PNG]).body["messages"][0]["content"][1]["type"] == "image_url"


def test_a_question() -> None:
    """A generate request is a chat of its system prompt and its prompt."""
    asked = generate(system="Be brief", context=[], template="")
    assert asked.kind == "chat"
    assert asked.body["messages"] == [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}]


def test_a_completion() -> None:
    """Raw prompts and those with a suffix are completed as they stand."""
    raw = generate(raw=True, logprobs=True)
    assert (raw.kind, raw.body) == ("completion", {"prompt": "Hi", "logprobs": 0, "max_tokens": 99, **STREAM})
    assert generate(suffix="end").body["suffix"] == "end"


def test_thinking() -> None:
    """Local models hear of it as their templates do, others as OpenAI's; earlier thoughts are for local ones only."""
    told = [{"role": "assistant", "content": "A", "thinking": "hm"}, *HI]
    asked = chat(messages=told, think=True)
    local, remote = addressed(asked, "ours", local=True), addressed(asked, "theirs", local=False)
    assert local["chat_template_kwargs"] == {"enable_thinking": True}
    assert (local["model"], local["messages"][0]["reasoning_content"]) == ("ours", "hm")
    assert remote["reasoning_effort"] == "medium"
    assert remote["messages"][0] == {"role": "assistant", "content": "A"}
    assert addressed(chat(think=False), "x", local=False)["reasoning_effort"] == "none"
    assert addressed(chat(think="high"), "x", local=True)["reasoning_effort"] == "high"
    assert addressed(chat(), "x", local=True) == {"messages": HI, **STREAM, "model": "x"}


@pytest.mark.parametrize(
    ("decoded", "param"),
    [
        (lambda: decode_chat({"messages": HI}), "model"),
        (lambda: chat(messages={}), "messages"),
        (lambda: chat(messages=["Hi"]), "messages[0]"),
        (lambda: chat(messages=[{"role": "user", "content": []}, {"content": "x"}]), "messages[1].role"),
        (lambda: chat(messages=[{"role": "user", "content": [1]}]), "messages[0].content"),
        (lambda: chat(messages=[{"role": "user", "images": ["?"]}]), "messages[0].images[0]"),
        (lambda: chat(messages=[{"role": "user", "images": PNG}]), "messages[0].images"),
        (lambda: chat(messages=[{"role": "tool", "content": "1"}]), "messages[0]"),
        (lambda: chat(messages=[{"role": "assistant", "tool_calls": [{}]}]), "messages[0].tool_calls[0].function"),
        (lambda: chat(tools={}), "tools"),
        (lambda: chat(think="deeply"), "think"),
        (lambda: chat(think=1), "think"),
        (lambda: chat(stream="no"), "stream"),
        (lambda: chat(top_logprobs=3), "top_logprobs"),
        (lambda: generate(template="{{ .Prompt }}"), "template"),
        (lambda: generate(context=[1, 2]), "context"),
        (lambda: generate(raw=True, system="x"), "system"),
        (lambda: generate(raw=True, images=[PNG]), "images"),
        (lambda: generate(suffix="x", think=True), "think"),
    ],
)
def test_refused_by_name(decoded: Any, param: str) -> None:
    """What is wrong or not done is a 400 that names the field."""
    with pytest.raises(InvalidRequest) as caught:
        decoded()
    assert caught.value.param == param
