"""Database records of document 004, custom models of document 001."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from exo_node.routing.configuration.records import are_custom_models, is_model, is_provider, per_million
from exo_node.routing.configuration.secrets import SecretStore
from exo_node.routing.deployment import CacheConfig, Deployment, Price, RedisConfig
from tests.unit.routing.config_files import DOCUMENTS, by_line, load, one, problems


def document(name: str) -> Any:
    return json.loads((DOCUMENTS / name).read_text())


def test_router_mode(tmp_path: Path) -> None:
    """A provider record: two deployments of one name with the record's secrets, timers, strategy and defaults."""
    config = load(tmp_path, DOCUMENTS / "004-router-mode.json")
    azure, openai = (d for d in config.deployments if d.model_name == "gpt-4o")
    assert azure.params == {
        "api_key": "your-azure-key",
        "api_base": "https://your-resource.openai.azure.com/",
        "api_version": "2024-02-01",
    }
    assert (azure.rpm, azure.tpm, openai.rpm, openai.tpm) == (1000, 100000, 500, 50000)
    assert openai.params == {"api_key": "your-openai-key"}
    for d in (azure, openai):
        assert (d.model_name, d.strategy) == ("gpt-4o", "simple-shuffle")
        assert (d.num_retries, d.retry_after_s, d.timeout_s, d.allowed_fails, d.cooldown_s) == (3, 5, 120, 3, 60)
        assert d.defaults == {"temperature": 0.7, "top_p": 1.0}
        assert d.cache is False
    assert config.records == ("litellm-gpt4",)
    assert config.default_model == "gpt-4o"
    assert (config.embedding_model, config.rerank_model) == ("text-embedding-3-small", "cohere/rerank-english-v3.0")
    assert config.redis == RedisConfig("localhost", 6379)
    assert config.cache.kind == "off"
    assert config.strategy is None and config.num_retries is None  # the record's settings are its own deployments'


def embeds(d: Deployment) -> bool:
    return d.model_name == "text-embedding-3-small"


def test_an_embedding_model_that_the_list_does_not_serve(tmp_path: Path) -> None:
    """It is asked for at each account of the list, one after the other, as document 004's failover example wants."""
    config = load(tmp_path, DOCUMENTS / "004-router-mode.json")
    azure, openai = (d for d in config.deployments if embeds(d))
    assert (azure.litellm_model, openai.litellm_model) == (
        "azure/text-embedding-3-small",
        "openai/text-embedding-3-small",
    )
    assert (azure.params["api_key"], openai.params) == ("your-azure-key", {"api_key": "your-openai-key"})
    assert (azure.rpm, azure.defaults["temperature"]) == (None, 0.7)
    assert len({d.id for d in config.deployments}) == 4


def test_a_chats_parameters_are_not_its_embedding_models(tmp_path: Path) -> None:
    """What the list says of a chat's requests and price goes with no embedding: a provider would refuse it."""
    params = {
        "model": "azure/gpt", "api_key": "k", "api_base": "http://h", "api_version": "v", "user": "team", "timeout": 9,
        "max_tokens": 100, "temperature": 0.1, "response_format": {"type": "json_object"}, "extra_body": {"x": 1},
        "base_model": "azure/gpt-4o",
    }  # fmt: skip
    router = {"model_list": [{"model_name": "gpt", "litellm_params": params}], "embedding_model": "embed"}
    config = load(tmp_path, json.dumps({"system_name": "r", "metadata_info": {"router_config": router}}))
    chat, embed = config.deployments
    assert {*chat.params} == {*params} - {"model", "timeout"}
    assert embed.litellm_model == "azure/embed"
    assert embed.params == {"api_key": "k", "api_base": "http://h", "api_version": "v", "user": "team"}
    assert embed.timeout_s == 9


