"""Statistics, explanations, configuration, metrics."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from exo_node.api.ports import Principal
from exo_node.api.router import parse_defaults
from exo_node.errors import InvalidRequest
from tests.unit.api.scripted import END, ScriptedBackend, ScriptedCluster, serve_api
from tests.unit.api.scripted_routing import ScriptedRouting


async def test_stats_and_metrics() -> None:
    """Document 004's keys; Prometheus' text, the node's rings in it, at the root only."""
    cluster = ScriptedCluster()
    await cluster.place("demo", min_nodes=1, nodes=(), engines=())
    async with (
        serve_api(ScriptedBackend([END]), cluster, routing=ScriptedRouting()) as url,
        aiohttp.ClientSession(url) as http,
    ):
        async with http.get("/v1/router/stats") as answer:
            assert (await answer.json())["healthy_deployments"] == ["azure/gpt-4o"]
        async with http.get("/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=1.0.0")
            text = await answer.text()
            assert text.startswith("# TYPE exo_")
            assert "['demo']" in text
        async with http.get("/v1/metrics") as answer:
            assert answer.status == 404


async def test_metrics_are_not_for_a_restricted_key() -> None:
    """They name every backend: a key for some models only is refused, one for all models gets them."""
    routing = ScriptedRouting()
    routing.keys = {"some": Principal("a", may_ask=lambda name: name == "m"), "all": Principal("b")}
    async with serve_api(ScriptedBackend([END]), routing=routing) as url, aiohttp.ClientSession(url) as http:
        async with http.get("/metrics", headers={"x-api-key": "some"}) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (403, "restricted_key")
        async with http.get("/metrics", headers={"x-api-key": "all"}) as answer:
            assert answer.status == 200
        async with http.get("/v1/router/stats", headers={"x-api-key": "some"}) as answer:
            assert (await answer.json())["breakers"] == []


@pytest.mark.parametrize(
    ("query", "body", "kind"),
    [
        ("", {"messages": [{"role": "user", "content": "x"}], "exo": {"strategy": "cost"}}, "chat"),
        ("", {"input": "x"}, "embedding"),
        ("?kind=moderation", {"input": "x"}, "moderation"),
    ],
)
async def test_explain(query: str, body: dict[str, Any], kind: str) -> None:
    """Takes the body of any route and serves nothing."""
    routing = ScriptedRouting()
    async with (
        serve_api(ScriptedBackend([END]), routing=routing) as url,
        aiohttp.ClientSession(url) as http,
        http.post(f"/v1/route/explain{query}", json={"model": "m", **body}) as answer,
    ):
        told = await answer.json()
    assert (told["kind"], told["model"]) == (kind, "m")
    assert told["strategy"] == body.get("exo", {}).get("strategy", "latency")


async def test_explain_refuses() -> None:
    """A kind that there is not, and a body that is of no kind."""
    async with (
        serve_api(ScriptedBackend([END]), routing=ScriptedRouting()) as url,
        aiohttp.ClientSession(url) as http,
    ):
        for path, param in (("?kind=poem", "kind"), ("", "messages")):
            async with http.post(f"/v1/route/explain{path}", json={"model": "m"}) as answer:
                assert (answer.status, (await answer.json())["error"]["param"]) == (400, param)


async def test_configuration() -> None:
    """Document 002's update_config over HTTP, and a reload; both are the admin's where there are keys."""
    routing = ScriptedRouting()
    changes = {"default_provider": "openai", "default_model": "gpt-4o", "temperature": 0.5}
    async with serve_api(ScriptedBackend([END]), routing=routing) as url, aiohttp.ClientSession(url) as http:
        async with http.post("/v1/config", json=changes) as answer:
            assert await answer.json() == changes
        async with http.post("/v1/config/reload") as answer:
            assert (await answer.json())["object"] == "config.reload"
        routing.keys = {"user": Principal("k1")}
        for path in ("/v1/config", "/v1/config/reload"):
            async with http.post(path, json=changes, headers={"x-api-key": "user"}) as answer:
                assert answer.status == 403


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "default_model"),
        ({"default_modell": "x"}, "default_modell"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"ollama_base_url": "localhost:11434"}, "ollama_base_url"),
        ({"enable_caching": "yes"}, "enable_caching"),
        ({"default_provider": 5}, "default_provider"),
    ],
)
def test_refused(body: dict[str, Any], param: str) -> None:
    """A default that there is not or that cannot be is named."""
    with pytest.raises(InvalidRequest) as caught:
        parse_defaults(body)
    assert caught.value.param == param
