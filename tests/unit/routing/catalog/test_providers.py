"""What a model string means: provider, address, key, transport."""

from __future__ import annotations

from typing import Any

import pytest

from exo_node.routing.catalog.providers import complete, reachable
from exo_node.routing.catalog.tables import load_tables
from exo_node.routing.deployment import Deployment, Transport

TABLES = load_tables()


def made(model: str, env: dict[str, str] | None = None, transport: Transport = "auto", **params: Any) -> Deployment:
    blank = Deployment(
        id="d", model_name="m", litellm_model=model, provider="", upstream_model="", params=params, transport=transport
    )
    return complete(blank, env or {}, TABLES)


@pytest.mark.parametrize(
    ("model", "provider", "upstream", "transport", "base"),
    [
        ("gpt-4", "openai", "gpt-4", "passthrough", "https://api.openai.com/v1"),
        ("openai/gpt-4", "openai", "gpt-4", "passthrough", "https://api.openai.com/v1"),
        ("anthropic/claude-3-opus-20240229", "anthropic", "claude-3-opus-20240229", "litellm", None),
        ("google/gemini-pro", "gemini", "gemini-pro", "litellm", None),
        ("groq/llama2-70b-4096", "groq", "llama2-70b-4096", "passthrough", "https://api.groq.com/openai/v1"),
        ("ollama/llama3", "ollama", "llama3", "passthrough", "http://localhost:11434/v1"),
        ("together_ai/meta-llama/X", "together_ai", "meta-llama/X", "passthrough", "https://api.together.ai/v1"),
        ("openrouter/anthropic/claude-3.5-sonnet", "openrouter", "anthropic/claude-3.5-sonnet", "passthrough",
         "https://openrouter.ai/api/v1"),
        ("deepseek/deepseek-chat", "deepseek", "deepseek-chat", "passthrough", "https://api.deepseek.com/v1"),
        ("mistral/mistral-large-latest", "mistral", "mistral-large-latest", "passthrough", "https://api.mistral.ai/v1"),
        ("fireworks_ai/accounts/x", "fireworks_ai", "accounts/x", "passthrough",
         "https://api.fireworks.ai/inference/v1"),
        ("xai/grok-4.5", "xai", "grok-4.5", "passthrough", "https://api.x.ai/v1"),
        ("perplexity/sonar", "perplexity", "sonar", "passthrough", "https://api.perplexity.ai"),
        ("lm_studio/q", "lm_studio", "q", "passthrough", "http://localhost:1234/v1"),
        ("bedrock/anthropic.claude-3-sonnet-20240229-v1:0", "bedrock", "anthropic.claude-3-sonnet-20240229-v1:0",
         "litellm", None),
        ("cohere/rerank-english-v3.0", "cohere", "rerank-english-v3.0", "litellm", None),
        ("watsonx/x", "watsonx", "x", "litellm", None),
    ],
)  # fmt: skip
def test_model_strings(model: str, provider: str, upstream: str, transport: str, base: str | None) -> None:
    """A model string gives provider, model, transport and the address of those who speak OpenAI's wire format."""
    one = made(model)
    assert (one.provider, one.upstream_model, one.transport) == (provider, upstream, transport)
    if base is not None:
        assert one.api_base == base


@pytest.mark.parametrize(
    ("model", "litellm"),
    [
        ("gpt-4", "openai/gpt-4"), ("google/gemini-pro", "gemini/gemini-pro"), ("vllm/m", "hosted_vllm/m"),
        ("together/m", "together_ai/m"), ("exo/llama", "openai/llama"), ("ollama_chat/llama3", "ollama_chat/llama3"),
        ("claude-3-opus-20240229", "anthropic/claude-3-opus-20240229"),
    ],
)  # fmt: skip
def test_what_litellm_is_told(model: str, litellm: str) -> None:
    """Our prefixes become LiteLLM's; those that LiteLLM tells apart stay."""
    assert made(model, api_base="http://h:1").litellm_model == litellm


@pytest.mark.parametrize("path", ["", "/", "/v1beta", "/v1beta/", "/v1beta/openai"])
def test_geminis_address_with_and_without_its_path(path: str) -> None:
    """GEMINI_API_BASE may be a host, or end in /v1beta or /v1beta/openai: LiteLLM and the pass-through get theirs."""
    for one in (made("gemini/g", {"GEMINI_API_BASE": f"http://g{path}"}), made("gemini/g", api_base=f"http://g{path}")):
        assert (one.params["api_base"], one.api_base) == ("http://g/v1beta", "http://g/v1beta/openai")


def test_geminis_own_address_is_left_to_litellm() -> None:
    """Without an address of the user's LiteLLM is told none; another path is left as it is."""
    plain = made("gemini/g")
    assert "api_base" not in plain.params
    assert plain.api_base == "https://generativelanguage.googleapis.com/v1beta/openai"
    assert made("gemini/g", api_base="http://gateway/x").params["api_base"] == "http://gateway/x"


def test_a_key_of_the_environment_is_filled_in_and_not_shown() -> None:
    """The provider's variable is the key where the deployment has none, and no repr shows it."""
    one = made("openai/gpt-4", {"OPENAI_API_KEY": "sk-planted"})
    assert (one.key, one.params["api_key"]) == ("present", "sk-planted")
    assert "sk-planted" not in repr(one)


def test_the_deployments_own_key_and_address_win() -> None:
    """What a deployment says itself wins over the environment."""
    env = {"OPENAI_API_KEY": "sk-env", "OPENAI_BASE_URL": "http://env/v1"}
    one = made("openai/gpt-4", env, api_key="sk-own", api_base="http://own/v1")
    assert (one.params["api_key"], one.api_base) == ("sk-own", "http://own/v1")
    assert made("openai/gpt-4", env).api_base == "http://env/v1"


