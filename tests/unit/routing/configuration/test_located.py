"""Values with their lines, from JSON and YAML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_node.routing.configuration.located import FileProblems, Problems, dotted, parse, parse_json, read_source
from exo_node.routing.configuration.located_yaml import parse_yaml

JSON_TEXT = """{
  "a": {"b": [1,
     {"c": "x\\n"}]},
  "d": null
}
"""
YAML_TEXT = """# comment
a:
  b:
    - 1
    - c: "x\\n"
d:
"""


@pytest.mark.parametrize(("text", "line_c", "line_d"), [(JSON_TEXT, 3, 4), (YAML_TEXT, 5, 6)])
def test_values_and_lines(text: str, line_c: int, line_d: int) -> None:
    """JSON and YAML give the same values, and the line of each key."""
    source = parse("f", text)
    assert source.value == {"a": {"b": [1, {"c": "x\n"}]}, "d": None}
    assert source.where(("a", "b", 1, "c")) == f"f:{line_c}"
    assert source.where(("d",)) == f"f:{line_d}"
    assert source.where(("d", "unknown", 3)) == f"f:{line_d}"
    mark = source.marks["a", "b", 1, "c"]
    assert source.text[mark.start : mark.end] == '"x\\n"'


_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(_json_values, st.sampled_from([None, 1, "\t"]))
def test_json_is_read_as_the_standard_library_reads_it(value: Any, indent: int | str | None) -> None:
    """Any JSON comes out as it went in, and each span holds its value's text."""
    text = json.dumps(value, indent=indent)
    source = parse_json("f", text)
    assert source.value == value
    for keys, mark in source.marks.items():
        expected = value
        for key in keys:
            expected = expected[key]
        assert json.loads(text[mark.start : mark.end]) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{\n"a": 1,\n"a": 2}', "f:3: not JSON: the key 'a' is given twice"),
        ('{\n"a": 1\n"b": 2}', 'f:3: not JSON: "," or "}" is expected here'),
        ('{"a": 1,\n}', 'f:2: not JSON: a key in double quotes (or the closing "}") is expected here'),
        ('{"a": NaN}', "f:1: not JSON: NaN and Infinity are not JSON"),
        ('{"a": nope}', "f:1: not JSON: a value is expected here"),
        ('{"a" 1}', "f:1: not JSON: \":\" is expected after the key 'a'"),
        ("[1,\n2", 'f:2: not JSON: "," or "]" is expected here'),
        ('{"a": "x', "f:1: not JSON: Unterminated string starting at"),
        ("{}\n}", "f:2: not JSON: something follows after the end of the JSON"),
        ("[" * 100, "f:1: not JSON: nested more than 64 deep"),
        ("", "f: is empty"),
        ("a: 1\nb: [\n", "f:3: not YAML: expected the node content, but found '<stream end>'"),
        ("a: 1\na: 2\n", "f:2: the key 'a' is given twice"),
        ("a: !!python/object:os.system x\n", "not YAML: could not determine a constructor"),
        ("a: &x [*x]\n", "f:1: nested more than 64 deep (or an alias that holds itself)"),
        ("? [a]\n: 1\n", "f:1: a key must be a text"),
        ("a: 1\n---\nb: 2\n", "but found another document"),
        ("a: !!int abc\n", "f:1: not a value of int"),
        ("# nothing\n", "f: is empty"),
        ("a: \x00\n", "f: not YAML: it holds a character that YAML does not allow"),
    ],
)
def test_text_that_cannot_be_read(text: str, message: str) -> None:
    """What is wrong is said in one line with file and line."""
    with pytest.raises(FileProblems) as caught:
        parse("f", text)
    assert len(caught.value.lines) == 1
    assert message in caught.value.lines[0]


def test_yaml_dates_and_merges() -> None:
    """An unquoted date stays text; a merged table gives way to the table's own keys."""
    source = parse_yaml("f", "base: &b\n  x: 1\n  y: 2\na:\n  <<: *b\n  y: 3\n  version: 2024-02-01\n")
    assert source.value["a"] == {"x": 1, "y": 3, "version": "2024-02-01"}


def test_a_yaml_that_multiplies_itself() -> None:
    """Aliases of aliases that would fill the memory are refused."""
    text = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    text += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 7))
    with pytest.raises(FileProblems, match="more than 100000 values"):
        parse_yaml("f", text)


def test_files(tmp_path: Path) -> None:
    """A file that is absent or not text is named; a byte order mark does no harm."""
    with pytest.raises(FileProblems, match=r"none\.json: no such file"):
        read_source(tmp_path / "none.json")
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileProblems, match="cannot be read: not UTF-8 text"):
        read_source(tmp_path / "b")
    with pytest.raises(FileProblems, match="cannot be read: Is a directory"):
        read_source(tmp_path)
    (tmp_path / "bom.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_source(tmp_path / "bom.json").value == {"a": 1}


def test_all_problems_at_once() -> None:
    """Problems come together, each once."""
    problems = Problems()
    problems.raise_if_any()
    problems.add("f:1", "x")
    problems.add("f:1", "x")
    problems.add("f:2", "y")
    with pytest.raises(FileProblems) as caught:
        problems.raise_if_any()
    assert caught.value.message == "f:1: x\nf:2: y"
    assert dotted(("a", 0, "b")) == "a[0].b"
