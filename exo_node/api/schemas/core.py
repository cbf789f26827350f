"""Checking a JSON value against a declared shape (a msgspec Struct); every error is a 400 that names the field. Pure.

Structs are declared `kw_only`; null and absent are the same (`T | None = None`); fields that are not declared are let
through, since providers have their own. What a shape cannot say is checked by the code that reads the field.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from exo_node.api.fields import bad, kind
from exo_node.errors import InvalidRequest

T = TypeVar("T")

_KINDS = {
    "object": "an object", "array": "an array", "str": "a string", "int": "an integer", "float": "a number",
    "bool": "a boolean", "null": "null",
}  # fmt: skip
_AT = re.compile(r" - at `\$(?:\.)?(?P<path>.*)`$")
_STEP = re.compile(r"\[(?P<index>\d+)\]|\[\.\.\.\]|\.?(?P<name>[^.\[\]]+)")
_SHOWN = 40  # characters of a wrong value


def check(value: Any, shape: type[T], within: str = "") -> T:
    """`value` (parsed JSON) as a `shape`. Raises `InvalidRequest`; `within` goes before the field's name ("exo.")."""
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as e:
        raise explain(str(e), value, shape, within) from e
    except UnicodeEncodeError as e:  # a text where another type belongs, which msgspec tries to read all the same
        fields = value.items() if isinstance(value, dict) else ()
        name = next((name for name, one in fields if one == e.object), "")
        problem = f"{_short(e.object)} holds half of a surrogate pair, which is not a character"
        raise bad(f"{within}{name}" or "body", problem) from e


def explain(said: str, value: Any, shape: Any, within: str = "") -> InvalidRequest:
    """msgspec's error in our words: the field, what it must be, what it is."""
    at = _AT.search(said)
    path = at["path"] if at else ""
    said = said[: at.start()] if at else said
    param = within + path.removeprefix("[...].") if path else within.rstrip(".")
    missing = re.fullmatch(r"Object missing required field `(.+)`", said)
    if missing:
        name = f"{param}.{missing[1]}" if path else f"{within}{missing[1]}"
        return bad(name, "is required", code="missing_required_parameter")
    unknown = re.fullmatch(r"Object contains unknown field `(.+)`", said)
    if unknown:
        known = ", ".join(field.encode_name for field in _fields(shape, path))
        name = f"{param}.{unknown[1]}" if path else f"{within}{unknown[1]}"
        return bad(name, f"is unknown here; known: {known}", code="unknown_parameter")
    found = _follow(value, path)
    somewhere = "[...]" in path  # a value of a table: msgspec does not say which
    wrong = re.fullmatch(r"Expected `(.+?)`, got `(.+?)`", said)
    if wrong and wrong[2] == "null":
        return bad(param or "body", "is required", code="missing_required_parameter")
    if wrong:
        is_now = _words(wrong[2]) if somewhere else kind(found)
        return bad(param or "body", f"must be {_words(wrong[1])}, not {is_now}", code="invalid_type")
    bound = re.fullmatch(r"Expected `(int|float)` (>=|<=|>|<) (.+)", said)
    if bound:
        words = {">=": "at least", "<=": "at most", ">": "above", "<": "below"}[bound[2]]
        return bad(param, f"must be {words} {float(bound[3]):g}{'' if somewhere else f', got {_short(found)}'}")
    length = re.fullmatch(r"Expected `(array|str|object)` of length (>=|<=) (\d+)", said)
    if length:
        what = {"array": "items", "str": "characters", "object": "fields"}[length[1]]
        if length[2] == ">=" and length[3] == "1":
            return bad(param, "must not be empty")
        words = {">=": "at least", "<=": "at most"}[length[2]]
        return bad(param, f"must have {words} {length[3]} {what}, has {len(found) if found is not None else 0}")
    if said.startswith("Invalid enum value"):
        choices = ", ".join(_choices(shape, path)) or "what is documented"
        return bad(param, f"must be one of {choices}; got {_short(found)}")
    return bad(param or "body", said[:200])


def _words(types: str) -> str:
    """`float | null` -> "a number"."""
    named = [_KINDS.get(one, one) for one in types.split(" | ") if one != "null"]
    return " or ".join(named) or "null"


def _short(value: Any) -> str:
    if isinstance(value, str):
        return repr(value[:_SHOWN])
    if isinstance(value, int) and abs(value) >= 10**15:
        return "a far larger number"
    return f"{value:g}" if isinstance(value, float) else str(value)[:_SHOWN]


def _follow(value: Any, path: str) -> Any:
    """What stands at msgspec's path; None where the path does not say which of several it is."""
    for step in _STEP.finditer(path):
        try:
            value = value[int(step["index"])] if step["index"] is not None else value[step["name"]]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _choices(shape: Any, path: str) -> list[str]:
    """The values that the enumeration at `path` allows."""
    return [str(value) for one in _types(shape, path) if isinstance(one, inspect.LiteralType) for value in one.values]


def _fields(shape: Any, path: str) -> list[inspect.Field]:
    return [field for one in _types(shape, path) if isinstance(one, inspect.StructType) for field in one.fields]


def _types(shape: Any, path: str) -> list[inspect.Type]:
    """What may stand at `path`."""
    types: list[inspect.Type] = [inspect.type_info(shape)]
    for step in _STEP.finditer(path):
        types = [one for outer in types for one in _inner(outer, step["name"])]
    return [one for outer in types for one in _alternatives(outer)]


def _alternatives(one: inspect.Type) -> tuple[inspect.Type, ...]:
    if isinstance(one, inspect.UnionType):
        return tuple(inner for each in one.types for inner in _alternatives(each))
    if isinstance(one, inspect.Metadata):
        return _alternatives(one.type)
    return (one,)


def _inner(outer: inspect.Type, name: str | None) -> list[inspect.Type]:
    """The types of a field (`name`) or of the items (None)."""
    found: list[inspect.Type] = []
    for one in _alternatives(outer):
        if isinstance(one, inspect.StructType) and name is not None:
            found += [each.type for each in one.fields if each.encode_name == name]
        elif isinstance(one, inspect.ListType | inspect.VarTupleType) and name is None:
            found.append(one.item_type)
        elif isinstance(one, inspect.DictType) and name is not None:
            found.append(one.value_type)
    return found
