"""Who may call."""

from __future__ import annotations

import re
from typing import Any

import aiohttp
import pytest

from exo_node.api.operations import operation_of
from exo_node.api.ports import Principal
from exo_node.routing.call import Caller
from tests.unit.api.scripted import END, ScriptedBackend, serve_api, serve_whole
from tests.unit.api.scripted_routing import ScriptedRouting, whole

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
            {"x_api_key": KEY[:-1]},
            {"x_api_key": f"{KEY}x"},
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


def routing_with_keys() -> ScriptedRouting:
    routing = ScriptedRouting()
    routing.keys = {"user-key": Principal("k1"), "boss-key": Principal("k2", admin=True)}
    return routing


async def test_api_keys() -> None:
    """Once there are API keys each request needs one of them; the call is told whose."""
    routing = routing_with_keys()
    routing.replies = [whole({})]
    async with serve_api(ScriptedBackend([END]), routing=routing) as url, aiohttp.ClientSession(url) as http:
        assert (await get(url, "/v1/models"))[0] == 401
        assert (await get(url, "/v1/models", Authorization="Bearer any"))[0] == 401
        assert (await get(url, "/metrics"))[0] == 401
        assert await get(url, "/health") == (200, {"status": "ok"})
        assert (await get(url, "/health", x_api_key="user-key"))[1]["node_id"] == "node-a"
        body = {"model": "m", "input": "x", "voice": "v", "user": "ann"}
        async with http.post("/v1/audio/speech", json=body, headers={"x-api-key": "user-key"}) as answer:
            assert answer.status == 200
    assert routing.calls[0].caller == Caller("k1", "ann")


async def test_a_key_counts_at_once() -> None:
    """One that another process has just made is looked for before it is refused."""
    routing = routing_with_keys()
    routing.made = {"new-key": Principal("k3")}
    async with serve_api(ScriptedBackend([END]), routing=routing) as url:
        assert (await get(url, "/v1/models"))[0] == 401
        assert routing.made
        assert (await get(url, "/v1/models", x_api_key="new-key"))[0] == 200


async def test_the_nodes_own_key_is_an_admins() -> None:
    """--api-key stays valid beside API keys, and may reload the configuration; another's key may not."""
    async with (
        serve_api(ScriptedBackend([END]), routing=routing_with_keys(), api_key=KEY) as url,
        aiohttp.ClientSession(url) as http,
    ):
        for key, status in ((KEY, 200), ("boss-key", 200), ("user-key", 403), ("wrong", 401)):
            async with http.post("/v1/config/reload", headers={"x-api-key": key}) as answer:
                assert answer.status == status, key


@pytest.mark.parametrize(
    ("headers", "asks", "changes"),
    [
        ({}, 200, 200),
        ({"Host": "192.168.1.7:52415"}, 200, 403),  # a program elsewhere, as far as we know
        ({"Host": "[fe80::1%25eth0]:52415"}, 200, 403),
        ({"Host": "gpu-box"}, 200, 403),
        ({"Host": "gpu-box.local."}, 200, 403),
        ({"Host": "host.docker.internal"}, 200, 403),
        ({"Host": "chat.example.com"}, 200, 403),  # allowed by its origin
        ({"X-Forwarded-For": "203.0.113.5"}, 200, 403),  # a proxy on this machine passes it on
        ({"Host": "192.168.1.7:52415", "Origin": "http://192.168.1.7:52415"}, 200, 403),  # a page of the node's own
        ({"Host": "192.168.1.7:52415", "Origin": "http://192.168.1.7:3000"}, 403, 403),
        ({"Host": "rebound.evil.example"}, 403, 403),
        ({"Host": "192.168.1.7.evil.example"}, 403, 403),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 403, 403),
        ({"Host": ""}, 403, 403),
        ({"Origin": "https://evil.example"}, 403, 403),
        ({"Origin": "null"}, 403, 403),
    ],
)
async def test_an_open_node_is_administered_from_its_own_machine(
    headers: dict[str, str], asks: int, changes: int
) -> None:
    """With --open any program of the network may ask, but no web page of another site, not even one whose name was
    made to lead here; and only this machine's programs may change the node. (Issue 6, 5: Host and Origin checks.)"""
    origins = ("https://chat.example.com",)
    async with (
        serve_api(ScriptedBackend([END]), api_host="0.0.0.0", open=True, allowed_origins=origins) as url,
        aiohttp.ClientSession(url) as http,
    ):
        async with http.get("/v1/models", headers=headers) as answer:
            assert answer.status == asks
        async with http.post("/v1/config/reload", headers=headers) as answer:
            assert answer.status == changes


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"])
async def test_what_a_proxy_passes_on_is_not_the_admins(name: str) -> None:
    """On a node without keys a proxy's strangers may ask, as whoever set it up wants it, and change nothing."""
    async with serve_api(ScriptedBackend([END])) as url, aiohttp.ClientSession(url) as http:
        for headers, status in (({}, 200), ({name: "203.0.113.5"}, 403)):
            async with http.post("/v1/config/reload", headers=headers) as answer:
                assert answer.status == status
            async with http.get("/v1/models", headers=headers) as answer:
                assert answer.status == 200


