"""How a model's own files say that a text becomes one vector: sentence-transformers' `modules.json` and `1_Pooling`.

https://sbert.net/docs/package_reference/sentence_transformer/models.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from exo_node.errors import CheckpointError
from exo_node.models.headers import read_json

MODULES, POOLING = "modules.json", "1_Pooling/config.json"
# Other modules of sentence-transformers (Dense, ...) change the vector, or belong to models that are not run here.
_DONE = ("Transformer", "Pooling", "Normalize")
_MODES: Mapping[str, Literal["mean", "last"]] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}


@dataclass(frozen=True, slots=True)
class ModelPooling:
    """`mode` None: the files say nothing. `problem`: what they ask for that is not done here."""

    mode: Literal["mean", "last"] | None = None
    problem: str = ""


def read_pooling(folder: Path) -> ModelPooling:
    """What the files in `folder` say. Raises `CheckpointError` for those that cannot be read."""
    for kind in _modules(folder / MODULES):
        if kind not in _DONE:
            return ModelPooling(problem=f"{MODULES} asks for a module {kind!r}, which is not run here")
    path = folder / POOLING
    return pooling_of(read_json(path)) if path.is_file() else ModelPooling()


def pooling_of(config: Mapping[str, Any]) -> ModelPooling:
    """Of the content of `1_Pooling/config.json`."""
    on = [name for name, value in config.items() if name.startswith("pooling_mode_") and value is True]
    if not on:
        return ModelPooling()
    mode = _MODES.get(on[0]) if len(on) == 1 else None
    return ModelPooling(mode, "" if mode else f"{POOLING} asks for {' and '.join(on)}; mean and last are done here")


def _modules(path: Path) -> list[str]:
    """The modules' class names, in order."""
    if not path.is_file():
        return []
    try:
        return [str(module["type"]).rpartition(".")[2] for module in json.loads(path.read_bytes())]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} must be an array of objects with a type; fetch the model again") from error
