"""Configuration files of documents 000 to 003, and LiteLLM's `config.yaml`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exo_node.limits.budgets import Budget
from exo_node.limits.rates import Rate
from exo_node.routing.configuration.config_file import sqlite_path
from exo_node.routing.deployment import BudgetRule, CacheConfig, Price, RedisConfig
from tests.unit.routing.config_files import DOCUMENTS, load, one, problems

KEYS = {"OPENAI_API_KEY": "sk-o", "ANTHROPIC_API_KEY": "sk-a", "GOOGLE_API_KEY": "sk-g", "GROQ_API_KEY": "sk-q"}


def test_document_000(tmp_path: Path) -> None:
    """exo's JSON: settings, default model, router, three deployments, one of them without its key."""
    config = load(tmp_path, DOCUMENTS / "000-exo.json", env={"OPENAI_API_KEY": "sk-o"})
    assert (config.verbose, config.cache.kind, config.default_model) == (False, "off", "gpt-3.5-turbo")
    assert (config.num_retries, config.retry_after_s, config.timeout_s) == (3, 0.5, 30)  # router's, not litellm's 120
    gpt, claude, llama = config.deployments
    assert (gpt.model_name, gpt.litellm_model, gpt.params) == ("gpt-4", "gpt-4", {"api_key": "sk-o"})
    assert (claude.litellm_model, claude.params, claude.key) == ("anthropic/claude-3-opus-20240229", {}, "missing")
    assert llama.params == {"api_base": "http://localhost:11434"}
    assert config.notes == (
        f"{DOCUMENTS}/000-exo.json:25: claude-3-opus is not used: the variable ANTHROPIC_API_KEY is not set",
    )
    moved = load(tmp_path, DOCUMENTS / "000-exo.json", env={**KEYS, "OLLAMA_BASE_URL": "http://127.0.0.1:9"})
    assert moved.deployments[2].params == {"api_base": "http://127.0.0.1:9"}


def test_document_001(tmp_path: Path) -> None:
    """LiteLLM's YAML: os.environ keys, the master key becomes ours."""
    config = load(tmp_path, DOCUMENTS / "001-config.yaml", env=KEYS)
    assert config.master_key == "your-master-key-here"
    assert [(d.model_name, d.litellm_model) for d in config.deployments] == [
        ("gpt-4", "openai/gpt-4"),
        ("gpt-3.5-turbo", "openai/gpt-3.5-turbo"),
        ("claude-3-sonnet", "anthropic/claude-3-sonnet-20240229"),
        ("claude-3-haiku", "anthropic/claude-3-haiku-20240307"),
        ("gemini-pro", "google/gemini-pro"),
        ("llama2-70b-chat", "groq/llama2-70b-4096"),
    ]
    assert [d.params["api_key"] for d in config.deployments] == ["sk-o", "sk-o", "sk-a", "sk-a", "sk-g", "sk-q"]
    assert {d.key for d in config.deployments} == {"present"}
    docker = load(tmp_path, DOCUMENTS / "001-docker.yaml")
    assert [d.params["api_key"] for d in docker.deployments] == ["your-openai-key-here", "your-anthropic-key-here"]


def test_document_001_database(tmp_path: Path) -> None:
    """Its PostgreSQL database is refused with the reason, without the URL, which may hold a password."""
    text = (DOCUMENTS / "001-config.yaml").read_text()
    (found,) = problems(tmp_path, text + "  database_url: postgresql://user:pass@localhost/litellm\n", env=KEYS)
    assert found.startswith("1.yaml:41: general_settings.database_url: only SQLite is used here (sqlite:///path)")
    assert "pass" not in found
    assert load(tmp_path, "general_settings: {database_url: 'sqlite:///~/x.db'}").database == f"{tmp_path}/x.db"


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///a.db", "a.db"),
        ("sqlite:////var/a.db", "/var/a.db"),
        ("file:a.db", "a.db"),
        ("/x/a.sqlite3", "/x/a.sqlite3"),
        ("sqlite:///", None),
        ("mysql://h/a.db", None),
        ("somewhere", None),
    ],
)
def test_databases(url: str, path: str | None) -> None:
    """SQLite's addresses and paths are taken, others not."""
    assert sqlite_path(url) == path


def test_document_002(tmp_path: Path) -> None:
    """Document 002's settings: provider, model, request defaults, Ollama's address, cache."""
    config = load(tmp_path, DOCUMENTS / "002-las.json")
    assert (config.default_provider, config.default_model) == ("ollama", "llama3.2")
    assert config.defaults == {"temperature": 0.7, "max_tokens": 4096}
    assert config.environment["OLLAMA_API_BASE"] == "http://localhost:11434"
    assert config.cache == CacheConfig(kind="memory", everywhere=True)
    assert load(tmp_path, '{"enable_cost_tracking": true}').cache.kind == "off"
    assert problems(tmp_path, '{"enable_cost_tracking": false}') == [
        "1.json:1: enable_cost_tracking: costs are always tracked; remove it"
    ]


