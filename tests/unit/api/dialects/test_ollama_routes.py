"""Ollama's routes that ask a model, over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from exo_node.errors import ModelNotFound, NoCapacity, PeerUnavailable
from exo_node.types import TokenDelta, Usage
from tests.unit.api.scripted import ScriptedBackend, ScriptedCluster, serve_api, until
from tests.unit.api.scripted_routing import ScriptedRouting, whole

HI = [{"role": "user", "content": "Hi"}]
SCRIPT = [TokenDelta("He"), TokenDelta("y", finish_reason="stop", usage=Usage(4, 2))]
VECTORS = {
    "data": [{"index": 1, "embedding": [3.0]}, {"index": 0, "embedding": [1.0]}], "usage": {"prompt_tokens": 9},
}  # fmt: skip


class Idle(ScriptedCluster):
    """Nobody uses its instances."""

    async def instance_stats(self, instance_id: str) -> list[dict[str, Any]] | None:
        return [{"running": 0, "waiting": 0, "steps": 1}]


class Stage:
    def __init__(self, script: Any) -> None:
        self.backend, self.cluster, self.routing = ScriptedBackend(script), Idle(), ScriptedRouting()
        self.http: aiohttp.ClientSession

    async def post(self, path: str, **body: Any) -> tuple[int, Any]:
        """Status, and the JSON or the lines of the answer."""
        async with self.http.post(f"/api/{path}", json={"model": "demo", **body}) as answer:
            text = await answer.text()
            if answer.content_type == "application/x-ndjson":
                return answer.status, [json.loads(line) for line in text.splitlines()]
            return answer.status, json.loads(text)


@asynccontextmanager
async def stage(script: Any = SCRIPT, *, scripted: bool = False, **settings: Any) -> AsyncIterator[Stage]:
    made = Stage(script)
    routing = made.routing if scripted else None
    async with (
        serve_api(made.backend, made.cluster, routing, **settings) as url,
        aiohttp.ClientSession(url) as made.http,
    ):
        yield made


async def test_chat_and_generate() -> None:
    """Lines unless `stream` is false; the model is loaded first, once, and asked under our name."""
    async with stage() as on:
        for path, asked in (
            ("chat", {"messages": HI}),
            ("generate", {"prompt": "Hi"}),
            ("generate", {"prompt": "Hi", "raw": True}),
        ):
            for _, name in ((0, "demo:latest"), (1, "demo")):
                status, lines = await on.post(path, **asked, model=name)
                texts = [line.get("response", line.get("message", {}).get("content")) for line in lines]
                assert (status, "".join(texts), lines[-1]["done_reason"]) == (200, "Hey", "stop")
                assert {line["model"] for line in lines} == {name}
            status, answer = await on.post(path, **asked, stream=False)
            assert (status, answer["eval_count"], answer["prompt_eval_count"]) == (200, 2, 4)
            assert answer["total_duration"] >= answer["eval_duration"] > 0
    assert {request.model for request in on.backend.requests} == {"demo"}
    assert [call["model"] for call in on.cluster.calls] == ["demo"]


async def test_load_and_unload() -> None:
    """An empty request loads the model, with `keep_alive` 0 it unloads it; what cannot be loaded says why."""
    async with stage() as on:
        for path in ("chat", "generate"):
            status, answer = await on.post(path)
            assert (status, answer["done_reason"], len(on.cluster.placed)) == (200, "load", 1)
            assert answer["load_duration"] > 0
            status, answer = await on.post(path, keep_alive=0)
            assert (status, answer["done_reason"], on.cluster.placed) == (200, "unload", [])
        assert (await on.post("generate", model="nope"))[0] == 404
        assert (await on.post("generate", model="nope", keep_alive=0))[0] == 404
        on.cluster.error = NoCapacity("no room")
        assert await on.post("chat") == (503, {"error": "no room"})
    assert on.backend.requests == []


async def test_unloaded_after_the_answer() -> None:
    """`keep_alive` 0 beside a question answers it first."""
    async with stage() as on:
        status, lines = await on.post("chat", messages=HI, keep_alive=0)
        assert (status, lines[-1]["done"]) == (200, True)
        await until(lambda: not on.cluster.placed)


async def test_errors_before_the_first_word() -> None:
    """They have their status and Ollama's shape, in both forms; a model that does not think is not asked to."""
    async with stage([ModelNotFound("no model")]) as on:
        for stream in (True, False):
            assert await on.post("chat", messages=HI, stream=stream) == (404, {"error": "no model"})
        status, answer = await on.post("chat", messages=HI, think=True)
        assert (status, answer) == (400, {"error": "think: 'demo' does not support thinking"})
        status, answer = await on.post("chat", messages=HI, options={"mirostat": 1})
        assert (status, answer["error"].partition(":")[0]) == (400, "options.mirostat")
        async with on.http.post("/ollama/api/chat", data=b"{") as bad:
            assert (bad.status, list(await bad.json())) == (400, ["error"])


