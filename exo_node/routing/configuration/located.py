"""Configuration text that knows where each of its values stands, and the list of what is wrong with it (pure).

A `Source` holds plain Python values (dict, list, str, int, float, bool, None) and, for each path into them, the line
and the span of text: errors name the line, `exo secrets import` replaces the span.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from json import JSONDecodeError, JSONDecoder
from pathlib import Path
from typing import Any, NoReturn

from exo_node.errors import ConfigurationError

Keys = tuple[str | int, ...]
MAX_DEPTH = 64  # the documents nest 7 deep; a file that nests more is an accident or an attack
MAX_VALUES = 100_000  # a YAML alias that names itself many times over multiplies
HALF = "a text holds half of a surrogate pair, which is not a character"
_PLACE = re.compile(r"(.*?):([0-9]+): ")
_BLANKS = re.compile(r"[ \t\r\n]*")


class PlainNumber(str):
    """Written as 3e-6, without quotes: a number where one is wanted (as in JSON and YAML 1.2), else a text."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Mark:
    """The line (from 1) of a value, its key's where it has one, and the value's span in characters."""

    line: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Source:
    """A parsed file. `text` and `value` may hold secrets."""

    name: str
    text: str = field(repr=False)
    value: Any = field(repr=False)
    marks: Mapping[Keys, Mark] = field(repr=False)

    def where(self, keys: Keys) -> str:
        """`FILE:LINE` of a value, or of the nearest thing around it."""
        while keys and keys not in self.marks:
            keys = keys[:-1]
        return f"{self.name}:{self.marks[keys].line if keys in self.marks else 1}"


class FileProblems(ConfigurationError):
    """Everything that is wrong with the configuration, one line each (`lines`); `message` has them all."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)


@dataclass(slots=True)
class Problems:
    """Collects what is wrong, so that all of it is said at once."""

    lines: list[str] = field(default_factory=list)

    def add(self, where: str, message: str) -> None:
        line = f"{where}: {message}"
        if line not in self.lines:
            self.lines.append(line)

    def raise_if_any(self) -> None:
        """In the order of the files, and of the lines in each."""
        if self.lines:
            places = [_PLACE.match(line) for line in self.lines]
            files = {name: i for i, name in reversed([*enumerate(place and place[1] for place in places)])}
            order = [(files[place[1]], int(place[2])) if place else (files[None], 0) for place in places]
            raise FileProblems([self.lines[i] for i in sorted(range(len(order)), key=order.__getitem__)])


def is_text(value: str) -> bool:
    """Whether it can be written anywhere: no halves of surrogate pairs, which escapes can make."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def dotted(keys: Keys) -> str:
    """`model_list[0].litellm_params.rpm`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")


def read_source(path: Path) -> Source:
    """Reads JSON or YAML, whichever the content is. Raises `FileProblems` with file and line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as e:
        raise FileProblems([f"{path}: no such file"]) from e
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "not UTF-8 text"
        raise FileProblems([f"{path}: cannot be read: {reason}"]) from e
    return parse(str(path), text)


def parse(name: str, text: str) -> Source:
    """JSON where the text begins like it (an object or a list), else YAML. Raises `FileProblems`."""
    if not text.strip():
        raise FileProblems([f"{name}: is empty"])
    if text.lstrip()[0] in "{[" and not name.endswith((".yaml", ".yml")):
        return parse_json(name, text)
    from exo_node.routing.configuration.located_yaml import parse_yaml  # only who has YAML pays for it

    return parse_yaml(name, text)


def parse_json(name: str, text: str) -> Source:
    """Strict JSON: no NaN, no key twice. Raises `FileProblems`."""
    return _Json(name, text).parse()


class _Json:
    """Objects and lists are walked here for their positions; the standard decoder reads keys and scalars."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text
        self.marks: dict[Keys, Mark] = {}
        self.scalars = JSONDecoder(parse_constant=self._constant)
        self.lines = [match.start() for match in re.finditer("\n", text)]

    def parse(self) -> Source:
        value, end = self._value((), self._skip(0), None)
        rest = self._skip(end)
        if rest != len(self.text):
            self._fail("something follows after the end of the JSON", rest)
        return Source(self.name, self.text, value, self.marks)

    def _value(self, keys: Keys, at: int, key_at: int | None) -> tuple[Any, int]:
        if len(keys) > MAX_DEPTH:
            self._fail(f"nested more than {MAX_DEPTH} deep", at)
        opening = self.text[at : at + 1]
        value: Any
        if opening == "{":
            value, end = self._object(keys, at)
        elif opening == "[":
            value, end = self._list(keys, at)
        else:
            value, end = self._scalar(at)
        self.marks[keys] = Mark(self._line(at if key_at is None else key_at), at, end)
        return value, end

    def _object(self, keys: Keys, at: int) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}
        at = self._skip(at + 1)
        if self.text[at : at + 1] == "}":
            return found, at + 1
        while True:
            if self.text[at : at + 1] != '"':
                self._fail('a key in double quotes (or the closing "}") is expected here', at)
            key_at = at
            key, at = self._scalar(at)
            if key in found:
                self._fail(f"the key {key!r} is given twice", key_at)
            at = self._skip(at)
            if self.text[at : at + 1] != ":":
                self._fail(f'":" is expected after the key {key!r}', at)
            found[key], at = self._value((*keys, key), self._skip(at + 1), key_at)
            at = self._skip(at)
            if self.text[at : at + 1] == "}":
                return found, at + 1
            if self.text[at : at + 1] != ",":
                self._fail('"," or "}" is expected here', at)
            at = self._skip(at + 1)

    def _list(self, keys: Keys, at: int) -> tuple[list[Any], int]:
        found: list[Any] = []
        at = self._skip(at + 1)
        if self.text[at : at + 1] == "]":
            return found, at + 1
        while True:
            value, at = self._value((*keys, len(found)), at, None)
            found.append(value)
            at = self._skip(at)
            if self.text[at : at + 1] == "]":
                return found, at + 1
            if self.text[at : at + 1] != ",":
                self._fail('"," or "]" is expected here', at)
            at = self._skip(at + 1)

    def _scalar(self, at: int) -> tuple[Any, int]:
        try:
            value, end = self.scalars.raw_decode(self.text, at)
            if isinstance(value, str) and not is_text(value):
                self._fail(HALF, at)
            return value, end
        except JSONDecodeError as e:  # its message has no content of the file
            self._fail(e.msg if e.msg != "Expecting value" else "a value is expected here", e.pos)
        except _Constant:
            self._fail("NaN and Infinity are not JSON", at)
        except ValueError:  # a number of thousands of digits
            self._fail("a number that cannot be read", at)

    @staticmethod
    def _constant(word: str) -> NoReturn:
        raise _Constant

    def _skip(self, at: int) -> int:
        blanks = _BLANKS.match(self.text, at)
        return at if blanks is None else blanks.end()

    def _line(self, at: int) -> int:
        return bisect_left(self.lines, at) + 1

    def _fail(self, message: str, at: int) -> NoReturn:
        raise FileProblems([f"{self.name}:{self._line(min(at, len(self.text)))}: not JSON: {message}"])


class _Constant(Exception):
    """NaN or Infinity was met."""
