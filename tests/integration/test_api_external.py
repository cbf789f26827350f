"""The routes beyond text as the official SDK uses them, at document 002's drop-in address, over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest

from exo_node.api.ports import Principal
from exo_node.routing.call import Reply, UpstreamError, Whole
from tests.unit.api.scripted import END, ScriptedBackend, serve_api
from tests.unit.api.scripted_routing import ScriptedRouting, whole

HELLO: Any = [{"role": "user", "content": "Hello!"}]


@asynccontextmanager
async def sdk(routing: ScriptedRouting, key: str = "any") -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        serve_api(ScriptedBackend([END]), routing=routing) as url,
        openai.AsyncOpenAI(base_url=f"{url}/api/v1/litellm/v1", api_key=key, max_retries=0) as client,
    ):
        yield client


async def test_chat_at_the_drop_in_address() -> None:
    """Document 002's example: the provider's answer comes back, with tools and what only the provider knows."""
    message = {"role": "assistant", "content": "Hello, you"}
    answer = {"id": "x", "object": "chat.completion", "created": 1, "model": "llama3.2",
              "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}  # fmt: skip
    routing = ScriptedRouting()
    routing.replies = [whole(answer)]
    tools: Any = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    async with sdk(routing) as client:
        response = await client.chat.completions.create(
            model="ollama/llama3.2", messages=HELLO, tools=tools, reasoning_effort="low", extra_body={"num_ctx": 4096}
        )
    assert response.choices[0].message.content == "Hello, you"
    (call,) = routing.calls
    assert (call.model, call.body["num_ctx"], call.body["reasoning_effort"]) == ("ollama/llama3.2", 4096, "low")
    assert "tools" in call.needs


async def test_embeddings() -> None:
    """The SDK asks for base64 unseen; a backend that sends arrays anyway gives the same vectors."""
    routing = ScriptedRouting()
    reply = {"object": "list", "model": "m", "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -1.25]}],
             "usage": {"prompt_tokens": 2, "total_tokens": 2}}  # fmt: skip
    routing.replies = [whole(reply), whole(reply)]
    async with sdk(routing) as client:
        for encoding in (openai.omit, "float"):
            response = await client.embeddings.create(
                model="text-embedding-3-small",
                input=["Hello"],
                encoding_format=encoding,
            )
            assert response.data[0].embedding == [0.5, -1.25]
    assert [call.body["encoding_format"] for call in routing.calls] == ["base64", "float"]


async def test_sound_pictures_and_moderation() -> None:
    """Speech's bytes, a transcription's upload, an image's URL, a verdict."""
    routing = ScriptedRouting()
    verdict = {"id": "m", "model": "omni", "results": [{"flagged": True, "categories": {}, "category_scores": {},
               "category_applied_input_types": {}}]}  # fmt: skip
    routing.replies = [
        Reply(headers={}, whole=Whole(b"ID3\x00", None, "audio/mpeg")),
        whole({"text": "hi there"}),
        whole({"created": 1, "data": [{"url": "https://example.com/cat.png"}]}),
        whole(verdict),
    ]
    async with sdk(routing) as client:
        speech = await client.audio.speech.create(model="tts-1", voice="alloy", input="hi there")
        assert await speech.aread() == b"ID3\x00"
        text = await client.audio.transcriptions.create(model="whisper-1", file=("a.wav", b"RIFF"), language="en")
        assert text.text == "hi there"
        image = await client.images.generate(model="dall-e-3", prompt="a cat", size="1024x1024")
        assert image.data is not None
        assert image.data[0].url == "https://example.com/cat.png"
        assert (await client.moderations.create(input="text", model="omni")).results[0].flagged
    assert [call.kind for call in routing.calls] == ["speech", "transcription", "image", "moderation"]
    assert routing.calls[1].files[0].data == b"RIFF"


async def test_models() -> None:
    """Local and external models in one list, the external ones found by their name with a slash."""
    routing = ScriptedRouting()
    routing.rows = [{"id": "openai/gpt-4o", "owned_by": "openai"}]
    async with sdk(routing) as client:
        assert [model.id async for model in client.models.list()] == ["demo", "org/name", "openai/gpt-4o"]
        assert (await client.models.retrieve("openai/gpt-4o")).owned_by == "openai"


async def test_errors_are_the_sdks_classes() -> None:
    """A limit, a wrong key and a key without the right are the exceptions that programs catch."""
    routing = ScriptedRouting()
    routing.keys = {"good": Principal("k1")}
    routing.replies = [UpstreamError("openai is busy", "rate_limited", retry_after=3)]
    async with sdk(routing, "good") as client:
        with pytest.raises(openai.RateLimitError) as busy:
            await client.chat.completions.create(model="m", messages=HELLO)
        assert busy.value.response.headers["Retry-After"] == "3"
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="bad").models.list()
        with pytest.raises(openai.PermissionDeniedError):
            await client.post("/config/reload", cast_to=object)
