"""What form an answer must have, from every field that may say it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from exo_node.api.structured import grammar_of
from exo_node.errors import InvalidRequest
from exo_node.types import Grammar

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "null"}}}
TEXT = json.dumps({**SCHEMA, "additionalProperties": False})  # objects end with what they name


def named(**fields: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": fields}}


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({}, None),
        ({"response_format": None, "guided_json": None}, None),
        ({"response_format": {"type": "text"}, "grammar": "", "structured_outputs": {"json": None}}, None),
        ({"response_format": {"type": "json_object"}}, Grammar("json")),
        (
            {"response_format": {"type": "json_object", "schema": SCHEMA}},
            Grammar("json_schema", TEXT, "response_format.schema"),
        ),
        (named(name="x"), Grammar("json", field="response_format.json_schema")),
        (named(name="x", schema={}), Grammar("json_schema", "{}", "response_format.json_schema.schema")),
        (
            named(name="x", schema=SCHEMA, strict=True, description="d"),
            Grammar("json_schema", TEXT, "response_format.json_schema.schema"),
        ),
        (
            named(name="x", schema=SCHEMA, strict=False),
            Grammar("json_schema", TEXT, "response_format.json_schema.schema"),
        ),
        ({"guided_json": TEXT}, Grammar("json_schema", TEXT, "guided_json")),
        ({"guided_json": SCHEMA}, Grammar("json_schema", TEXT, "guided_json")),
        ({"json_schema": SCHEMA}, Grammar("json_schema", TEXT, "json_schema")),
        ({"guided_regex": "a+"}, Grammar("regex", "a+", "guided_regex")),
        ({"guided_grammar": 'start: "a"'}, Grammar("lark", 'start: "a"', "guided_grammar")),
        ({"grammar": 'root ::= "a"'}, Grammar("lark", 'root ::= "a"', "grammar")),
        (
            {"structured_outputs": {"regex": "a", "json_object": False}},
            Grammar("regex", "a", "structured_outputs.regex"),
        ),
        ({"structured_outputs": {"json_object": True}}, Grammar("json", field="structured_outputs.json_object")),
        ({"structured_outputs": {"json": SCHEMA}}, Grammar("json_schema", TEXT, "structured_outputs.json")),
    ],
)
def test_each_way_to_ask(body: dict[str, Any], wanted: Grammar | None) -> None:
    """OpenAI's, vLLM's and llama.cpp's fields become one grammar that knows its field; properties keep their order."""
    assert grammar_of(body) == wanted


def test_a_choice_is_a_regular_expression_of_those_texts() -> None:
    """Every sign stands for itself, whatever it means in a regular expression."""
    texts = ["yes", "a|b", "(.*)", "\\", "\n", "é ß", ""]
    grammar = grammar_of({"guided_choice": texts})
    assert grammar is not None
    assert (grammar.kind, grammar.field) == ("regex", "guided_choice")
    python = re.sub(r"\\x\{([0-9a-f]+)\}", lambda found: f"\\U{int(found[1], 16):08x}", grammar.text)
    assert all(re.fullmatch(python, text) for text in texts)
    assert not any(re.fullmatch(python, text) for text in ("ye", "a", "b", "()", "x", "yes "))


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"response_format": "json"}, "response_format", "invalid_type"),
        ({"response_format": {}}, "response_format.type", "invalid_value"),
        ({"response_format": {"type": ["text"]}}, "response_format.type", "invalid_value"),
        ({"response_format": {"type": "structural_tag"}}, "response_format.type", "unsupported_parameter"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing_required_parameter"),
        (named(schema={}), "response_format.json_schema.name", "missing_required_parameter"),
        (named(name=5), "response_format.json_schema.name", "invalid_type"),
        (named(name="x", strict="yes"), "response_format.json_schema.strict", "invalid_type"),
        (named(name="x", description=1), "response_format.json_schema.description", "invalid_type"),
        (named(name="x", schema=[]), "response_format.json_schema.schema", "invalid_type"),
        ({"guided_json": "{"}, "guided_json", "invalid_value"),
        ({"guided_json": "[" * 100_000}, "guided_json", "invalid_value"),
        ({"guided_json": 5}, "guided_json", "invalid_type"),
        ({"guided_regex": 5}, "guided_regex", "invalid_type"),
        ({"guided_regex": "\ud800"}, "guided_regex", "invalid_value"),
        ({"guided_choice": []}, "guided_choice", "invalid_value"),
        ({"guided_choice": "yes"}, "guided_choice", "invalid_type"),
        ({"guided_choice": ["a", 1]}, "guided_choice[1]", "invalid_type"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs", "invalid_value"),
        (
            {"structured_outputs": {"structural_tag": "x"}},
            "structured_outputs.structural_tag",
            "unsupported_parameter",
        ),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex", "invalid_value"),
    ],
)
def test_what_cannot_be_meant_is_named(body: dict[str, Any], param: str, code: str) -> None:
    """A 400 with the path of the field, also where two fields ask for two forms."""
    with pytest.raises(InvalidRequest) as caught:
        grammar_of(body)
    assert (caught.value.param, caught.value.code) == (param, code)
