"""The Responses API as the official SDK uses it: a real node, the demo model on the ring, a stand-in of OpenAI."""

from __future__ import annotations

import json
import urllib.request
from typing import Any, Literal

import openai
import pydantic
import pytest

from tests.integration.harness import NodeProcess, wait_until
from tests.integration.test_demo_text import ANSWERS
from tests.standins import Script, Standin, answer_to
from tests.unit.api.dialects.responses_events import names, parsed

TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": None,
}
BOTH = pytest.mark.parametrize("model", ["demo", "fast"])


class Answer(pydantic.BaseModel):
    answer: str


class Choice(pydantic.BaseModel):
    answer: Literal["yes", "no"]  # a small model does not find the end of a text of its own


@pytest.fixture
def client(node: NodeProcess) -> openai.OpenAI:
    return node.client()


def expected(model: str, question: str) -> str:
    return ANSWERS[question] if model == "demo" else answer_to(question)


def raw_stream(node: NodeProcess, body: dict[str, Any]) -> bytes:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{node.api}/v1/responses", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return bytes(answer.read())


@BOTH
def test_a_text(node: NodeProcess, client: openai.OpenAI, model: str) -> None:
    """Created, streamed, fetched, listed, gone on from and deleted alike on the ring and in the cloud."""
    asked: Any = {"model": model, "input": "Hello", "temperature": 0}
    whole = client.responses.create(**asked)
    assert (whole.output_text, whole.status) == (expected(model, "Hello"), "completed")
    events = parsed(raw_stream(node, {**asked, "stream": True, "tools": [], "tool_choice": None, "include": []}))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text
    final = events[-1].response
    assert (final.output_text, final.usage) == (whole.output_text, whole.usage)
    with client.responses.stream(**asked) as stream:
        assert stream.get_final_response().output_text == whole.output_text
    assert client.responses.retrieve(whole.id).to_dict() == whole.to_dict()
    question = "What is 7 + 5?"
    more = client.responses.create(**{**asked, "input": question}, previous_response_id=whole.id)
    assert more.usage is not None
    assert whole.usage is not None
    assert more.usage.input_tokens > whole.usage.input_tokens
    items = list(client.responses.input_items.list(more.id, order="asc", limit=2))
    assert [item.to_dict()["role"] for item in items] == ["user", "assistant", "user"]
    client.responses.delete(whole.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(whole.id)


def test_the_rings_tokens(client: openai.OpenAI) -> None:
    """A limit ends the response as incomplete, log-probabilities come with their tokens, the prompt is counted."""
    cut = client.responses.create(
        model="demo", input="Hello", max_output_tokens=3, top_logprobs=2, include=["message.output_text.logprobs"]
    )
    assert cut.incomplete_details is not None
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    (message,) = cut.output
    assert message.type == "message"
    (part,) = message.content
    assert part.type == "output_text"
    assert part.logprobs is not None
    assert "".join(token.token for token in part.logprobs) == part.text
    assert {len(token.top_logprobs) for token in part.logprobs} == {2}
    assert cut.usage is not None
    counted = client.responses.input_tokens.count(model="demo", input="Hello")
    assert counted.input_tokens == cut.usage.input_tokens


@pytest.mark.parametrize(("model", "form"), [("demo", Choice), ("fast", Answer)])
def test_structured_output(client: openai.OpenAI, model: str, form: type[pydantic.BaseModel]) -> None:
    """The SDK's `parse` gives an object of the class that was asked for."""
    answer = client.responses.parse(model=model, input="Hello", text_format=form, temperature=0)
    assert isinstance(answer.output_parsed, form)


@BOTH
def test_tools(node: NodeProcess, client: openai.OpenAI, provider: Standin, model: str) -> None:
    """A tool's whole way: the call, whole and streamed; its output, by the items or by the response before."""
    tools: Any = {"model": model, "tools": [TOOL], "temperature": 0}
    asked: Any = {**tools, "input": "Weather?", "tool_choice": "required", "parallel_tool_calls": False}
    made = client.responses.create(**asked)
    (call,) = made.output
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments), call.status) == ("get_weather", {"city": "Paris"}, "completed")
    events = parsed(raw_stream(node, {**asked, "stream": True}))
    assert names(events)[-3:] == ["function_call_arguments.done", "output_item.done", "completed"]
    assert "".join(e.delta for e in events if e.type.endswith("arguments.delta")) == call.arguments
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny"}
    by_id = client.responses.create(**tools, input=[output], previous_response_id=made.id)
    user: Any = {"role": "user", "content": "Weather?"}
    by_items = client.responses.create(**tools, input=[user, call.to_dict(), output], store=False)
    reference: Any = {"type": "item_reference", "id": call.id}
    by_reference = client.responses.create(**tools, input=[user, reference, output])
    assert by_id.output_text == by_items.output_text == by_reference.output_text != ""
    if model == "demo":
        return
    assert by_id.output_text == answer_to("Sunny")
    sent = [received.body["messages"] for received in provider.requests[-3:]]
    assert sent[0] == sent[1] == sent[2]
    assert [message["role"] for message in sent[0]] == ["user", "assistant", "tool"]


def test_the_background(client: openai.OpenAI, provider: Standin) -> None:
    """A response goes on without its client, is fetched when it is done, or cancelled; its stream is fetched again."""
    provider.script = Script(chunks=40, gap_s=0.02)
    going = client.responses.create(model="fast", input="Count", background=True)
    assert going.status == "queued"
    assert client.responses.cancel(going.id).status == "cancelled"
    wait_until(lambda: provider.requests[-1].outcome == "disconnected", 10)
    provider.script = Script()
    stream = client.responses.create(model="fast", input="Hello", background=True, stream=True)
    events = list(stream)
    ident = events[0].response.id  # type: ignore[union-attr]
    again = list(client.responses.retrieve(ident, stream=True, starting_after=4))
    assert [event.to_dict() for event in again] == [event.to_dict() for event in events[5:]]
    assert client.responses.retrieve(ident).output_text == answer_to("Hello")


def test_errors(client: openai.OpenAI, provider: Standin) -> None:
    """What is not run here or not there is the SDK's own exception; a stream that breaks off ends with its events."""
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="fast", input="Hello", tools=[{"type": "web_search"}])
    assert refused.value.param == "tools[0].type"
    with pytest.raises(openai.BadRequestError) as missing:
        client.responses.create(model="fast", input="Hello", previous_response_id="resp_1")
    assert missing.value.code == "previous_response_not_found"
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="nope", input="Hello")
    provider.script = Script(error_after=1)
    events = list(
        client.responses.create(model="fast", input="Hello", stream=True, extra_body={"exo": {"fallbacks": []}})
    )
    assert [event.type for event in events[-2:]] == ["error", "response.failed"]
