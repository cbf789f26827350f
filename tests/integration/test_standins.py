"""The stand-in providers speak their wire formats and play their scripts."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import subprocess
import sys
from typing import Any

import aiohttp
import pytest

from tests.standins import Script, Standin, answer_to, serve, standin

ASK = [{"role": "user", "content": "hello"}]


async def post(one: Standin, path: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(one.url + path, json=body, headers=headers) as response,
    ):
        return response.status, await response.read()


def events(raw: bytes) -> list[Any]:
    """The data of each event; `[DONE]` as it is."""
    lines = [line.removeprefix(b"data: ") for line in raw.replace(b"\r\n", b"\n").split(b"\n") if line[:5] == b"data:"]
    return [line.decode() if line == b"[DONE]" else json.loads(line) for line in lines]


async def test_openai_plain_and_streamed_say_the_same() -> None:
    """A stream's pieces are the plain answer's text, with usage when asked for."""
    async with standin("openai", key="k", models=("m",)) as one:
        auth = {"Authorization": "Bearer k"}
        status, raw = await post(one, "/v1/chat/completions", {"model": "m", "messages": ASK}, auth)
        plain = json.loads(raw)
        assert status == 200
        assert plain["choices"][0]["message"]["content"] == answer_to("hello")
        body = {"model": "m", "messages": ASK, "stream": True, "stream_options": {"include_usage": True}}
        status, raw = await post(one, "/v1/chat/completions", body, auth)
        sent = events(raw)
        assert sent[-1] == "[DONE]"
        assert sent[-2]["usage"] == plain["usage"]
        assert "".join(e["choices"][0]["delta"].get("content") or "" for e in sent[:-2]) == answer_to("hello")
        assert one.requests[1].body == body
        assert one.requests[1].headers["authorization"] == "Bearer k"
        assert (await post(one, "/v1/chat/completions", {"model": "x", "messages": ASK}, auth))[0] == 404
        assert (await post(one, "/v1/chat/completions", {"model": "m", "messages": ASK}))[0] == 401


@pytest.mark.parametrize("provider", ["openai", "ollama", "litellm_proxy"])
async def test_goes_on_from_a_prefix(provider: str) -> None:
    """A last assistant message is continued, not repeated."""
    async with standin(provider) as one:
        full = answer_to("hello")
        messages = [*ASK, {"role": "assistant", "content": full[:17]}]
        _, raw = await post(one, "/v1/chat/completions", {"model": "m", "messages": messages})
        assert json.loads(raw)["choices"][0]["message"]["content"] == full[17:]


async def test_other_openai_kinds() -> None:
    """Embeddings (base64 too), speech, moderation, images, tools."""
    async with standin("openai") as one:
        _, raw = await post(one, "/v1/embeddings", {"model": "e", "input": ["a", "b"]})
        floats = json.loads(raw)["data"][1]["embedding"]
        _, raw = await post(one, "/v1/embeddings", {"model": "e", "input": ["a", "b"], "encoding_format": "base64"})
        packed = base64.b64decode(json.loads(raw)["data"][1]["embedding"])
        assert list(struct.unpack(f"<{len(floats)}f", packed)) == floats
        assert (await post(one, "/v1/audio/speech", {"model": "t", "input": "hi", "voice": "v"}))[1] == b"ID3hi"
        assert json.loads((await post(one, "/v1/moderations", {"input": "kill"}))[1])["results"][0]["flagged"]
        assert json.loads((await post(one, "/v1/images/generations", {"prompt": "x"}))[1])["data"][0]["b64_json"]
        schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
        tools = [{"type": "function", "function": {"name": "weather", "parameters": schema}}]
        body = {"model": "m", "messages": ASK, "tools": tools, "stream": True}
        sent = events((await post(one, "/v1/chat/completions", body))[1])
        parts = [c for e in sent[:-1] for c in e["choices"][0]["delta"].get("tool_calls") or ()]
        assert json.loads("".join(p["function"]["arguments"] for p in parts)) == {"city": "Paris"}
        assert sent[-2]["choices"][0]["finish_reason"] == "tool_calls"


async def test_azure_paths() -> None:
    """Deployment paths want api-version and api-key; the v1 path needs no version."""
    async with standin("azure", key="k", models=("d",)) as one:
        path = "/openai/deployments/d/chat/completions"
        key = {"api-key": "k"}
        assert (await post(one, path, {"messages": ASK}, key))[0] == 404
        assert (await post(one, path + "?api-version=2024-10-21", {"messages": ASK}, key))[0] == 200
        assert (await post(one, path + "?api-version=2024-10-21", {"messages": ASK}))[0] == 401
        assert (await post(one, "/openai/v1/chat/completions", {"model": "d", "messages": ASK}, key))[0] == 200


async def test_anthropic_events() -> None:
    """The Messages API's event sequence, and its refusal of a prefix that ends with a blank."""
    async with standin("anthropic", key="k") as one:
        headers = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
        body = {"model": "c", "max_tokens": 100, "messages": ASK, "stream": True}
        sent = events((await post(one, "/v1/messages", body, headers))[1])
        kinds = [e["type"] for e in sent]
        assert kinds[:3] == ["message_start", "content_block_start", "ping"]
        assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
        text = "".join(e["delta"]["text"] for e in sent if e["type"] == "content_block_delta")
        assert text == answer_to("hello")
        assert (await post(one, "/v1/messages", body))[0] == 401
        body["messages"] = [*ASK, {"role": "assistant", "content": "You "}]
        assert (await post(one, "/v1/messages", body, headers))[0] == 400


