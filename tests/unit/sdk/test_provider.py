"""Document 001's provider and router, over HTTP to a stand-in LiteLLM proxy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from exo_node.sdk.provider import ChatMessage, LiteLLMProvider
from exo_node.sdk.router import HeuristicRouter
from tests.standins import LiteLLMProxy, Script, answer_to, refused_url, serve

CUSTOM: dict[str, Any] = {
    "small": {"pricing": {"input": 0.0001, "output": 0.0002}, "metadata": {"task_types": ["translation"]}},
    "coder": {"pricing": {"input": 0.001, "output": 0.002}, "metadata": {"task_types": ["code"]}},
    "large": {"pricing": {"input": 0.01, "output": 0.03}, "rate_limits": {"requests_per_minute": 20}},
}


@pytest.fixture
def proxy() -> Iterator[LiteLLMProxy]:
    standin = LiteLLMProxy(key="k", models=("small", "coder", "large", "gpt-4o", "unpriced"))
    with serve(standin):
        yield standin


def provider(proxy: LiteLLMProxy, **options: Any) -> LiteLLMProvider:
    return LiteLLMProvider(base_url=proxy.url, api_key="k", custom_models=CUSTOM, **options)


def ask(text: str) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=text)]


async def test_costs_limits_and_metadata() -> None:
    """Own prices are USD per 1,000 tokens; shipped ones are known by name; an unknown price is an error, not 0."""
    known = LiteLLMProvider(base_url="http://x", custom_models=CUSTOM)
    assert known.calculate_cost(1000, 500, "large") == pytest.approx(0.025)
    assert known.calculate_cost(1000, 500, "gpt-4o") == pytest.approx(0.0075)
    assert known.calculate_cost(1000, 0, "anthropic/claude-3-haiku-20240307") == pytest.approx(0.00025)
    info = known.get_model_info("large")
    assert info is not None and info["rate_limits"] == {"requests_per_minute": 20}
    assert known.get_model_info("nothing") is None
    with pytest.raises(ValueError, match="no price is known for 'nothing'"):
        known.calculate_cost(1, 1, "nothing")
    for wrong in ({"input": -1, "output": 1}, {"input": 1}, {"input": "x", "output": 1}):
        with pytest.raises(ValueError, match="USD per 1,000 tokens"):
            known.add_custom_model("wrong", pricing=wrong)  # type: ignore[arg-type]


async def test_what_is_supported(proxy: LiteLLMProxy) -> None:
    """Before the upstream was asked: own and shipped models; afterwards of the shipped ones those that it lists."""
    known = provider(proxy)
    assert {"small", "gpt-4o", "claude-3-haiku"} <= set(known.get_supported_models())
    assert "text-embedding-3-small" not in known.get_supported_models()
    assert [one["id"] for one in await known.get_available_models()] == list(proxy.models)
    assert known.get_supported_models() == ["small", "coder", "large", "gpt-4o"]


async def test_health(proxy: LiteLLMProxy) -> None:
    """Right key: healthy; wrong key, or nobody there: not; never an exception."""
    assert await provider(proxy).health_check()
    assert not await LiteLLMProvider(base_url=proxy.url, api_key="wrong").health_check()
    assert not await LiteLLMProvider(base_url=refused_url()).health_check()


async def test_select_model_by_task_and_cost(proxy: LiteLLMProxy) -> None:
    """Code goes to what is made for it, a translation likewise, a hard task to a strong model."""
    known, router = provider(proxy), HeuristicRouter()
    await known.get_available_models()
    chosen = router.select_model(ask("Write a Python function"), {"p": known})
    assert chosen[:2] == ("p", "coder") and "code task" in chosen[2]
    assert router.select_model(ask("Translate this into French"), {"p": known})[1] == "small"
    hard = "Prove this carefully and in depth: the integral of x^2, a difficult theorem"
    assert router.select_model(ask(hard), {"p": known})[1] in ("large", "gpt-4o")
    with pytest.raises(ValueError, match=r"for at most \$1e-12"):
        router.select_model(ask("Hello"), {"p": known}, max_cost=1e-12)


async def test_a_picture_costs_one_picture(proxy: LiteLLMProxy) -> None:
    """Not the length of its base64, which would be more than the money here."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    message = ChatMessage(role="user", content=[{"type": "text", "text": "What is it?"}, picture])
    known, router = provider(proxy), HeuristicRouter()
    await known.get_available_models()
    assert router.select_model([message], {"p": known}, max_cost=0.0002)[1] == "small"
    with pytest.raises(ValueError, match="no model"):
        router.select_model([message], {"p": known}, max_cost=0.00015)


async def test_strategies(proxy: LiteLLMProxy) -> None:
    """cost_optimized asks the cheapest that is listed; an unknown strategy is refused by name."""
    known, router = provider(proxy), HeuristicRouter()
    answer = await router.route_request(ask("Simple"), {"p": known}, strategy="cost_optimized", max_cost=0.01)
    assert answer.choices[0].message.content == answer_to("Simple")
    assert proxy.requests[-1].model == "small"
    with pytest.raises(ValueError, match="known: heuristic, hybrid, cost_optimized, cascade"):
        await router.route_request(ask("Simple"), {"p": known}, strategy="best")


async def test_a_cascade_escalates(proxy: LiteLLMProxy) -> None:
    """An error, an empty answer and a refusal are passed over, cheapest first; all bad: the last answer."""
    known, router = provider(proxy), HeuristicRouter()
    proxy.by_model = {"small": Script(status=500), "coder": Script(text="I'm sorry, but I can't help with that.")}
    answer = await router.route_request(ask("Simple"), {"p": known}, strategy="cascade")
    assert (answer.model, answer.choices[0].message.content) == ("gpt-4o", answer_to("Simple"))
    proxy.script = Script(text="")
    empty = await router.route_request(ask("Simple"), {"p": known}, strategy="cascade")
    assert (empty.model, empty.choices[0].message.content) == ("large", "")


async def test_streaming(proxy: LiteLLMProxy) -> None:
    """Chunks read as dictionaries, as the document's snippet does."""
    chunks = [chunk async for chunk in provider(proxy).stream_chat_completion(ask("Hi"), "small", max_tokens=500)]
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks) == answer_to("Hi")