def test_direct_mode(tmp_path: Path) -> None:
    """A model record: the group is ai_model, the id is system_name; the named provider gives endpoint and secrets."""
    d = one(config := load(tmp_path, DOCUMENTS / "004-direct-mode.json"))
    assert (d.id, d.model_name, d.litellm_model) == ("gpt-4o-prod", "gpt-4o", "azure/gpt-4o")
    assert (d.rpm, d.tpm, d.order, d.weight) == (1000, 100000, 1, 0.8)
    assert (d.num_retries, d.retry_after_s, d.timeout_s) == (3, 5, 120)
    assert d.fallbacks == ("gpt-4o-mini", "claude-3-sonnet")
    assert config.aliases == {"gpt-4o-prod": ("gpt-4o",)}  # the record's name is a name to ask for
    assert (d.cache, d.cache_ttl_s) == (True, 3600)
    assert config.cache == CacheConfig(kind="memory", everywhere=False)  # the switch was this deployment's only
    assert d.params == {
        "api_key": "your-azure-key",
        "api_version": "2024-02-01",
        "api_base": "https://your-resource.openai.azure.com/",
    }


def test_direct_mode_alone(tmp_path: Path) -> None:
    """The document's record stands alone: what its provider's record would give comes from the environment."""
    record = document("004-direct-mode.json")["models"][0]
    record["routing_config"]["litellm_params"] = {"custom_llm_provider": "azure"}
    d = one(config := load(tmp_path, json.dumps(record, indent=2)))
    assert (d.litellm_model, d.params) == ("azure/gpt-4o", {})
    (note,) = config.notes
    assert note.endswith("1.json:4: no record of litellm-direct: gpt-4o-prod uses the environment")


def test_records_in_lists_and_files(tmp_path: Path) -> None:
    """Records come alone, in a list, under providers and models, in any order and in several files."""
    together = document("004-direct-mode.json")
    provider, model = together["providers"][0], together["models"][0]
    expected = load(tmp_path, json.dumps(together)).deployments
    for files in ([[model, provider]], [model, provider], [[model], {"providers": [provider]}]):
        assert load(tmp_path, *(json.dumps(file) for file in files)).deployments == expected


@pytest.mark.parametrize("name", ["004-multi-region.json", "004-multi-provider.json"])
def test_scenarios(tmp_path: Path, name: str) -> None:
    """The document's scenarios: placeholders come from the encrypted secrets of this machine."""
    without = load(tmp_path, DOCUMENTS / name)
    assert {d.key for d in without.deployments} == {"missing"}
    assert len(without.notes) == len(without.deployments)
    store = SecretStore(tmp_path / "home", {})
    for d in document(name)["model_list"]:
        store.set(d["litellm_params"]["api_key"].strip("{}"), "key of " + d["litellm_params"]["api_key"])
    config = load(tmp_path, DOCUMENTS / name)
    assert [d.params["api_key"] for d in config.deployments] == [
        "key of " + d["litellm_params"]["api_key"] for d in document(name)["model_list"]
    ]
    assert {d.model_name for d in config.deployments} == {"gpt-4o"}
    assert len({d.id for d in config.deployments}) == len(config.deployments)
    assert [d.id for d in config.deployments] == [d.id for d in without.deployments]


def test_secrets_of_a_record(tmp_path: Path) -> None:
    """A record's secrets may be plain, encrypted or a variable; they win over this machine's; others' are not seen."""
    store = SecretStore(tmp_path / "home", {})
    store.set("plain", "machine's")
    store.set("shared", "shared's")

    def record(name: str, secrets: dict[str, Any], placeholder: str) -> dict[str, Any]:
        entry = {"model_name": name, "litellm_params": {"model": "openai/x", "api_key": placeholder}}
        return {
            "system_name": name,
            "type": "litellm",
            "secrets_encrypted": secrets,
            "metadata_info": {"router_config": {"model_list": [entry]}},
        }

    secrets = {"plain": "record's", "sealed": store.seal("sealed", "sealed's"), "variable": "${VAR}", "none": None}
    names = ("plain", "sealed", "variable", "shared")
    records = [record(name, secrets, f"{{{name}}}") for name in names]
    config = load(tmp_path, json.dumps(records), env={"VAR": "variable's"})
    found = [d.params["api_key"] for d in config.deployments]
    assert found == ["record's", "sealed's", "variable's", "shared's"]
    other = load(tmp_path, json.dumps([record("a", secrets, "x"), record("b", {}, "{sealed}")]))
    assert [d.key for d in other.deployments] == ["present", "missing"]
    moved = record("a", {"other": secrets["sealed"]}, "{other}")
    (line,) = problems(tmp_path, json.dumps(moved))
    assert "secret other: the encrypted value does not fit the key" in line


