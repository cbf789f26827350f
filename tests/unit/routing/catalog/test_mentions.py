"""Names in the configuration that nothing carries."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from exo_node.errors import ConfigurationError
from exo_node.routing.catalog.holdings import RegistryOptions
from exo_node.routing.catalog.mentions import check_providers, unknown_keys
from exo_node.routing.catalog.names import LocalModel
from exo_node.routing.catalog.registry import Registry
from exo_node.routing.catalog.tables import Tables, load_tables
from exo_node.routing.configuration.located import Problems
from tests.unit.routing.config_files import load

TABLES = load_tables()
CONFIG = """
model_list:
  - {model_name: fast-model, litellm_params: {model: openai/gpt-4o, api_key: k}}
router_settings:
  model_group_alias: {alias: [fast-modle, fast-model], other: alias}
fallbacks:
  - fast-model:
      - gpt-4o
      - demo
      - org/fetched
      - lost
  - fast-mdel: [alias]
context_window_fallbacks: {fast-model: [far]}
default_fallbacks: [claude-3-opus, gone]
limits: {models: {fast-model: {rpm: 1}, fast: {rpm: 1}, Llama-3.3-70B: {rpm: 1}, demmo: {rpm: 2}}}
rerank_model: nothing
"""


def registry(folder: Path, *files: str, tables: Tables = TABLES, enabled: bool = True) -> Registry:
    local = (LocalModel(id="demo", loaded=True), LocalModel(id="unsloth/Llama-3.3-70B-Instruct", loaded=False))
    return Registry(
        load(folder, *files),
        tables,
        RegistryOptions(enabled=enabled),
        local_models=lambda: local,
        fetchable=lambda name: LocalModel(id=name, loaded=False, here=False),  # as with peers
    )


def test_models_that_nothing_carries(tmp_path: Path) -> None:
    """Each is a line with file, line and the nearest name; deployments, aliases, cloud, local and fetchable names and
    near names of limits are none."""
    found = [line.replace(f"{tmp_path}/", "") for line in registry(tmp_path, CONFIG).unknown_names()]
    assert sorted(found, key=lambda line: int(line.split(":")[1])) == [
        "1.yaml:4: router_settings.model_group_alias.alias: no model 'fast-modle' is known here "
        "(did you mean fast-model?)",
        "1.yaml:10: fallbacks[0].fast-model: no model 'lost' is known here",
        "1.yaml:11: fallbacks[1].fast-mdel: no model 'fast-mdel' is known here (did you mean fast-model?)",
        "1.yaml:12: context_window_fallbacks.fast-model: no model 'far' is known here",
        "1.yaml:13: default_fallbacks: no model 'gone' is known here",
        "1.yaml:14: limits.models.fast: no model 'fast' is known here",
        "1.yaml:14: limits.models.demmo: no model 'demmo' is known here (did you mean demo?)",
        "1.yaml:15: rerank_model: no model 'nothing' is known here",
    ]


def test_nothing_to_say(tmp_path: Path) -> None:
    """With external models off, or a proxy that may know every name, there are no remarks."""
    assert registry(tmp_path, CONFIG, enabled=False).unknown_names() == []
    proxy = "environment_variables: {LITELLM_BASE_URL: 'http://proxy:4000'}\n"
    assert registry(tmp_path, CONFIG + proxy).unknown_names() == []


def test_fallbacks_of_records(tmp_path: Path) -> None:
    """A model record's fallback_models may name records; others are remarked."""
    record = '{{"system_name": "{}", "ai_model": "{}", "routing_config": {{"fallback_models": {}}}}}'
    text = f"[{record.format('a', 'gpt-4o', ['b', 'c'])},\n{record.format('b', 'gpt-4', [])}]".replace("'", '"')
    assert [line.rpartition("/")[2] for line in registry(tmp_path, text).unknown_names()] == [
        "1.json:1: [0].routing_config.fallback_models: no model 'c' is known here"
    ]


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("budgets: [{subject: 'provider:opnai', limit: 1}]",
         "budgets[0].subject: no provider 'opnai' (did you mean openai?)"),
        ("budgets: [{subject: 'provider:google', limit: 1}]",
         "budgets[0].subject: google is called gemini here: write gemini"),
        ("router_settings: {provider_budget_config: {antropic: {budget_limit: 1, time_period: 1d}}}",
         "router_settings.provider_budget_config.antropic: no provider 'antropic' (did you mean anthropic?)"),
        ("default_provider: none-such", "default_provider: no provider 'none-such'"),
    ],
)  # fmt: skip
def test_providers_that_there_are_not(tmp_path: Path, said: str, answer: str) -> None:
    """A provider of a budget, or the default one, that nobody knows is an error."""
    problems = Problems()
    check_providers(load(tmp_path, said), TABLES, problems)
    assert problems.lines == [f"{tmp_path}/1.yaml:1: {answer}"]


def test_providers_that_there_are(tmp_path: Path) -> None:
    """Known ones, every one by itself, and one that only a deployment names."""
    text = """
        budgets: [{subject: 'provider:openai', limit: 1}, {subject: 'provider:*', limit: 1},
          {subject: 'provider:mine', limit: 1}, {subject: 'user:x', limit: 1}, {subject: all, limit: 1}]
        model_list: [{model_name: m, litellm_params: {model: mine/m, api_key: k}}]
        """
    problems = Problems()
    check_providers(load(tmp_path, text), TABLES, problems)
    assert problems.lines == []


def test_deployments_of_providers_that_nobody_knows(tmp_path: Path) -> None:
    """A slip in a provider's name is remarked; LiteLLM's other providers, renames and own servers are known."""
    models = ("opnai/gpt-4o", "groq/x", "google/gemini-pro", "watsonx/y", "vllm/m", "gpt-4o")
    text = "model_list:\n" + "".join(
        f"  - {{model_name: m, litellm_params: {{model: {m}, api_key: k}}}}\n" for m in models
    )
    (line,) = registry(tmp_path, text).unknown_names()
    assert line.startswith("deployment opnai-gpt-4o-")
    assert line.endswith(" (opnai/gpt-4o): no provider 'opnai' is known here (did you mean openai?)")


def test_budgets_of_keys_that_there_are_not(tmp_path: Path) -> None:
    """An id is wanted; "*" is each key by itself."""
    text = "budgets: [{subject: 'key:ci', limit: 1}, {subject: 'key:*', limit: 1}, {subject: 'key:key-1', limit: 1}]"
    assert unknown_keys(load(tmp_path, text), "key-1".__eq__) == [
        "budgets: key:ci: no API key has that id at present (exo apikey list)"
    ]


def test_the_users_own_equivalents(tmp_path: Path) -> None:
    """A class that names no model is remarked with its line; a host that is no provider is an error."""
    own = tmp_path / "models.toml"
    own.write_text(
        textwrap.dedent(
            """
            [[model]]
            id = "mine"
            hosts = ["ollama/mine"]
            [[class]]
            id = "quick"
            models = ["mine", "gpt-4o-mini",
              "openai/gpt-new", "gpt4"]
            """
        ).lstrip()
    )
    found = registry(tmp_path, tables=load_tables(own)).unknown_names()
    assert found == [f"{own}:7: class quick: no model 'gpt4' is known here (did you mean gpt-4?)"]
    own.write_text('[[model]]\nid = "mine"\nhosts = ["olama/mine"]\n')
    with pytest.raises(ConfigurationError, match=r"model.hosts wants \"provider/model\" of a known provider; got"):
        load_tables(own)
