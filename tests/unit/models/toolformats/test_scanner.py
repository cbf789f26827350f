"""Reading text that is not there yet: JSON is checked as it comes, exactly as json.loads checks all of it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from exo_node.models.toolformats.scanner import NotACall, Scanner, Wait

PIECES = [
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    '"',
    "\\",
    "a",
    "1",
    "-",
    ".",
    "e",
    "true",
    "null",
    "NaN",
    " ",
    "\n",
    "\\u00e",
    "é",
]


class Whole(Scanner):
    """Reads one value from pieces; the text that it took, or None where it is no JSON."""

    def __init__(self, pieces: list[str]) -> None:
        super().__init__()
        self._pieces = pieces

    def read(self) -> str | None:
        run = self.value()
        try:
            for piece in (*self._pieces, None):
                next(run)
                self._ended = piece is None
                self._buffer += piece or ""
            next(run)
        except StopIteration as done:
            return str(done.value)
        except NotACall:
            return None
        raise AssertionError("it waits for more after the end")


def strictly(text: str) -> Any:
    def refuse(word: str) -> Any:
        raise ValueError(word)

    return json.loads(text, parse_constant=refuse)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12))
@example(['{"a": [1, {"b": "\\u00e9\\n"}], "c": {}}'])
@example(["[1,]"])
@example(["[" * 300])
def test_json_is_what_json_loads_takes(pieces: list[str]) -> None:
    """A value that begins the text is taken to its end; anything else is refused."""
    text = "".join(pieces)
    found = Whole(pieces).read()
    assert Whole(list(text)).read() == found
    if found is not None:
        strictly(found)
        assert text.startswith(found)
    else:
        for end in range(len(text) + 1):
            try:
                value = strictly(text[:end])
            except ValueError:
                continue
            # A number, or a word, may go on: then it is one only where it ends.
            assert not isinstance(value, dict | list | str)


class Words(Scanner):
    """Reads up to a mark, and one of two words after it."""

    def all(self) -> Wait[tuple[str, str]]:
        before = yield from self.until("<sep>", limit=20)
        yield from self.space()
        return before, (yield from self.literal("one", "only"))


def test_words_come_in_pieces() -> None:
    """Marks and words that are cut anywhere are met all the same."""
    scanner = Words()
    run = scanner.all()
    found = None
    for letter in "ab<sep>  only":
        scanner._buffer += letter
        try:
            next(run)
        except StopIteration as done:
            found = done.value
    assert found == ("ab", "only")
