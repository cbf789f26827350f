"""Schemas whose answers would not match them are found, and only those."""

from __future__ import annotations

from typing import Any

import pytest

from exo_node.models.unheld_schema import subschemas, unheld, with_keyword


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"const": 2**53 + 1}, "const: 9007199254740993 is no double"),
        ({"items": {"enum": ["a", {"id": [-(2**60) - 1]}]}}, "enum at /items: -1152921504606846977 is no double"),
        ({"const": 10**400}, "const: 1000000"),
        ({"type": "integer", "maximum": 2**53 + 3}, "maximum: 9007199254740995, which is no double"),
        ({"type": "integer", "minimum": 10**30}, "minimum: 1000"),
        ({"type": "integer", "exclusiveMaximum": -1e30}, "exclusiveMaximum: -1000"),
        ({"exclusiveMinimum": 0, "maximum": 0.5}, "exclusiveMinimum: 0 with maximum 0.5: use minimum"),
        ({"exclusiveMaximum": 0, "exclusiveMinimum": -0.5}, "exclusiveMaximum: 0 with exclusiveMinimum -0.5"),
        ({"minProperties": 2}, "minProperties: 2 where names are left open: name 1 in required"),
        (
            {"anyOf": [{}, {"minProperties": 3, "required": ["a"], "patternProperties": {"^b": {}}}]},
            "minProperties at /anyOf/1: 3",
        ),
    ],
)
def test_what_would_not_be_held_is_found(schema: dict[str, Any], problem: str) -> None:
    """With its keyword, its place and its value."""
    assert unheld(schema).startswith(problem)


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": [2**53, 10**30, -1, 1.5, True, None]},
        {"default": 2**53 + 1, "examples": [2**53 + 1]},
        {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
        {"type": "integer", "minimum": 0, "maximum": 2**64 - 1},
        {"exclusiveMinimum": 0, "maximum": 1},
        {"exclusiveMinimum": 0},
        {"minimum": 0, "maximum": 0.5},
        {"type": "integer", "exclusiveMinimum": 0, "maximum": 0.5},
        {"exclusiveMinimum": 0, "maximum": float("inf")},
        {"exclusiveMinimum": True, "maximum": "3", "minProperties": "2", "required": 3},
        {"minProperties": 1},
        {"minProperties": 3, "required": ["a", "b"]},
        {"minProperties": 2, "properties": {"a": {}, "b": {}}, "additionalProperties": False},
        {"properties": {"minProperties": {"const": 7}}},
    ],
)
def test_everything_else_passes(schema: dict[str, Any]) -> None:
    """What is held, what binds nothing, and what the library refuses itself."""
    assert unheld(schema) == ""


def test_places_are_json_pointers() -> None:
    """Names are escaped; what a value or a name holds is no schema."""
    schema = {"properties": {"a/b": {"anyOf": [{}, {"not": {}}]}, "not": {"const": {"not": 1}}}, "enum": [{"not": 1}]}
    assert [place for place, _ in subschemas(schema)] == [
        "", "/properties/a~1b", "/properties/a~1b/anyOf/0", "/properties/a~1b/anyOf/1",
        "/properties/a~1b/anyOf/1/not", "/properties/not",
    ]  # fmt: skip
    assert with_keyword(schema, "not") == " at /properties/a~1b/anyOf/1"
    assert with_keyword({"not": {}}, "not") == with_keyword({}, "not") == ""
