"""Loading a shard."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exo_node.errors import CheckpointError
from exo_node.ring.runner_config import parse_config
from exo_node.ring.runner_load import load_shard, throttled
from tests.unit.ring.test_runner_config import DRAFT, GOOD


def test_progress_is_told_now_and_then_and_at_the_end() -> None:
    """A line every tenth of a second, and the last one always."""
    times = iter([0.0, 0.05, 0.11, 0.12, 0.13])
    told: list[tuple[int, int]] = []
    progress = throttled(lambda done, total: told.append((done, total)), lambda: next(times))
    for done in (1, 2, 3, 4, 5):
        progress(done, 5)
    assert told == [(1, 5), (3, 5), (5, 5)]


def test_the_fake_engine_needs_only_a_config(tmp_path: Path) -> None:
    """Sizes come from config.json; the loaded shard knows its width and vocabulary."""
    line = json.dumps({**GOOD, "model_path": str(tmp_path)}).encode()
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_shard(parse_config(line), lambda done, total: None)
    config = {"num_hidden_layers": 4, "hidden_size": 8, "vocab_size": 50}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load_shard(parse_config(line), lambda done, total: None)
    assert (loaded.hidden_size, loaded.vocab_size, loaded.info["engine"]) == (8, 50, "fake")
    assert loaded.draft is None


def test_a_draft_model_is_loaded_beside_the_shard(tmp_path: Path) -> None:
    """Whole, with slots of its own; its bytes are counted, and what a token takes is measured."""
    for name, layers, width in (("m", 4, 8), ("d", 2, 4)):
        (tmp_path / name).mkdir()
        config = {"num_hidden_layers": layers, "hidden_size": width, "vocab_size": 50}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    fields = {**GOOD, "model_path": str(tmp_path / "m")}
    alone = load_shard(parse_config(json.dumps(fields).encode()), lambda done, total: None)
    draft = {**DRAFT, "path": str(tmp_path / "d"), "compute_dtype": "float32"}
    loaded = load_shard(parse_config(json.dumps({**fields, "draft": draft}).encode()), lambda done, total: None)
    assert loaded.draft is not None
    assert (loaded.draft.slots, loaded.draft.context, loaded.vocab_size, loaded.hidden_size) == (4, 64, 50, 8)
    assert loaded.draft.token_s > 0
    assert loaded.report.kv_bytes == alone.report.kv_bytes + 2 * 4 * 64 * 4 * 4
    assert loaded.report.weight_bytes > alone.report.weight_bytes
    assert loaded.info["draft_model"] == "d"
