"""Ollama's routes about models, over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from exo_node.api.dialects.ollama_api import PREFIXES, RUNNING
from exo_node.api.ports import Principal
from exo_node.errors import DownloadError
from tests.unit.api.scripted import ScriptedBackend, ScriptedCluster, serve_api
from tests.unit.api.scripted_routing import ScriptedRouting

ROW = {"id": "fast", "owned_by": "openai", "capabilities": ["tools"]}


class Stage:
    def __init__(self) -> None:
        self.backend, self.cluster, self.routing = ScriptedBackend([]), ScriptedCluster(), ScriptedRouting()
        self.routing.rows = [ROW]
        self.http: aiohttp.ClientSession

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Status, and the JSON or the lines of the answer."""
        async with self.http.request(method, path, **options) as answer:
            text = await answer.text()
            if answer.content_type == "application/x-ndjson":
                return answer.status, [json.loads(line) for line in text.splitlines()]
            return answer.status, json.loads(text) if text else None


@asynccontextmanager
async def stage(**settings: Any) -> AsyncIterator[Stage]:
    made = Stage()
    async with (
        serve_api(made.backend, made.cluster, made.routing, **settings) as url,
        aiohttp.ClientSession(url) as made.http,
    ):
        yield made


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_lists(prefix: str) -> None:
    """What there is, what runs, one of them, and a version: at the root and below /ollama."""
    async with stage() as on:
        models = (await on.ask("GET", f"{prefix}/api/tags"))[1]["models"]
        assert [model["name"] for model in models] == ["demo", "org/name", "fast"]
        assert (await on.ask("GET", f"{prefix}/api/ps"))[1] == {"models": []}
        shown = (await on.ask("POST", f"{prefix}/api/show", json={"model": "demo:latest"}))[1]
        assert shown["capabilities"] == ["completion", "tools", "embedding"]
        assert (await on.ask("POST", f"{prefix}/api/show", json={"name": "fast"}))[1]["remote_host"] == "openai"
        assert "version" in (await on.ask("GET", f"{prefix}/api/version"))[1]
        async with on.http.get("/ollama") as answer:
            assert await answer.text() == RUNNING


async def test_what_is_not_done() -> None:
    """501 that says why; unknown routes and models 404; all in Ollama's shape, but not below /api/v1."""
    async with stage() as on:
        for name in ("push", "create", "blobs/sha256:00"):
            status, body = await on.ask("POST", f"/api/{name}", json={})
            assert (status, "is not done" in body["error"]) == (501, True)
        assert (await on.ask("HEAD", "/api/blobs/sha256:00"))[0] == 501
        assert await on.ask("GET", "/api/what") == (404, {"error": "no such route: GET /api/what"})
        assert (await on.ask("GET", "/api/v1/what"))[1]["error"]["code"] == "not_found"
        assert (await on.ask("POST", "/api/show", json={"model": "nope"}))[0] == 404
        assert await on.ask("POST", "/api/show", json={}) == (400, {"error": "model: is required"})


async def test_pull() -> None:
    """The way of a download line by line, or its end; under either name of the field."""
    async with stage() as on:
        on.cluster.fetchable = {"org/Llama-1B": [("fetching", 5, 10), ("hashing", 0, 10)], "llama-3.2-1b": []}
        status, lines = await on.ask("POST", "/api/pull", json={"model": "org/Llama-1B", "insecure": True})
        assert status == 200
        assert [line["status"].split()[0] for line in lines] == ["pulling", "pulling", "verifying", "success"]
        assert (lines[1]["completed"], lines[1]["total"], len(lines[1]["digest"])) == (5, 10, 71)
        assert await on.ask("POST", "/api/pull", json={"name": "llama3.2:1b", "stream": False}) == (
            200,
            {"status": "success"},
        )
        assert on.cluster.fetched == ["org/Llama-1B", "llama-3.2-1b"]
        assert (await on.ask("POST", "/api/pull", json={"model": "fast"}))[1] == [{"status": "success"}]


async def test_a_pull_that_fails() -> None:
    """Before the first line with its status, after it with an error's line."""

    class Broken(ScriptedCluster):
        async def fetch_model(self, model: str, on_progress: Any) -> str:
            on_progress("fetching", 1, 2)
            raise DownloadError("the hub is gone")

    async with stage() as on:
        assert await on.ask("POST", "/api/pull", json={"model": "a/b"}) == (404, {"error": "no model 'a/b'"})
    async with (
        serve_api(ScriptedBackend([]), Broken(), ScriptedRouting()) as url,
        aiohttp.ClientSession(url) as http,
        http.post("/api/pull", json={"model": "a/b"}) as answer,
    ):
        assert json.loads((await answer.text()).splitlines()[-1]) == {"error": "the hub is gone"}


