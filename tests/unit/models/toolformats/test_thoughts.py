"""Thoughts between marks: told apart however the text is cut, and only at the beginning of an answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exo_node.models.toolformats.thoughts import KNOWN, Marks, ThoughtSplitter
from tests.unit.models.toolformats.reading import cut

THINK = KNOWN[0]


def split(pieces: list[str], *, inside: bool = False, marks: Marks = THINK) -> tuple[str, str]:
    """(reasoning, text)."""
    splitter = ThoughtSplitter(marks, inside=inside)
    parsed = [*map(splitter.feed, pieces), splitter.finish()]
    assert not any(one.calls for one in parsed)
    return "".join(one.reasoning for one in parsed), "".join(one.text for one in parsed)


@pytest.mark.parametrize(
    ("written", "inside", "expected"),
    [
        ("<think>\nhm, well\n</think>\n\nHello", False, ("hm, well", "Hello")),
        ("hm</think>Hello", True, ("hm", "Hello")),
        ("\n\nHello", False, ("", "\n\nHello")),
        ("Use <think>x</think>.", False, ("", "Use <think>x</think>.")),
        ("<think>cut off by the lim", False, ("cut off by the lim", "")),
        ("<think>a < b </thin", False, ("a < b </thin", "")),
        ("<think>\n\n</think>\n\nHi <think>", False, ("", "Hi <think>")),
        ("<thi", False, ("", "<thi")),
        ("", True, ("", "")),
    ],
)
def test_splitting(written: str, inside: bool, expected: tuple[str, str]) -> None:
    """Marks and the white space beside them are neither thought nor text."""
    assert split([written], inside=inside) == expected
    assert split(list(written), inside=inside) == expected


@settings(max_examples=80, deadline=None)
@given(
    parts=st.lists(st.sampled_from(["<think>", "</think>", "</th", " ", "\n"]) | st.text(max_size=3), max_size=8),
    places=st.lists(st.integers(0, 100), max_size=8),
    inside=st.booleans(),
)
def test_cutting_changes_nothing(parts: list[str], places: list[int], inside: bool) -> None:
    """The same thoughts and the same text, however they come; text without marks is all there."""
    written = "".join(parts)
    whole = split([written], inside=inside)
    assert split(cut(written, places), inside=inside) == whole
    if not inside and not written.lstrip().startswith("<think>"):
        assert whole == ("", written)


@pytest.mark.parametrize("marks", KNOWN)
def test_all_marks(marks: Marks) -> None:
    """Every known pair of marks."""
    assert split([f"{marks.open}hm{marks.close}Hello"], marks=marks) == ("hm", "Hello")


def test_thinking_is_told() -> None:
    """Who counts tokens can ask whether the next one is a thought's."""
    splitter = ThoughtSplitter(THINK, inside=False)
    told = []
    for piece in ("<think>", "a", "</think>", "b"):
        splitter.feed(piece)
        told.append(splitter.thinking)
    assert told == [True, True, False, False]
