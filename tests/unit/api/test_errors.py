"""Failures as OpenAI's error object."""

from __future__ import annotations

import asyncio
import gzip
import logging
from typing import Any

import aiohttp
import pytest

from exo_node.api import errors
from exo_node.errors import BudgetExceeded, DigestMismatch, ExoError, NoCapacity, RateLimited, Unauthorized
from tests.unit.api.scripted import END, ScriptedBackend, serve_api

CHAT = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}


async def error_of(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    """The error object, after a check that it has OpenAI's four fields and nothing else is in the body."""
    body = await answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["code"], str)
    assert answer.headers["X-Request-Id"]
    error: dict[str, Any] = body["error"]
    return error


async def test_routes_and_methods() -> None:
    """An unknown route is a 404, a wrong method a 405 with Allow, both with OpenAI's body."""
    async with serve_api(ScriptedBackend([END])) as url, aiohttp.ClientSession(url) as http:
        async with http.get("/v1/nothing") as answer:
            assert (answer.status, (await error_of(answer))["code"]) == (404, "not_found")
        async with http.get("/v1/chat/completions") as answer:
            assert (answer.status, answer.headers["Allow"]) == (405, "POST")
            assert (await error_of(answer))["code"] == "method_not_allowed"


async def test_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken JSON and broken gzip are 400, good gzip is read, a body over the limit is 413, also when compressed."""
    monkeypatch.setattr("exo_node.api.app.MAX_BODY", 50_000)
    zipped = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    async with serve_api(ScriptedBackend([END])) as url, aiohttp.ClientSession(url) as http:
        path = "/v1/completions"
        async with http.post(path, data=b"{nope") as answer:
            assert (answer.status, (await error_of(answer))["code"]) == (400, "invalid_json")
        async with http.post(path, data=b"not gzip", headers=zipped) as answer:
            assert answer.status == 400
            await error_of(answer)
        good = gzip.compress(b'{"model": "demo", "prompt": "hi"}')
        async with http.post(path, data=good, headers=zipped) as answer:
            assert answer.status == 200
        async with http.post(path, data=b"x" * 60_000) as answer:
            assert (answer.status, (await error_of(answer))["code"]) == (413, "request_too_large")
        bomb = gzip.compress(b" " * 10_000_000)
        async with http.post(path, data=bomb, headers=zipped) as answer:
            assert (answer.status, (await error_of(answer))["code"]) == (413, "request_too_large")


def too_large() -> ExoError:
    error = RateLimited("larger than the limit")
    error.retryable = False
    return error


def unusable() -> ExoError:
    error = NoCapacity("no key for it")
    error.retryable = False
    return error


@pytest.mark.parametrize(
    ("error", "status", "code", "retry"),
    [
        (unusable(), 503, "no_capacity", None),
        (too_large(), 429, "rate_limit_exceeded", None),
        (NoCapacity("full", retry_after=2.2), 503, "no_capacity", "3"),
        (NoCapacity("full"), 503, "no_capacity", "1"),
        (Unauthorized("who is it"), 401, "invalid_api_key", None),
        (DigestMismatch("other files"), 409, "model_digest_mismatch", None),
        (ExoError("slow down", status=429, code="rate_limit_exceeded"), 429, "rate_limit_exceeded", "1"),
        (BudgetExceeded("spent", retry_after=60), 429, "budget_exceeded", "60"),
        (BudgetExceeded("spent", retry_after=60.1), 429, "budget_exceeded", "61"),
    ],
)
async def test_exo_errors(error: ExoError, status: int, code: str, retry: str | None) -> None:
    """An error keeps its status, message and code; what may be tried again says when, and SDKs are told when not to."""
    async with serve_api(ScriptedBackend([error])) as url, aiohttp.ClientSession(url) as http:
        for stream in (False, True):
            async with http.post("/v1/chat/completions", json={**CHAT, "stream": stream}) as answer:
                assert answer.status == status
                assert answer.headers.get("Retry-After") == retry
                assert (answer.headers.get("X-Should-Retry") == "false") == (
                    retry in (None, "61") and status not in (401, 409)
                )
                assert answer.headers.get("WWW-Authenticate") == ("Bearer" if status == 401 else None)
                told = await error_of(answer)
                assert (told["message"], told["code"]) == (error.message, code)


async def test_our_bugs_are_logged_not_told(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected exception is a 500 that gives away an id only; the log has the rest under that id."""
    backend = ScriptedBackend([KeyError("secret")])
    async with serve_api(backend) as url, aiohttp.ClientSession(url) as http:
        with caplog.at_level(logging.ERROR, logger=errors.__name__):
            async with http.post("/v1/chat/completions", json=CHAT) as answer:
                assert answer.status == 500
                told = await error_of(answer)
                assert answer.headers["X-Request-Id"] in told["message"]
                assert "secret" not in told["message"]
    assert "secret" in caplog.text


async def test_what_is_no_request_leaves_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """A port scanner's bytes are answered 400 and are at most a line of the log at -v."""
    caplog.set_level("INFO")
    async with serve_api(ScriptedBackend([END])) as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /health HTTP/1.1\r\nContent-Length: -5\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.0 400")
        writer.close()
    (record,) = [one for one in caplog.records if one.name.startswith(("exo_node", "aiohttp"))]
    assert (record.levelname, record.exc_info) == ("INFO", None)
    assert "\n" not in record.getMessage()
