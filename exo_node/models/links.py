"""Symbolic links in a model's folder: what came as a model must not name other files of this machine."""

from __future__ import annotations

import os
from pathlib import Path

from exo_node.errors import CheckpointError
from exo_node.models.catalog import hub_cache
from exo_node.models.pooling import POOLING

_READ = (".safetensors", ".json", ".jinja")  # endings of what is read of a model


def check_links(folder: Path) -> None:
    """Raise `CheckpointError` where a file of the model lies elsewhere than in its folder or in the Hugging Face cache,
    whose snapshots are links into its blobs. (The folder itself may be a link: its owner made it.) Blocking.
    """
    real = folder.resolve()
    homes = [real, hub_cache().resolve()]
    if real.parent.name == "snapshots":
        homes.append(real.parent.parent)
    try:
        paths = [Path(one.path) for one in os.scandir(folder) if one.is_symlink() and one.name.endswith(_READ)]
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read ({error.strerror})") from error
    for path in (*paths, folder / POOLING):
        target = path.resolve()
        if not any(target.is_relative_to(home) for home in homes):
            raise CheckpointError(
                f"{path} is a link out of the model's folder (to {target}): put the file itself there, or make the "
                "whole folder a link"
            )
