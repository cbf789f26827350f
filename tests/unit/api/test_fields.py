"""Reading of JSON bodies and single fields."""

from __future__ import annotations

import pytest

from exo_node.api.fields import MAX_DEPTH, Fields, parse_object
from exo_node.errors import InvalidRequest


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b'"x"', b"null", b"\xff\xfe{}x", b'{"a": NaN}', b'{"a": -Infinity}', b"[" * 100_000],
    ids=lambda raw: repr(raw[:12]),
)
def test_bad_bodies(raw: bytes) -> None:
    """What is not a JSON object in UTF-8 is a 400, however it is broken."""
    with pytest.raises(InvalidRequest) as caught:
        parse_object(raw)
    assert caught.value.code == "invalid_json"


@pytest.mark.parametrize("raw", [b"", b" \n"])
def test_an_empty_body_is_called_empty(raw: bytes) -> None:
    """Who forgot the body is told so, not where in it a value was missed."""
    with pytest.raises(InvalidRequest, match="the request body is empty"):
        parse_object(raw)


def test_huge_integers_are_bad_json_not_a_crash() -> None:
    """Python refuses to parse integers of thousands of digits; so do we, with a 400."""
    with pytest.raises(InvalidRequest):
        parse_object(b'{"a": ' + b"9" * 10_000 + b"}")


def test_deep_bodies_are_refused() -> None:
    """Before anything that walks them, whatever they are nested in; wide ones are fine."""
    for depth, ok in ((MAX_DEPTH, True), (MAX_DEPTH + 1, False), (900, False), (100_000, False)):
        raw = b'{"a":' * (depth // 2) + b"[" * (depth - depth // 2) + b"]" * (depth - depth // 2) + b"}" * (depth // 2)
        if ok:
            parse_object(raw)
            continue
        with pytest.raises(InvalidRequest) as e:
            parse_object(raw)
        assert e.value.status == 400
    assert len(parse_object(b'{"a": [' + b"{}," * 1000 + b"[]]}")["a"]) == 1001


def test_bounds() -> None:
    """Limits are inclusive unless opened; whole numbers pass as numbers, booleans never."""
    fields = Fields({"a": 0, "b": 1, "c": True, "d": None})
    assert fields.number("a", 0, 1) == 0.0
    assert fields.number("b", 0, 1, open_low=True) == 1.0
    assert fields.integer("d", 0) is None
    assert fields.number("missing", 0, 1) is None
    with pytest.raises(InvalidRequest, match="above 0 and at most 1"):
        fields.number("a", 0, 1, open_low=True)
    with pytest.raises(InvalidRequest, match="not a boolean"):
        fields.number("c", 0, 1)


def test_texts() -> None:
    """An array of strings, with the place of what is none of them."""
    assert Fields({"a": ["x"]}).texts("a") == ("x",)
    with pytest.raises(InvalidRequest) as caught:
        Fields({"a": ["x", 5]}).texts("a")
    assert caught.value.param == "a[1]"
