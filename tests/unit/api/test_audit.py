"""The audit log of the API: which requests are in it, and what of them."""

from __future__ import annotations

from typing import Any

import aiohttp

from exo_node.api.audit import object_of
from exo_node.api.ports import Principal
from tests.unit.api.scripted import END, ScriptedBackend, serve_api
from tests.unit.api.scripted_routing import ScriptedRouting

SECRET = "sk-very-secret-0123456789"


def routing() -> ScriptedRouting:
    found = ScriptedRouting()
    found.keys = {"boss": Principal("k1", admin=True, name="ann"), "user": Principal("k2", name="bob")}
    return found


async def call(http: aiohttp.ClientSession, method: str, path: str, key: str, body: Any = None) -> tuple[int, Any]:
    async with http.request(method, path, json=body, headers={"x-api-key": key}) as answer:
        return answer.status, await answer.json()


async def acts(http: aiohttp.ClientSession) -> list[tuple[str, str, str, int, str]]:
    status, told = await call(http, "GET", "/v1/audit?since=1h", "boss")
    assert status == 200 and all(row["address"] == "127.0.0.1" and row["node"] for row in told["data"])
    return [(r["key_name"], r["act"], r["what"], r["status"], r["error_code"]) for r in reversed(told["data"])]


async def test_what_changes_the_node_is_noted() -> None:
    """Who, what, on which things and with which result, failures of the admin's too; names only, never a value that may
    be secret; what only asks is not there. (Issue 6, 5: an audit log of admin acts.)"""
    record = {"model_name": "m", "litellm_params": {"model": "openai/x", "api_key": SECRET}, "added": SECRET}
    async with serve_api(ScriptedBackend([END]), routing=routing()) as url, aiohttp.ClientSession(url) as http:
        assert (await call(http, "POST", "/v1/deployments", "boss", record))[0] == 200
        assert (await call(http, "DELETE", "/v1/deployments/nothing", "boss"))[0] == 404
        assert (await call(http, "POST", "/v1/instances", "user", {"model": "demo", "nodes": ["a"]}))[0] == 200
        assert (await call(http, "GET", "/v1/models", "boss"))[0] == 200
        rows = await acts(http)
        assert SECRET not in str(rows)
    assert rows == [
        ("ann", "POST /v1/deployments", "model_name='m' litellm_params=... added=...", 200, ""),
        ("ann", "DELETE /v1/deployments/{id}", "id='nothing'", 404, "not_found"),
        ("bob", "POST /v1/instances", "model='demo' nodes=['a']", 200, ""),
    ]


async def test_nobody_pushes_rows_out_by_failing() -> None:
    """What a caller without an admin's key may not do, or fails at, is not in the log, and only admins read it."""
    async with serve_api(ScriptedBackend([END]), routing=routing()) as url, aiohttp.ClientSession(url) as http:
        assert (await call(http, "POST", "/quit", "user"))[0] == 403
        assert (await call(http, "DELETE", "/v1/instances/nothing", "user"))[0] == 404
        assert (await call(http, "POST", "/quit", "wrong"))[0] == 401
        assert await acts(http) == []
        for path, status in (("/v1/audit", 403), ("/audit", 403)):
            assert (await call(http, "GET", path, "user"))[0] == status
        for query in ("since=never", "limit=0", "who=me", "since=2026-11-21&until=2026-11-20"):
            assert (await call(http, "GET", f"/v1/audit?{query}", "boss"))[0] == 400, query


async def test_names_of_fields_forge_no_rows() -> None:
    """A client chooses the names of fields that nobody knows: they stay on their line, and are cut."""
    body = {"model": "demo", "stream": False, "x\n2026-11-22 I exo.audit\x1b[2J": 1, "name": "A" * 5000}
    async with serve_api(ScriptedBackend([END]), routing=routing()) as url, aiohttp.ClientSession(url) as http:
        assert (await call(http, "POST", "/api/pull", "boss", body))[0] == 404
        ((_, _, what, _, _),) = await acts(http)
    assert what.startswith(r"model='demo' stream=... 'x\n2026-11-22 I exo.audit\x1b[2J'=... name='AAA"), what
    assert len(what) == len(object_of({}, body)) == 300  # in the database and in the log