@pytest.mark.parametrize("model", ["openai/gpt-4", "hosted_vllm/m"])
def test_no_other_key_in_place_of_the_one_that_is_named(model: str) -> None:
    """A deployment whose own key is not set gets neither the environment's nor a pass for its address."""
    env = {"OPENAI_API_KEY": "sk-env", "HOSTED_VLLM_API_KEY": "sk-env"}
    blank = Deployment(
        id="d", model_name="m", litellm_model=model, provider="", upstream_model="", key="missing",
        key_problem="the variable MINE is not set", params={"api_base": "http://h/v1"},
    )  # fmt: skip
    one = complete(blank, env, TABLES)
    assert (one.key, one.params.get("api_key")) == ("missing", None)


@pytest.mark.parametrize(
    ("model", "env", "params", "key"),
    [
        ("openai/gpt-4", {}, {}, "missing"),
        ("openai/gpt-4", {}, {"api_key": ""}, "missing"),
        ("openai/my-own", {}, {"api_base": "http://127.0.0.1:9/v1"}, "keyless"),
        ("ollama/llama3", {}, {}, "keyless"),
        ("vllm/m", {}, {"api_base": "http://h:8000"}, "keyless"),
        ("gemini/gemini-pro", {"GOOGLE_API_KEY": "g"}, {}, "present"),
        ("together_ai/m", {"TOGETHER_API_KEY": "t"}, {}, "present"),
        ("bedrock/m", {"AWS_ACCESS_KEY_ID": "a"}, {}, "missing"),
        ("bedrock/m", {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s"}, {}, "present"),
        ("bedrock/m", {"AWS_PROFILE": "p"}, {}, "present"),
        ("bedrock/m", {}, {"aws_access_key_id": "a"}, "present"),
        ("vertex_ai/m", {"VERTEXAI_PROJECT": "p", "VERTEXAI_LOCATION": "l"}, {}, "present"),
        ("huggingface/m", {"HF_TOKEN": "h"}, {}, "present"),
        ("replicate/m", {"REPLICATE_API_TOKEN": "r"}, {}, "present"),
        ("cohere/m", {"CO_API_KEY": "c"}, {}, "present"),
    ],
)
def test_whether_there_is_a_key(model: str, env: dict[str, str], params: dict[str, Any], key: str) -> None:
    """A key is there by any of LiteLLM's names; a set of variables counts when it is complete."""
    assert made(model, env, **params).key == key


def test_addresses_without_a_path_get_v1() -> None:
    """Ollama, vLLM, LM Studio, a LiteLLM proxy and another exo serve OpenAI's wire format under /v1."""
    assert made("ollama/m", {"OLLAMA_API_BASE": "http://o:1/"}).api_base == "http://o:1/v1"
    assert made("litellm_proxy/m", {"LITELLM_BASE_URL": "http://l:4000"}).api_base == "http://l:4000/v1"
    assert made("vllm/m", api_base="http://v:8000/proxy/v1").api_base == "http://v:8000/proxy/v1"
    exo = made("exo/m", api_base="http://e:52415")
    assert (exo.api_base, exo.params["api_base"]) == ("http://e:52415/v1", "http://e:52415/v1")


def test_azure() -> None:
    """Azure is called directly with its version from the environment; client credentials go through LiteLLM."""
    env = {"AZURE_API_KEY": "a", "AZURE_API_BASE": "https://r.openai.azure.com/", "AZURE_API_VERSION": "2024-02-01"}
    one = made("azure/gpt-4o-deployment", env)
    assert (one.transport, one.api_base, one.params["api_version"]) == (
        "passthrough", "https://r.openai.azure.com/", "2024-02-01",
    )  # fmt: skip
    assert made("azure/x", env, client_secret="s", tenant_id="t").transport == "litellm"
    assert made("gpt-4o", env, custom_llm_provider="azure").provider == "azure"


def test_an_answer_that_is_only_played_asks_no_provider() -> None:
    """LiteLLM's `mock_response` is LiteLLM's to give."""
    assert made("openai/gpt-4", api_key="k", mock_response="hi").transport == "litellm"


def test_transport_can_be_chosen() -> None:
    """A deployment's own `transport` holds; a direct call to Anthropic or Gemini uses their OpenAI-shaped address."""
    assert made("openai/gpt-4", transport="litellm").transport == "litellm"
    one = made("gemini/gemini-pro", transport="passthrough")
    assert (one.transport, one.api_base) == (
        "passthrough", "https://generativelanguage.googleapis.com/v1beta/openai",
    )  # fmt: skip


def test_unknown_prefixes() -> None:
    """Without a known prefix: an address means OpenAI's wire format; nothing at all means no provider."""
    assert made("my-model", api_base="http://h:1/v1").provider == "openai"
    assert made("my-model").provider == ""
    assert made("newcomer/m").provider == "newcomer"


def test_what_the_environment_alone_allows() -> None:
    """A key makes a provider reachable; a keyless one wants an address that was really set."""

    def can(provider: str, **env: str) -> bool:
        known = TABLES.provider(provider)
        assert known is not None
        return reachable(known, env)

    assert can("openai", OPENAI_API_KEY="k") and not can("openai")
    assert can("ollama", OLLAMA_API_BASE="http://o:1") and not can("ollama")
    assert not can("azure", AZURE_API_KEY="k")
    assert can("azure", AZURE_API_KEY="k", AZURE_API_BASE="https://r")
