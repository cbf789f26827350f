"""What generation_config.json says of sampling. Ends of texts: test_tokenizer.py, with the tokenizer's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from exo_node.errors import CheckpointError
from exo_node.models.generation_config import generation_defaults


def test_generation_defaults(tmp_path: Path) -> None:
    """Recommended sampling values are read; do_sample false means greedy; nonsense is named."""
    path = tmp_path / "generation_config.json"
    assert generation_defaults(tmp_path) == {}
    path.write_text('{"temperature": 0.6, "top_p": 0.9, "eos_token_id": 2, "top_k": null}')
    assert generation_defaults(tmp_path) == {"temperature": 0.6, "top_p": 0.9}
    path.write_text('{"do_sample": false}')
    assert generation_defaults(tmp_path) == {"temperature": 0.0}
    path.write_text('{"temperature": "hot"}')
    with pytest.raises(CheckpointError, match="temperature"):
        generation_defaults(tmp_path)
