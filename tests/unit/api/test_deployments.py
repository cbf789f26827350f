"""Deployments at run time."""

from __future__ import annotations

import aiohttp
import pytest

from exo_node.api.ports import Principal
from tests.unit.api.scripted import END, ScriptedBackend, serve_api
from tests.unit.api.scripted_routing import ScriptedRouting

RECORD = {"model_name": "gpt-4o", "litellm_params": {"model": "azure/gpt-4o", "api_key": "sk-1"}}


async def test_a_deployments_life() -> None:
    """Added, listed, shown, removed, and then not found."""
    routing = ScriptedRouting()
    async with serve_api(ScriptedBackend([END]), routing=routing) as url, aiohttp.ClientSession(url) as http:
        async with http.post("/v1/deployments", json=RECORD) as answer:
            assert (answer.status, (await answer.json())["id"]) == (200, "d2")
        async with http.get("/v1/deployments") as answer:
            assert [row["id"] for row in (await answer.json())["data"]] == ["d1", "d2"]
        async with http.get("/deployments/d2") as answer:
            assert (await answer.json())["model_name"] == "gpt-4o"
        async with http.delete("/v1/deployments/d2") as answer:
            assert (await answer.json())["deleted"] is True
        for gone in (http.get, http.delete):
            async with gone("/v1/deployments/d2") as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("record", "param"),
    [
        ({}, "model_name"),
        ({"model_name": "m"}, "litellm_params"),
        ({**RECORD, "litellm_params": "x"}, "litellm_params"),
    ],
)
async def test_refused(record: dict[str, object], param: str) -> None:
    """What is no deployment reaches no registry."""
    routing = ScriptedRouting()
    async with (
        serve_api(ScriptedBackend([END]), routing=routing) as url,
        aiohttp.ClientSession(url) as http,
        http.post("/v1/deployments", json=record) as answer,
    ):
        assert (answer.status, (await answer.json())["error"]["param"]) == (400, param)
    assert list(routing.known) == ["d1"]


async def test_writing_is_the_admins() -> None:
    """With keys, only an admin's may add and remove; every key may look."""
    routing = ScriptedRouting()
    routing.keys = {"user": Principal("k1"), "boss": Principal("k2", admin=True)}
    async with serve_api(ScriptedBackend([END]), routing=routing) as url, aiohttp.ClientSession(url) as http:
        user, boss = ({"Authorization": f"Bearer {key}"} for key in ("user", "boss"))
        async with http.get("/v1/deployments", headers=user) as answer:
            assert answer.status == 200
        async with http.post("/v1/deployments", json=RECORD, headers=user) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (403, "admin_only")
        async with http.delete("/v1/deployments/d1", headers=user) as answer:
            assert answer.status == 403
        async with http.post("/v1/deployments", json=RECORD, headers=boss) as answer:
            assert answer.status == 200
