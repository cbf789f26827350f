"""Anthropic's API of a real node: the demo model on the ring, and a stand-in of OpenAI behind it."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from tests.integration.harness import NodeProcess
from tests.standins import Script, Standin
from tests.unit.api.dialects.test_anthropic_blocks import assembled, events

STORY: dict[str, Any] = {
    "model": "demo",
    "max_tokens": 12,
    "temperature": 0,
    "messages": [{"role": "user", "content": "Tell me a story about a ring"}],
}
TOOL = {
    "name": "get_weather",
    "description": "The weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def ask(node: NodeProcess, body: dict[str, Any], path: str = "/v1/messages") -> Any:
    status, answer = node.request("POST", path, body)
    assert status == 200, answer
    return answer


def stream(node: NodeProcess, body: dict[str, Any]) -> bytes:
    request = urllib.request.Request(
        f"{node.api}/v1/messages",
        json.dumps({**body, "stream": True}).encode(),
        {"Content-Type": "application/json", "anthropic-version": "2023-06-01"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return bytes(answer.read())


def test_the_ring(node: NodeProcess) -> None:
    """Whole, streamed, stopped and counted alike: one text, one usage."""
    whole = ask(node, STORY)
    raw = stream(node, STORY)
    text = whole["content"][0]["text"]
    assert assembled(raw) == whole["content"]
    last = events(raw)[-2]
    assert last["usage"]["output_tokens"] == whole["usage"]["output_tokens"] == 12
    assert last["delta"]["stop_reason"] == whole["stop_reason"] == "max_tokens"
    counted = ask(node, {"model": "demo", "messages": STORY["messages"]}, "/v1/messages/count_tokens")
    usage = whole["usage"]
    assert counted == {"input_tokens": usage["input_tokens"] + usage["cache_read_input_tokens"]}
    word = text.split()[3]
    stopped = ask(node, {**STORY, "stop_sequences": ["never", f" {word}"]})
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", f" {word}")
    assert text.startswith(stopped["content"][0]["text"] + f" {word}")


def test_the_ring_goes_on(node: NodeProcess) -> None:
    """With the assistant's last message, to the very text that it would have made itself."""
    text = ask(node, STORY)["content"][0]["text"]
    begun = " ".join(text.split()[:4])
    messages = [*STORY["messages"], {"role": "assistant", "content": begun}]
    more = ask(node, {**STORY, "messages": messages})["content"][0]["text"]
    assert (begun + more).startswith(text)


def test_a_round_of_tools(node: NodeProcess, provider: Standin) -> None:
    """The provider's calls are blocks; the results reach it as messages of its own shape."""
    asked = {**STORY, "model": "fast", "max_tokens": 500, "tools": [TOOL], "tool_choice": {"type": "any"}}
    called = ask(node, asked)
    assert (called["stop_reason"], called["content"][0]["input"]) == ("tool_use", {"city": "Paris"})
    provider.queue.append(Script(tool_calls=(("get_weather", {"city": "Rome"}), ("get_weather", {"city": "Oslo"}))))
    assert [block["input"] for block in assembled(stream(node, asked))] == [{"city": "Rome"}, {"city": "Oslo"}]
    result = {"type": "tool_result", "tool_use_id": called["content"][0]["id"], "content": "sunny"}
    turns = [{"role": "assistant", "content": called["content"]}, {"role": "user", "content": [result]}]
    ask(node, {**asked, "messages": [*STORY["messages"], *turns], "tool_choice": {"type": "none"}})
    body = provider.requests[-1].body
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "tool"]
    assert body["messages"][2] == {"role": "tool", "tool_call_id": called["content"][0]["id"], "content": "sunny"}
    assert "exo_anthropic" not in body


def test_errors(node: NodeProcess, provider: Standin) -> None:
    """Anthropic's shape, whoever failed; a stream that breaks off says so."""
    status, answer = node.request("POST", "/v1/messages", {**STORY, "model": "no-such-model"})
    assert (status, answer["type"], answer["error"]["type"]) == (404, "error", "not_found_error")
    prefill = [*STORY["messages"], {"role": "assistant", "content": "Once"}]
    status, answer = node.request("POST", "/v1/messages", {**STORY, "model": "fast", "messages": prefill})
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
    provider.queue.append(Script(reset_after=3))
    last = events(stream(node, {**STORY, "model": "fast", "max_tokens": 50}))[-1]
    assert last["type"] == "error"
