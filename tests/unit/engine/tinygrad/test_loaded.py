from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from exo_node.engine.base import EngineRow
from exo_node.engine.tinygrad.loaded import Loaded
from tests.checkpoints import make_checkpoint
from tests.unit.engine.tinygrad.harness import Ring

pytestmark = pytest.mark.engine_tinygrad


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    path: Path = make_checkpoint("llama", tmp_path_factory.mktemp("checkpoints"), num_hidden_layers=1)
    return Ring(path, ((0, 1),), reproducible=True).engines[0]._ready()


def test_everything_is_compiled_at_load(loaded: Loaded) -> None:
    """Steps after the load compile nothing, nor does what is read of a prompt, and garbage is collected again."""
    assert gc.isenabled()
    before = loaded.kernels.compiled + loaded.kernels.reused
    position = 0
    for ids in ([1, 2, 3, 4, 5], [6]):
        given = np.array(ids, np.int32)
        values = loaded.run_row(EngineRow(1, position, len(ids), given, 1), given)
        loaded.logits(values)
        position += len(ids)
    loaded.scores(values)
    loaded.states(values)
    assert loaded.lengths == [0, 6]
    assert loaded.kernels.compiled + loaded.kernels.reused == before


def test_a_repeated_slot_is_left_to_single_rows(loaded: Loaded) -> None:
    """Rows of one slot that follow each other are not run together, and nothing is changed."""
    lengths = list(loaded.lengths)
    rows = [EngineRow(0, at, 1, None, 1) for at in (0, 1)]
    assert loaded.run_together(rows, [None, None]) == {}
    assert loaded.lengths == lengths
