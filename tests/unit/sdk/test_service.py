"""Document 002's service, over HTTP to a stand-in that speaks OpenAI's API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from exo_node import sdk
from exo_node.sdk import LiteLLMConfig, LiteLLMService, ToolDefinition, get_litellm_service
from tests.standins.answers import answer_to
from tests.standins.openai import OpenAI
from tests.standins.script import Script
from tests.standins.server import serve

HELLO = [{"role": "user", "content": "Hello!"}]


@pytest.fixture
def upstream() -> Iterator[OpenAI]:
    standin = OpenAI()
    with serve(standin):
        yield standin


def service(upstream: OpenAI, **config: object) -> LiteLLMService:
    return LiteLLMService(LiteLLMConfig(base_url=upstream.url, **config))  # type: ignore[arg-type]


def test_a_completion_with_the_services_defaults(upstream: OpenAI) -> None:
    """Defaults fill what a call leaves open; the provider goes as a field where the model names none."""
    svc = service(upstream, default_provider="ollama", default_model="llama3.2", temperature=0.7, max_tokens=50)
    assert svc.chat_completion(messages=HELLO).choices[0].message.content == answer_to("Hello!")
    svc.chat_completion(messages=HELLO, model="openai/gpt-4o", temperature=0.0)
    first, second = (request.body for request in upstream.requests)
    assert (first["model"], first["provider"], first["temperature"], first["max_tokens"]) == (
        "llama3.2",
        "ollama",
        0.7,
        50,
    )
    assert (second["model"], second["temperature"]) == ("openai/gpt-4o", 0.0)
    assert "provider" not in second
    svc.close()


async def test_async_and_streams(upstream: OpenAI) -> None:
    """The four ways give the same text."""
    svc = service(upstream, default_model="m")
    whole = await svc.achat_completion(messages=HELLO)
    chunks = svc.chat_completion(messages=HELLO, stream=True)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    later = [chunk async for chunk in await svc.achat_completion(messages=HELLO, stream=True)]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in later if chunk.choices)
    assert whole.choices[0].message.content == streamed == text == answer_to("Hello!")
    svc.close()


def test_a_broken_stream_raises(upstream: OpenAI) -> None:
    """A stream that ends without [DONE], or with an error event, is no answer."""
    svc = service(upstream, default_model="m")
    for script in (Script(eof_after=2), Script(error_after=2)):
        upstream.queue.append(script)
        with pytest.raises(sdk.ServiceUnavailableError):
            list(svc.chat_completion(messages=HELLO, stream=True))
    svc.close()


def test_errors_are_the_documented_classes(upstream: OpenAI) -> None:
    """429 raises RateLimitError with the server's words; nobody there raises APIConnectionError."""
    svc = service(upstream, default_model="m")
    upstream.queue.append(Script(status=429, message="slow down"))
    with pytest.raises(sdk.RateLimitError, match="slow down"):
        svc.chat_completion(messages=HELLO)
    svc.config = LiteLLMConfig(base_url="http://127.0.0.1:9", default_model="m")
    with pytest.raises(sdk.APIConnectionError, match="no exo node answers"):
        svc.chat_completion(messages=HELLO)
    svc.close()


