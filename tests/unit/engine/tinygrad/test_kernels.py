from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoints import make_checkpoint

pytestmark = pytest.mark.engine_tinygrad
_LOAD = """
import sys
from pathlib import Path
from tests.unit.engine.tinygrad.harness import Ring
ring = Ring(Path(sys.argv[1]), ((0, 1),), reproducible=True)
print(ring.reports[0].info["kernels"], "|", ring.prefill(0, [1, 2, 3]).tobytes().hex())
"""


def _load(path: Path, cache: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, str(path)],
        env={**os.environ, "CACHEDB": str(cache)},
        cwd=Path(__file__).parents[4],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    """Kernels come from disk the second time and compute the same bits; with an unusable one they are compiled."""
    path = make_checkpoint("llama", tmp_path, num_hidden_layers=1)
    cache = tmp_path / "cache" / "kernels.db"
    first, second = _load(path, cache), _load(path, cache)
    assert " 0 from disk" in first
    assert second.startswith("0 compiled, ")
    assert first.split("|")[1] == second.split("|")[1]
    blocked = tmp_path / "file"
    blocked.write_text("no database")
    assert first.split("|")[1] == _load(path, blocked).split("|")[1]
