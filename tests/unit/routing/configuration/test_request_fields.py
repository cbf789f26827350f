"""OpenAI's request fields in configuration files."""

from __future__ import annotations

from pathlib import Path

from tests.unit.routing.config_files import load, one, problems


def test_a_parameter_of_a_wrong_type(tmp_path: Path) -> None:
    """OpenAI's parameters in litellm_params are checked when read, with file and line; others pass."""
    found = problems(
        tmp_path,
        """
        model_list:
          - model_name: m
            litellm_params:
              model: openai/m
              temperature: hot
              max_tokens: many
              n: {}
              stop: 5
              response_format: json
              tools: {}
              top_k: "5"
              user: 3
        """,
    )
    at = "model_list[0].litellm_params"
    assert found == [
        f"1.yaml:5: {at}.temperature: wants a number from 0 to 2, got 'hot'",
        f"1.yaml:6: {at}.max_tokens: wants a whole number of at least 1, got 'many'",
        f"1.yaml:7: {at}.n: wants a whole number of at least 1, got {{}}",
        f"1.yaml:8: {at}.stop: wants a text or a list of texts, got 5",
        f"1.yaml:9: {at}.response_format: wants a table of keys, got 'json'",
        f"1.yaml:10: {at}.tools: wants a list, got {{}}",
        f"1.yaml:11: {at}.top_k: wants no quotes, got the text '5'",
        f"1.yaml:12: {at}.user: wants a text that is not empty, got 3",
    ]
    good = """
        model_list:
          - model_name: m
            litellm_params: {model: openai/m, temperature: os.environ/T, stop: [a], user: u, tool_choice: auto,
              reasoning_effort: low, extra_body: {x: '${T}'}, response_format: {type: json_object}, own_field: [1, x]}
        """
    assert one(load(tmp_path, good, env={"T": "0.5"})).params == {
        "temperature": 0.5, "stop": ["a"], "user": "u", "tool_choice": "auto", "reasoning_effort": "low",
        "extra_body": {"x": "0.5"}, "response_format": {"type": "json_object"}, "own_field": [1, "x"],
    }  # fmt: skip


def test_defaults_of_texts(tmp_path: Path) -> None:
    """Texts in `defaults` are taken as they stand, and objects are checked."""
    assert load(tmp_path, '{"defaults": {"user": "u", "stop": "x"}}').defaults == {"user": "u", "stop": "x"}
    assert problems(tmp_path, '{"defaults": {"logit_bias": 1}}') == [
        "1.json:1: defaults.logit_bias: wants a table of keys, got 1"
    ]
