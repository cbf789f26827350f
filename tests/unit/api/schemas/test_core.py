"""api/schemas/core.py: errors that name the field, what it must be and what it is."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta, Struct

from exo_node.api.schemas.core import check
from exo_node.errors import InvalidRequest


class Item(Struct, kw_only=True):
    role: Literal["user", "system"]
    size: Annotated[float, Meta(ge=0, le=2)] | None = None


class Body(Struct, kw_only=True):
    items: Annotated[list[Item], Meta(min_length=1)]
    n: Annotated[int, Meta(ge=1, le=8)] | None = None
    mode: Literal["a", "b"] | dict[str, Any] | None = None
    stream: bool | None = None
    bias: dict[str, Annotated[float, Meta(le=1)]] | None = None


def test_a_right_body_comes_back_typed() -> None:
    """Null and absent are the same, unknown fields are let through, 1 is a number."""
    got = check({"items": [{"role": "user", "size": 1}], "n": None, "other": {}}, Body)
    assert got == Body(items=[Item(role="user", size=1.0)])


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        ({}, "items: is required", "missing_required_parameter"),
        ({"items": [{}]}, "items[0].role: is required", "missing_required_parameter"),
        ({"items": []}, "items: must not be empty", "invalid_value"),
        ({"items": "x"}, "items: must be an array, not a string", "invalid_type"),
        ({"items": [{"role": "x"}]}, "items[0].role: must be one of system, user; got 'x'", "invalid_value"),
        ({"items": [{"role": "user", "size": 3}]}, "items[0].size: must be at most 2, got 3", "invalid_value"),
        ({"items": [{"role": "user"}], "n": 1.5}, "n: must be an integer, not a number", "invalid_type"),
        ({"items": [{"role": "user"}], "n": True}, "n: must be an integer, not a boolean", "invalid_type"),
        ({"items": [{"role": "user"}], "n": 0}, "n: must be at least 1, got 0", "invalid_value"),
        ({"items": [{"role": "user"}], "mode": "c"}, "mode: must be one of a, b; got 'c'", "invalid_value"),
        ({"items": [{"role": "user"}], "stream": "yes"}, "stream: must be a boolean, not a string", "invalid_type"),
        ([], "body: must be an object, not an array", "invalid_type"),
        (
            {"items": [{"role": "user"}], "bias": {"a": "b"}},
            "bias[...]: must be a number, not a string",
            "invalid_type",
        ),
        ({"items": [], "n": "\ud83d"}, "items: must not be empty", "invalid_value"),
        (
            {"n": "\ud83d", "items": []},
            "n: '\\ud83d' holds half of a surrogate pair, which is not a character",
            "invalid_value",
        ),
        (
            {"items": [{"role": "\ud83d"}]},
            "body: '\\ud83d' holds half of a surrogate pair, which is not a character",
            "invalid_value",
        ),
        ({"items": [{"role": "user"}], "bias": {"a": 2}}, "bias[...]: must be at most 1", "invalid_value"),
    ],
)
def test_a_wrong_body_is_named(body: Any, message: str, code: str) -> None:
    """The message names the field by its path; the error's `param` is the same path."""
    with pytest.raises(InvalidRequest) as caught:
        check(body, Body)
    assert (caught.value.message, caught.value.code) == (message, code)
    assert caught.value.param == message.partition(":")[0]


def test_within() -> None:
    """A part of a body is named from the body's root."""
    with pytest.raises(InvalidRequest, match=r"^exo\.n: must be"):
        check({"items": [{"role": "user"}], "n": 9}, Body, "exo.")
