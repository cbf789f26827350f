"""OpenAI's routes over a scripted backend, at the level of HTTP."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import aiohttp
import pytest
from yarl import URL

from exo_node.api.ports import Principal
from exo_node.errors import DownloadError, ModelNotFound
from exo_node.types import GenerationRequest, TokenDelta, Usage
from tests.unit.api.scripted import END, ScriptedBackend, Step, serve_api, until
from tests.unit.api.scripted_routing import ScriptedRouting

CHAT = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}


def is_open(backend: ScriptedBackend, count: int) -> bool:
    return backend.open == count


async def post(backend: ScriptedBackend, path: str, body: Any, **settings: Any) -> tuple[int, Any]:
    async with (
        serve_api(backend, **settings) as url,
        aiohttp.ClientSession(url) as http,
        http.post(path, json=body) as answer,
    ):
        return answer.status, await answer.json()


@pytest.mark.parametrize("path", ["demo", "exo-demo", "org%2Fname", "org/name"])
async def test_one_model(path: str) -> None:
    """A model is found by id or alias, with its slash encoded or not."""
    async with (
        serve_api(ScriptedBackend([END])) as url,
        aiohttp.ClientSession() as http,
        http.get(URL(f"{url}/v1/models/{path}", encoded=True)) as answer,
    ):
        assert answer.status == 200
        assert (await answer.json())["id"] in ("demo", "org/name")


async def test_unknown_model_lists_what_there_is() -> None:
    """404 model_not_found names the models that exist."""
    async with (
        serve_api(ScriptedBackend([END])) as url,
        aiohttp.ClientSession(url) as http,
        http.get("/v1/models/nope") as answer,
    ):
        error = (await answer.json())["error"]
        assert (answer.status, error["code"]) == (404, "model_not_found")
        assert "demo, org/name" in error["message"]


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("", ["demo", "org/name", "openai/gpt-4o", "ollama/llama3.2"]),
        ("?provider=ollama", ["ollama/llama3.2"]),
        ("?provider=exo", ["demo", "org/name"]),
        ("?provider=groq", []),
    ],
)
async def test_models_of_all_providers(query: str, ids: list[str]) -> None:
    """Local models first, then external ones; a provider's alone when asked; an unknown provider is a 404."""
    routing = ScriptedRouting()
    routing.rows = [{"id": "openai/gpt-4o", "owned_by": "openai"}, {"id": "ollama/llama3.2", "owned_by": "ollama"}]
    async with serve_api(ScriptedBackend([END]), routing=routing) as url, aiohttp.ClientSession(url) as http:
        async with http.get(f"/api/v1/litellm/models{query}") as answer:
            assert [row["id"] for row in (await answer.json())["data"]] == ids
        async with http.get("/v1/models?provider=nope") as answer:
            error = (await answer.json())["error"]
            assert (answer.status, error["param"], "exo, openai, groq" in error["message"]) == (404, "provider", True)
        async with http.get("/v1/models/openai/gpt-4o") as answer:
            shown = await answer.json()
            assert (shown["object"], shown["owned_by"], shown["context_length"]) == ("model", "openai", None)


async def test_models_that_cannot_be_listed() -> None:
    """A failure of the catalog has its own status."""
    backend = ScriptedBackend([END])
    backend.models_error = DownloadError("hub unreachable")
    async with serve_api(backend) as url, aiohttp.ClientSession(url) as http, http.get("/v1/models") as answer:
        assert answer.status == 502


async def test_choices_of_one_chat() -> None:
    """n choices come back by index, whatever order they end in, and each reached the backend with its own seed."""

    def script(request: GenerationRequest) -> list[Step]:
        late = 0.03 if request.seed == 1 else 0.0
        return [late, TokenDelta(f"seed {request.seed}", finish_reason="stop", usage=Usage(4, 2))]

    backend = ScriptedBackend(script)
    status, body = await post(backend, "/v1/chat/completions", {**CHAT, "n": 3, "seed": 1})
    assert status == 200
    assert [choice["message"]["content"] for choice in body["choices"]] == ["seed 1", "seed 2", "seed 3"]
    assert body["usage"]["prompt_tokens"] == 4
    assert body["usage"]["completion_tokens"] == 6
    assert backend.open == 0


