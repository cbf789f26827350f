"""Checked reading of a JSON object that a client sent: every error is a 400 that names the field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import orjson

from exo_node.errors import InvalidRequest

MAX_TOKEN_ID = 2**31 - 1
MAX_DEPTH = 200  # objects and arrays inside one another; orjson writes 254, and what walks schemas calls itself


def parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in a request's body. NaN and Infinity are not JSON."""
    if not raw.strip():
        raise InvalidRequest("the request body is empty; send a JSON object", code="invalid_json")
    try:
        body = _loads(raw)
    except RecursionError as e:
        raise InvalidRequest("the request body is nested too deeply", code="invalid_json") from e
    except ValueError as e:  # also a UnicodeDecodeError, and integers of thousands of digits
        raise InvalidRequest(f"the request body is not JSON: {e}", code="invalid_json") from e
    if not isinstance(body, dict):
        raise InvalidRequest(f"the request body must be a JSON object, not {kind(body)}", code="invalid_json")
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _is_deep(body):
        raise InvalidRequest(f"the request body is nested more than {MAX_DEPTH} deep", code="invalid_json")
    return body


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        inside = (one.values() if isinstance(one, dict) else one for one in level)
        level = [one for inner in inside for one in inner if isinstance(one, dict | list)]
    return bool(level)


def _loads(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)  # 4 times faster
    except orjson.JSONDecodeError:  # json knows better what is wrong, and reads halves of surrogate pairs
        return json.loads(raw, parse_constant=_not_json)


def _not_json(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a JSON number")


_KINDS = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", int: "an integer", float: "a number"}


def kind(value: Any) -> str:
    """JSON's name of a value's type."""
    return _KINDS.get(type(value), "null")


def bad(param: str, problem: str, *, code: str = "invalid_value") -> InvalidRequest:
    return InvalidRequest(f"{param}: {problem}", param=param, code=code)


def checked_text(value: Any, param: str) -> str:
    """A string that is real Unicode (JSON may smuggle lone surrogates in, which no tokenizer can encode)."""
    if not isinstance(value, str):
        raise bad(param, f"must be a string, not {kind(value)}", code="invalid_type")
    try:
        value.encode()
    except UnicodeEncodeError as e:
        raise bad(param, "holds half of a surrogate pair, which is not a character") from e
    return value


def checked_object(value: Any, param: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise bad(param, f"must be an object, not {kind(value)}", code="invalid_type")
    return value


def checked_array(value: Any, param: str) -> list[Any]:
    if not isinstance(value, list):
        raise bad(param, f"must be an array, not {kind(value)}", code="invalid_type")
    return value


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of one object. null and absent are the same: both read as None."""

    body: Mapping[str, Any]

    def get(self, name: str) -> Any:
        return self.body.get(name)

    def text(self, name: str) -> str | None:
        value = self.body.get(name)
        return None if value is None else checked_text(value, name)

    def boolean(self, name: str) -> bool | None:
        value = self.body.get(name)
        if value is not None and not isinstance(value, bool):
            raise bad(name, f"must be a boolean, not {kind(value)}", code="invalid_type")
        return value

    def integer(self, name: str, low: int, high: int | None = None) -> int | None:
        """A whole number in [low, high]; 5.0 is not one."""
        value = self.body.get(name)
        if value is None:
            return None
        if type(value) is not int:
            raise bad(name, f"must be an integer, not {kind(value)}", code="invalid_type")
        if value < low or (high is not None and value > high):
            bounds = f"at least {low}" if high is None else f"between {low} and {high}"
            raise bad(name, f"must be {bounds}, got {_short(value)}")
        return value

    def number(self, name: str, low: float, high: float, *, open_low: bool = False) -> float | None:
        """A number in [low, high], or in (low, high] when `open_low`."""
        value = self.body.get(name)
        if value is None:
            return None
        if type(value) not in (int, float):
            raise bad(name, f"must be a number, not {kind(value)}", code="invalid_type")
        if not low <= value <= high or (open_low and value == low):
            bounds = f"above {low:g} and at most {high:g}" if open_low else f"between {low:g} and {high:g}"
            raise bad(name, f"must be {bounds}, got {_short(value)}")
        return float(value)

    def object(self, name: str) -> dict[str, Any]:
        """An object; {} when absent."""
        value = self.body.get(name)
        return {} if value is None else checked_object(value, name)

    def array(self, name: str) -> list[Any]:
        """An array; [] when absent."""
        value = self.body.get(name)
        return [] if value is None else checked_array(value, name)

    def texts(self, name: str) -> tuple[str, ...]:
        """An array of strings; () when absent."""
        value = self.body.get(name)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise bad(name, f"must be an array of strings, not {kind(value)}", code="invalid_type")
        return tuple(checked_text(item, f"{name}[{i}]") for i, item in enumerate(value))


def _short(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) or abs(value) < 1e15 else "a far larger number"


def token_ids(value: Any, param: str) -> tuple[int, ...]:
    """A non-empty array of token ids, where a string was possible too."""
    if not isinstance(value, list) or not value:
        raise bad(param, "must be a string or a non-empty array of token ids")
    for item in value:
        if type(item) is not int or not 0 <= item <= MAX_TOKEN_ID:
            raise bad(param, f"token ids must be whole numbers from 0 to {MAX_TOKEN_ID}")
    return tuple(value)


def answer_limit(fields: Fields, low: int = 1) -> int | None:
    """`max_completion_tokens`, or `max_tokens`, its older name."""
    old, new = fields.integer("max_tokens", low), fields.integer("max_completion_tokens", low)
    if old is not None and new is not None and old != new:
        raise bad("max_tokens", f"says {old} and max_completion_tokens says {new}; send one of them")
    return new if new is not None else old


def stream_options(fields: Fields, stream: bool) -> dict[str, Any] | None:
    """None where they are not given."""
    if fields.get("stream_options") is None:
        return None
    options = fields.object("stream_options")
    if not stream:
        raise bad("stream_options", "needs stream: true")
    return options