async def test_gemini_stream_and_wrong_key() -> None:
    """streamGenerateContent?alt=sse ends with finishReason; a wrong key is its 400 with API_KEY_INVALID."""
    async with standin("gemini", key="k") as one:
        body = {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}
        path = "/v1beta/models/gemini-x:streamGenerateContent?alt=sse"
        sent = events((await post(one, path + "&key=k", body))[1])
        assert "".join(e["candidates"][0]["content"]["parts"][0]["text"] for e in sent) == answer_to("hello")
        assert sent[-1]["candidates"][0]["finishReason"] == "STOP"
        assert one.requests[0].model == "gemini-x"
        status, raw = await post(one, path, body)
        assert status == 400
        assert b"API_KEY_INVALID" in raw


async def test_ollama_lines() -> None:
    """/api/chat is NDJSON that ends with done and counts."""
    async with standin("ollama", models=("llama3.2",)) as one:
        _, raw = await post(one, "/api/chat", {"model": "llama3.2", "messages": ASK})
        lines = [json.loads(line) for line in raw.splitlines()]
        assert "".join(line["message"]["content"] for line in lines) == answer_to("hello")
        assert lines[-1]["done"]
        assert lines[-1]["eval_count"] > 0
        assert (await post(one, "/api/chat", {"model": "nope", "messages": ASK}))[0] == 404


async def test_cohere_ranks() -> None:
    """The document with the query's words comes first."""
    async with standin("cohere") as one:
        body = {"model": "r", "query": "red apple", "documents": ["a pear", "a red apple"], "top_n": 1}
        _, raw = await post(one, "/v2/rerank", body)
        assert json.loads(raw)["results"] == [{"index": 1, "relevance_score": 1.0}]


BODY = {"model": "m", "messages": ASK, "stream": True}
CHAT = "/v1/chat/completions"


async def test_scripts_for_one_request_and_for_a_model() -> None:
    """The queue is for one request each, then by_model, then the standing script."""
    async with standin("openai") as one:
        one.queue.append(Script(status=429, retry_after="7"))
        one.by_model["bad"] = Script(status=500)
        async with aiohttp.ClientSession() as session, session.post(one.url + CHAT, json=BODY) as response:
            assert (response.status, response.headers["Retry-After"]) == (429, "7")
        assert (await post(one, CHAT, BODY))[0] == 200
        assert (await post(one, CHAT, {**BODY, "model": "bad"}))[0] == 500


async def test_cuts() -> None:
    """A stream ends early, cleanly, in an event, or with a reset, as scripted."""
    async with standin("openai") as one:
        one.queue.append(Script(eof_after=3))
        sent = events((await post(one, CHAT, BODY))[1])
        assert len(sent) == 4  # the role's event does not count
        assert all(e["choices"][0]["finish_reason"] is None for e in sent)
        one.queue.append(Script(cut_after=2))
        assert not (await post(one, CHAT, BODY))[1].endswith(b"\n\n")
        one.queue.append(Script(malformed_after=2))
        assert b"{not json" in (await post(one, CHAT, BODY))[1]
        one.queue.append(Script(error_after=1))
        assert "error" in events((await post(one, CHAT, BODY))[1])[-1]
        for after in (-1, 0, 2):
            one.queue.append(Script(reset_after=after))
            with pytest.raises(aiohttp.ClientError):
                await post(one, CHAT, BODY)
        one.queue.append(Script(eof_after=0))
        with pytest.raises(aiohttp.ClientPayloadError):
            await post(one, CHAT, {**BODY, "stream": False})


async def test_a_stall_ends_when_the_client_leaves() -> None:
    """A client that leaves a stalled answer is written down as disconnected."""
    async with standin("openai") as one:
        one.script = Script(stall_after=1)
        async with aiohttp.ClientSession() as session, session.post(one.url + CHAT, json=BODY) as response:
            await response.content.readany()
        assert await asyncio.to_thread(one.requests[0].ended.wait, 10)
        assert one.requests[0].outcome == "disconnected"


def test_in_a_thread_and_as_a_process() -> None:
    """A stand-in runs in a thread of a synchronous test, and as a process that says where it listens."""
    with serve(standin("openai", models=("m",))) as one:
        assert asyncio.run(post(one, CHAT, BODY))[0] == 200
    command = [sys.executable, "-m", "tests.standins", "openai", "--chunks", "5", "--until-eof"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        said = json.loads(process.stdout.readline())
        other = standin("openai", port=int(said["url"].rpartition(":")[2]))
        assert asyncio.run(post(other, CHAT, BODY))[0] == 200
        process.stdin.close()
        assert process.wait(timeout=20) == 0