def test_a_record_that_caches(tmp_path: Path) -> None:
    """cache_enabled of a connection switches the cache on for that record's deployments only."""
    record = document("004-router-mode.json")
    record["connection_config"] |= {
        "cache_enabled": True,
        "cache_config": {"type": "redis", "ttl": 60},
        "redis_password": "{azure_api_key}",
        "redis_port": "6390",
    }
    other = '[{"model_name": "other", "litellm_params": {"model": "openai/x"}}]'
    config = load(tmp_path, json.dumps(record), other)
    assert config.cache == CacheConfig(kind="redis", everywhere=False)
    assert [(d.cache, d.cache_ttl_s) for d in config.deployments if not embeds(d)] == [
        (True, 60),
        (True, 60),
        (None, None),
    ]
    assert config.redis == RedisConfig("localhost", 6390, "your-azure-key")


def test_most_specific_timer_wins(tmp_path: Path) -> None:
    """litellm_params > routing_config > the record's router_config; the configuration file's router comes after all."""
    record = document("004-router-mode.json")
    record["metadata_info"]["router_config"]["model_list"][0]["litellm_params"]["timeout"] = 7
    config = load(tmp_path, json.dumps(record), '{"router": {"timeout": 30}, "litellm_settings": {"timeout": 40}}')
    assert [d.timeout_s for d in config.deployments if not embeds(d)] == [7, 120]
    assert config.timeout_s == 30
    model = document("004-direct-mode.json")
    model["models"][0]["routing_config"]["litellm_params"] |= {"timeout": 7, "num_retries": 0}
    d = one(load(tmp_path, json.dumps(model)))
    assert (d.timeout_s, d.num_retries, d.retry_after_s) == (7, 0, 5)


def test_defaults_of_records_and_files(tmp_path: Path) -> None:
    """model record > provider record > configuration file > flag."""
    together = document("004-direct-mode.json")
    together["providers"][0]["metadata_info"] = {"defaults": {"temperature": 0.5, "top_p": 0.9, "model": "from-record"}}
    together["models"][0]["metadata_info"] = {"defaults": {"top_p": 0.8}}
    file = '{"defaults": {"temperature": 0.1, "max_tokens": 5, "model": "from-file"}}'
    config = load(tmp_path, json.dumps(together), file, default_temp=1.5, default_model="from-flag")
    assert one(config).defaults == {"temperature": 0.5, "top_p": 0.8, "max_tokens": 5}
    assert config.defaults == {"temperature": 0.1, "max_tokens": 5}
    assert config.default_model == "from-file"
    assert load(tmp_path, default_temp=1.5).defaults == {"temperature": 1.5}


def test_mistakes_in_records(tmp_path: Path) -> None:
    """Unknown keys, missing keys and wrong types in records, with their lines."""
    found = problems(
        tmp_path,
        """[
        {"system_name": "a", "type": "openai", "conection_config": {},
         "endpoint": "nowhere",
         "secrets_encrypted": {"k": 123456},
         "metadata_info": {"router_config": {"timeout": "x",
                                             "routing_stratgy": "simple-shuffle"}}},
        {"system_name": "a", "connection_config": {"redis_prt": 1, "cache_enabled": "yes"}},
        {"ai_model": "x", "routing_config": {"priorty": 1, "weight": "heavy"}},
        {"type": "litellm"},
        7
        ]""",
    )
    assert found == by_line(
        "1.json:2: [0].type: wants one of litellm, got 'openai'",
        "1.json:4: [0].secrets_encrypted.k: wants a text in quotes",
        "1.json:3: [0].endpoint: wants an address such as http://localhost:11434",
        "1.json:5: [0].metadata_info.router_config.timeout: wants a number above 0, got 'x'",
        "1.json:5: [0].metadata_info.router_config: model_list is missing: without it there is nothing to route to",
        "1.json:6: unknown key [0].metadata_info.router_config.routing_stratgy (did you mean routing_strategy?)",
        "1.json:2: unknown key [0].conection_config (did you mean connection_config?)",
        "1.json:7: [1].connection_config.cache_enabled: wants no quotes, got the text 'yes'",
        "1.json:7: unknown key [1].connection_config.redis_prt (did you mean redis_port?)",
        "1.json:7: [1].system_name: another provider is called a too",
        "1.json:9: [3]: wants a provider record, a model record or a deployment: system_name is missing",
        "1.json:10: wants LiteLLM's or exo's configuration (model_list, model_deployments, ...), a record with "
        "system_name, or a list of records",
        "1.json:8: [2].routing_config.weight: wants a number of at least 0, got 'heavy'",
        "1.json:8: unknown key [2].routing_config.priorty (did you mean priority?)",
        "1.json:8: [2]: system_name is missing",
    )


