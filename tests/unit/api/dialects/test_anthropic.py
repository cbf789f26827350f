"""Anthropic's routes over real sockets: headers, errors, counting."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from exo_node.api.ports import Principal
from exo_node.errors import NoCapacity, PeerUnavailable
from exo_node.routing.call import UpstreamError
from exo_node.types import TokenDelta, Usage
from tests.unit.api.dialects.test_anthropic_blocks import events
from tests.unit.api.scripted import ScriptedBackend, serve_api
from tests.unit.api.scripted_routing import ScriptedRouting

HELLO = [{"role": "user", "content": "Hello you"}]
ASKED: dict[str, Any] = {"model": "demo", "max_tokens": 9, "messages": HELLO}
SCRIPT = [TokenDelta("Hi", (1,)), TokenDelta(" you", (2,), (), "stop", Usage(5, 2, 4), stopped_by="!")]


async def send(
    body: Any = ASKED,
    path: str = "/v1/messages",
    *,
    method: str = "POST",
    backend: ScriptedBackend | None = None,
    routing: ScriptedRouting | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[aiohttp.ClientResponse, bytes]:
    async with (
        serve_api(backend or ScriptedBackend(SCRIPT), routing=routing) as url,
        aiohttp.ClientSession(url) as http,
        http.request(method, path, json=body, headers=headers) as answer,
    ):
        return answer, await answer.read()


@pytest.mark.parametrize("prefix", ["", "/anthropic"])
async def test_a_whole_answer(prefix: str) -> None:
    """The ring's, with the stop string that ended it; below both addresses; the request's id in their header."""
    answer, raw = await send({**ASKED, "stop_sequences": ["!"]}, f"{prefix}/v1/messages")
    made = json.loads(raw)
    assert made.pop("id").startswith("msg_")
    assert made == {
        "type": "message", "role": "assistant", "model": "demo", "content": [{"type": "text", "text": "Hi you"}],
        "stop_reason": "stop_sequence", "stop_sequence": "!",
        "usage": {"input_tokens": 1, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 4,
                  "output_tokens": 2},
    }  # fmt: skip
    assert answer.headers["request-id"] == answer.headers["X-Request-Id"]
    assert answer.headers["x-exo-backend"] == "ring:demo"


async def test_a_stream() -> None:
    """Anthropic's events and no [DONE]."""
    answer, raw = await send({**ASKED, "stream": True, "stop_sequences": ["!"]})
    made = events(raw)
    assert answer.content_type == "text/event-stream"
    assert answer.headers["request-id"]
    assert [event["type"] for event in made] == [
        "message_start", "content_block_start", "content_block_delta", "content_block_delta", "content_block_stop",
        "message_delta", "message_stop",
    ]  # fmt: skip
    assert made[0]["message"]["usage"]["input_tokens"] == 3  # estimated
    assert made[-2]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "!"}
    assert made[-2]["usage"]["input_tokens"] == 1


async def test_a_stream_that_breaks_off() -> None:
    """It ends with an error event, never with message_stop."""
    backend = ScriptedBackend([TokenDelta("Hi", (1,)), PeerUnavailable("node b is gone")])
    answer, raw = await send({**ASKED, "stream": True}, backend=backend)
    last = events(raw)[-1]
    assert (answer.status, last["type"], last["error"]["type"]) == (200, "error", "overloaded_error")
    assert "node b is gone" in last["error"]["message"]
    assert last["request_id"] == answer.headers["request-id"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (NoCapacity("full", retry_after=3), 503, "overloaded_error"),
        (UpstreamError("busy", "rate_limited", retry_after=3), 429, "rate_limit_error"),
    ],
)
async def test_an_error_before_the_first_word(error: Exception, status: int, said: str, stream: bool) -> None:
    """It has its status and says when to come back, for the SDKs' own retries."""
    routing = ScriptedRouting()
    routing.replies = [error]
    answer, raw = await send({**ASKED, "stream": stream}, routing=routing)
    assert (answer.status, answer.headers["Retry-After"]) == (status, "3")
    assert json.loads(raw)["error"]["type"] == said


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("GET", "/v1/messages", None, 405, "invalid_request_error"),
        ("POST", "/v1/messages/batches", {}, 404, "not_found_error"),
        ("POST", "/v1/messages", [], 400, "invalid_request_error"),
        ("POST", "/v1/messages", {"messages": []}, 400, "invalid_request_error"),
        ("POST", "/anthropic/v1/nothing", {}, 404, "not_found_error"),
    ],
)
async def test_every_error_has_their_shape(method: str, path: str, body: Any, status: int, said: str) -> None:
    """Wrong paths and methods too."""
    answer, raw = await send(body, path, method=method)
    made = json.loads(raw)
    assert (answer.status, made["type"], made["error"]["type"]) == (status, "error", said)
    assert made["request_id"] == answer.headers["request-id"]


