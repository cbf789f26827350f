"""The application as a whole: which routes there are."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import aiohttp
import pytest

from exo_node.api.app import ChatGPTAPI
from exo_node.api.operations import operation_of
from exo_node.config import Settings
from exo_node.store import Store, store_path
from exo_node.store_audit import AuditTable
from tests.unit.api.scripted import END, ScriptedBackend, ScriptedCluster, serve_api
from tests.unit.api.scripted_routing import ScriptedRouting

CALLS = ["/models", "/models/demo", "/providers", "/providers/openai", "/router/stats", "/deployments", "/spend"]
CLUSTER = ["/health", "/healthcheck", "/topology", "/instances"]
POSTS = [
    "/chat/completions", "/completions", "/embeddings", "/rerank", "/vision", "/batch/completions", "/cost/estimate",
    "/images/generations", "/audio/speech", "/audio/transcriptions", "/moderations", "/deployments", "/route/explain",
    "/config",
]  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "/v1", "/api/v1/litellm", "/api/v1/litellm/v1"])
async def test_what_a_call_needs_is_there_under_document_002s_paths_too(prefix: str) -> None:
    """Each route that serves or concerns calls answers at all four places; an empty body is a 400 everywhere."""
    async with serve_api(ScriptedBackend([END])) as url, aiohttp.ClientSession(url) as http:
        for route in CALLS:
            async with http.get(prefix + route) as answer:
                assert answer.status == 200, route
        for route in POSTS:
            async with http.post(prefix + route, json={}) as answer:
                told = (answer.status, (await answer.json())["error"]["type"])
                assert told == (400, "invalid_request_error"), route


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_every_route_with_and_without_v1(prefix: str) -> None:
    """Each route answers at both places."""
    async with serve_api(ScriptedBackend([END])) as url, aiohttp.ClientSession(url) as http:
        for route in [*CALLS, *CLUSTER]:
            async with http.get(prefix + route) as answer:
                assert answer.status == 200, route
            async with http.head(prefix + route) as answer:  # what health probes and link checkers send
                assert (answer.status, await answer.read()) == (200, b""), route
        for route in ("/chat/completions", "/completions", "/instances"):
            async with http.post(prefix + route, json={}) as answer:
                assert (answer.status, (await answer.json())["error"]["type"]) == (400, "invalid_request_error")
        async with http.delete(prefix + "/instances/x") as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (404, "not_found")


# What changes the node, or tells of all of its callers: nobody else's than the admin's.
ADMINS = {
    "POST /v1/deployments", "DELETE /v1/deployments/{id}", "POST /v1/config", "POST /v1/config/reload", "POST /quit",
    "DELETE /models/{name}", "DELETE /download/{node}/{model}", "POST /api/copy", "DELETE /api/delete",
    "POST /v1/nodes/{id}/drain",
}  # fmt: skip
READERS = {"GET /v1/spend"}
ANYBODYS = {"GET /", "GET /health", "GET /v1/health", "GET /healthcheck", "GET /v1/healthcheck"}
# What costs nothing and changes nothing though it is a POST.
SEEN = {"POST /v1/route/explain", "POST /v1/cost/estimate", "POST /api/show"}


async def test_every_route_says_who_may_ask() -> None:
    """Each route has a scope: the named ones those above, every other POST and DELETE at least `use`; and what changes
    the node is marked for the audit log. (Issue 6, 5: scopes, audit log.)"""
    found: dict[str, set[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder))
        store, backend = Store(store_path(settings.home)), ScriptedBackend([END])
        routing = ScriptedRouting(backend, settings)
        app = ChatGPTAPI(settings, backend, ScriptedCluster(), routing, store, AuditTable(store)).app
        for route in app.router.routes():
            said = operation_of(route.handler)
            name = f"{route.method} {route.resource.canonical if route.resource else ''}"
            assert said is not None and said.scope is not None, f"{name} says no scope"
            if route.method == "HEAD" or said.status == 501:
                continue
            found.setdefault(said.scope, set()).add(name)
            assert said.act or said.scope != "admin" or route.method == "GET", f"{name} is not in the audit log"
        store.close()
    assert found["admin"] >= ADMINS and found["read"] >= READERS and found["see"] >= SEEN
    assert found["open"] == ANYBODYS
    writing = {re.sub("^POST (/api/v1/litellm|/ollama)?(/v1)?", "POST ", one) for one in found["see"]}
    assert {one for one in writing if not one.startswith("GET ")} == {one.replace("/v1", "") for one in SEEN}


async def test_the_address_alone() -> None:
    """`/` says what answers here and where to go on, to HEAD and without a key too; to whom asks for no kind of data it
    says what Ollama's clients look for."""
    async with serve_api(ScriptedBackend([END]), api_key="k") as url, aiohttp.ClientSession(url) as http:
        async with http.get("/") as answer:
            assert (answer.content_type, await answer.text()) == ("text/plain", "Ollama is running")
        async with http.get("/", headers={"Accept": "text/html, */*"}) as answer:
            told = await answer.json()
            assert (answer.status, told["message"], told["models"]) == (200, "exo is running", "/v1/models")
        async with http.head("/") as answer:
            assert answer.status == 200
        async with http.get("/v1", headers={"x-api-key": "k"}) as answer:
            assert await answer.json() == told
        for path in {path for path in told.values() if path.startswith("/") and path != "/v1/chat/completions"}:
            async with http.get(path, headers={"x-api-key": "k"}) as answer:
                assert answer.status == 200, path
