from __future__ import annotations

import pytest

from exo_node.engine.tinygrad.support import check
from exo_node.errors import UnsupportedModel
from exo_node.types import Shard
from tests.unit.engine.tinygrad.test_spec import LLAMA


def test_any_cut_of_a_known_family() -> None:
    """Every layer range of a supported model is run."""
    for start in range(5):
        for end in range(start, 5):
            check(LLAMA, Shard("m", start, end, 4))


def test_refuses_a_cut_of_another_model() -> None:
    """A shard that counts other layers than the config is refused, and the cut is named."""
    with pytest.raises(UnsupportedModel, match=r"\[2, 5\) of 5 layers"):
        check(LLAMA, Shard("m", 2, 5, 5))


def test_refuses_an_unknown_architecture() -> None:
    """The architecture is named."""
    with pytest.raises(UnsupportedModel, match="GPT2LMHeadModel"):
        check({**LLAMA, "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, Shard("m", 0, 4, 4))
