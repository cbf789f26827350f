"""Paths of exo's first version."""

from __future__ import annotations

import json
from typing import Any

import aiohttp

from exo_node.api.exo.downloads import Download
from exo_node.api.exo.v1 import progress_view
from exo_node.api.ports import Principal
from tests.unit.api.scripted import END, ScriptedBackend, ScriptedCluster, serve_api
from tests.unit.api.scripted_routing import ScriptedRouting

CHAT: Any = {"model": "demo", "messages": [{"role": "user", "content": "two words"}]}


async def test_token_encode() -> None:
    """The prompt as the model reads it, on both paths; a key's models hold."""
    routing = ScriptedRouting()
    async with serve_api(ScriptedBackend([END]), routing=routing) as url, aiohttp.ClientSession(url) as http:
        for path in ("/chat/token/encode", "/v1/chat/token/encode"):
            async with http.post(path, json=CHAT) as answer:
                assert await answer.json() == {
                    "length": 9,
                    "num_tokens": 2,
                    "encoded_tokens": [0, 1],
                    "encoded_prompt": "two words",
                }
        async with http.post("/v1/chat/token/encode", json={"model": "demo"}) as answer:
            assert answer.status == 400
        routing.keys = {"k": Principal(key_id="k", may_ask=lambda model: model == "other")}
        async with http.post("/v1/chat/token/encode", json=CHAT, headers={"Authorization": "Bearer k"}) as answer:
            assert answer.status == 403


async def test_models_and_downloads() -> None:
    """What is there, what is coming, what is gone."""
    cluster = ScriptedCluster()
    cluster.fetchable = {"org/new": []}
    async with serve_api(ScriptedBackend([END]), cluster) as url, aiohttp.ClientSession(url) as http:
        async with http.get("/initial_models") as answer:
            pool = await answer.json()
        assert {name: row["downloaded"] for name, row in pool.items()} == {"demo": True, "org/name": False}
        async with http.get("/modelpool") as answer:
            *events, done, _ = (await answer.text()).split("\n\n")
        assert done == "data: [DONE]"
        assert [json.loads(event.removeprefix("data: ")) for event in events] == [{n: pool[n]} for n in pool]
        async with http.post("/download", json={"model": "org/new"}) as answer:
            assert (await answer.json())["status"] == "success"
        async with http.get("/v1/download/progress") as answer:
            assert answer.status == 200
        for body in ({}, {"model": 5}, {"model": "m", "engine": "x"}):
            async with http.post("/v1/download", json=body) as answer:
                assert answer.status == 400
        cluster.fetched.append("org/new")
        async with http.delete("/models/org%2Fnew") as answer:
            assert (await answer.json())["message"] == "Model org/new deleted successfully"
        async with http.delete("/models/nope") as answer:
            assert answer.status == 404


async def test_the_admins() -> None:
    """Only the admin deletes files and ends the node."""
    cluster, routing = ScriptedCluster(), ScriptedRouting()
    routing.keys = {"user": Principal(key_id="user"), "root": Principal(admin=True)}
    async with serve_api(ScriptedBackend([END]), cluster, routing) as url, aiohttp.ClientSession(url) as http:
        user, root = ({"Authorization": f"Bearer {key}"} for key in ("user", "root"))
        for call, path in ((http.post, "/quit"), (http.delete, "/models/demo"), (http.delete, "/download/node-a/m")):
            async with call(path, headers=user) as answer:
                assert answer.status == 403
        async with http.get("/quit", headers=root) as answer:
            assert answer.status == 405
        assert not cluster.ended
        async with http.post("/quit", headers=root) as answer:
            assert await answer.json() == {"detail": "Quit signal received"}
        assert cluster.ended


def test_progress() -> None:
    """exo's names; the time that is left is not made up."""
    one = Download(model="org/m", node_id="a", began=0.0, done=50, total=100, first=10)
    shown = progress_view(one, 4.0)
    assert (shown["downloaded_bytes_this_session"], shown["overall_speed"], shown["overall_eta"]) == (40, 10.0, 5.0)
    assert progress_view(Download(model="m", node_id="a", began=0.0), 4.0)["overall_eta"] is None
