"""The shipped tables, and the user's own over them."""

from __future__ import annotations

from pathlib import Path

import pytest

from exo_node.errors import ConfigurationError
from exo_node.routing.catalog.tables import load_tables

ROOT = Path(__file__).resolve().parents[4]
TABLES = load_tables()


def test_each_provider_of_the_documents_is_there() -> None:
    """The providers that the documents show are in the table, each with a name and an example."""
    named = {
        "ollama", "openai", "anthropic", "gemini", "groq", "openrouter", "huggingface", "together_ai", "deepseek",
        "azure", "bedrock", "hosted_vllm", "lm_studio", "cohere", "replicate", "mistral", "vertex_ai", "xai",
        "fireworks_ai", "perplexity", "litellm_proxy", "exo",
    }  # fmt: skip
    assert named <= TABLES.providers.keys()
    assert all(one.name and one.example for one in TABLES.providers.values())


def test_our_prefixes_become_litellms() -> None:
    """google/ is gemini/, vllm/ is hosted_vllm/; a prefix that only LiteLLM knows is a provider with its own key."""
    gemini, vllm, watsonx = TABLES.provider("google"), TABLES.provider("vllm"), TABLES.provider("watsonx")
    assert gemini is not None and vllm is not None and watsonx is not None
    assert (gemini.id, vllm.id, watsonx.keys) == ("gemini", "hosted_vllm", ("WATSONX_API_KEY",))
    assert TABLES.provider("mlx-community") is None


@pytest.mark.parametrize(
    ("name", "provider"),
    [
        ("gpt-4", "openai"), ("gpt-3.5-turbo", "openai"), ("o3-mini", "openai"), ("o1", "openai"),
        ("text-embedding-3-small", "openai"), ("claude-3-opus", "anthropic"), ("gemini-pro", "gemini"),
        ("command-r", "cohere"), ("rerank-english-v3.0", "cohere"), ("mistral-large-latest", "mistral"),
        ("codestral-latest", "mistral"), ("grok-4.5", "xai"), ("sonar-pro", "perplexity"),
        ("deepseek-chat", "deepseek"),
        ("gpt-oss-20b", None), ("llama-3.2-1b", None), ("mistral-7b", None), ("qwen-2.5-7b", None), ("o1ala", None),
    ],
)  # fmt: skip
def test_cloud_names(name: str, provider: str | None) -> None:
    """A cloud name leads to its provider; names of open models lead to none."""
    maker = TABLES.maker_of(name)
    assert (maker.id if maker else None) == provider


@pytest.mark.parametrize(
    "model",
    ["anthropic/claude-3-opus", "anthropic/claude-3-5-sonnet", "gemini/gemini-2.0-flash-exp",
     "groq/llama-3.3-70b-versatile", "cohere/command-r"],
)  # fmt: skip
def test_prices_that_litellm_dropped_are_shipped(model: str) -> None:
    """Claude 3 and 3.5, Gemini 2.0 flash exp, Groq's llama-3.3 and command-r have a price."""
    price = TABLES.models[model].price
    assert price is not None and price.input > 0 and price.output > 0


def test_every_class_and_host_means_something() -> None:
    """Every host in the table of equal models names a known provider, every class a known model."""
    for row in TABLES.same:
        assert all(TABLES.provider(host.partition("/")[0]) for host in row.hosts), row
    named = {name.lower() for row in TABLES.same for name in (row.id, *row.names)}
    for members in TABLES.classes:
        odd = [m for m in members if m not in named and TABLES.maker_of(m) is None]
        assert odd == []


def test_the_example_file_wins_over_the_shipped_tables() -> None:
    """configs/models.toml reads, its price replaces the shipped one, and what it does not name stays."""
    tables = load_tables(ROOT / "configs" / "models.toml")
    gpt, corp = tables.models["openai/gpt-4o"].price, tables.provider("corp")
    assert gpt is not None and (gpt.input, gpt.output) == (2.0, 8.0)
    assert corp is not None and corp.base == "https://llm.example.com/v1"
    assert tables.models["openai/gpt-4o-mini"] == TABLES.models["openai/gpt-4o-mini"]
    assert ("house-70b", "gpt-4o", "claude-3-5-sonnet") in tables.classes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[provider.x]", "unknown key 'provider'"),
        ('[providers.x]\nname = "X"\nkeyz = []', "providers.x: unknown key 'keyz'"),
        ('[providers.x]\nwire = "soap"', 'providers.x.wire wants "openai" or "litellm"'),
        ("[providers.x]\nkeyless = 1", "providers.x.keyless wants true or false"),
        ('[models.openai]\n"m" = { price = [1, 2], cached = 1 }', "models.openai.m: unknown key 'cached'"),
        ('[models.openai]\n"m" = { price = [1, 2, "x"] }', "models.openai.m.price wants [input, output]"),
        ('[models.openai]\n"m" = { price = [1] }', "models.openai.m.price wants [input, output]"),
        ('[models.openai]\n"m" = { price = [1, -1] }', "models.openai.m.price wants"),
        ('[models.openai]\n"m" = { can = ["fly"] }', "got 'fly'"),
        ('[models.openai]\n"m" = { context = 0 }', "models.openai.m.context wants a number of tokens"),
        ('[[model]]\nhosts = ["a/b"]', "model.id wants a text"),
        ("model = 1", "model wants tables"),
        ("x = [", "not TOML"),
    ],
)
def test_a_wrong_file_is_told_with_its_key(tmp_path: Path, text: str, said: str) -> None:
    """What is wrong in the user's file is an error that names the file and the key."""
    path = tmp_path / "models.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_tables(path)
    assert said in str(caught.value) and str(path) in str(caught.value)