def test_custom_models(tmp_path: Path) -> None:
    """Prices per 1,000 tokens become prices per million; the models go to the LiteLLM proxy where there is one."""
    gpt, haiku, llama = load(tmp_path, DOCUMENTS / "001-custom-models.json").deployments
    assert (gpt.litellm_model, gpt.price, gpt.rpm, gpt.tpm, gpt.context) == (
        "openai/gpt-4", Price(30, 60), 20, 20000, 8192,
    )  # fmt: skip
    assert haiku.price == Price(0.25, 1.25)
    assert (llama.litellm_model, llama.task_types) == ("ollama/custom-llama-7b", ("general", "code"))
    proxy = load(tmp_path, DOCUMENTS / "001-custom-models.json", env={"LITELLM_URL": "http://localhost:4000"})
    assert [d.litellm_model for d in proxy.deployments] == [
        "litellm_proxy/gpt-4", "litellm_proxy/claude-3-haiku", "litellm_proxy/custom-llama-7b",
    ]  # fmt: skip


def test_custom_models_of_deployments(tmp_path: Path) -> None:
    """What a custom model says of a configured deployment completes it, and does not win over it."""
    config = load(
        tmp_path,
        '[{"model_name": "gpt-4", "litellm_params": {"model": "azure/x", "rpm": 7}}]',
        '{"custom_models": {"gpt-4": {"pricing": {"input": 0.03, "output": 0.06}, '
        '"rate_limits": {"requests_per_minute": 20}, "metadata": {"context_window": 8192}}}}',
    )
    d = one(config)
    assert (d.litellm_model, d.rpm, d.price, d.context) == ("azure/x", 7, Price(30, 60), 8192)
    assert problems(tmp_path, '{"custom_models": {"a": {"pricing": {"input": 1}, "metdata": {}}}}') == [
        "1.json:1: custom_models.a.pricing: wants input and output, in USD per 1,000 tokens",
        "1.json:1: unknown key custom_models.a.metdata (did you mean metadata?)",
    ]


def test_what_is_what() -> None:
    """Records are told apart by what they hold."""
    assert is_provider(document("004-router-mode.json")) and not is_model(document("004-router-mode.json"))
    assert is_model(document("004-direct-mode.json")["models"][0])
    assert are_custom_models(document("001-custom-models.json"))
    assert not are_custom_models({}) and not are_custom_models(document("000-exo.json"))
    assert per_million(0.00025) == 0.25


def test_deployments_know_their_record(tmp_path: Path) -> None:
    """Each deployment names its provider record, and each record its own default models."""
    entry = {"model_name": "gpt-4", "litellm_params": {"model": "openai/gpt-4", "api_key": "k"}}
    found = [
        {
            "system_name": name,
            "metadata_info": {
                "defaults": {"model": "gpt-4"},
                "router_config": {"model_list": [entry], "embedding_model": f"embed-{name}"},
            },
        }
        for name in ("a", "b")
    ]
    found.append({"system_name": "direct", "ai_model": "gpt-4", "provider_system_name": "b"})
    config = load(tmp_path, json.dumps(found))
    assert [(one.model_name, one.record) for one in config.deployments] == [
        ("gpt-4", "a"), ("embed-a", "a"), ("gpt-4", "b"), ("embed-b", "b"), ("gpt-4", "b"),
    ]  # fmt: skip
    assert config.record_models == {name: {"chat": "gpt-4", "embedding": f"embed-{name}"} for name in ("a", "b")}