def test_document_003(tmp_path: Path) -> None:
    """Alias lists, the documents' fallbacks, router limits, Redis cache, strategy."""
    config = load(tmp_path, DOCUMENTS / "003-jaf.yaml", env={"AZURE_API_KEY": "az", "REDIS_HOST": "cache", **KEYS})
    assert config.aliases == {"gpt-4": ("gpt-4", "azure-gpt-4", "claude-3-opus")}
    assert config.fallbacks == {
        "gpt-4": ("claude-3-opus", "gemini-ultra"),
        "claude-3-opus": ("gpt-4", "gemini-ultra"),
    }
    assert (config.rpm, config.tpm, config.strategy) == (1000, 100000, "cost")
    assert config.cache == CacheConfig(kind="redis", ttl_s=3600)
    assert config.redis == RedisConfig("cache")
    assert {d.strategy for d in config.deployments} == {"cost"}
    assert config.deployments[1].params["api_version"] == "2024-02-01"
    assert config.notes == ()


def test_document_003_pieces(tmp_path: Path) -> None:
    """Each snippet of the document is a configuration of its own; a cache without a server says which one it uses."""
    assert load(tmp_path, 'router_settings:\n  routing_strategy: "least-cost"\n').strategy == "cost"
    assert load(tmp_path, 'router_settings:\n  routing_strategy: "latency-based"\n').strategy == "latency"
    config = load(tmp_path, 'cache:\n  type: "redis"\n  ttl: 3600  # 1 hour\n')
    assert config.redis == RedisConfig("localhost")
    assert "localhost:6379 is used" in config.notes[0]


LITELLM = """
    model_list:
      - model_name: fast
        litellm_params:
          model: openai/gpt-4o
          api_key: os.environ/OPENAI_API_KEY
          base_url: https://proxy.example/v1
          rpm: os.environ/RPM
          tpm: 20
          weight: 0.9
          order: 2
          timeout: 7
          stream_timeout: 1.5
          max_retries: 1
          max_parallel_requests: 4
          input_cost_per_token: 0.5
          output_cost_per_token: 0.25
          extra_headers: {X-Team: "${TEAM}"}
          unknown_to_us: [1, {a: b}]
        model_info:
          id: my-fast
          mode: chat
          max_input_tokens: 1000
          supports_vision: true
          supports_function_calling: false
          base_model: gpt-4o
          task_types: [code]
        transport: litellm
      - model_name: embed
        litellm_params: {model: text-embedding-3-small, custom_llm_provider: openai}
        model_info: {mode: embedding}
    litellm_settings:
      request_timeout: 60
      num_retries: 5
      drop_params: true
      success_callback: [langfuse, prometheus]
      failure_callback: helicone
      callbacks: my_module.handler
      cache: true
      cache_params: {type: redis, host: r, port: "6380", password: os.environ/RPW, ttl: 60, max_bytes: 1MiB}
      fallbacks: [{fast: [slow]}, {"*": [any]}]
      context_window_fallbacks: [{fast: [long]}]
      max_budget: 20
      budget_duration: 1d
    router_settings:
      routing_strategy: usage-based-routing-v2
      num_retries: 2
      stream_timeout: 9
      allowed_fails: 4
      cooldown_time: 0
      default_fallbacks: [last]
      model_group_alias: {alias: fast, other: {model: fast, hidden: false}}
      provider_budget_config: {openai: {budget_limit: 1.5, time_period: 30d}}
      enable_pre_call_checks: true
    general_settings: {master_key: os.environ/MASTER}
    environment_variables: {RPM: "12", TEAM: os.environ/REAL_TEAM}
    budgets: [{subject: "user:joe", limit: 3}, {subject: all, limit: 100, period: day}]
"""


