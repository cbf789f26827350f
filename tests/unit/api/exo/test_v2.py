"""State and instances as tools of exo's second version see them; tests/integration/test_exo_tools.py runs those."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from exo_node.api.exo import shapes
from exo_node.api.ports import Principal
from tests.unit.api.scripted import END, ScriptedBackend, ScriptedCluster, serve_api
from tests.unit.api.scripted_routing import ScriptedRouting


async def call(http: aiohttp.ClientSession, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    async with http.request(method, path, json=body) as answer:
        return answer.status, await answer.json()


async def test_an_instances_life() -> None:
    """Previewed, placed under the preview's id, seen in the state, deleted, gone."""
    cluster = ScriptedCluster()
    async with serve_api(ScriptedBackend([END]), cluster) as url, aiohttp.ClientSession(url) as http:
        status, found = await call(http, "GET", "/instance/previews?model_id=demo")
        assert (status, [row["error"] for row in found["previews"]]) == (200, [None])
        instance = found["previews"][0]["instance"]
        ident = instance["MlxRingInstance"]["instanceId"]
        assert (await call(http, "GET", f"/state/instances/{ident}"))[0] == 404
        assert (await call(http, "POST", "/instance", {"instance": instance}))[1]["command_id"] == ident
        assert cluster.calls == [{"model": "demo", "min_nodes": 1, "nodes": ("node-a",), "engines": ()}]
        assert await call(http, "GET", f"/state/instances/{ident}") == (200, instance)
        assert await call(http, "GET", f"/v1/instance/{ident}") == (200, instance)
        assert await call(http, "GET", f"/state/runners/{ident}-0") == (200, {"RunnerReady": {}})
        assert (await call(http, "DELETE", f"/instance/{ident}"))[0] == 200
        for method in ("GET", "DELETE"):
            assert (await call(http, method, f"/instance/{ident}"))[0] == 404


async def test_state() -> None:
    """The whole of it, and parts by their keys."""
    async with serve_api(ScriptedBackend([END])) as url, aiohttp.ClientSession(url) as http:
        _, state = await call(http, "GET", "/state")
        assert {"instances", "runners", "downloads", "topology", "nodeIdentities", "nodeMemory", "nodeDisk"} == set(
            state
        )
        assert (await call(http, "GET", "/v1/state/nodeMemory/node-a"))[1]["ramTotal"]["inBytes"] == 8_000_000_000
        assert (await call(http, "GET", "/state/nodeDisk/node-a"))[1]["available"]["inBytes"] > 0
        assert (await call(http, "GET", "/node_id")) == (200, "node-a")
        for path in ("nodeSystem/node-a", "topology/nodes/0", "instances/x/y", "downloads/node-x"):
            assert (await call(http, "GET", f"/state/{path}"))[0] == 404


async def test_downloads() -> None:
    """A node's own models, those that it is told to fetch, and what peers hold of the models that were named."""
    cluster = ScriptedCluster()
    cluster.fetchable = {"org/new": []}
    cluster.elsewhere = {"node-b": ["demo"]}
    nodes = cluster.topology()
    nodes["nodes"]["node-b"] = nodes["nodes"]["node-a"]
    cluster.topology = lambda: nodes  # type: ignore[method-assign]
    shard = {"PipelineShardMetadata": {"modelCard": {"modelId": "org/new"}}}
    async with serve_api(ScriptedBackend([END]), cluster) as url, aiohttp.ClientSession(url) as http:
        _, rows = await call(http, "GET", "/state/downloads/node-a")
        assert [name for row in rows for name in row] == ["DownloadCompleted"]  # demo; org/name is elsewhere
        assert await call(http, "GET", "/state/downloads/node-b") == (200, [])
        await call(http, "GET", "/instance/previews?model_id=demo")
        _, rows = await call(http, "GET", "/state/downloads/node-b")
        assert rows[0]["DownloadCompleted"]["total"] == {"inBytes": 1000}
        body = {"targetNodeId": "node-b", "shardMetadata": shard}
        assert (await call(http, "POST", "/download/start", body))[0] == 200
        _, rows = await call(http, "GET", "/state/downloads/node-b")
        assert "no model 'org/new'" in rows[1]["DownloadFailed"]["errorMessage"]
        for wrong in ({**body, "targetNodeId": "x"}, {**body, "shardMetadata": 5}, {**body, "more": 1}):
            assert (await call(http, "POST", "/download/start", wrong))[0] == 400
        cancel = {"targetNodeId": "node-a", "modelId": "org/new"}
        assert (await call(http, "POST", "/download/cancel", cancel))[0] == 404
        assert (await call(http, "DELETE", "/download/node-b/org%2Fnew"))[0] == 400
        cluster.fetched.append("org/new")
        assert (await call(http, "DELETE", "/download/node-a/org%2Fnew"))[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "wanted"),
    [
        ("GET", "/instance/previews", None, 400),
        ("GET", "/instance/previews?model_id=nope", None, 404),
        ("GET", "/instance/previews?model_id=demo&sharding=Tensor", None, 400),
        ("GET", "/instance/placement?model_id=demo&sharding=Tensor", None, 400),
        ("GET", "/instance/placement?model_id=demo&min_nodes=x", None, 400),
        ("GET", "/instance/placement?model_id=demo&min_nodes=2", None, 503),
        ("GET", "/instance/placement?model_id=demo", None, 200),
        ("POST", "/place_instance", {}, 400),
        ("POST", "/place_instance", {"model_id": "demo", "instance_meta": "MlxJaccl"}, 400),
        ("POST", "/place_instance", {"model_id": "demo", "sharding": "Pipeline", "min_nodes": 1}, 200),
        ("POST", "/instance", {"instance": {}}, 400),
        ("POST", "/models/add", {"model_id": "org/name"}, 404),
        ("POST", "/v1/cancel/chatcmpl-1", {}, 501),
        ("GET", "/models/search", None, 501),
        ("GET", "/events", None, 501),
    ],
)
async def test_answers(method: str, path: str, body: Any, wanted: int) -> None:
    """What is wrong is a 400, what is not done a 501 in OpenAI's shape that says what to do instead."""
    async with serve_api(ScriptedBackend([END])) as url, aiohttp.ClientSession(url) as http:
        status, answer = await call(http, method, path, body)
    assert status == wanted, answer
    assert status == 200 or answer["error"]["message"]


