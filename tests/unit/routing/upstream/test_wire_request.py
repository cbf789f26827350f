"""What is sent to a provider: address, headers, body."""

from __future__ import annotations

from typing import Any

import pytest

from exo_node.routing.call import Call, CallKind, Partial, UpstreamError
from exo_node.routing.deployment import Deployment
from exo_node.routing.upstream import wire_request
from exo_node.routing.upstream.wire_request import (
    PATHS,
    parameters_of,
    secrets_of,
    sidecar_body,
    sidecar_target,
    target_of,
)


def deployment(provider: str = "openai", base: str | None = "https://api.example.com/v1", **more: Any) -> Deployment:
    params = {"api_key": "key-1", **more.pop("params", {})}
    model = more.pop("model", "gpt-4o")
    return Deployment(id="d", model_name="m", litellm_model=f"{provider}/{model}", provider=provider,
                      upstream_model=model, params=params, api_base=base, **more)  # fmt: skip


def call(kind: CallKind = "chat", stream: bool = False, **body: Any) -> Call:
    if kind == "chat":
        body.setdefault("messages", [{"role": "user", "content": "hi"}])
    body = {"model": "m", **body, **({"stream": True} if stream else {})}
    return Call(id="1", kind=kind, model="m", body=body, stream=stream, deadline=1e9, prompt_tokens=1)


def body_of(one: Deployment, asked: Call, partial: Partial | None) -> dict[str, Any]:
    return wire_request.body_of(one, asked, partial, parameters_of(one))


def url(one: Deployment, kind: CallKind = "chat", **options: Any) -> str:
    return str(target_of(one, kind, **options).url)


@pytest.mark.parametrize(
    ("provider", "base", "address"),
    [
        ("openai", "https://api.openai.com/v1", "https://api.openai.com/v1/chat/completions"),
        ("openai", "https://api.openai.com/v1/", "https://api.openai.com/v1/chat/completions"),
        ("openai", "https://x.example/v1/chat/completions", "https://x.example/v1/chat/completions"),
        ("openai", "https://x.example/v1?tenant=3", "https://x.example/v1/chat/completions?tenant=3"),
        ("litellm_proxy", "http://127.0.0.1:4000", "http://127.0.0.1:4000/chat/completions"),
        ("ollama", "http://127.0.0.1:11434", "http://127.0.0.1:11434/v1/chat/completions"),
        ("ollama", "http://127.0.0.1:11434/v1", "http://127.0.0.1:11434/v1/chat/completions"),
    ],
)
def test_addresses(provider: str, base: str, address: str) -> None:
    """The base's own path and query stay; a path copied whole from a manual works too."""
    assert url(deployment(provider, base)) == address


def test_each_kind_has_its_path() -> None:
    """One table for all kinds; Cohere's reranking has its own version."""
    for kind, path in PATHS.items():
        assert url(deployment(), kind) == f"https://api.example.com/v1/{path}"
    assert url(deployment("cohere", "https://api.cohere.com"), "rerank") == "https://api.cohere.com/v2/rerank"


@pytest.mark.parametrize(
    ("base", "version", "address"),
    [
        ("https://r.openai.azure.com/", "2024-10-21",
         "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"),
        ("https://r.openai.azure.com/openai/deployments/old", "2024-10-21",
         "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"),
        ("https://r.openai.azure.com/openai", "2024-10-21",
         "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"),
        ("https://r.openai.azure.com", None, "/openai/v1/chat/completions"),
        ("https://r.openai.azure.com", "preview", "/openai/v1/chat/completions?api-version=preview"),
        ("https://r.openai.azure.com/openai/v1/", "2024-10-21", "/openai/v1/chat/completions"),
    ],
)  # fmt: skip
def test_azure(base: str, version: str | None, address: str) -> None:
    """A dated version goes to the deployment's path, anything else to v1; the key has a header of its own."""
    target = target_of(deployment("azure", base, params={"api_version": version}), "chat")
    assert str(target.url) == "https://r.openai.azure.com" + address
    assert target.headers["api-key"] == "key-1"
    assert "Authorization" not in target.headers


@pytest.mark.parametrize("base", [None, "", "no url", "ftp://x/v1", "http://"])
def test_no_usable_address(base: str | None) -> None:
    """An address that nothing can be sent to makes the deployment unavailable, in words."""
    with pytest.raises(UpstreamError) as caught:
        target_of(deployment(base=base), "chat")
    assert caught.value.cause == "unavailable"


def test_headers() -> None:
    """Key, organization and own headers; a repr of the target shows none of them."""
    params = {"organization": "org", "extra_headers": {"X-Own": "1", "Authorization": "Bearer other"}}
    target = target_of(deployment(params=params), "chat")
    assert target.headers["Authorization"] == "Bearer other"
    assert target.headers["OpenAI-Organization"] == "org"
    assert target.headers["X-Own"] == "1"
    assert "other" not in repr(target)
    assert "Authorization" not in target_of(deployment(params={"api_key": None}), "chat").headers
    assert secrets_of(deployment(params=params)) == ("Bearer other", "key-1")


def test_body_merges_parameters() -> None:
    """The client's fields win over the deployment's parameters, those over its defaults; extra_body is on top."""
    params = {"temperature": 0.1, "top_k": 5, "rpm": 10, "api_version": "x", "extra_body": {"own": 1, "seed": 2}}
    one = deployment(params=params, defaults={"temperature": 0.9, "max_tokens": 7})
    body = body_of(one, call(temperature=0.5, extra_body={"seed": 3}), None)
    assert body == {
        "model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], "temperature": 0.5, "top_k": 5, "own": 1,
        "seed": 3, "max_tokens": 7,
    }  # fmt: skip
    assert body_of(one, call("embedding", input="x"), None)["input"] == "x"
    assert "max_tokens" not in body_of(one, call("embedding", input="x"), None)


