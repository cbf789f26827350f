"""Which files of a repository are fetched, and how progress looks."""

from __future__ import annotations

import pytest

from exo_node.models.fetch import choose

BASE = ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"]


def test_single_file_wins_over_shards() -> None:
    """One model.safetensors is enough: an index and shards beside it stay out, as do other formats and folders."""
    paths = [*BASE, "model.safetensors", "model-00001-of-00001.safetensors", "model.safetensors.index.json",
             "adapter.bin", "onnx/model.onnx", "original/tokenizer.json", "README.md", "tokenizer.model"]  # fmt: skip
    assert set(choose(paths)) == {*BASE, "model.safetensors", "tokenizer.model"}


def test_what_says_how_vectors_are_made_comes_too() -> None:
    """sentence-transformers' two files; no other folder."""
    extra = ["modules.json", "1_Pooling/config.json"]
    paths = [*BASE, "model.safetensors", *extra, "2_Dense/config.json", "2_Dense/model.safetensors"]
    assert set(choose(paths)) == {*BASE, "model.safetensors", *extra}


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json"])
def test_a_repository_that_cannot_run(missing: str) -> None:
    """Without config, tokenizer or safetensors weights nothing is fetched, and what is missing is named."""
    with pytest.raises(ValueError, match=missing):
        choose([path for path in [*BASE, "model.safetensors"] if path != missing])
    with pytest.raises(ValueError, match="safetensors"):
        choose([*BASE, "pytorch_model.bin", "consolidated.safetensors"])
