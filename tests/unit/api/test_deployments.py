"""Deployments at run time."""

from __future__ import annotations

import aiohttp
import pytest

from exo_node.api.deployments import entry_of
from exo_node.api.ports import Principal
from exo_node.errors import InvalidRequest
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


def test_a_custom_model_of_document_001() -> None:
    """Prices per 1,000 tokens, limits and metadata become a deployment at the provider that the metadata names."""
    record = {
        "model_name": "custom-llama-7b",
        "pricing": {"input": 0.5, "output": 1},
        "rate_limits": {"requests_per_minute": 200, "tokens_per_minute": 200000},
        "metadata": {"provider": "ollama", "context_window": 4096, "task_types": ["general", "code"]},
    }
    assert entry_of(record) == {
        "model_name": "custom-llama-7b",
        "litellm_params": {
            "model": "ollama/custom-llama-7b", "input_cost_per_token": 0.0005, "output_cost_per_token": 0.001,
            "rpm": 200, "tpm": 200000,
        },
        "model_info": {"context_window": 4096, "task_types": ["general", "code"]},
    }  # fmt: skip
    assert entry_of(RECORD) == RECORD


@pytest.mark.parametrize(
    ("record", "param"),
    [
        ({"model_name": "m", "pricing": {"input": 1, "output": 1}}, "metadata.provider"),
        ({"metadata": {"provider": "ollama"}}, "model_name"),
        ({"model_name": "m", "metadata": {"provder": "ollama"}}, "metadata.provder"),
        ({"model_name": "m", "metadata": {"provider": "ollama"}, "pricing": {"input": 1}}, "pricing.output"),
        ({"model_name": "m", "metadata": {"provider": "ollama"}, "rate_limits": 3}, "rate_limits"),
    ],
)
def test_a_wrong_custom_model(record: dict[str, object], param: str) -> None:
    """The field that is wrong is named."""
    with pytest.raises(InvalidRequest) as caught:
        entry_of(record)
    assert caught.value.param == param
