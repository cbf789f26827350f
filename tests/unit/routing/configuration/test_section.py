"""A table that is read key by key."""

from __future__ import annotations

from typing import Any

import pytest

from exo_node import values
from exo_node.routing.configuration.located import Problems, parse_json
from exo_node.routing.configuration.references import References
from exo_node.routing.configuration.section import Section, nearest

TEXT = """{
  "number": 3, "text": "x", "reference": "${N}", "word": "${W}", "list": ["a", "${W}", 7],
  "table": {"inner": true, "odd": 1},
  "tables": [{"a": 1}, 5],
  "null": null
}"""


def section() -> tuple[Section, list[str]]:
    problems = Problems()
    source = parse_json("f", TEXT)
    refs = References({"N": "12", "W": "word"}, lambda _: None)
    return Section(source, (), source.value, refs, problems), problems.lines


def test_values() -> None:
    """Texts stand for what they refer to; null is as good as absent."""
    top, wrong = section()
    assert (top.positive("number"), top.positive("reference"), top.text("word")) == (3, 12, "word")
    assert (top.text("null"), top.has("null"), top.text("absent")) == (None, False, None)
    assert wrong == []
    assert top.texts("text") == ("x",)
    inner = top.section("table")
    assert inner is not None and inner.switch("inner") is True
    inner.done()
    assert wrong == ["f:3: unknown key table.odd (known here: inner)"]


@pytest.mark.parametrize(
    ("method", "key", "message"),
    [
        ("positive", "text", "f:2: text: wants a whole number of at least 1, got 'x'"),
        ("switch", "word", "f:2: word: wants true or false, and ${W} is none"),
        ("texts", "list", "f:2: list[2]: wants a text that is not empty, got 7"),
        ("texts", "number", "f:2: number: wants a list of texts, got a number"),
        ("section", "number", "f:2: number: wants a table of keys, got a number"),
        ("secret", "number", "f:2: number: wants a text in quotes, got a number"),
        ("seconds", "table", "f:3: table: wants a number above 0, got {'inner': True, 'odd': 1}"),
    ],
)
def test_wrong_types(method: str, key: str, message: str) -> None:
    """A wrong type is reported with its line; what a reference stands for is not shown."""
    top, wrong = section()
    getattr(top, method)(key)
    assert wrong == [message]


def test_lists_of_tables() -> None:
    """What is no table in a list of tables is reported, the rest is read."""
    top, wrong = section()
    assert [below.count("a") for below in top.sections("tables")] == [1]
    assert wrong == ["f:4: tables[1]: wants a table of keys, got a number"]
    assert [key for key, _ in top.children() if key == "table"] == ["table"]


def test_long_values_are_cut() -> None:
    """An error stays one line that can be read."""
    problems = Problems()
    source = parse_json("f", '{"a": "' + "x" * 5000 + '"}')
    Section(source, (), source.value, References({}, lambda _: None), problems).read("a", values.integer(0))
    assert len(problems.lines[0]) < 300


def test_nearest() -> None:
    """The nearest known key, or all of them where none is near."""
    known: Any = {"timeout": None, "num_retries": None}
    assert nearest("Timeuot", known) == " (did you mean timeout?)"
    assert nearest("zzz", known) == " (known here: num_retries, timeout)"
    assert nearest("zzz", ()) == ""


def test_what_is_refused_is_not_suggested() -> None:
    """A key that would have no effect is reported where it is, and named for no other one."""
    problems = Problems()
    source = parse_json("f", '{"alerting": ["x"], "quiet": null, "telemetr": 1}')
    top = Section(source, (), source.value, References({}, lambda _: None), problems)
    top.text("name")
    top.refuse((key, "does nothing") for key in ("alerting", "quiet", "telemetry"))
    top.done()
    assert problems.lines == [
        "f:1: alerting: does nothing",
        "f:1: unknown key telemetr (known here: alerting, name, quiet)",
    ]