async def test_a_model_is_added() -> None:
    """Fetched, then shown as in the list."""
    cluster, backend = ScriptedCluster(), ScriptedBackend([END])
    cluster.fetchable = {"org/name": []}
    async with serve_api(backend, cluster) as url, aiohttp.ClientSession(url) as http:
        status, row = await call(http, "POST", "/models/add", {"model_id": "org/name"})
    assert (status, row["name"], row["hugging_face_id"]) == (200, "name", "org/name")


async def test_a_restricted_key_handles_its_models_only() -> None:
    """It neither sees, places, fetches nor unloads others, on the paths of either version and on ours."""
    cluster = ScriptedCluster()
    routing = ScriptedRouting()
    routing.keys = {"guest": Principal("g", may_ask=lambda model: model == "org/name"), "all": Principal("a")}
    shard = {"PipelineShardMetadata": {"modelCard": {"modelId": "demo"}}}
    asked: list[tuple[str, str, Any]] = [
        ("POST", "/v1/instances", {"model": "demo"}),
        ("POST", "/place_instance", {"model_id": "demo"}),
        ("GET", "/instance/previews?model_id=demo", None),
        ("GET", "/instance/placement?model_id=demo", None),
        ("POST", "/models/add", {"model_id": "demo"}),
        ("POST", "/download", {"model": "demo"}),
        ("POST", "/download/start", {"targetNodeId": "node-a", "shardMetadata": shard}),
        ("DELETE", "/v1/instances/inst-0", None),
        ("DELETE", "/instance/inst-0", None),
    ]
    guest = {"x-api-key": "guest"}
    async with (
        serve_api(ScriptedBackend([END]), cluster, routing=routing) as url,
        aiohttp.ClientSession(url, headers=guest) as http,
    ):
        async with http.post("/v1/instances", json={"model": "demo"}, headers={"x-api-key": "all"}) as answer:
            instance = await answer.json()
        preview = {"instance": shapes.instance(instance)}
        for method, path, body in [*asked, ("POST", "/instance", preview)]:
            status, made = await call(http, method, path, body)
            assert (status, made["error"]["code"]) == (403, "model_not_allowed"), path
        assert (await call(http, "GET", "/initial_models"))[1].keys() == {"org/name"}
        assert (await call(http, "DELETE", "/v1/instances/none"))[0] == 404
        for path in ("/v1/instances", "/v1/topology", "/state", "/state/downloads/node-a"):
            status, told = await call(http, "GET", path)
            assert (status, "demo" in str(told)) == (200, False), path
        for path, status in (
            ("/v1/instances/inst-0", 404),
            ("/instance/inst-0", 404),
            ("/v1/instances/inst-0/stats", 403),
        ):
            assert (await call(http, "GET", path))[0] == status, path
        async with http.get("/v1/instances", headers={"x-api-key": "all"}) as answer:
            assert [one["id"] for one in (await answer.json())["data"]] == ["inst-0"]
    assert [one["id"] for one in cluster.instances()] == ["inst-0"]


async def test_a_restricted_key_neither_sees_nor_ends_the_downloads_of_others() -> None:
    """They are as little its business as their models."""
    cluster, routing = ScriptedCluster(), ScriptedRouting()
    routing.keys = {"all": Principal("k1"), "some": Principal("k2", may_ask=lambda name: name == "demo")}
    held = asyncio.Event()

    async def fetch(model: str, on_progress: Any) -> str:
        await held.wait()
        return model

    cluster.fetch_model = fetch  # type: ignore[method-assign]
    some, every = ({"x-api-key": key} for key in ("some", "all"))
    async with serve_api(ScriptedBackend([END]), cluster, routing) as url, aiohttp.ClientSession(url) as http:
        async with http.post("/download", json={"model": "org/secret"}, headers=every) as answer:
            assert answer.status == 200
        for headers, running in ((every, 1), (some, 0)):
            async with http.get("/v1/download/progress", headers=headers) as answer:
                assert len(await answer.json()) == running
        wanted = {"targetNodeId": cluster.node_id, "modelId": "org/secret"}
        for headers, status in ((some, 403), (every, 200)):
            async with http.post("/download/cancel", json=wanted, headers=headers) as answer:
                assert answer.status == status
