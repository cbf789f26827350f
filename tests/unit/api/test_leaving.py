"""A node that stops: what it still answers, and what it says of the rest."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from exo_node.api.leaving import Leaving
from exo_node.types import TokenDelta
from tests.unit.api.scripted import END, ScriptedBackend, serve_whole, until

BODY = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}
PATHS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": BODY,
    "/v1/completions": {"model": "demo", "prompt": "hi", "max_tokens": 9},
    "/v1/messages": BODY,
    "/v1/responses": {"model": "demo", "input": "hi"},
    "/ollama/api/chat": {"model": "demo", "messages": BODY["messages"]},
}


async def test_a_drain_waits_for_what_runs_and_then_ends_it() -> None:
    """Nothing to wait for: at once. An answer in time is complete; a late one is told why it is not."""
    idle = Leaving()
    assert await idle.drain(60.0) == 0
    leaving = Leaving()
    seen: list[str] = []

    async def answer(seconds: float) -> None:
        try:
            with leaving.within(60.0):
                await asyncio.sleep(seconds)
                seen.append("complete")
        except TimeoutError:
            seen.append(leaving.why(60.0).code or "")

    running = [asyncio.create_task(answer(seconds)) for seconds in (0.01, 60.0)]
    await asyncio.sleep(0)
    assert len(leaving) == 2
    assert await leaving.drain(0.1) == 1
    await asyncio.gather(*running)
    await answer(60.0)  # what has slipped in
    assert seen == ["complete", "node_stopping", "node_stopping"]
    assert Leaving().why(3.0).code == "deadline_exceeded"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [True, False])
async def test_every_dialect_says_that_the_node_stopped(path: str, stream: bool) -> None:
    """A stream ends with one error event and nothing behind it; a plain answer is a 503 with Retry-After."""
    backend = ScriptedBackend([TokenDelta("Once"), asyncio.Event(), END])
    async with serve_whole(backend) as (url, api), aiohttp.ClientSession(url) as http:

        async def ask() -> tuple[int, str, str]:
            async with http.post(path, json={**PATHS[path], "stream": stream}) as answer:
                return answer.status, await answer.text(), answer.headers.get("Retry-After", "")

        asking = asyncio.create_task(ask())
        await until(lambda: backend.open > 0)
        assert await api.leaving.drain(0.05) == 1
        status, text, retry = await asking
        if not stream:
            assert (status, retry) == (503, "5")
            return
        assert status == 200
        # The Responses API says it twice, in an event of its own and in `response.failed`.
        assert text.count("--shutdown-timeout") == (2 if path == "/v1/responses" else 1)
        assert "[DONE]" not in text
        last = [line for line in text.splitlines() if line.strip()][-1].removeprefix("data: ")
        assert "stop" in json.dumps(json.loads(last))
        assert backend.open == 0


async def test_a_node_that_stops_is_looked_at_and_asked_in_vain() -> None:
    """Probes see it on the connections that they hold, metrics are there; requests are sent elsewhere."""
    async with serve_whole(ScriptedBackend([END])) as (url, api), aiohttp.ClientSession(url) as http:
        async with http.get("/health") as answer:
            assert (answer.status, (await answer.json())["status"]) == (200, "ok")
        await api.leaving.drain(1.0)
        async with http.get("/health") as answer:
            assert (answer.status, (await answer.json())["status"]) == (503, "draining")
            assert answer.headers["Connection"] == "close"
        async with http.get("/v1/models") as answer:
            assert answer.status == 200
        async with http.post("/v1/messages", json=BODY) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
            assert (await answer.json())["type"] == "error"
