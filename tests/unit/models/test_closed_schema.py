"""models/closed_schema.py: what is closed, and what must not be."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_node.models.closed_schema import closed

TEXT = {"type": "string"}


def test_objects_end_with_their_properties() -> None:
    """At every depth: properties, items, definitions and alternatives."""
    inner = {"type": "object", "properties": {"x": TEXT}}
    schema = {
        "type": "object",
        "properties": {"a": inner, "b": {"type": "array", "items": inner}, "c": {"anyOf": [inner, {"type": "null"}]}},
        "$defs": {"d": inner},
    }
    shut = {**inner, "additionalProperties": False}
    assert closed(schema) == {
        "type": "object",
        "properties": {"a": shut, "b": {"type": "array", "items": shut}, "c": {"anyOf": [shut, {"type": "null"}]}},
        "$defs": {"d": shut},
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "properties": {}},
        {"properties": {"a": TEXT}, "additionalProperties": TEXT},
        {"properties": {"a": TEXT}, "additionalProperties": True},
        {"properties": {"a": TEXT}, "required": ["b"]},
        {"properties": {"a": TEXT}, "minProperties": 2},
        {"allOf": [{"properties": {"a": TEXT}}, {"properties": {"b": TEXT}}]},
        {"properties": {"a": TEXT}, "anyOf": [{"properties": {"b": TEXT}}, {"properties": {"c": TEXT}}]},
        {"properties": {"a": TEXT}, "$ref": "#/$defs/b", "$defs": {"b": {"properties": {"b": TEXT}}}},
        {"properties": {"a": TEXT}, "patternProperties": {"^b": TEXT}},
        {"enum": [{"properties": {"a": 1}}]},
        {"const": {"properties": {"a": 1}}},
    ],
)
def test_what_says_more_of_its_objects_stays(schema: dict[str, Any]) -> None:
    """Objects that are open on purpose, that need more than they name, or that are said in several places."""
    assert closed(schema) == schema


def test_a_property_may_be_called_as_a_keyword_is() -> None:
    """Names of properties are names, also "if" and "properties"."""
    schema = {"type": "object", "properties": {"if": TEXT, "properties": TEXT}}
    assert closed(schema) == {**schema, "additionalProperties": False}


VALUES = st.recursive(
    st.sampled_from([TEXT, {"type": "integer"}, {"type": "null"}]),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"type": st.just("array"), "items": inner}),
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(st.sampled_from("abif"), inner, max_size=3)},
            optional={"required": st.lists(st.sampled_from("ab"), max_size=2, unique=True)},
        ),
    ),
    max_leaves=6,
)
DATA = st.recursive(
    st.one_of(st.text(max_size=2), st.integers(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.sampled_from("abcif"), inner, max_size=3)),
    max_leaves=6,
)


@given(VALUES, DATA)
def test_what_matches_the_closed_one_matches_the_schema(schema: dict[str, Any], data: Any) -> None:
    """Closing only narrows."""
    if jsonschema.Draft202012Validator(closed(schema)).is_valid(data):
        assert jsonschema.Draft202012Validator(schema).is_valid(data)
