"""One table of a configuration file, read key by key: types are checked, references resolved, and what nobody asked for
is reported with the nearest key that is known. Nothing raises: what is wrong goes to `Problems`, the key reads as None.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from exo_node import values
from exo_node.errors import ConfigurationError
from exo_node.routing.configuration.located import Keys, PlainNumber, Problems, Source, dotted
from exo_node.routing.configuration.references import References, Unresolved

T = TypeVar("T")
_SHOWN = 60  # characters of a wrong value in an error

count = values.integer(0)
positive = values.integer(1)
seconds = values.number(0, open_below=True)
amount = values.number(0)


class Section:
    """The table at `keys` of a source. `references` resolves its texts."""

    def __init__(self, source: Source, keys: Keys, table: dict[str, Any], refs: References, problems: Problems) -> None:
        self.source, self.keys, self.table, self.refs, self.problems = source, keys, table, refs, problems
        self._asked: dict[str, None] = {}

    def with_references(self, refs: References) -> Section:
        """The same table (and what was asked of it so far), resolved otherwise."""
        other = Section(self.source, self.keys, self.table, refs, self.problems)
        other._asked = self._asked
        return other

    def has(self, key: str) -> bool:
        """Whether the key is there with a value (null is how exports say "not set")."""
        self._asked[key] = None
        return self.table.get(key) is not None

    def where(self, key: str | int | None = None) -> str:
        return self.source.where(self.keys if key is None else (*self.keys, key))

    def wrong(self, key: str | None, message: str) -> None:
        """Reports `key` (None: the table itself)."""
        name = dotted(self.keys if key is None else (*self.keys, key))
        self.problems.add(self.where(key), f"{name}: {message}" if name else message)

    def read(self, key: str, read: Callable[[Any], T], *, literal_text: bool = False) -> T | None:
        """The value of `key` through `read` (which raises ValueError). A text counts as a number or a switch only when
        it stands for something else (`os.environ/RPM`), or with `literal_text`."""
        if not self.has(key):
            return None
        raw = self.table[key]
        text, referred = raw, False
        try:
            if isinstance(raw, PlainNumber) and not literal_text:
                text = float(raw)
            elif isinstance(raw, str):
                text = self.refs.resolve(raw)
                referred = text != raw
                if not referred and not literal_text:
                    read_text = _refuse_text(read, raw)
                    if read_text is not None:
                        raise ValueError(read_text)
            return read(text)
        except (Unresolved, ConfigurationError) as e:
            self.wrong(key, str(e))
        except ValueError as e:
            said = str(e)
            if referred:  # what it stands for may be a secret
                said = f"{said.rpartition(', got ')[0]}, and {raw} is none"
            self.wrong(key, said if len(said) <= 160 + _SHOWN else said[: 160 + _SHOWN] + "...")
        return None

    def text(self, key: str) -> str | None:
        return self.read(key, values.text, literal_text=True)

    def secret(self, key: str) -> str | None:
        """A text that no error may quote."""
        raw = self.table.get(key)
        if raw is not None and not isinstance(raw, str):
            self.has(key)
            self.wrong(key, f"wants a text in quotes, got {_kind(raw)}")
            return None
        return self.text(key)

    def choice(self, key: str, *allowed: str) -> str | None:
        read = values.choice(*allowed)
        # YAML takes a bare `off` for false.
        return self.read(key, lambda raw: read("off" if raw is False and "off" in allowed else raw), literal_text=True)

    def switch(self, key: str) -> bool | None:
        return self.read(key, values.switch)

    def count(self, key: str) -> int | None:
        return self.read(key, count)

    def positive(self, key: str) -> int | None:
        return self.read(key, positive)

    def seconds(self, key: str) -> float | None:
        return self.read(key, seconds)

    def amount(self, key: str) -> float | None:
        return self.read(key, amount)

    def texts(self, key: str) -> tuple[str, ...] | None:
        """A list of texts, or one text."""
        if not self.has(key):
            return None
        raw = self.table[key]
        if isinstance(raw, str):
            one = self.text(key)
            return None if one is None else (one,)
        if not isinstance(raw, list):
            self.wrong(key, f"wants a list of texts, got {_kind(raw)}")
            return None
        found = []
        for i, item in enumerate(raw):
            try:
                found.append(self.refs.resolve(values.text(item)))
            except (ConfigurationError, ValueError) as e:
                self.problems.add(self.source.where((*self.keys, key, i)), f"{dotted((*self.keys, key, i))}: {e}")
        return tuple(found)

    def section(self, key: str) -> Section | None:
        """A table below."""
        if not self.has(key):
            return None
        return self._below((*self.keys, key), self.table[key])

    def sections(self, key: str) -> Iterator[Section]:
        """A list of tables below."""
        if not self.has(key):
            return
        raw = self.table[key]
        if not isinstance(raw, list):
            self.wrong(key, f"wants a list, got {_kind(raw)}")
            return
        for i, item in enumerate(raw):
            below = self._below((*self.keys, key, i), item)
            if below is not None:
                yield below

    def children(self) -> Iterator[tuple[str, Section]]:
        """Every key with the table below it: for tables whose keys are names of the user's."""
        for key in self.table:
            below = self.section(key)
            if below is not None:
                yield key, below

    def _below(self, keys: Keys, raw: Any) -> Section | None:
        if isinstance(raw, dict):
            return Section(self.source, keys, raw, self.refs, self.problems)
        self.problems.add(self.source.where(keys), f"{dotted(keys)}: wants a table of keys, got {_kind(raw)}")
        return None

    def refuse(self, reasons: Iterable[tuple[str, str]]) -> None:
        """Keys of LiteLLM's that would have no effect here: each one that is there is reported with its reason. None of
        them is suggested for another."""
        for key, reason in reasons:
            if key in self.table and self.has(key):
                self.wrong(key, reason)

    def done(self) -> None:
        """Reports every key that nobody asked for."""
        for key in self.table:
            if key not in self._asked:
                self.problems.add(
                    self.where(key), f"unknown key {dotted((*self.keys, key))}{nearest(key, self._asked)}"
                )


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean X?)`, or the keys that there are."""
    names = list(known)
    close = difflib.get_close_matches(word.lower(), names, 1, 0.6)
    if close:
        return f" (did you mean {close[0]}?)"
    return f" (known here: {', '.join(sorted(names))})" if names else ""


def _refuse_text(read: Callable[[Any], Any], raw: str) -> str | None:
    """Why a text written out in the file is no number or switch, even where it looks like one."""
    try:
        read(raw)
    except ValueError as e:
        return str(e)
    return f"wants no quotes, got the text {raw!r}"


def _kind(raw: Any) -> str:
    names = {str: "a text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "a table"}
    return names.get(type(raw), "nothing")