WEATHER = ToolDefinition(
    name="get_weather",
    description="Get current weather for a location",
    parameters={"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
)


async def test_tools_async_and_streamed(upstream: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    """The async loop, plain and streamed, with a coroutine handler; callbacks hear of each round."""
    heard: list[sdk.Reply] = []
    monkeypatch.setattr(sdk, "success_callback", [heard.append])
    svc = service(upstream, default_model="m")

    async def get_weather(location: str) -> str:
        return f"Weather in {location}: Sunny"

    handlers = {"get_weather": get_weather}
    result = await svc.achat_with_tools(HELLO, [WEATHER], handlers)
    assert (result.response, result.rounds) == (answer_to("Weather in Paris: Sunny"), 2)
    chunks = [chunk async for chunk in await svc.achat_with_tools(HELLO, [WEATHER], handlers, stream=True)]
    assert "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices) == result.response
    assert [one.choices[0].finish_reason for one in heard] == ["tool_calls", "stop"] * 2
    assert heard[2].choices[0].message.tool_calls[0].function.name == "get_weather"


def test_tools_run_by_themselves(upstream: OpenAI) -> None:
    """The handler gets the call's arguments, the model its result, the caller the last text; streamed likewise."""
    svc = service(upstream, default_model="m")
    asked: list[str] = []

    def get_weather(location: str) -> str:
        asked.append(location)
        return f"Weather in {location}: Sunny"

    result = svc.chat_with_tools(HELLO, [WEATHER], {"get_weather": get_weather})
    assert result["response"] == answer_to(f"Weather in {asked[0]}: Sunny")
    chunks = svc.chat_with_tools(HELLO, [WEATHER], {"get_weather": get_weather}, stream=True)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == result["response"]
    assert len(asked) == 2
    svc.close()


def test_vision_and_embeddings(upstream: OpenAI) -> None:
    """A picture goes as an image part; embeddings read by attribute."""
    svc = service(upstream)
    svc.vision_completion("Describe this", "https://example.com/cat.jpg", "gpt-4o", "openai")
    parts = upstream.requests[-1].body["messages"][0]["content"]
    assert parts[1] == {"type": "image_url", "image_url": {"url": "https://example.com/cat.jpg"}}
    answer = svc.create_embedding(input=["Hello world", "Goodbye world"], model="text-embedding-3-small")
    assert len([item.embedding for item in answer.data]) == 2
    svc.close()


def test_settings_change_at_run_time(upstream: OpenAI) -> None:
    """`update_config` holds from the next call on; an unknown setting is refused by name."""
    svc = service(upstream)
    svc.update_config(default_provider="openai", default_model="gpt-4o", temperature=0.5)
    svc.chat_completion(messages=HELLO)
    body = upstream.requests[-1].body
    assert (body["provider"], body["model"], body["temperature"]) == ("openai", "gpt-4o", 0.5)
    with pytest.raises(TypeError, match="unknown setting 'colour'"):
        svc.update_config(colour="red")
    assert get_litellm_service() is get_litellm_service()
    svc.close()


def test_callbacks_hear_of_each_success_once(upstream: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    """`success_callback = [function]` gets model and usage, plain and streamed; its own failure harms nothing."""
    told: list[tuple[str, int]] = []

    def log_success(response: sdk.Reply) -> None:
        told.append((response.model, response.usage.total_tokens))

    def broken(response: sdk.Reply) -> None:
        raise RuntimeError("mine")

    monkeypatch.setattr(sdk, "success_callback", [broken, log_success])
    svc = service(upstream, default_model="m")
    whole = svc.chat_completion(messages=HELLO)
    list(svc.chat_completion(messages=HELLO, stream=True, stream_options={"include_usage": True}))
    upstream.queue.append(Script(status=500))
    with pytest.raises(sdk.InternalServerError):
        svc.chat_completion(messages=HELLO)
    assert told == [(whole.model, whole.usage.total_tokens)] * 2
    svc.close()


async def test_async_callbacks_are_run(
    upstream: OpenAI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An async function hears of sync and async calls alike; its own failure is logged."""
    from exo_node.sdk import callbacks

    told: list[str] = []

    async def log_success(response: sdk.Reply) -> None:
        await asyncio.sleep(0)
        told.append(response.model)

    async def broken(kwargs: object, response: object, start: float, end: float) -> None:
        raise RuntimeError("mine")

    monkeypatch.setattr(sdk, "success_callback", [broken, log_success])
    svc = service(upstream, default_model="m")
    whole = svc.chat_completion(messages=HELLO)
    await svc.achat_completion(messages=HELLO)
    callbacks.flush()
    assert told == [whole.model] * 2
    assert caplog.text.count("RuntimeError: mine") == 2
    svc.close()


def test_langfuse_and_helicone_by_name(upstream: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two services get one event each, with their own credentials."""
    from exo_node.sdk import callbacks

    environment = {
        "LANGFUSE_PUBLIC_KEY": "pk",
        "LANGFUSE_SECRET_KEY": "sk",
        "LANGFUSE_HOST": upstream.url,
        "HELICONE_API_KEY": "hk",
        "HELICONE_API_BASE": upstream.url,
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    posts: list[tuple[str, str]] = []
    monkeypatch.setattr(callbacks, "_post", lambda url, headers, body: posts.append((url, json.dumps(body))))
    monkeypatch.setattr(sdk, "success_callback", ["langfuse", "helicone"])
    svc = service(upstream, default_model="m")
    svc.chat_completion(messages=HELLO)
    callbacks.flush()
    assert [url.removeprefix(upstream.url) for url, _ in posts] == ["/api/public/ingestion", "/custom/v1/log"]
    assert all("I count" in body for _, body in posts)
    svc.close()
