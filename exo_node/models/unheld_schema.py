"""What a JSON schema asks for that llguidance takes and does not hold, so that it has to be refused. Pure.

Found with llguidance 1.9: numbers go through doubles, names of properties that are left open may come twice, and a
whole number is taken as above itself where the range ends before the next one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from math import isfinite, trunc
from typing import Any, Final

_BOUNDS: Final = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
_MAPS: Final = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_LITERAL: Final = frozenset({"enum", "const", "default", "examples"})
_EXACT: Final = 2**53  # whole numbers up to here are doubles
_LAST: Final = 2**63 - 1


def unheld(schema: Mapping[str, Any]) -> str:
    """The first problem, with where it is; empty where there is none.

    >>> unheld({"properties": {"id": {"const": 9007199254740993}}})
    'const at /properties/id: 9007199254740993 is no double: send such numbers as strings'
    """
    for place, one in subschemas(schema):
        for keyword, problem in (*_numbers(one), *_range(one), *_names(one)):
            return f"{keyword}{_at(place)}: {problem}"
    return ""


def with_keyword(schema: Mapping[str, Any], keyword: str, value: str | None = None) -> str:
    """Where the first schema inside is that has the keyword (with that value), as in " at /a/b"; empty where it is the
    whole schema, or none."""
    found = (_at(at) for at, one in subschemas(schema) if keyword in one and value in (None, one[keyword]))
    return next(found, "")


def subschemas(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every schema inside, itself first, with its JSON pointer."""
    todo: list[tuple[str, Any]] = [("", schema)]
    while todo:
        place, one = todo.pop()
        inner: list[tuple[str, Any]] = []
        if isinstance(one, list):
            inner = [(f"{place}/{index}", each) for index, each in enumerate(one)]
        elif isinstance(one, Mapping):
            yield place, one
            for key, value in one.items():
                if key in _MAPS and isinstance(value, Mapping):
                    inner += [(f"{place}/{key}/{_escaped(name)}", each) for name, each in value.items()]
                elif key not in _LITERAL and isinstance(value, list | Mapping):
                    inner.append((f"{place}/{_escaped(key)}", value))
        todo += reversed(inner)


def _at(place: str) -> str:
    return f" at {place}" if place else ""


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _numbers(schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Whole numbers that would come out as their neighbours: identifiers of 64 bits, mostly."""
    for keyword in ("const", "enum"):
        todo = [schema.get(keyword)]
        while todo:
            value = todo.pop()
            if isinstance(value, list):
                todo += value
            elif isinstance(value, Mapping):
                todo += value.values()
            elif type(value) is int and abs(value) > _EXACT and not _same_digits(value):
                yield keyword, f"{value} is no double: send such numbers as strings"
    for keyword in _BOUNDS:
        bound, sign = schema.get(keyword), 1 if "max" in keyword.lower() else -1
        bound = int(bound) if type(bound) is float and bound.is_integer() else bound
        # Beyond 64 bits the library takes the last number that there is: it is inside the range, or it is not.
        if type(bound) is int and bound * sign < _LAST and (bound * sign < -_LAST - 1 or _beyond(bound, sign)):
            yield keyword, f"{bound}, which is no double or has more than 64 bits"


def _same_digits(value: int) -> bool:
    """Whether the library writes this number, which it takes for a double."""
    try:
        return Decimal(repr(float(value))) == value
    except OverflowError:
        return False


def _beyond(bound: int, sign: int) -> bool:
    """Whether the nearest double is outside the range."""
    return (int(float(bound)) - bound) * sign > 0


def _range(schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A bound that the library lets through, e.g. 0 of the numbers above 0 and up to 0.5."""
    if schema.get("type") == "integer":
        return
    given = {name: schema.get(name) for name in _BOUNDS}
    bounds = {name: one for name, one in given.items() if type(one) is int or (type(one) is float and isfinite(one))}
    for keyword, others in (
        ("exclusiveMinimum", ("maximum", "exclusiveMaximum")),
        ("exclusiveMaximum", ("minimum", "exclusiveMinimum")),
    ):
        bound = bounds.get(keyword)
        if bound is None or bound != trunc(bound):
            continue
        for other in others:
            if other in bounds and trunc(bounds[other]) == bound:
                inclusive = "minimum" if keyword == "exclusiveMinimum" else "maximum"
                yield keyword, f"{bound} with {other} {bounds[other]}: use {inclusive}, a little inside"


def _names(schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """More properties than are named: the same name would count twice."""
    least, required = schema.get("minProperties"), schema.get("required") or ()
    is_open = schema.get("additionalProperties") is not False or schema.get("patternProperties")
    if is_open and type(least) is int and isinstance(required, list | tuple) and least > len(required) + 1:
        yield "minProperties", f"{least} where names are left open: name {least - 1} in required"
