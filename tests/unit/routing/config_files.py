"""Configuration files for the tests of their readers: written to a folder, read with an environment of their own."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from exo_node.config import Settings
from exo_node.routing.configuration.located import FileProblems
from exo_node.routing.configuration.settings import load_routing
from exo_node.routing.deployment import Deployment, RoutingConfig

DOCUMENTS = Path(__file__).resolve().parents[3] / "configs" / "documents"


def load(folder: Path, *files: str | Path, env: Mapping[str, str] | None = None, **settings: Any) -> RoutingConfig:
    """Reads texts (written as 1.json, 2.yaml, ... by what they begin with) or files, in this order."""
    paths = []
    for number, file in enumerate(files, 1):
        if isinstance(file, str):
            text = textwrap.dedent(file).lstrip("\n")
            path = folder / f"{number}.{'json' if text[0] in '{[' else 'yaml'}"
            path.write_text(text)
            paths.append(path)
        else:
            paths.append(file)
    chosen = Settings(home=folder / "home", litellm_config=tuple(paths), **settings)
    return load_routing(chosen, {"HOME": str(folder), **(env or {})}, folder)


def problems(folder: Path, *files: str | Path, env: Mapping[str, str] | None = None, **settings: Any) -> list[str]:
    """What is wrong with them, without the folder's name."""
    with pytest.raises(FileProblems) as caught:
        load(folder, *files, env=env, **settings)
    return [line.replace(f"{folder}/", "") for line in caught.value.lines]


def by_line(*lines: str) -> list[str]:
    """Lines that were written down by what they are about, in the order in which they are reported."""
    return sorted(lines, key=lambda line: int(line.split(":")[1]))


def one(config: RoutingConfig) -> Deployment:
    (found,) = config.deployments
    return found
