"""What a model's own files say of its vectors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exo_node.errors import CheckpointError
from exo_node.models.pooling import MODULES, POOLING, ModelPooling, pooling_of, read_pooling


def test_files_of_sentence_transformers(tmp_path: Path) -> None:
    """Qwen3-Embedding's files mean the last token; without files nothing is said; a Dense layer is not done."""
    assert read_pooling(tmp_path) == ModelPooling()
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / POOLING).write_text(
        json.dumps(
            {"word_embedding_dimension": 1024, "pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}
        )
    )
    kinds = ["Transformer", "Pooling", "Normalize"]
    modules = [{"idx": i, "type": f"sentence_transformers.models.{kind}"} for i, kind in enumerate(kinds)]
    (tmp_path / MODULES).write_text(json.dumps(modules))
    assert read_pooling(tmp_path) == ModelPooling("last")
    (tmp_path / MODULES).write_text(json.dumps([*modules, {"type": "sentence_transformers.models.Dense"}]))
    assert "Dense" in read_pooling(tmp_path).problem
    (tmp_path / MODULES).write_text("[1]")
    with pytest.raises(CheckpointError, match=r"modules\.json must be an array"):
        read_pooling(tmp_path)


def test_modes() -> None:
    """Mean and last are done; others, and sums of several, are named."""
    assert pooling_of({"pooling_mode_mean_tokens": True}) == ModelPooling("mean")
    assert "pooling_mode_cls_token" in pooling_of({"pooling_mode_cls_token": True}).problem
    both = {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}
    assert "pooling_mode_mean_tokens and pooling_mode_max_tokens" in pooling_of(both).problem
