"""A call's way out and in: headers, raw bytes, silence, errors before and after the first word."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from exo_node.api import sse
from exo_node.api.ports import Principal
from exo_node.api.serving import CallServer, unpacked
from exo_node.config import Settings
from exo_node.routing.call import Reply, UpstreamError, Whole
from tests.unit.api.scripted import END, ScriptedBackend, serve_api, until
from tests.unit.api.scripted_routing import ScriptedRouting, whole

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
FRAME = b'data: {"id": "x",  "choices": []}\n\n'


async def post(
    routing: ScriptedRouting, body: dict[str, Any], path: str = "/v1/chat/completions", **headers: str
) -> tuple[aiohttp.ClientResponse, bytes]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        serve_api(ScriptedBackend([END]), routing=routing) as url,
        aiohttp.ClientSession(url) as http,
        http.post(path, json=body, headers=sent) as answer,
    ):
        return answer, await answer.read()


async def test_a_plain_answer_is_relayed_as_it_came() -> None:
    """Its bytes, its type, and the adapter's headers."""
    routing = ScriptedRouting()
    routing.replies = [Reply(headers={"x-exo-backend": "a"}, whole=Whole(b'{ "id" : 1 }', {"id": 1}))]
    answer, raw = await post(routing, CHAT)
    assert (answer.status, raw) == (200, b'{ "id" : 1 }')
    assert (answer.headers["x-exo-backend"], answer.content_type) == ("a", "application/json")
    assert answer.headers["X-Request-Id"]
    (call,) = routing.calls
    assert (call.kind, call.model, call.stream, call.id.split("-")[0]) == ("chat", "gpt-4o", False, "chatcmpl")


async def test_a_stream_is_relayed_as_it_came() -> None:
    """Frames byte for byte, the adapter's headers before the first, [DONE] after the last."""
    routing = ScriptedRouting()
    routing.replies = [routing.stream(FRAME, FRAME)]
    answer, raw = await post(routing, {**CHAT, "stream": True})
    assert (answer.status, raw) == (200, FRAME + FRAME + sse.DONE)
    assert (answer.headers["x-exo-backend"], answer.content_type) == ("scripted", "text/event-stream")
    assert routing.open == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_before_the_first_word_has_its_status(stream: bool) -> None:
    """Whatever was asked for, the client gets a plain error with Retry-After and what the adapter says of it."""
    routing = ScriptedRouting()
    busy = UpstreamError("openai is busy", "rate_limited", retry_after=7)
    busy.exo_headers = {"x-exo-attempts": "3"}  # type: ignore[attr-defined]
    routing.replies = [busy]
    answer, raw = await post(routing, {**CHAT, "stream": stream})
    error = json.loads(raw)["error"]
    assert (answer.status, answer.headers["Retry-After"], answer.headers["x-exo-attempts"]) == (429, "7", "3")
    assert (error["type"], error["code"]) == ("rate_limit_error", "upstream_rate_limited")


async def test_silence_opens_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """While no backend has said a word comments go out; an error after them is a frame, and nothing says [DONE]."""
    monkeypatch.setattr(sse, "SILENCE_S", 0.01)
    routing = ScriptedRouting()
    waiting = asyncio.Event()

    async def slow(call: object) -> Reply:
        await waiting.wait()
        raise UpstreamError("gone", "refused")

    routing.serve = slow  # type: ignore[method-assign]
    async with (
        serve_api(ScriptedBackend([END]), routing=routing) as url,
        aiohttp.ClientSession(url) as http,
        http.post("/v1/chat/completions", json={**CHAT, "stream": True}) as answer,
    ):
        assert await answer.content.readuntil(b"\n\n") == sse.KEEP_ALIVE
        waiting.set()
        rest = (await answer.text()).replace(sse.KEEP_ALIVE.decode(), "")
    assert json.loads(rest.removeprefix("data: "))["error"]["code"] == "upstream_refused"


async def test_silence_between_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comments stand between frames, never inside one."""
    monkeypatch.setattr(sse, "SILENCE_S", 0.01)
    routing = ScriptedRouting()
    routing.replies = [routing.stream(FRAME, 0.1, FRAME)]
    _, raw = await post(routing, {**CHAT, "stream": True})
    assert sse.KEEP_ALIVE in raw
    assert raw.replace(sse.KEEP_ALIVE, b"") == FRAME + FRAME + sse.DONE


async def test_who_leaves_closes_the_stream() -> None:
    """The reply's frames are closed when the client hangs up in the middle."""
    routing = ScriptedRouting()
    routing.replies = [routing.stream(FRAME, asyncio.Event())]
    async with serve_api(ScriptedBackend([END]), routing=routing) as url:
        async with aiohttp.ClientSession(url) as http:
            answer = await http.post("/v1/chat/completions", json={**CHAT, "stream": True})
            await answer.content.readuntil(b"\n\n")
            answer.close()
        await until(lambda: routing.open == 0)


