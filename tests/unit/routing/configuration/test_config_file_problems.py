"""What is wrong in a configuration file is told with file and line, all at once; a missing key is no error."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from exo_node.routing.configuration.cache_section import CACHE_KINDS
from exo_node.routing.configuration.deployment_section import CREDENTIALS
from exo_node.routing.configuration.located import FileProblems
from exo_node.routing.configuration.router_section import budget_period
from tests.unit.routing.config_files import by_line, load, one, problems


def test_refused_by_name(tmp_path: Path) -> None:
    """LiteLLM's keys that would do nothing here, and strategies that are not done, are refused with the reason."""
    found = problems(
        tmp_path,
        """
        litellm_settings:
          turn_off_message_logging: true
          telemetry: true
        router_settings:
          routing_strategy: lar1
          content_policy_fallbacks: [{a: [b]}]
          retry_policy: {}
          provider_budget_config: {openai: {budget_limit: 1, time_period: 7d}}
          model_group_alias: {a: {model: b, hidden: true}}
          enable_pre_call_checks: false
        general_settings:
          store_model_in_db: true
        include: [x.yaml]
        cache: {type: s3}
        budgets: [{subject: nobody, limit: 1}]
        """,
    )
    expected = by_line(
        "1.yaml:3: litellm_settings.telemetry: exo-node reports to nobody; remove it",
        "1.yaml:2: litellm_settings.turn_off_message_logging: has no effect in exo-node; remove it",
        "1.yaml:5: router_settings.routing_strategy: strategy 'lar1' is not done",
        "1.yaml:9: router_settings.model_group_alias.a.hidden: names are not hidden here; remove it",
        "1.yaml:8: router_settings.provider_budget_config.openai.time_period: budgets are per day (1d) or per month",
        "1.yaml:10: router_settings.enable_pre_call_checks: limits and context windows are always checked; remove it",
        "1.yaml:6: router_settings.content_policy_fallbacks: what one provider refuses",
        "1.yaml:7: router_settings.retry_policy: there is one retry budget",
        "1.yaml:12: general_settings.store_model_in_db: has no effect in exo-node; remove it",
        "1.yaml:15: budgets[0]: wants subject (provider:NAME, key:ID, user:NAME or all) and limit in USD",
        "1.yaml:14: cache.type: wants memory, sqlite or redis, got 's3'",
        "1.yaml:13: include: files are not nested here: give each one with --litellm-config",
    )
    assert len(found) == len(expected)
    for line, start in zip(found, expected, strict=True):
        assert line.startswith(start)


def test_unknown_keys_and_wrong_types(tmp_path: Path) -> None:
    """Every unknown key and wrong type, with file, line and the nearest known key; litellm_params let anything pass."""
    assert problems(
        tmp_path,
        """{
          "litellm_settings": {"set_verbos": true, "timeout": "long"},
          "router": {"num_retrys": 3,
                     "num_retries": -1, "retry_delay": "0.5"},
          "model_deployment": [],
          "defaults": {"temperature": 3, "temprature": 1},
          "default_model": 7,
          "model_deployments": [
            {"model_name": "a", "litellm_param": {}},
            {"model_name": "b", "litellm_params": {"model": "openai/b", "rpm": 0, "anything": 1}, "modelinfo": {}},
            "c",
            {"litellm_params": {"api_key": "sk-planted"}}
          ],
          "fallbacks": {"a": 1},
          "cache": 3
        }""",
    ) == by_line(
        "1.json:9: model_deployments[0]: litellm_params is missing",
        "1.json:9: unknown key model_deployments[0].litellm_param (did you mean litellm_params?)",
        "1.json:10: unknown key model_deployments[1].modelinfo (did you mean model_info?)",
        "1.json:10: model_deployments[1].litellm_params.rpm: wants a whole number of at least 1, got 0",
        "1.json:11: model_deployments[2]: wants a table of keys, got a text",
        "1.json:12: model_deployments[3]: model_name is missing",
        "1.json:12: model_deployments[3].litellm_params: model is missing: "
        "what LiteLLM calls it, for example openai/gpt-4o",
        "1.json:2: litellm_settings.timeout: wants a number above 0, got 'long'",
        "1.json:2: unknown key litellm_settings.set_verbos (did you mean set_verbose?)",
        "1.json:4: router.num_retries: wants a whole number of at least 0, got -1",
        "1.json:4: router.retry_delay: wants no quotes, got the text '0.5'",
        "1.json:3: unknown key router.num_retrys (did you mean num_retries?)",
        "1.json:14: fallbacks.a: wants a list of texts, got a number",
        "1.json:6: defaults.temperature: wants a number from 0 to 2, got 3",
        "1.json:6: unknown key defaults.temprature (did you mean temperature?)",
        "1.json:7: default_model: wants a text that is not empty, got 7",
        "1.json:15: cache: wants a table of keys, got a number",
        "1.json:5: unknown key model_deployment (did you mean model_deployments?)",
    )


def test_unresolved_elsewhere_than_in_a_key(tmp_path: Path) -> None:
    """A variable that is not set is an error with its line, except for a credential; values are never shown."""
    found = problems(
        tmp_path,
        """
        model_list:
          - model_name: a
            litellm_params:
              model: openai/a
              api_key: os.environ/NOT_THERE
              api_base: https://${HOST_NOT_THERE}/v1
              rpm: ${SECRET_WORD}
              extra_headers: {Authorization: "Bearer {nobody}"}
        general_settings:
          master_key: os.environ/MASTER
        """,
        env={"SECRET_WORD": "s3cret"},
    )
    assert found == by_line(
        "1.yaml:7: model_list[0].litellm_params.rpm: wants a whole number of at least 1, and ${SECRET_WORD} is none",
        "1.yaml:6: model_list[0].litellm_params.api_base: the variable HOST_NOT_THERE is not set",
        "1.yaml:8: model_list[0].litellm_params.extra_headers.Authorization: there is no secret 'nobody': "
        "exo secrets set nobody (or secrets_encrypted of the record)",
        "1.yaml:10: general_settings.master_key: the variable MASTER is not set",
    )
    assert problems(tmp_path, "general_settings: {master_key: 12345678}") == [
        "1.yaml:1: general_settings.master_key: wants a text in quotes, got a number"
    ]