def test_litellm_config(tmp_path: Path) -> None:
    """LiteLLM's own keys, each where it belongs; its environment_variables count in the whole file."""
    env = {**KEYS, "RPW": "pw", "MASTER": "sk-m", "REAL_TEAM": "blue"}
    config = load(tmp_path, LITELLM, env=env)
    fast, embed = config.deployments
    assert (fast.id, fast.rpm, fast.tpm, fast.weight, fast.order) == ("my-fast", 12, 20, 0.9, 2)
    assert (fast.timeout_s, fast.stream_timeout_s, fast.num_retries, fast.capacity) == (7, 1.5, 1, 4)
    assert fast.price == Price(500_000, 250_000)  # per token in the file
    assert (fast.context, fast.capabilities, fast.task_types) == (1000, frozenset({"vision"}), ("code",))
    assert (fast.transport, fast.strategy) == ("litellm", "usage-based-routing")
    assert fast.params == {
        "api_key": "sk-o",
        "api_base": "https://proxy.example/v1",
        "extra_headers": {"X-Team": "blue"},
        "unknown_to_us": [1, {"a": "b"}],
        "base_model": "gpt-4o",
        "drop_params": True,
    }
    assert (embed.litellm_model, embed.capabilities) == ("openai/text-embedding-3-small", frozenset({"embedding"}))
    assert embed.stream_timeout_s == 9
    assert (config.timeout_s, config.num_retries, config.allowed_fails, config.cooldown_s) == (60, 2, 4, 0)
    assert config.callbacks == ("my_module:handler", "langfuse", "helicone")
    assert config.cache == CacheConfig(kind="redis", ttl_s=60, max_bytes=1 << 20)
    assert config.redis == RedisConfig("r", 6380, "pw")
    assert (config.fallbacks, config.context_fallbacks) == ({"fast": ("slow",)}, {"fast": ("long",)})
    assert config.default_fallbacks == ("last",)
    assert config.aliases == {"alias": ("fast",), "other": ("fast",)}
    assert config.budgets == (
        BudgetRule(subject=("all", ""), limit=20, period="day"),
        BudgetRule(subject=("provider", "openai"), limit=1.5, period="month"),
        BudgetRule(subject=("user", "joe"), limit=3),
        BudgetRule(subject=("all", ""), limit=100, period="day"),
    )
    assert config.master_key == "sk-m"
    for secret in ("sk-o", "sk-m", "pw"):
        assert secret not in repr(config)


def test_off_in_yaml(tmp_path: Path) -> None:
    """A bare `off`, which YAML reads as false, is the word off."""
    config = load(tmp_path, "equivalents: off\ncontinuation: off")
    assert (config.equivalents, config.continuation) == ("off", "off")


def test_prices_per_token_without_dust(tmp_path: Path) -> None:
    """A price per token is the same price per million, to the digit."""
    params = {"model": "x/a", "input_cost_per_token": 0.0000001, "output_cost_per_token": 0.0000002}
    price = one(load(tmp_path, json.dumps([{"model_name": "a", "litellm_params": params}]))).price
    assert price == Price(0.1, 0.2)


def test_a_price_for_what_the_provider_has_found_in_its_cache(tmp_path: Path) -> None:
    """LiteLLM's word for it, at either of its places."""
    costs = {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6, "cache_read_input_token_cost": 0.0000001}
    for record in ({"litellm_params": {"model": "x/a", **costs}},
                   {"litellm_params": {"model": "x/a"}, "model_info": costs}):  # fmt: skip
        made = one(load(tmp_path, json.dumps([{"model_name": "a", **record}])))
        assert (made.price, dict(made.params)) == (Price(1.0, 2.0, cached=0.1), {})


def test_numbers_with_exponents(tmp_path: Path) -> None:
    """`3e-6` is a number where one is wanted, as in JSON and YAML 1.2 (PyYAML reads a text), and a name elsewhere; in
    quotes it is none."""
    text = """\
    model_list:
      - model_name: 7e2
        litellm_params: {model: x/a, input_cost_per_token: 3e-6, output_cost_per_token: 1.5E-5, temperature: 1e0}
    max_cost: 1e-3
    """
    config = load(tmp_path, text)
    deployment = one(config)
    assert (deployment.price, config.max_cost) == (Price(3.0, 15.0), 0.001)
    assert (deployment.model_name, deployment.params) == ("7e2", {"temperature": 1.0})
    assert problems(tmp_path, "max_cost: '1e-3'") == ["1.yaml:1: max_cost: wants no quotes, got the text '1e-3'"]
    assert problems(tmp_path, "router_settings: {rpm: 1e3, tpm: 1e999}") == [
        "1.yaml:1: router_settings.rpm: wants a whole number of at least 1, got 1000.0",
        "1.yaml:1: router_settings.tpm: wants a whole number of at least 1, got inf",
    ]


def test_prices_of_cached_tokens_and_others(tmp_path: Path) -> None:
    """What the provider had in its cache may have a price of its own; a price that does not count is a remark."""
    text = """\
    model_list:
      - model_name: a
        litellm_params:
          model: openai/gpt-4o
          input_cost_per_token: 0.000002
          cache_read_input_token_cost: 0.0000005
          output_cost_per_image: 0.04
          input_cost_per_second: 0.1
      - model_name: b
        litellm_params: {model: x/b}
        model_info: {input_cost_per_token: 0.000001, cache_read_input_token_cost: 0}
    """
    config = load(tmp_path, text)
    assert [one.price for one in config.deployments] == [
        Price(2.0, 0.0, cached=0.5, per_image=0.04),
        Price(1.0, 0.0, cached=0.0),
    ]
    assert [note.partition(": ")[2] for note in config.notes if "cost" in note] == [
        "input_cost_per_second of a does not count: costs are of input_cost_per_token, output_cost_per_token, "
        "cache_read_input_token_cost, cost_per_request, output_cost_per_image"
    ]
    text = "model_list: [{model_name: a, litellm_params: {model: x/a, cache_read_input_token_cost: 1}}]"
    assert problems(tmp_path, text) == [
        "1.yaml:1: model_list[0].litellm_params.cache_read_input_token_cost: is no price without input_cost_per_token"
    ]