@pytest.mark.parametrize(
    ("header", "no_cache"), [("no-cache", True), ("max-age=0, No-Store", True), ("max-age=0", False), ("", False)]
)
async def test_cache_control(header: str, no_cache: bool) -> None:
    """A client that wants a fresh answer says so as HTTP does."""
    routing = ScriptedRouting()
    routing.replies = [whole({})]
    await post(routing, CHAT, Cache_Control=header)
    assert routing.calls[0].wishes.no_cache is no_cache


async def test_default_models_by_kind() -> None:
    """Embeddings and rerank have default models of their own."""
    routing = ScriptedRouting()
    routing.defaults = {"embedding": "embed-small", "chat": "gpt-4o"}
    routing.replies = [whole({"data": []}), whole({})]
    await post(routing, {"input": "x"}, "/v1/embeddings")
    await post(routing, {"messages": CHAT["messages"]})
    assert [call.model for call in routing.calls] == ["embed-small", "gpt-4o"]


async def test_only_the_admins_keys_may_hurry(tmp_path: Path) -> None:
    """A service_tier asks for a priority: low is anybody's, high the admin's; what no client waits for is low."""
    routing = ScriptedRouting()
    routing.keys = {"user": Principal("k1"), "boss": Principal("k2", admin=True)}
    got = []
    async with serve_api(ScriptedBackend([END]), routing=routing) as url, aiohttp.ClientSession(url) as http:
        for key, tier in (("user", "priority"), ("user", "flex"), ("boss", "priority"), ("boss", "default")):
            routing.replies = [whole({})]
            sent = {**CHAT, "service_tier": tier}
            async with http.post("/v1/chat/completions", json=sent, headers={"x-api-key": key}) as answer:
                assert answer.status == 200
            got.append(routing.calls[-1].priority)
    assert got == ["normal", "low", "high", "normal"]
    assert routing.calls[-1].body["service_tier"] == "default"  # other backends read it themselves
    late = CallServer(Settings(home=tmp_path), routing).call_of("k1", "chat", {**CHAT, "service_tier": "priority"})
    assert late.priority == "low"


@pytest.mark.parametrize(("said", "status"), [("100-continue", b"100 Continue"), ("\xb2", b"200 OK"), ("x", b"200 OK")])
async def test_expectations(said: str, status: bytes) -> None:
    """`100-continue` is answered before the body; whatever else is expected is passed over, even what is no text."""
    async with serve_api(ScriptedBackend([END]), routing=ScriptedRouting()) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2].strip("/")))
        writer.write(f"GET /health HTTP/1.1\r\nHost: localhost\r\nExpect: {said}\r\n\r\n".encode("latin-1"))
        assert status in await asyncio.wait_for(reader.readline(), 30)
        writer.close()


BARE = zlib.compressobj(wbits=-15)


@pytest.mark.parametrize(
    ("raw", "encoding"),
    [
        (gzip.compress(b"words", mtime=0), "gzip"),
        (gzip.compress(b"words", mtime=0), "x-gzip"),
        (zlib.compress(b"words"), "deflate"),
        (BARE.compress(b"words") + BARE.flush(), "deflate"),  # what some call deflate
    ],
    ids=("gzip", "x-gzip", "deflate", "bare"),
)
def test_unpacked(raw: bytes, encoding: str) -> None:
    """Up to so many bytes and no more are made; halves, what follows, and other things are errors."""
    assert unpacked(raw, encoding, 5) == b"words"
    with pytest.raises(web.HTTPRequestEntityTooLarge):
        unpacked(raw, encoding, 4)
    for broken in (raw[:-1], raw + raw, raw + b"x", b"words", b""):
        with pytest.raises(zlib.error):
            unpacked(broken, encoding, 100)


def test_a_bomb_is_not_made() -> None:
    """It is told before it has filled the memory."""
    bomb = gzip.compress(bytes(10**7))
    tracemalloc.start()
    try:
        with pytest.raises(web.HTTPRequestEntityTooLarge):
            unpacked(bomb, "gzip", 1000)
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


async def test_encodings_that_are_not_read() -> None:
    """They are named; a form comes as it is."""
    routing = ScriptedRouting()
    async with serve_api(ScriptedBackend([END]), routing=routing) as url, aiohttp.ClientSession(url) as http:
        for encoding, form in (("br", False), ("gzip, gzip", False), ("gzip", True)):
            data = aiohttp.FormData({"model": "m"}, default_to_multipart=True) if form else b"{}"
            path = "/v1/audio/transcriptions" if form else "/v1/completions"
            async with http.post(path, data=data, headers={"Content-Encoding": encoding}) as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (415, "unsupported_encoding")
        for path in ("/v1/audio/transcriptions", "/v1/files"):
            endless = aiohttp.FormData([(f"f{i}", "") for i in range(1001)], default_to_multipart=True)
            async with http.post(path, data=endless) as answer:
                told = (await answer.json())["error"]["message"]
            assert answer.status == 400 and ("more than 1000 parts" in told or "f0: is unknown" in told), told
