"""Instances by hand, health and topology."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from exo_node.api import sse
from exo_node.api.cluster import parse_place
from exo_node.errors import InvalidRequest, NoCapacity
from tests.unit.api.scripted import END, ScriptedBackend, ScriptedCluster, serve_api, until


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "model"),
        ({"model": ""}, "model"),
        ({"model": 5}, "model"),
        ({"model": "m", "min_nodes": 0}, "min_nodes"),
        ({"model": "m", "min_nodes": "2"}, "min_nodes"),
        ({"model": "m", "min_nodes": 3, "nodes": ["a", "b"]}, "min_nodes"),
        ({"model": "m", "nodes": "a"}, "nodes"),
        ({"model": "m", "nodes": ["a", 5]}, "nodes[1]"),
        ({"model": "m", "engines": ["torch"]}, "engines[0]"),
        ({"model": "m", "nodes": ["a"], "engines": ["mlx", "tinygrad"]}, "engines"),
        ({"model": "m", "min_node": 2}, "min_node"),
        ({"model": "m", "stream": 1}, "stream"),
        ({"model": "m", "quantize": 6}, "quantize"),
        ({"model": "m", "quantize": "4"}, "quantize"),
        ({"model": "m", "quantize": 0}, "quantize"),
        ({"model": "m", "draft_model": ""}, "draft_model"),
        ({"model": "m", "draft_model": 1}, "draft_model"),
        ({"model": "m", "reuse": "yes"}, "reuse"),
        ({"model": "m", "reuse": True, "nodes": ["a"]}, "reuse"),
    ],
)
def test_place_refuses(body: dict[str, Any], param: str) -> None:
    """A wrong or unknown field is a 400 that names it."""
    with pytest.raises(InvalidRequest) as caught:
        parse_place(body)
    assert caught.value.param == param


def test_place_reads() -> None:
    """nodes keep their order: it is the ring's. One engine serves all of them."""
    wanted = parse_place({"model": "m", "min_nodes": 2, "nodes": ["b", "a"], "engines": ["mlx"]})
    assert (wanted.model, wanted.min_nodes, wanted.nodes, wanted.engines) == ("m", 2, ("b", "a"), ("mlx",))
    assert parse_place({"model": "m"}).min_nodes == 1
    assert [parse_place({"model": "m", **more}).quantize for more in ({}, {"quantize": 8, "reuse": True})] == [0, 8]
    assert parse_place({"model": "m", "draft_model": "d", "reuse": True}).draft_model == "d"


async def test_an_instances_life() -> None:
    """Placed, listed, shown, removed, and then not found."""
    cluster = ScriptedCluster()
    async with serve_api(ScriptedBackend([END]), cluster) as url, aiohttp.ClientSession(url) as http:
        async with http.post("/v1/instances", json={"model": "demo", "min_nodes": 1}) as answer:
            assert (answer.status, (await answer.json())["state"]) == (200, "ready")
        async with http.get("/v1/instances") as answer:
            assert [one["id"] for one in (await answer.json())["data"]] == ["inst-0"]
        async with http.get("/v1/instances/inst-0") as answer:
            assert (await answer.json())["model"] == "demo"
        async with http.get("/v1/instances/inst-0/stats") as answer:
            assert (await answer.json())["stages"] == await cluster.instance_stats("inst-0")
        async with http.get("/v1/topology") as answer:
            assert (await answer.json())["instances"][0]["id"] == "inst-0"
        async with http.delete("/v1/instances/inst-0") as answer:
            assert (await answer.json())["deleted"] is True
        for call in (http.get, http.delete):
            async with call("/v1/instances/inst-0") as answer:
                assert answer.status == 404
        async with http.get("/v1/instances/inst-0/stats") as answer:
            assert answer.status == 404


async def test_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was asked and the defaults go to the node; a phrase does not cross a network in plain text."""
    cluster = ScriptedCluster()
    async with serve_api(ScriptedBackend([END]), cluster) as url, aiohttp.ClientSession(url) as http:
        async with http.post("/v1/cluster/key", json={"without": ["eve"]}) as answer:
            assert (answer.status, (await answer.json())["fingerprint"]) == (200, "f" * 32)
        assert cluster.calls == [{"phrase": None, "without": ("eve",), "patience_s": 30.0}]
        for wrong in ({"patience_s": -1}, {"key": "x"}, {"without": "eve"}):
            async with http.post("/v1/cluster/key", json=wrong) as answer:
                assert answer.status == 400
        monkeypatch.setattr("exo_node.api.cluster.is_loopback", lambda host: False)
        async with http.post("/v1/cluster/key", json={"phrase": "gibus tolaf"}) as answer:
            assert (answer.status, (await answer.json())["error"]["param"]) == (400, "phrase")
        assert len(cluster.calls) == 1


async def test_progress_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """With stream: true the progress comes as events, then the instance, then [DONE]; silence sends comments."""
    monkeypatch.setattr(sse, "SILENCE_S", 0.02)
    cluster = ScriptedCluster()
    cluster.progress = [{"stage": "loading", "done": 1, "total": 2}]
    cluster.hold = asyncio.Event()
    async with (
        serve_api(ScriptedBackend([END]), cluster) as url,
        aiohttp.ClientSession(url) as http,
        http.post("/v1/instances", json={"model": "demo", "stream": True}) as answer,
    ):
        first = await answer.content.readuntil(b"\n\n")
        event = json.loads(first.removeprefix(b"data: "))
        assert event == {"object": "instance.progress", "stage": "loading", "done": 1, "total": 2}
        assert await answer.content.readuntil(b"\n\n") == sse.KEEP_ALIVE
        cluster.hold.set()
        rest = (await answer.text()).replace(sse.KEEP_ALIVE.decode(), "")
        instance, done, _ = rest.split("\n\n")
        assert json.loads(instance.removeprefix("data: "))["object"] == "instance"
        assert done == "data: [DONE]"


async def test_place_failures() -> None:
    """A failure before any progress is a plain error; after it, an error frame."""
    cluster = ScriptedCluster()
    cluster.error = NoCapacity("needs 9 GiB, 6 GiB are free")
    body = {"model": "demo", "stream": True}
    async with serve_api(ScriptedBackend([END]), cluster) as url, aiohttp.ClientSession(url) as http:
        async with http.post("/v1/instances", json=body) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (503, "no_capacity")
        cluster.progress = [{"stage": "loading"}]
        async with http.post("/v1/instances", json=body) as answer:
            text = await answer.text()
            assert answer.status == 200
            assert '"no_capacity"' in text
            assert "[DONE]" not in text


@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_cancels_placing(stream: bool) -> None:
    """Who hangs up while a model loads gets the memory back."""
    cluster = ScriptedCluster()
    cluster.progress = [{"stage": "loading"}]
    cluster.hold = asyncio.Event()
    async with serve_api(ScriptedBackend([END]), cluster) as url:
        async with aiohttp.ClientSession(url) as http:
            task = asyncio.create_task(
                http.post("/v1/instances", json={"model": "demo", "stream": stream}).__aenter__()
            )
            await until(lambda: len(cluster.calls) == 1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await until(lambda: cluster.cancelled)


async def test_health_says_why_not() -> None:
    """/health is 503 while the node is not well; /healthcheck (exo's) says that the process answers."""
    cluster = ScriptedCluster()
    cluster.status = "draining"
    async with serve_api(ScriptedBackend([END]), cluster) as url, aiohttp.ClientSession(url) as http:
        async with http.get("/health") as answer:
            assert (answer.status, (await answer.json())["status"]) == (503, "draining")
        async with http.get("/healthcheck") as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "ok"})
