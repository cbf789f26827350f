"""Encrypts the plain values of `secrets_encrypted` in a file, in place: nothing else of the file changes."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from exo_node.errors import ConfigurationError
from exo_node.routing.configuration.located import Keys, Source, dotted, read_source
from exo_node.routing.configuration.secrets import SecretStore, write_private


def import_file(path: Path, store: SecretStore) -> int:
    """How many values were encrypted. Raises `ConfigurationError`; then the file is as it was."""
    source = read_source(path)
    text, count = encrypt(source, store)
    if count:
        write_private(path, text, stat.S_IMODE(path.stat().st_mode))
    return count


def encrypt(source: Source, store: SecretStore) -> tuple[str, int]:
    """The file's text with plain secrets replaced by `enc:v1:...`; references to variables stay."""
    spans: dict[tuple[int, int], str] = {}
    for keys, value in _secrets(source.value, ()):
        if value.startswith(("enc:", "os.environ/")) or "${" in value:
            continue
        mark = source.marks[keys]
        span = (mark.start, mark.end)
        if any(start < span[1] and span[0] < end for start, end in spans):  # a YAML alias under two names
            raise ConfigurationError(f"{source.where(keys)}: {dotted(keys)}: one value under two names; write it twice")
        tail = "\n" if source.text[: mark.end].endswith("\n") else ""  # a YAML block takes its line's end with it
        spans[span] = json.dumps(store.seal(str(keys[-1]), value)) + tail
    text = source.text
    for (start, end), sealed in sorted(spans.items(), reverse=True):
        text = text[:start] + sealed + text[end:]
    return text, len(spans)


def _secrets(value: Any, keys: Keys) -> Iterator[tuple[Keys, str]]:
    """Every text of every table called `secrets_encrypted`."""
    if isinstance(value, list):
        for i, item in enumerate(value):
            yield from _secrets(item, (*keys, i))
    elif isinstance(value, dict):
        for key, item in value.items():
            if key == "secrets_encrypted" and isinstance(item, dict):
                yield from (((*keys, key, name), one) for name, one in item.items() if isinstance(one, str) and one)
            else:
                yield from _secrets(item, (*keys, key))
