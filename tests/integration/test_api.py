"""The API as the official SDK uses it, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import openai
import pytest

from exo_node.errors import ModelNotFound, NoCapacity, PeerUnavailable
from exo_node.types import GenerationRequest, TokenDelta, Usage
from tests.unit.api.scripted import ScriptedBackend, Step, logprob, serve_api, until

HELLO: Any = [{"role": "user", "content": "Hello"}]


def words(request: GenerationRequest) -> list[Step]:
    """Two words with logprobs, seeded by the request."""
    tag = "" if request.seed is None else str(request.seed)
    return [
        TokenDelta(f"Hi{tag}", (1,), (logprob("Hi", -0.25, "Ho"),)),
        TokenDelta(" there", (2,), (replace(logprob(" there", -0.5, " you"), offset=2),), "stop", Usage(5, 2, 4)),
    ]


@asynccontextmanager
async def sdk(backend: ScriptedBackend, **settings: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        serve_api(backend, **settings) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client,
    ):
        yield client


async def test_chat() -> None:
    """A plain chat with logprobs parses into the SDK's types."""
    async with sdk(ScriptedBackend(words)) as client:
        answer = await client.chat.completions.create(model="demo", messages=HELLO, logprobs=True, top_logprobs=2, n=2)
    assert [choice.message.content for choice in answer.choices] == ["Hi there", "Hi there"]
    assert [choice.finish_reason for choice in answer.choices] == ["stop", "stop"]
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [token.token for token in logprobs.content] == ["Hi", " there"]
    assert [top.token for top in logprobs.content[0].top_logprobs] == ["Hi", "Ho"]
    usage = answer.usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (5, 4, 9)
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 4


async def test_streamed_chat() -> None:
    """A stream has one id, the role first, the finish last, and usage only where it was asked for."""
    async with sdk(ScriptedBackend(words)) as client:
        stream = await client.chat.completions.create(
            model="demo", messages=HELLO, stream=True, n=2, seed=7, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        bare = [c async for c in await client.chat.completions.create(model="demo", messages=HELLO, stream=True)]
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    texts = {0: "", 1: ""}
    for chunk in chunks[:-1]:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == {0: "Hi7 there", 1: "Hi8 there"}
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage is not None
    assert (chunks[-1].choices, chunks[-1].usage.total_tokens) == ([], 9)
    assert all(chunk.usage is None for chunk in bare)
    assert bare[-1].choices[0].finish_reason == "stop"


async def test_the_sdks_stream_helper() -> None:
    """The helper that asserts on the shape of every chunk (and fails on exo v2's) takes ours."""
    async with (
        sdk(ScriptedBackend(words)) as client,
        client.chat.completions.stream(model="demo", messages=HELLO) as stream,
    ):
        async for _ in stream:
            pass
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "Hi there"


async def test_completions() -> None:
    """Completions: several prompts, echo, token ids, and the legacy logprobs."""
    backend = ScriptedBackend(words)
    async with sdk(backend) as client:
        many = await client.completions.create(model="demo", prompt=["A", "B"], echo=True, max_tokens=5)
        ids = await client.completions.create(model="demo", prompt=[1, 2, 3], logprobs=2)
        stream = await client.completions.create(model="demo", prompt="", stream=True)
        text = "".join([chunk.choices[0].text async for chunk in stream])
    assert [choice.text for choice in many.choices] == ["AHi there", "BHi there"]
    assert many.usage is not None
    assert many.usage.prompt_tokens == 10
    logprobs = ids.choices[0].logprobs
    assert logprobs is not None
    assert (logprobs.tokens, logprobs.text_offset) == (["Hi", " there"], [0, 2])
    assert logprobs.top_logprobs == [{"Hi": -0.25, "Ho": -1.25}, {" there": -0.5, " you": -1.5}]
    assert text == "Hi there"
    assert [request.prompt for request in backend.requests[2:]] == [(1, 2, 3), ""]


async def test_models() -> None:
    """The SDK encodes the slash of a model's id."""
    async with sdk(ScriptedBackend(words)) as client:
        assert [model.id async for model in client.models.list()] == ["demo", "org/name"]
        assert (await client.models.retrieve("org/name")).owned_by == "hub"
        with pytest.raises(openai.NotFoundError) as caught:
            await client.models.retrieve("nope")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("error", "kind"),
    [(ModelNotFound("no"), openai.NotFoundError), (NoCapacity("full"), openai.InternalServerError)],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_errors_before_the_first_word(error: Exception, kind: type[openai.APIStatusError], stream: bool) -> None:
    """They are plain HTTP errors, also for a stream, so that the SDK raises its own classes and retries what may be."""
    async with sdk(ScriptedBackend([error])) as client:
        with pytest.raises(kind):
            await client.chat.completions.create(model="demo", messages=HELLO, stream=stream)


async def test_errors_after_the_first_word() -> None:
    """They raise the SDK's APIError with our words, not a broken connection."""
    async with sdk(ScriptedBackend([TokenDelta("Hi"), PeerUnavailable("node b is gone")])) as client:
        stream = await client.chat.completions.create(model="demo", messages=HELLO, stream=True)
        with pytest.raises(openai.APIError, match="node b is gone"):
            async for _ in stream:
                pass


async def test_retry_after_is_obeyed() -> None:
    """A 503 with Retry-After makes the SDK come back."""
    answers: list[list[Step]] = [
        [NoCapacity("full", retry_after=0.01)],
        words(GenerationRequest(request_id="", model="")),
    ]
    backend = ScriptedBackend(lambda request: answers[len(backend.requests) - 1])
    async with sdk(backend) as client:
        answer = await client.with_options(max_retries=1).chat.completions.create(model="demo", messages=HELLO)
    assert answer.choices[0].message.content == "Hi there"
    assert len(backend.requests) == 2


async def test_closing_a_stream_frees_the_sequence() -> None:
    """A client that breaks out of its loop ends the generation."""
    backend = ScriptedBackend([TokenDelta("Hi"), asyncio.Event()])
    async with sdk(backend) as client:
        stream = await client.chat.completions.create(model="demo", messages=HELLO, stream=True)
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        assert backend.open == 1
        await stream.close()
        await until(lambda: backend.open == 0)