@pytest.mark.parametrize("path", ["/v1/models/nope", "/v1/nothing", "/models?limit=0"])
async def test_their_clients_get_their_errors_on_shared_paths(path: str) -> None:
    """The header that they send tells them; without it the error is OpenAI's."""
    answer, raw = await send(None, path, method="GET", headers={"anthropic-version": "2023-06-01"})
    made = json.loads(raw)
    assert (answer.status // 100, made["type"], made["request_id"]) == (4, "error", answer.headers["request-id"])
    answer, raw = await send(None, "/v1/models/nope", method="GET")
    assert (answer.status, json.loads(raw).keys()) == (404, {"error"})


async def test_keys() -> None:
    """Either header; without a key the error has Anthropic's type."""
    routing = ScriptedRouting(ScriptedBackend(SCRIPT))
    routing.keys = {"good": Principal("k1")}
    routing.replies = [UpstreamError("busy", "rate_limited")] * 2
    for headers in ({"x-api-key": "good"}, {"Authorization": "Bearer good"}):
        assert (await send(routing=routing, headers=headers))[0].status == 429
    answer, raw = await send(routing=routing, headers={"x-api-key": "bad"})
    assert (answer.status, json.loads(raw)["error"]["type"]) == (401, "authentication_error")


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_an_unknown_field(path: str) -> None:
    """A 400 as from Anthropic; a client of betas is told by a header, in one printable line."""
    body = {**ASKED, "seed": 1, "new\r\nfield": 2}
    answer, raw = await send(body, path)
    assert (answer.status, json.loads(raw)["error"]["message"]) == (400, "seed: Extra inputs are not permitted")
    answer, _ = await send(body, path, headers={"anthropic-beta": "new-2026-11-01"})
    assert (answer.status, answer.headers["x-exo-ignored"]) == (200, "seed, new field")


async def test_a_prefill_reaches_the_ring() -> None:
    """As the beginning of its answer, not as a message."""
    backend = ScriptedBackend(SCRIPT)
    await send({**ASKED, "messages": [*HELLO, {"role": "assistant", "content": "Well,"}]}, backend=backend)
    (request,) = backend.requests
    assert (request.prefix, [one["content"] for one in request.messages or ()]) == ("Well,", ["Hello you"])
    assert request.prefilled == len("Well,")


async def test_counting_tokens() -> None:
    """The local model counts; elsewhere it is an estimate, and a header says so."""
    routing = ScriptedRouting()
    answer, raw = await send({"model": "demo", "messages": HELLO}, "/v1/messages/count_tokens", routing=routing)
    assert (json.loads(raw), answer.headers["x-exo-estimated"]) == ({"input_tokens": 3}, "true")
    backend = ScriptedBackend(SCRIPT)
    local = RingFirst(backend)
    answer, raw = await send(
        {"model": "demo", "messages": HELLO, "system": "Be"},
        "/v1/messages/count_tokens",
        backend=backend,
        routing=local,
    )
    assert json.loads(raw) == {"input_tokens": 9}
    assert "x-exo-estimated" not in answer.headers


class RingFirst(ScriptedRouting):
    async def explain(self, call: Any) -> dict[str, Any]:
        return {"steps": [{"kind": "ring", "model": call.model}]}


async def test_models() -> None:
    """At OpenAI's path, for those who send Anthropic's header, and below their own; others see nothing of it."""
    headers = {"anthropic-version": "2023-06-01"}
    _, raw = await send(None, "/v1/models?limit=1", method="GET", headers=headers)
    page = json.loads(raw)
    assert (page["has_more"], page["first_id"], page["data"][0]["type"]) == (True, "demo", "model")
    _, raw = await send(None, "/anthropic/v1/models/demo", method="GET")
    assert json.loads(raw)["display_name"] == "demo"
    _, raw = await send(None, "/anthropic/v1/models", method="GET")
    assert json.loads(raw)["has_more"] is False
    _, raw = await send(None, "/v1/models", method="GET")
    assert json.loads(raw).keys() == {"object", "data"}