SCOPES = {
    "open": ("GET", "/health"),
    "see": ("GET", "/v1/models"),
    "use": ("POST", "/v1/audio/speech"),
    "read": ("GET", "/v1/spend"),
    "admin": ("POST", "/v1/config/reload"),
}


@pytest.mark.parametrize(
    ("key", "may"),
    [
        ("", {"open"}),
        ("use", {"open", "see", "use"}),
        ("read", {"open", "see", "read"}),
        ("use,read", {"open", "see", "use", "read"}),
        ("admin", set(SCOPES)),
    ],
)
async def test_scopes(key: str, may: set[str]) -> None:
    """A key gets what its scopes are for, and a 403 that names the missing one elsewhere. (Issue 6, 5: scopes.)"""
    routing = ScriptedRouting()
    scopes = frozenset(key.split(","))
    routing.keys = {"k": Principal("k1", admin="admin" in scopes, scopes=scopes)}
    routing.replies = [whole({})]
    headers = {"x-api-key": "k"} if key else {}
    body = {"model": "m", "input": "x", "voice": "v"}
    async with serve_api(ScriptedBackend([END]), routing=routing) as url, aiohttp.ClientSession(url) as http:
        for scope, (method, path) in SCOPES.items():
            async with http.request(method, path, json=body if method == "POST" else None, headers=headers) as answer:
                refused = None if answer.status < 400 else (await answer.json())["error"]["code"]
            wanted = None if scope in may else "invalid_api_key" if not key else "missing_scope"
            assert refused == ("admin_only" if wanted == "missing_scope" and scope == "admin" else wanted), scope


# What needs more than a key that asks models: a route that is to be here, and is not, is open to the wrong people.
ADMINS = """
    DELETE /api/delete  POST /api/copy  POST /quit  GET /v1/audit  POST /v1/cluster/key  POST /v1/nodes/{id}/drain
    POST /v1/config  POST /v1/config/reload  POST /v1/deployments  DELETE /v1/deployments/{id}
    DELETE /v1/models/{name}  DELETE /v1/download/{node}/{model}
"""
READERS = "GET /v1/spend  GET /v1/recoveries"
ANYBODYS = "GET /  GET /health  GET /v1/healthcheck"


async def test_every_route_with_every_scope() -> None:
    """Of all that `/openapi.json` names, under all of its prefixes, nothing answers who may not ask: nobody without a
    key, no key for models what is the admin's or a reader's, no reader's key what costs. (Issue 6, 5: scopes.)"""
    routing = ScriptedRouting()
    routing.keys = {
        "use": Principal("k1", scopes=frozenset({"use"})),
        "read": Principal("k2", scopes=frozenset({"read"})),
        "boss": Principal("k3", admin=True),
    }
    admins, readers, anybodys = (set(re.findall(r"[A-Z]+ /\S*", text)) for text in (ADMINS, READERS, ANYBODYS))
    async with (
        serve_whole(ScriptedBackend([END]), routing=routing) as (url, api),
        aiohttp.ClientSession(url) as http,
    ):
        async with http.get("/openapi.json", headers={"x-api-key": "boss"}) as answer:
            document = (await answer.json())["paths"]
        operations = {f"{method.upper()} {path}" for path, methods in document.items() for method in methods}
        assert admins | readers | anybodys <= operations
        said: dict[int, str] = {}  # which operation serves a route: a handler's other places are held to its scope
        for route in api.app.router.routes():
            path = route.resource.canonical if route.resource is not None else ""
            if f"{route.method} {path}" in operations:
                said[id(getattr(route.handler, "__func__", route.handler))] = f"{route.method} {path}"
        checked = 0
        for route in api.app.router.routes():
            name = said.get(id(getattr(route.handler, "__func__", route.handler)))
            if route.resource is None or name is None:
                continue
            path = re.sub(r"{\w+}", "x", route.resource.canonical)
            asks = operation_of(route.handler)
            assert asks is not None
            refused = {
                "": name not in anybodys,
                "use": name in admins | readers,
                "read": name in admins or asks.scope == "use",
            }
            for key, wanted in refused.items():
                if wanted:
                    headers = {"x-api-key": key} if key else {}
                    async with http.request(route.method, path, headers=headers, json={}) as answer:
                        assert answer.status == (403 if key else 401), f"{route.method} {path} with {key or 'no key'}"
                    checked += 1
        assert checked > 300