def test_wrong_environment_variables(tmp_path: Path) -> None:
    """Variables that cannot be set, and an address that is none, are errors with their line, not passed over; each may
    refer to those before it."""
    found = problems(
        tmp_path,
        """
        environment_variables:
          PORT: 6379
          HOST: os.environ/NOT_THERE
          GOOD: fine
          URL: http://${GOOD}:1
        ollama_base_url: localhost:11434
        """,
        "environment_variables: [A]",
    )
    assert found == [
        "1.yaml:2: environment_variables.PORT: wants a text in quotes, got a number",
        "1.yaml:3: environment_variables.HOST: the variable NOT_THERE is not set",
        "1.yaml:6: ollama_base_url: wants an address such as http://localhost:11434",
        "2.yaml:1: environment_variables: wants a table of keys, got a list",
    ]
    variables = "environment_variables: {HOST: gpu, URL: 'http://${HOST}:1'}\nollama_base_url: os.environ/URL\n"
    environment = load(tmp_path, variables).environment
    assert (environment["URL"], environment["OLLAMA_API_BASE"]) == ("http://gpu:1", "http://gpu:1")


def test_a_misspelt_parameter_is_a_remark(tmp_path: Path) -> None:
    """`litellm_params` pass on what they do not know; what looks like a key of ours is named, and still passed on."""
    params = "{model: hosted_vllm/a, api_bsae: 'http://b/v1', itpm: 5, api_version: v}"
    config = load(tmp_path, f"model_list: [{{model_name: a, litellm_params: {params}}}]")
    assert one(config).params == {"api_bsae": "http://b/v1", "itpm": 5, "api_version": "v"}
    assert [note.partition("1.yaml")[2] for note in config.notes] == [
        ":1: api_bsae goes to the provider of a (did you mean api_base?)",
        ":1: itpm of a has no effect here",
    ]


@pytest.mark.parametrize("name", sorted(CREDENTIALS))
def test_each_credential_may_be_missing(tmp_path: Path, name: str) -> None:
    """A deployment without any of its credentials is listed as one that has no key, and nothing fails."""
    entry = {"model_name": "a", "litellm_params": {"model": "x/a", name: "${NOT_THERE}"}}
    d = one(config := load(tmp_path, json.dumps([entry])))
    assert (d.key, d.params) == ("missing", {})
    assert config.notes[0].endswith("1.json:1: a is not used: the variable NOT_THERE is not set")


@pytest.mark.parametrize("name", sorted(CREDENTIALS))
def test_a_credential_is_a_text(tmp_path: Path, name: str) -> None:
    """A bare number, which YAML may read as another one, is refused without being shown; no other key replaces it."""
    text = f"model_list: [{{model_name: a, litellm_params: {{model: x/a, {name}: 0123456}}}}]"
    assert problems(tmp_path, text, env={"OPENAI_API_KEY": "other"}) == [
        f"1.yaml:1: model_list[0].litellm_params.{name}: wants a text in quotes, got a number"
    ]


def test_empty_keys_and_null(tmp_path: Path) -> None:
    """An empty key counts as missing; null is how exports say that a key is not set."""
    empty = one(load(tmp_path, '[{"model_name": "a", "litellm_params": {"model": "openai/a", "api_key": ""}}]'))
    assert empty.key == "missing"
    null = one(load(tmp_path, '[{"model_name": "a", "litellm_params": {"model": "openai/a", "api_base": null}}]'))
    assert (null.params, null.key) == ({}, "present")


def test_words_of_periods_and_caches() -> None:
    """LiteLLM's words for periods and caches have one meaning each."""
    assert [budget_period(word) for word in ("1d", "24h", "30d", "1mo")] == ["day", "day", "month", "month"]
    assert set(CACHE_KINDS.values()) == {"memory", "sqlite", "redis"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("limits: {model: {fast: {rpm: 5}}}", "unknown key limits.model (did you mean models?)"),
        ("limits: {models: {fast: {}}}", "limits.models.fast: wants rpm"),
        ("limits: {user: {rpm: 0}}", "limits.user.rpm"),
        ("cascade_check: polite", "cascade_check: wants module:function, got 'polite'"),
    ],
)
def test_wrong_limits_and_checks(tmp_path: Path, text: str, why: str) -> None:
    """Mistakes are named by key."""
    with pytest.raises(FileProblems, match=re.escape(why)):
        load(tmp_path, text)


def test_a_wrong_budget_is_reported_once(tmp_path: Path) -> None:
    """A period or a limit that is wrong is one line."""
    found = problems(
        tmp_path,
        """
        budgets:
          - {subject: all, limit: 1, period: week}
          - {subject: all, limit: much}
        router_settings: {provider_budget_config: {openai: {budget_limit: 1, time_period: week}, groq: {}}}
        """,
    )
    assert [line.partition(":")[2].partition(" (")[0] for line in found] == [
        "2: budgets[0].period: budgets are per day",
        "3: budgets[1].limit: wants a number of at least 0, got 'much'",
        "4: router_settings.provider_budget_config.openai.time_period: budgets are per day",
        "4: router_settings.provider_budget_config.groq: wants budget_limit",
    ]
