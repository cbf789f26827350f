"""The application as a whole: which routes there are."""

from __future__ import annotations

import aiohttp
import pytest

from tests.unit.api.scripted import END, ScriptedBackend, serve_api

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
