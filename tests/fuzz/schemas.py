"""Hypothesis strategies for JSON values that a JSON schema of ours (msgspec's kind) allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.inputs import TEXTS, anything, names

_WORDS = st.one_of(st.sampled_from(["demo", "user", "hello", "a", "0"]), st.text(max_size=8), st.sampled_from(TEXTS))


def values(schema: Mapping[str, Any], tables: Mapping[str, Any], depth: int = 5) -> st.SearchStrategy[Any]:
    """Values for `schema`; `tables` are what its references name (`#/.../NAME`)."""
    if depth < 0:
        return st.none()
    if "$ref" in schema:
        return st.deferred(lambda: values(tables[schema["$ref"].rpartition("/")[2]], tables, depth - 1))
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return st.one_of([values(one, tables, depth) for one in schema[word]])
    if "allOf" in schema:
        return values(schema["allOf"][0], tables, depth)
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "const" in schema:
        return st.just(schema["const"])
    match schema.get("type"):
        case "object":
            return _object(schema, tables, depth)
        case "array":
            least, most = schema.get("minItems", 0), min(3, schema.get("maxItems", 3))
            return st.lists(
                values(schema.get("items") or {}, tables, depth - 1), min_size=least, max_size=max(least, most)
            )
        case "string":
            return _WORDS.filter(lambda text: len(text) >= schema.get("minLength", 0))
        case "integer":
            return st.integers(schema.get("minimum", -3), schema.get("maximum", 40))
        case "number":
            return st.floats(schema.get("minimum", -2), schema.get("maximum", 2))
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case _:
            return anything


def _object(schema: Mapping[str, Any], tables: Mapping[str, Any], depth: int) -> st.SearchStrategy[Any]:
    fields = {name: values(one, tables, depth - 1) for name, one in schema.get("properties", {}).items()}
    required = {name: fields.pop(name) for name in schema.get("required", ()) if name in fields}
    more = schema.get("additionalProperties")
    if not fields and not required and isinstance(more, dict):
        return st.dictionaries(names, values(more, tables, depth - 1), max_size=3)
    # Few of many: a body with every field set is refused for the first that is wrong.
    chosen = st.sets(st.sampled_from(sorted(fields)), max_size=5) if fields else st.just(set[str]())
    return chosen.flatmap(
        lambda names: st.fixed_dictionaries({**required, **{name: fields[name] for name in sorted(names)}})
    )
