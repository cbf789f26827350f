"""Who may call."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from tests.unit.api.scripted import END, ScriptedBackend, serve_api

KEY = "exo-secret"


async def get(url: str, path: str, **headers: str) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession(url) as http,
        http.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()}) as answer,
    ):
        return answer.status, await answer.json()


async def test_key() -> None:
    """With a key set, it is wanted as Bearer or x-api-key, on every route but the probes."""
    async with serve_api(ScriptedBackend([END]), api_key=KEY) as url:
        assert (await get(url, "/v1/models", Authorization=f"Bearer {KEY}"))[0] == 200
        assert (await get(url, "/v1/models", Authorization=f"bearer {KEY}"))[0] == 200
        assert (await get(url, "/v1/models", x_api_key=KEY))[0] == 200
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"x_api_key": "ключ"},
            {"Authorization": f"Basic {KEY}"},
        ):
            status, body = await get(url, "/v1/models", **headers)
            assert (status, body["error"]["code"]) == (401, "invalid_api_key")
        assert (await get(url, "/nothing"))[0] == 401
        assert await get(url, "/health") == (200, {"status": "ok"})
        assert await get(url, "/health", x_api_key=KEY) == (200, {"status": "ok", "node_id": "node-a"})
        assert (await get(url, "/healthcheck"))[0] == 200


async def test_without_a_key_any_bearer_is_fine() -> None:
    """SDKs insist on sending a key; a node without one takes any."""
    async with serve_api(ScriptedBackend([END])) as url:
        assert (await get(url, "/v1/models", Authorization="Bearer any"))[0] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:52415"}, 200),
        ({"Host": "127.0.0.1"}, 200),
        ({"Host": "[::1]:5"}, 200),
        ({"Host": "evil.example:52415"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "[bad"}, 403),
        ({"Origin": "http://localhost:3000"}, 200),
        ({"Origin": "vscode-webview://abc"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://[bad"}, 403),
        ({"Origin": "null"}, 403),  # a sandboxed frame on any page
    ],
)
async def test_other_sites_are_kept_out(headers: dict[str, str], status: int) -> None:
    """Without a key, names that are not this machine's (DNS rebinding) and pages of other sites are refused."""
    async with serve_api(ScriptedBackend([END])) as url:
        assert (await get(url, "/v1/models", **headers))[0] == status
    async with serve_api(ScriptedBackend([END]), api_key=KEY) as url:
        assert (await get(url, "/v1/models", x_api_key=KEY, **headers))[0] == 200