async def test_errors_after_the_first_word() -> None:
    """A stream ends with an error's line; a whole answer is an error."""
    async with stage([TokenDelta("He"), PeerUnavailable("node b is gone")]) as on:
        status, lines = await on.post("chat", messages=HI)
        lost = "the answer broke off after 1 token: node b is gone"
        assert (status, lines[0]["message"]["content"], lines[-1]) == (200, "He", {"error": lost})
        assert (await on.post("chat", messages=HI, stream=False))[0] == 503


async def test_a_client_that_leaves() -> None:
    """Its sequence is cancelled."""
    async with stage([TokenDelta("He"), asyncio.Event()]) as on:
        answer = await on.http.post("/api/chat", json={"model": "demo", "messages": HI})
        await answer.content.readline()
        assert on.backend.open == 1
        answer.close()
        await until(lambda: on.backend.open == 0)


async def test_a_late_answer() -> None:
    """A whole answer has the node's time and no more."""
    async with stage([TokenDelta("He"), asyncio.Event()], response_timeout=0.2) as on:
        assert (await on.post("chat", messages=HI, stream=False))[0] == 504


async def test_embeddings() -> None:
    """Vectors in the order of their texts; the older route has one; nothing to embed loads the model."""
    async with stage(scripted=True) as on:
        on.routing.replies = [whole(VECTORS), whole({"data": [{"embedding": [0.5]}]})]
        status, answer = await on.post("embed", input=["a", "b"], dimensions=1, truncate=True)
        assert (status, answer["embeddings"], answer["prompt_eval_count"]) == (200, [[1.0], [3.0]], 9)
        assert await on.post("embeddings", prompt="a") == (200, {"embedding": [0.5]})
        assert [call.body.get("dimensions") for call in on.routing.calls] == [1, None]
        assert (await on.post("embed", input=[]))[1]["embeddings"] == []
        assert await on.post("embeddings") == (200, {"embedding": []})
        assert len(on.cluster.placed) == 1
        assert (await on.post("embed"))[0] == 400
        on.routing.replies = [whole(VECTORS)]
        async with on.http.post("/api/embed", json={"model": "demo", "input": ["a", "b"]}) as sent:
            assert sent.headers["x-exo-backend"] == "scripted"


@pytest.mark.parametrize("think", [False, "low"])
async def test_a_providers_model(think: bool | str) -> None:
    """It is neither loaded nor judged: it gets OpenAI's field, and is asked for a whole answer where one is wanted."""
    async with stage(scripted=True) as on:
        on.routing.rows = [{"id": "fast", "owned_by": "openai"}]
        message = {"role": "assistant", "content": "Hey"}
        on.routing.replies = [whole({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})]
        status, answer = await on.post("chat", model="fast", messages=HI, think=think, stream=False)
        assert (status, answer["message"]["content"]) == (200, "Hey")
        assert on.routing.calls[0].body["reasoning_effort"] == (think or "none")
        assert not on.routing.calls[0].stream
        assert (await on.post("chat", model="fast"))[1]["done_reason"] == "load"
        assert on.cluster.calls == []