def test_a_later_files_budget_wins(tmp_path: Path) -> None:
    """Of two files the later one says what a subject may spend in a period; within one file all hold."""
    base = """\
    litellm_settings: {max_budget: 100}
    budgets: [{subject: all, limit: 5, period: day}, {subject: "user:*", limit: 1}, {subject: "user:*", limit: 2}]
    router_settings: {provider_budget_config: {openai: {budget_limit: 3, time_period: 1d}}}
    """
    later = """\
    budgets: [{subject: all, limit: 200}, {subject: "provider:openai", limit: 4, period: day}]
    """
    found = {(rule.subject, rule.period, rule.limit) for rule in load(tmp_path, base, later).budgets}
    assert found == {
        (("all", ""), "month", 200.0), (("all", ""), "day", 5.0), (("user", "*"), "month", 1.0),
        (("user", "*"), "month", 2.0), (("provider", "openai"), "day", 4.0),
    }  # fmt: skip


def test_a_deployments_budget(tmp_path: Path) -> None:
    """LiteLLM's `max_budget` of a deployment with its time, a month where none is said; a time alone is an error. Other
    limits of LiteLLM's that do nothing here are remarks."""
    text = """\
    model_list:
      - model_name: a
        litellm_params: {model: x/a, max_budget: 0.5, budget_duration: 1d, itpm: 5}
        model_info: {id: a}
      - {model_name: b, litellm_params: {model: x/b, max_budget: 9}, model_info: {id: b}}
    """
    config = load(tmp_path, text)
    assert [one.budget for one in config.deployments] == [
        Budget("deployment", "a", 0.5, "day", "deployment a"), Budget("deployment", "b", 9.0, "month", "deployment b"),
    ]  # fmt: skip
    assert [note.partition(": ")[2] for note in config.notes] == ["itpm of a has no effect here"]
    text = "model_list: [{model_name: a, litellm_params: {model: x/a, budget_duration: 7d}}]"
    assert problems(tmp_path, text) == [
        "1.yaml:1: model_list[0].litellm_params.budget_duration: budgets are per day (1d) or per month (30d, 1mo) "
        "here, got '7d'",
        "1.yaml:1: model_list[0].litellm_params.budget_duration: is the time of a max_budget (USD), and there is none",
    ]


def test_limits_and_the_cascades_check(tmp_path: Path) -> None:
    """Limits of a model's name and of each user; a function that judges; parameters of LiteLLM's callbacks."""
    text = """\
    limits: {models: {fast: {rpm: 5}, slow: {rpm: 1, tpm: 100}}, user: {tpm: 50}}
    cascade_check: my.checks.polite
    litellm_settings:
      callbacks: [s3]
      s3_callback_params: {s3_bucket_name: b, s3_aws_secret_access_key: os.environ/AWS, s3_use_ssl: false}
"""
    config = load(tmp_path, text, env={"AWS": "secret-1"})
    assert config.model_limits == {"fast": Rate(5), "slow": Rate(1, 100)}
    assert config.user_limits == Rate(None, 50)
    assert config.cascade_check == "my.checks:polite"
    params = {"s3_bucket_name": "b", "s3_aws_secret_access_key": "secret-1", "s3_use_ssl": False}
    assert (config.callbacks, config.callback_params) == (("s3",), {"s3_callback_params": params})
    assert "secret-1" not in repr(config)


def test_transport_among_the_parameters(tmp_path: Path) -> None:
    """`transport` counts inside litellm_params too; two that differ are a mistake."""
    entry = '{{"model_list": [{{"model_name": "m", {}"litellm_params": {{"model": "openai/m", "transport": "{}"}}}}]}}'
    found = one(load(tmp_path, entry.format("", "litellm")))
    assert (found.transport, found.params) == ("litellm", {})
    assert one(load(tmp_path, entry.format('"transport": "litellm", ', "litellm"))).transport == "litellm"
    assert problems(tmp_path, entry.format('"transport": "auto", ', "litellm")) == [
        "1.json:1: model_list[0].transport: litellm_params.transport says litellm; keep one of them"
    ]
    assert problems(tmp_path, entry.format("", "pass")) == [
        "1.json:1: model_list[0].litellm_params.transport: wants one of auto, passthrough, litellm, got 'pass'"
    ]
