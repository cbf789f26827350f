"""Streams: framing, keep-alives, and that a failure never looks like an end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from exo_node.api import sse
from exo_node.errors import ExoError, PeerUnavailable
from exo_node.types import TokenDelta
from tests.unit.api.scripted import END, ScriptedBackend, Step, serve_api

BODY = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "stream": True}


async def stream(*steps: Step, **settings: Any) -> tuple[int, str]:
    """Status and raw body of a streamed chat."""
    async with (
        serve_api(ScriptedBackend(list(steps)), **settings) as url,
        aiohttp.ClientSession(url) as http,
        http.post("/v1/chat/completions", json=BODY) as answer,
    ):
        return answer.status, await answer.text()


async def test_frames() -> None:
    """One JSON object per data line, text unescaped, [DONE] at the end."""
    status, body = await stream(TokenDelta("zwölf\n"), END)
    assert status == 200
    assert "zwölf\\n" in body
    events = body.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    deltas = [json.loads(event.removeprefix("data: "))["choices"][0]["delta"] for event in events[:-2]]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "zwölf\n"}, {}]


async def test_keep_alive_comes_with_the_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence sends comments; an error after the first one is a frame, because the status is out."""
    monkeypatch.setattr(sse, "SILENCE_S", 0.02)
    status, body = await stream(0.1, PeerUnavailable("gone"))
    assert status == 200
    assert body.startswith(": keep-alive\n\n")
    assert json.loads(body.split("data: ")[1])["error"]["code"] == "peer_unavailable"
    assert "[DONE]" not in body


async def test_error_in_the_middle() -> None:
    """What came is delivered, then an error frame, and no [DONE]."""
    _, body = await stream(TokenDelta("a"), PeerUnavailable("gone"))
    events = body.strip().split("\n\n")
    assert json.loads(events[-2].removeprefix("data: "))["choices"][0]["delta"] == {"content": "a"}
    assert json.loads(events[-1].removeprefix("data: ")) == {
        "error": {
            "message": "the answer broke off after 1 token: gone",
            "type": "server_error",
            "param": None,
            "code": "answer_lost",
        }
    }


async def test_our_bug_in_the_middle() -> None:
    """An unexpected exception after the headers also ends in an error frame."""
    _, body = await stream(TokenDelta("a"), RuntimeError("secret"))
    assert '"internal_error"' in body
    assert "secret" not in body
    assert "[DONE]" not in body


async def test_a_failure_that_cannot_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own failing at the last frame cuts the connection: no client waits for more."""

    def failing(error: ExoError) -> bytes:
        raise TypeError("secret")

    monkeypatch.setattr(sse, "OPENAI", sse.Style(failure=failing))
    monkeypatch.setattr(sse.respond, "__defaults__", (None, sse.OPENAI))
    with pytest.raises(aiohttp.ClientPayloadError):
        async with asyncio.timeout(5):
            await stream(TokenDelta("a"), PeerUnavailable("gone"))


async def test_time_limit() -> None:
    """An answer that takes too long is a 504, or an error frame once something was sent."""
    status, body = await stream(asyncio.Event(), response_timeout=0.05)
    assert (status, json.loads(body)["error"]["code"]) == (504, "deadline_exceeded")
    status, body = await stream(TokenDelta("a"), asyncio.Event(), response_timeout=0.2)
    assert status == 200
    assert '"deadline_exceeded"' in body
