"""Providers and prices."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from exo_node.api.providers import parse_estimate
from exo_node.errors import InvalidRequest
from tests.unit.api.scripted import END, ScriptedBackend, serve_api
from tests.unit.api.scripted_routing import ScriptedRouting


async def call(method: str, path: str, body: Any = None, routing: ScriptedRouting | None = None) -> tuple[int, Any]:
    async with (
        serve_api(ScriptedBackend([END]), routing=routing or ScriptedRouting()) as url,
        aiohttp.ClientSession(url) as http,
        http.request(method, path, json=body) as answer,
    ):
        return answer.status, await answer.json()


async def test_providers() -> None:
    """Listed, shown, checked; an unknown one is a 404 that lists them."""
    status, body = await call("GET", "/api/v1/litellm/providers")
    assert (status, [row["id"] for row in body["data"]]) == (200, ["openai", "groq"])
    assert (await call("GET", "/v1/providers/OpenAI"))[1]["key"] == "present"
    for method in ("GET", "POST"):
        assert (await call(method, "/v1/providers/openai/check"))[1]["ok"] is True
    status, body = await call("GET", "/v1/providers/nope")
    assert (status, "openai, groq" in body["error"]["message"]) == (404, True)
    assert (await call("GET", "/v1/providers/nope/check"))[0] == 404


async def test_one_estimate() -> None:
    """Document 002's body: input and output tokens of one model; the same as a URL."""
    routing = ScriptedRouting()
    asked = {"model": "openai/dear", "input_tokens": 1000, "output_tokens": 500}
    status, body = await call("POST", "/api/v1/litellm/cost/estimate", asked, routing)
    assert (status, body["model"], body["input_tokens"], body["output_tokens"]) == (200, "openai/dear", 1000, 500)
    assert body["total_cost"] == pytest.approx(0.0075)
    again = await call("GET", "/v1/cost/estimate?model=openai/dear&input_tokens=1000&output_tokens=500", None, routing)
    assert again == (200, body)
    status, body = await call("POST", "/v1/cost/estimate", {**asked, "model": "unheard"})
    assert (status, body["error"]["code"]) == (404, "price_unknown")


async def test_the_cheapest_of_several() -> None:
    """A comparison is sorted by cost; a model without a price is last and never the cheapest."""
    asked = {"models": ["dear", "unheard", "cheap"], "prompt_tokens": 10}
    status, body = await call("POST", "/v1/cost/estimate", asked)
    assert (status, body["cheapest"]) == (200, "cheap")
    assert [row["model"] for row in body["data"]] == ["cheap", "dear", "unheard"]
    for query in ("models=dear,cheap", "model=dear&model=cheap"):
        assert (await call("GET", f"/v1/cost/estimate?{query}&input_tokens=10"))[1]["cheapest"] == "cheap"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input_tokens": 5}, "model"),
        ({"model": "m"}, "input_tokens"),
        ({"model": "m", "models": ["a"], "input_tokens": 5}, "models"),
        ({"models": ["a", ""], "input_tokens": 5}, "models[1]"),
        ({"model": "m", "input_tokens": -1}, "input_tokens"),
        ({"model": "m", "input_tokens": "5"}, "input_tokens"),
        ({"model": "m", "input_tokens": 5, "prompt_tokens": 6}, "input_tokens"),
        ({"model": "m", "input_token": 5}, "input_token"),
        ({"models": ["m"] * 101, "input_tokens": 5}, "models"),
    ],
)
def test_refused(body: dict[str, Any], param: str) -> None:
    """What is missing, wrong or unknown is named."""
    with pytest.raises(InvalidRequest) as caught:
        parse_estimate(body)
    assert caught.value.param == param


def test_provider_is_a_prefix() -> None:
    """`provider` stands before models that do not name it."""
    assert parse_estimate({"model": "gpt-4o", "provider": "openai", "input_tokens": 1})[0] == ("openai/gpt-4o",)
    assert parse_estimate({"model": "openai/x", "provider": "openai", "input_tokens": 1})[0] == ("openai/x",)


async def test_numbers_in_urls() -> None:
    """A count in a URL that is no number is a 400 as well."""
    status, body = await call("GET", "/v1/cost/estimate?model=m&input_tokens=many")
    assert (status, body["error"]["param"]) == (400, "input_tokens")