async def test_delete() -> None:
    """Files go with the admin's key only; a provider's model has none."""
    async with stage(api_key="boss") as on:
        on.cluster.fetched = ["org/name"]
        on.routing.keys = {"guest": Principal("g")}
        guest, boss = ({"Authorization": f"Bearer {key}"} for key in ("guest", "boss"))
        body = {"model": "org/name"}
        assert (await on.ask("DELETE", "/api/delete", json=body, headers=guest))[0] == 403
        assert await on.ask("DELETE", "/api/delete", json=body, headers=boss) == (200, {})
        assert on.cluster.fetched == []
        assert (await on.ask("DELETE", "/api/delete", json=body, headers=boss))[0] == 404
        assert (await on.ask("DELETE", "/api/delete", json={"model": "fast"}, headers=boss))[0] == 400


async def test_copy() -> None:
    """An empty 200; a copy is listed as a model, and its name goes alone; what is missing, unknown or taken is told."""
    async with stage() as on:
        copy = {"source": "demo:latest", "destination": "mine:latest"}
        assert await on.ask("POST", "/ollama/api/copy", json=copy) == (200, None)
        assert on.cluster.copied == [("demo", "mine")]
        on.backend.cards[0] = replace(on.backend.cards[0], copies=("Mine",))
        models = (await on.ask("GET", "/api/tags"))[1]["models"]
        assert [model["name"] for model in models] == ["demo", "Mine", "org/name", "fast"]
        assert models[0]["digest"] == models[1]["digest"]
        rows = (await on.ask("GET", "/v1/models"))[1]["data"]
        assert [row["id"] for row in rows] == ["demo", "Mine", "org/name", "fast"]
        assert (await on.ask("GET", "/v1/models/Mine"))[1]["hugging_face_id"] == "demo"
        assert (await on.ask("POST", "/api/copy", json={"source": "mine", "destination": "x"}))[0] == 200
        on.cluster.fetched = ["mine"]
        assert (await on.ask("DELETE", "/api/delete", json={"model": "mine"}))[0] == 200
        assert on.cluster.fetched == []
        on.cluster.copied.clear()
        for source, destination, wanted in (
            *((None, "x", 400), ("demo", None, 400), ("", "x", 400), ("demo", "", 400), ("demo", 5, 400)),
            *(("nope", "x", 404), ("fast", "x", 400), ("llama-3.2-1b", "x", 404)),
            *(("demo", "fast", 409), ("demo", "FAST", 409), ("demo", "openai/x", 409), ("demo", "gpt-4o", 409)),
        ):
            body = {"source": source, "destination": destination}
            status, told = await on.ask("POST", "/api/copy", json=body)
            assert (status, list(told)) == (wanted, ["error"]), body
        assert on.cluster.copied == []


async def test_who_may_copy() -> None:
    """The admin's key only, and what that key may ask for."""
    async with stage(api_key="boss") as on:
        may = {"guest": Principal("g"), "limited": Principal("l", admin=True, may_ask=lambda name: name == "org/name")}
        on.routing.keys = may
        for key, source, destination, wanted in (
            ("guest", "demo", "x", 403),
            ("limited", "demo", "org/name", 403),
            ("limited", "org/name", "x", 403),
            ("boss", "demo", "x", 200),
        ):
            body, headers = {"source": source, "destination": destination}, {"Authorization": f"Bearer {key}"}
            assert (await on.ask("POST", "/api/copy", json=body, headers=headers))[0] == wanted
        assert on.cluster.copied == [("demo", "x")]


async def test_a_keys_models() -> None:
    """A key sees, shows, loads and fetches what it may ask for."""
    async with stage(api_key="boss") as on:
        on.routing.keys = {"guest": Principal("g", may_ask=lambda model: model in ("fast", "exo-demo"))}
        guest = {"Authorization": "Bearer guest"}
        on.cluster.placed = [{"id": "i", "model": "demo", "state": "ready"}]
        listed = (await on.ask("GET", "/api/tags", headers=guest))[1]["models"]
        assert [model["name"] for model in listed] == ["exo-demo", "fast"]
        assert (await on.ask("GET", "/api/ps", headers=guest))[1] == {"models": []}
        for path in ("show", "pull", "generate", "chat"):
            assert (await on.ask("POST", f"/api/{path}", json={"model": "demo"}, headers=guest))[0] == 403
        assert (await on.ask("POST", "/api/generate", json={"model": "demo", "keep_alive": 0}, headers=guest))[0] == 403
        assert len(on.cluster.placed) == 1
        assert (await on.ask("GET", "/api/tags"))[0] == 401
