"""What api/exo/shapes.py and v1.py make is what the document says, in states too that a node is seldom in."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from exo_node.api.exo import shapes
from exo_node.api.exo.downloads import Download
from exo_node.api.exo.v1 import progress_view
from exo_node.api.schemas import exo_answers as answers

SHARD = {"node_id": "a", "start_layer": 0, "end_layer": 8, "n_layers": 8}
VIEW: dict[str, Any] = {"id": "i", "model": "org/m", "state": "loading", "error": None, "shards": [SHARD]}
FAILED = {**VIEW, "state": "failed", "error": "no memory"}
RUNNING = Download(model="org/m", node_id="a", began=0.0, done=5, total=9)
BROKEN = Download(model="org/m", node_id="a", began=0.0, state="failed", error="no space", ended=1.0)


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        (shapes.runners([VIEW, {**VIEW, "id": "j", "state": "ready"}]), dict[str, answers.TaggedRunner]),
        (shapes.runners([FAILED]), dict[str, answers.TaggedRunner]),
        (shapes.preview("org/m", {**VIEW, "stage_bytes": [7]}, "i"), answers.Preview),
        (shapes.preview("org/m", None, "", "too large"), answers.Preview),
        (shapes.download(RUNNING, 2.0), answers.TaggedDownload),
        (shapes.download(BROKEN, 2.0), answers.TaggedDownload),
        (shapes.completed("a", "org/m", 9, read_only=False), answers.TaggedDownload),
        (progress_view(RUNNING, 2.0), answers.DownloadProgress),
        (progress_view(RUNNING, 0.0), answers.DownloadProgress),
    ],
)
def test_shapes(value: Any, shape: Any) -> None:
    """Nothing is missing, nothing of another type, and no key goes by another name than is declared."""
    read = msgspec.to_builtins(msgspec.convert(value, shape))
    assert _without_nulls(read) == _without_nulls(value)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return value
