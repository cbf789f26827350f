"""The LangChain chat model, against a stand-in that speaks OpenAI's API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

pytest.importorskip("langchain_core")

from langchain_core.messages import AIMessage, ChatMessage, FunctionMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import SecretStr

from exo_node.sdk.langchain import ChatExo, as_openai
from exo_node.sdk.replies import wrap
from exo_node.sdk.service import LiteLLMService
from tests.standins import OpenAI, answer_to, serve


@pytest.fixture
def upstream() -> Iterator[OpenAI]:
    standin = OpenAI(key="planted")
    with serve(standin):
        yield standin


def model(upstream: OpenAI, **options: Any) -> ChatExo:
    return ChatExo(model="openai/gpt-4o", base_url=upstream.url, api_key=SecretStr("planted"), **options)


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"Sunny in {city}"


async def test_invoke_and_stream(upstream: OpenAI) -> None:
    """All four ways give the text; usage and model are told; the key is in no repr."""
    llm = model(upstream, temperature=0.2, max_tokens=50)
    whole = llm.invoke("Hi")
    assert (whole.content, whole.response_metadata["model_name"]) == (answer_to("Hi"), "openai/gpt-4o")
    assert whole.usage_metadata is not None and whole.usage_metadata["output_tokens"] > 0
    assert (await llm.ainvoke("Hi")).content == answer_to("Hi")
    assert "".join(str(c.content) for c in llm.stream("Hi")) == answer_to("Hi")
    chunks = [c async for c in llm.astream("Hi")]
    assert "".join(str(c.content) for c in chunks) == answer_to("Hi")
    assert any(c.usage_metadata for c in chunks)
    body = upstream.requests[0].body
    assert (body["temperature"], body["max_tokens"]) == (0.2, 50)
    assert "planted" not in repr(llm)


async def test_tools(upstream: OpenAI) -> None:
    """bind_tools: the call comes as LangChain's, plain and streamed; its result goes back as OpenAI's."""
    llm = model(upstream).bind_tools([weather], tool_choice="auto")
    asked = llm.invoke("Weather in Paris?")
    assert [(c["name"], c["args"]) for c in asked.tool_calls] == [("weather", {"city": "Paris"})]
    streamed: Any = None
    for chunk in llm.stream("Weather in Paris?"):
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed.tool_calls[0]["args"] == {"city": "Paris"}
    result = weather.invoke(asked.tool_calls[0])
    assert llm.invoke([HumanMessage("Weather?"), asked, result]).content == answer_to("Sunny in Paris")


async def test_usage_of_a_stream_counts_once(upstream: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the provider reports it: at the end, with the last choice, or with every chunk so far."""

    def chunk(text: str, finish: str | None = None, total: int = 0) -> Any:
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
        usage = {"usage": {"prompt_tokens": 5, "completion_tokens": total}} if total else {}
        return wrap({"choices": [choice], **usage})

    end = wrap({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}})
    for chunks in (
        [chunk("a"), chunk("b", "stop"), end],
        [chunk("a"), chunk("b", "stop", 2)],
        [chunk("a", None, 1), chunk("b", "stop", 2), end],
    ):

        class Service:
            def __init__(self, given: list[Any] = chunks) -> None:
                self.given = given

            def chat_completion(self, *_: Any, **__: Any) -> Iterator[Any]:
                yield from self.given

            async def achat_completion(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
                async def later() -> AsyncIterator[Any]:
                    for one in self.given:
                        yield one

                return later()

            def close(self) -> None: ...

        monkeypatch.setattr(ChatExo, "_service", lambda _, made=Service: made())
        llm = model(upstream)
        for found in ([*llm.stream("Hi")], [one async for one in llm.astream("Hi")]):
            whole: Any = found[0]
            for one in found[1:]:
                whole += one
            assert (whole.content, whole.usage_metadata["output_tokens"]) == ("ab", 2)


def test_arguments_that_are_no_json_object(upstream: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come as LangChain's invalid tool calls beside the good ones, and go back to the model as they came."""

    def called(number: int, arguments: str) -> dict[str, Any]:
        return {"id": f"c{number}", "type": "function", "function": {"name": "f", "arguments": arguments}}

    said = [called(1, '{"x": 1}'), called(2, '{"x": '), called(3, "[1]")]
    message = {"role": "assistant", "content": None, "tool_calls": said}
    answer = wrap({"model": "m", "choices": [{"message": message, "finish_reason": "tool_calls"}]})
    monkeypatch.setattr(LiteLLMService, "chat_completion", lambda *_, **__: answer)
    asked = model(upstream).invoke("Hi")
    assert [(one["id"], one["args"]) for one in asked.tool_calls] == [("c1", {"x": 1})]
    assert [(one["id"], one["args"]) for one in asked.invalid_tool_calls] == [("c2", '{"x": '), ("c3", "[1]")]
    assert as_openai(asked)["tool_calls"] == said


def test_messages() -> None:
    """Every kind of message that OpenAI's API has; another is refused."""
    call = {"name": "f", "args": {"x": 1}, "id": "c", "type": "tool_call"}
    told = [
        as_openai(one)
        for one in (
            SystemMessage("s"),
            AIMessage("", tool_calls=[call]),
            ToolMessage("r", tool_call_id="c"),
            ChatMessage(role="developer", content="d"),
        )
    ]
    assert [one["role"] for one in told] == ["system", "assistant", "tool", "developer"]
    assert told[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"x": 1}'}
    with pytest.raises(ValueError, match="cannot be sent"):
        as_openai(FunctionMessage(content="x", name="f"))
