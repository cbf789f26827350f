"""The application as a whole: which routes there are."""

from __future__ import annotations

import aiohttp
import pytest

from tests.unit.api.scripted import END, ScriptedBackend, serve_api

ROUTES = ["/models", "/models/demo", "/health", "/healthcheck", "/topology", "/instances"]


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_every_route_with_and_without_v1(prefix: str) -> None:
    """Each route answers at both places."""
    async with serve_api(ScriptedBackend([END])) as url, aiohttp.ClientSession(url) as http:
        for route in ROUTES:
            async with http.get(prefix + route) as answer:
                assert answer.status == 200, route
            async with http.head(prefix + route) as answer:  # what health probes and link checkers send
                assert (answer.status, await answer.read()) == (200, b""), route
        for route in ("/chat/completions", "/completions", "/instances"):
            async with http.post(prefix + route, json={}) as answer:
                assert (answer.status, (await answer.json())["error"]["type"]) == (400, "invalid_request_error")
        async with http.delete(prefix + "/instances/x") as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (404, "not_found")