@pytest.mark.parametrize(
    "key", ["cache_read_input_token_cost", "output_cost_per_character", "input_cost_per_token_above_128k_tokens",
            "input_cost_per_second", "tiered_pricing", "max_budget"],
)  # fmt: skip
def test_a_price_is_not_sent(key: str) -> None:
    """What LiteLLM takes for a price in `litellm_params` is no field of a request: providers refuse those."""
    one = deployment(params={key: 0.1, "top_k": 5})
    assert body_of(one, call(), None).keys() == {"model", "messages", "top_k"}


def test_usage_is_always_asked_for() -> None:
    """A stream's usage is needed whether the client asked or not, where the provider knows the field."""
    body = body_of(deployment(), call(stream=True, stream_options={"include_usage": False, "x": 1}), None)
    assert body["stream_options"] == {"include_usage": True, "x": 1}
    assert "stream_options" not in body_of(deployment("mistral"), call(stream=True), None)
    for version, has in (("2024-02-01", False), ("2024-10-21", True)):
        old = deployment("azure", params={"api_version": version})
        assert ("stream_options" in body_of(old, call(stream=True), None)) is has
    assert "stream_options" not in body_of(deployment(), call(stream_options={}), None)


@pytest.mark.parametrize(
    ("provider", "prefix", "more"),
    [
        ("openai", {}, {}),
        ("mistral", {"prefix": True}, {}),
        ("deepseek", {"prefix": True}, {}),
        ("hosted_vllm", {}, {"continue_final_message": True, "add_generation_prompt": False}),
    ],
)
def test_going_on_from_a_partial_answer(provider: str, prefix: dict[str, Any], more: dict[str, Any]) -> None:
    """The partial answer is the last assistant message, marked as each provider wants it; the call is untouched."""
    asked = call()
    body = body_of(deployment(provider), asked, Partial("One two"))
    assert body["messages"][-1] == {"role": "assistant", "content": "One two", **prefix}
    assert {name: body[name] for name in more} == more
    assert len(asked.body["messages"]) == 1


def test_going_on_elsewhere() -> None:
    """A completion's prompt grows; DeepSeek takes prefixes on its beta path only."""
    assert body_of(deployment(), call("completion", prompt="a"), Partial(" b"))["prompt"] == "a b"
    assert body_of(deployment(), call("completion", prompt=["a"]), Partial(" b"))["prompt"] == ["a b"]
    one = deployment("deepseek", "https://api.deepseek.com/v1")
    assert url(one, prefixed=True) == "https://api.deepseek.com/beta/chat/completions"
    assert url(one) == "https://api.deepseek.com/v1/chat/completions"


def test_the_sidecar_adds_parameters_itself() -> None:
    """To the sidecar goes the client's body and the deployment's id, no parameter and no key."""
    one = deployment("anthropic", None, params={"temperature": 0.1, "extra_body": {"a": 1}})
    body = sidecar_body(one, call(stream=True), Partial("x"))
    assert set(body) == {"model", "messages", "stream", "stream_options"}
    assert body["model"] == "anthropic/gpt-4o"
    target = sidecar_target(one, "rerank")
    assert (str(target.url), target.headers) == ("http://sidecar/v1/rerank", {"x-exo-deployment": "d"})


def test_what_comes_of_anthropics_api() -> None:
    """Our own field goes nowhere; an answer that the client began is gone on with, together with what came since."""
    start = {"role": "assistant", "content": "Once"}
    asked = call(messages=[{"role": "user", "content": "hi"}, start], exo_anthropic={"prefill": True})
    body = body_of(deployment("vllm"), asked, Partial(" upon"))
    assert body["messages"][1:] == [{"role": "assistant", "content": "Once upon"}]
    assert body["continue_final_message"] is True
    assert "exo_anthropic" not in body
    assert sidecar_body(deployment("anthropic", model="claude-x"), asked, None)["messages"] == asked.body["messages"]


@pytest.mark.parametrize(
    "name",
    [
        "cache_read_input_token_cost", "cache_creation_input_token_cost", "input_cost_per_token_batches",
        "output_cost_per_reasoning_token", "cost_per_query", "cost_per_request", "search_context_cost_per_query",
        "langfuse_secret_key", "aws_secret_access_key", "vertex_credentials", "litellm_system_prompt", "guardrails",
        "supports_system_message", "max_fallbacks", "itpm",
    ],
)  # fmt: skip
def test_what_is_for_litellm_is_not_sent(name: str) -> None:
    """Prices, steering and keys of other services in `litellm_params` are no parameters of the provider's."""
    one = deployment(params={name: "x", "reasoning_effort": "low", "top_k": 5})
    assert parameters_of(one) == {"reasoning_effort": "low", "top_k": 5}


def test_what_a_deployment_does_not_take_is_left_out() -> None:
    """LiteLLM's `additional_drop_params`: fields of the request that this deployment refuses."""
    one = deployment(params={"additional_drop_params": ["temperature", "messages", 5], "top_k": 5})
    sent = body_of(one, call(temperature=0.5, top_p=0.9), None)
    assert sent == {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], "top_p": 0.9, "top_k": 5}
    assert "temperature" in body_of(deployment(), call(temperature=0.5), None)
