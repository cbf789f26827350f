"""`model_aliases.toml`: other names for models. `[aliases]` is written by people, `[copies]` by Ollama's `/api/copy`.

An alias (lower case) stands for a repository of the hub, fetched or not; a copy for a model on this machine. What
people wrote, comments too, stays as it is: a change touches the lines of `[copies]` only.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from exo_node.errors import ConfigurationError, InvalidRequest
from exo_node.whole_file import replace_file

ALIAS_FILE = "model_aliases.toml"
# What Ollama takes as "namespace/name:tag" (https://github.com/ollama/ollama/blob/main/types/model/name.go).
_COPY = re.compile(r"(?:[A-Za-z0-9_][\w-]{0,79}/)?[A-Za-z0-9_][\w.-]{0,79}(?::[A-Za-z0-9_][\w.-]{0,79})?", re.ASCII)
# What the hub allows as "organisation/name"; no dot or dash at either end and no "..", checked beside it.
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}")
_TABLE = re.compile(r"\s*\[\s*copies\s*\]\s*(#.*)?")

Stamp = tuple[int, int, int] | None


@dataclass(frozen=True)
class Names:
    """`aliases`: name in lower case -> repository. `copies`: name as it was given -> name of a model."""

    aliases: Mapping[str, str] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def every(self) -> Mapping[str, str]:
        """All of them, in lower case."""
        return {**self.aliases, **{name.lower(): model for name, model in self.copies.items()}}

    def copy(self, name: str) -> str | None:
        """The copy of that name in any case, as it was given."""
        return next((one for one in self.copies if one.lower() == name.lower()), None)


class NamesFile:
    """The file in one home folder, which need not be there. Changes are atomic, and one after the other."""

    def __init__(self, home: Path) -> None:
        self._path = home / ALIAS_FILE

    def read(self) -> Names:
        """Raises `ConfigurationError`."""
        return parse(self._text(), str(self._path))

    def stamp(self) -> Stamp:
        """Another one when the file has changed; None: there is none."""
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Nobody else changes the file meanwhile, in no process. Raises `ExoError` where it cannot be written."""
        with contextlib.ExitStack() as stack:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                folder = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, folder)
                fcntl.flock(folder, fcntl.LOCK_EX)
            except OSError as error:
                raise self._not_written(error) from error
            yield

    def set(self, name: str, model: str | None) -> None:
        """Let the copy `name` stand for `model`, or None: remove it. While `changing`."""
        made = edited(self._text(), name, model, str(self._path)).encode()
        path = self._path.resolve()  # a link stays one
        try:
            replace_file(path, made, stat.S_IMODE(path.stat().st_mode) if path.is_file() else 0o600)
        except OSError as error:
            raise self._not_written(error) from error

    def _text(self) -> str:
        try:
            return self._path.read_bytes().decode()
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{self._path}: cannot be read ({error})") from error

    def _not_written(self, error: OSError) -> ConfigurationError:
        return ConfigurationError(f"{self._path}: cannot be written ({error.strerror}); check EXO_HOME", status=500)


def parse(text: str, where: str) -> Names:
    """The names in a file's text. Raises `ConfigurationError`."""
    tables = _load(text, where)
    if stray := next((key for key, value in tables.items() if isinstance(value, str)), None):
        raise ConfigurationError(f"{where}: {stray[:80]!r} stands in no table: write it below [aliases]")
    aliases: dict[str, str] = {}
    for alias, repo_id in _table(tables, "aliases").items():
        if not isinstance(repo_id, str) or not is_repo_id(repo_id):
            raise ConfigurationError(f"{where}: alias {alias!r} must name a repository as 'organisation/name'")
        aliases[alias.lower()] = repo_id
    copies: dict[str, str] = {}
    for name, model in _table(tables, "copies").items():
        if not isinstance(model, str) or not model or not is_copy_name(name):
            raise ConfigurationError(f'{where}: [copies] must hold lines like "name" = "model", not {name[:80]!r}')
        copies[name] = model
    return Names(aliases, copies)


def edited(text: str, name: str, model: str | None, where: str) -> str:
    """A file's text with the copy `name` standing for `model`, or without it; nothing else changes.

    Raises `ConfigurationError` where the file is written in a way that this cannot be sure of.
    """
    before = _load(text, where)
    copies = {one: kept for one, kept in _table(before, "copies").items() if one.lower() != name.lower()}
    end = "\r\n" if "\r\n" in text else "\n"
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += end
    begin = next((i for i, line in enumerate(lines) if _TABLE.fullmatch(line.rstrip("\r\n"))), None)
    if begin is None:
        lines += [*([end] if lines else []), f"[copies]{end}"]
        begin = len(lines) - 1
    stop = next((i for i in range(begin + 1, len(lines)) if lines[i].lstrip().startswith("[")), len(lines))
    kept = [line for line in lines[begin + 1 : stop] if _key(line).lower() != name.lower()]
    if model is not None:
        copies[name] = model
        used = next((i for i in range(len(kept), 0, -1) if kept[i - 1].strip()), 0)
        kept.insert(used, f"{_quoted(name)} = {_quoted(model)}{end}")
    made = "".join([*lines[: begin + 1], *kept, *lines[stop:]])
    if not _says(made, {**before, "copies": copies}):
        raise ConfigurationError(f"{where}: [copies] is written in an unusual way: change {name!r} there by hand")
    return made


def is_copy_name(name: str) -> bool:
    """Whether a copy may be called so: "name", "name:tag" or "namespace/name:tag" of letters, digits, "_", "-", "."."""
    return _COPY.fullmatch(name) is not None


def check_copy_name(name: str) -> None:
    """Raises `InvalidRequest`."""
    if not is_copy_name(name):
        raise InvalidRequest(
            f"destination {name[:200]!r} is invalid: write name, name:tag or namespace/name:tag, each of at most 80 "
            "of A-Z a-z 0-9 _ - .",
            param="destination",
        )


def is_repo_id(name: str) -> bool:
    """Whether `name` has the shape of a Hugging Face repository id ("organisation/name")."""
    return (
        _REPO_ID.fullmatch(name) is not None
        and not {"..", "--"} & {name[i : i + 2] for i in range(len(name))}
        and not any(part.endswith((".", "-", ".git")) for part in name.split("/"))
    )


def _load(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{where}: not valid TOML ({error})") from error


def _says(text: str, tables: Mapping[str, Any]) -> bool:
    try:
        return tomllib.loads(text) == tables
    except tomllib.TOMLDecodeError:
        return False


def _table(tables: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = tables.get(name, {})
    return table if isinstance(table, dict) else {}


def _key(line: str) -> str:
    """The key of a line; "" where it has none."""
    try:
        return next(iter(tomllib.loads(line)), "")
    except tomllib.TOMLDecodeError:
        return ""


def _quoted(text: str) -> str:
    """A TOML string: JSON's, but that DEL is escaped too. A folder's name may hold anything."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
