"""What the files of a model on this machine say of it, for Ollama's lists. Reads headers and JSON, never weights."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exo_node.errors import CheckpointError, UnsupportedModel
from exo_node.models.chat_template import read_template
from exo_node.models.generation_config import generation_defaults
from exo_node.models.headers import optional_json
from exo_node.models.links import check_links
from exo_node.models.spec import read_spec
from exo_node.types import ModelCard, ModelSpec

KEPT = 256  # models whose facts are remembered
_SUFFIXES = (".safetensors", ".json", ".jinja")
# What a chat template of a model that thinks speaks of.
_THOUGHTS = ("enable_thinking", "reasoning_effort", "reasoning_content", "<think>", "<|channel|>")
Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """`size` in bytes. `digest` (64 hexadecimal digits) changes with the model's name, its config.json and its files'
    names and sizes. `spec` None: the files are no model that this node runs."""

    size: int = 0
    digest: str = ""
    spec: ModelSpec | None = None
    template: str = ""
    parameters: Mapping[str, float] = field(default_factory=dict)  # the authors' sampling defaults

    @property
    def thinks(self) -> bool:
        return any(word in self.template for word in _THOUGHTS)


class FactsReader:
    """Remembers what was read until a file of the model changes."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Stamp, Facts]] = {}

    async def of(self, card: ModelCard) -> Facts:
        """The facts of a model; those of one that is on other nodes only are its name's digest."""
        if card.local_path is None:
            return Facts(digest=digest_of(card.id))
        return await asyncio.to_thread(self._of, card.id, Path(card.local_path))

    def _of(self, model_id: str, folder: Path) -> Facts:
        try:
            stamp = _stamp(folder)
        except FileNotFoundError:  # deleted just now
            return Facts(digest=digest_of(model_id))
        known = self._known.get(model_id)
        if known is None or known[0] != stamp:
            if len(self._known) >= KEPT:
                self._known.clear()
            known = self._known[model_id] = (stamp, read_facts(model_id, folder, stamp))
        return known[1]


def read_facts(model_id: str, folder: Path, stamp: Stamp) -> Facts:
    """Blocking. What is broken is left out: loading the model says what is wrong with it."""
    config, spec, template = b"", None, None
    with contextlib.suppress(OSError):
        config = (folder / "config.json").read_bytes()
    with contextlib.suppress(CheckpointError, UnsupportedModel, OSError):
        spec = read_spec(folder, model_id)
    with contextlib.suppress(CheckpointError, OSError):
        check_links(folder)
        template = read_template(folder, optional_json(folder / "tokenizer_config.json"))
    parameters: Mapping[str, float] = {}
    with contextlib.suppress(CheckpointError, OSError):
        parameters = generation_defaults(folder)
    return Facts(
        size=sum(size for _, size, _ in stamp),
        digest=digest_of(model_id, config, [(name, size) for name, size, _ in stamp]),
        spec=spec,
        template=template or "",
        parameters=parameters,
    )


def digest_of(*parts: Any) -> str:
    """64 hexadecimal digits."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part if isinstance(part, bytes) else json.dumps(part).encode())
    return total.hexdigest()


def _stamp(folder: Path) -> Stamp:
    found = []
    for name in sorted(os.listdir(folder)):
        if name.endswith(_SUFFIXES):
            status = (folder / name).stat()
            found.append((name, status.st_size, status.st_mtime_ns))
    return tuple(found)
