"""JSON schemas whose objects end: what a schema leaves open, a small model fills without end. Pure.

Clients write schemas without `additionalProperties` (pydantic does), and mean the properties that they name. An answer
that keeps to those matches the schema as it stands, so nothing is lost by holding the model to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Where one of these is, what an object may hold is said in several places: closing one of them could forbid all.
_MERGING = frozenset(
    {
        "allOf", "if", "then", "else", "not", "dependentSchemas", "dependencies", "unevaluatedProperties",
        "$dynamicRef", "propertyNames", "patternProperties",
    }
)  # fmt: skip
_ANNOTATIONS = frozenset({"title", "description", "default", "examples", "$comment", "deprecated", "readOnly"})
_LITERAL = frozenset({"enum", "const", "default", "examples"})
_MAPS = frozenset({"properties", "$defs", "definitions"})


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """`schema` with its objects limited to the properties that it names, unless it says itself what else there may be.

    Left as it is where parts of it are put together (`allOf`, `if`, a `$ref` or alternatives beside properties, ...).
    """
    return dict(schema) if _merges(schema) else _closed(schema)


def _merges(value: Any) -> bool:
    """Whether any object of the schema is said in several places."""
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, list):
            todo += one
        elif isinstance(one, Mapping):
            keys = one.keys() - _ANNOTATIONS
            beside = "properties" in keys or "additionalProperties" in keys
            if keys & _MERGING or ("$ref" in keys and len(keys - _MAPS) > 1):
                return True
            if beside and keys & {"anyOf", "oneOf", "$ref"}:
                return True
            for key, inner in one.items():
                if key in _MAPS and isinstance(inner, Mapping):
                    todo += inner.values()
                elif key not in _LITERAL:
                    todo.append(inner)
    return False


def _closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _MAPS and isinstance(value, Mapping):
            made[key] = {name: _closed(one) if isinstance(one, Mapping) else one for name, one in value.items()}
        elif key in _LITERAL:
            made[key] = value
        elif isinstance(value, Mapping):
            made[key] = _closed(value)
        elif isinstance(value, list):
            made[key] = [_closed(one) if isinstance(one, Mapping) else one for one in value]
        else:
            made[key] = value
    if _may_end(made):
        made["additionalProperties"] = False
    return made


def _may_end(schema: Mapping[str, Any]) -> bool:
    """Whether an object with the named properties alone can match."""
    properties, required = schema.get("properties"), schema.get("required", [])
    if not isinstance(properties, Mapping) or not properties or "additionalProperties" in schema:
        return False
    least = schema.get("minProperties", 0)
    named = isinstance(required, list) and all(isinstance(one, str) and one in properties for one in required)
    return named and type(least) is int and least <= len(properties)