async def test_one_failing_choice_fails_the_request() -> None:
    """No half answers: the first failure is the answer, and the other sequences are closed."""
    backend = ScriptedBackend(lambda r: [ModelNotFound("no")] if r.request_id.endswith("-0") else [asyncio.Event()])
    status, body = await post(backend, "/v1/chat/completions", {**CHAT, "n": 2})
    assert (status, body["error"]["code"]) == (404, "model_not_found")
    assert backend.open == 0


async def test_bad_requests_reach_no_backend() -> None:
    """A 400 is said before anything is generated, with the field in `param`."""
    backend = ScriptedBackend([END])
    status, body = await post(backend, "/v1/chat/completions", {**CHAT, "temperature": 3})
    assert (status, body["error"]["param"], backend.requests) == (400, "temperature", [])


async def test_time_limit_of_a_plain_answer() -> None:
    """A plain answer that takes too long is a 504, and its sequence is closed."""
    backend = ScriptedBackend([TokenDelta("a"), asyncio.Event()])
    status, body = await post(backend, "/v1/chat/completions", CHAT, response_timeout=0.05)
    assert (status, body["error"]["code"]) == (504, "deadline_exceeded")
    assert backend.open == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_a_client_that_goes_away(path: str, stream: bool) -> None:
    """Closing the connection closes the backend's generators, streaming or not, before and after the first word."""
    scripts: list[list[Step]] = [[asyncio.Event()], [TokenDelta("a"), asyncio.Event()]]
    for steps in scripts:
        backend = ScriptedBackend(steps)
        asked = CHAT if "chat" in path else {"model": "demo", "prompt": "x"}
        body = json.dumps({**asked, "stream": stream, "n": 2}).encode()
        async with serve_api(backend) as url:
            host, port = url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await until(partial(is_open, backend, 2))
            if stream and len(steps) > 1:
                await reader.readuntil(b"data: ")
            writer.close()
            await until(partial(is_open, backend, 0))


async def test_a_reader_that_stops_reading_holds_nobody_up() -> None:
    """A client that does not read makes the server wait for it alone: the sequence runs to its end meanwhile."""
    deltas = [TokenDelta("x" * 10_000) for _ in range(2_000)]  # 20 MB: more than the socket's buffers
    backend = ScriptedBackend([*deltas, END])
    body = json.dumps({**CHAT, "stream": True}).encode()
    async with serve_api(backend) as url:
        host, port = url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port), limit=1)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await until(lambda: len(backend.requests) == 1)
        await until(lambda: backend.open == 0)
        writer.close()


async def test_a_restricted_key_sees_its_models_only() -> None:
    """Models, deployments and the words of a 404 name what the key may ask for, under names that it may use."""
    routing = ScriptedRouting()
    routing.rows = [
        {"id": "openai/gpt-4o", "owned_by": "openai", "targets": ["exo-demo", "openai/o3"]},
        {"id": "openai/o3", "owned_by": "openai"},
    ]
    routing.keys = {
        "some": Principal("key-1", may_ask=lambda name: name in ("exo-demo", "openai/gpt-4o")),
        "all": Principal("key-2"),
    }
    async with serve_api(ScriptedBackend([END]), routing=routing) as url, aiohttp.ClientSession(url) as http:
        for key, ids in (
            ("some", ["exo-demo", "openai/gpt-4o"]),
            ("all", ["demo", "org/name", "openai/gpt-4o", "openai/o3"]),
        ):
            async with http.get("/v1/models", headers={"x-api-key": key}) as answer:
                assert [row["id"] for row in (await answer.json())["data"]] == ids
        for path in ("/v1/models/openai/o3", "/v1/models/demo"):
            async with http.get(path, headers={"x-api-key": "some"}) as answer:
                error = (await answer.json())["error"]
                assert (answer.status, error["message"].partition("there are: ")[2]) == (404, "exo-demo, openai/gpt-4o")
        async with http.get("/v1/models?provider=openai", headers={"x-api-key": "some"}) as answer:
            (row,) = (await answer.json())["data"]
            assert row["targets"] == ["exo-demo"]
        async with http.get("/v1/router/stats", headers={"x-api-key": "some"}) as answer:
            assert (await answer.json())["model_list"] == []
        async with http.get("/v1/deployments", headers={"x-api-key": "some"}) as answer:
            assert (await answer.json())["data"] == []
        async with http.get("/v1/deployments/d1", headers={"x-api-key": "all"}) as answer:
            assert answer.status == 200
