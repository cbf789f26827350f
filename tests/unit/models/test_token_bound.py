"""The bound on a text's tokens. That no text has fewer: test_tokenizer.py, with texts of all kinds."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from exo_node.models.tokenizer import Tokenizer
from tests.tiny_models import write_byte_level, write_metaspace


@pytest.mark.parametrize("write", [write_byte_level, write_metaspace])
def test_ten_megabytes_are_refused_without_tokenizing(write: Callable[[Path], Path], tmp_path: Path) -> None:
    """The lower bound on a 10 MB prompt is far over any small context, and takes well under the tokenizing time."""
    tokenizer = Tokenizer.load(write(tmp_path / "made"))
    text = "hello wörld " * 800_000
    begun = time.process_time()
    bound = tokenizer.min_tokens(text)
    took = time.process_time() - begun
    assert bound > 100_000
    begun = time.process_time()
    tokenizer.encode(text[: len(text) // 20], add_special_tokens=False)
    assert took < 20 * (time.process_time() - begun)
