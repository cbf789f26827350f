"""Engines on threads that end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoints import make_checkpoint

pytest.importorskip("mlx.core")
pytestmark = pytest.mark.engine_mlx

_CODE = """
import sys, threading
from pathlib import Path
from tests.unit.engine.mlx.ring import LocalRing, ids_of

def work():
    for _ in range(2):  # the thread's streams are given up with the last engine and made again for the next
        ring = LocalRing(Path(sys.argv[1]), (0, 3, 7))
        ring.run(0, ids_of(20), (11,))
        ring.engines[0].close()
        ring.engines[1].close()

for _ in range(2):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
print("done")
"""


def test_a_process_outlives_the_threads_of_its_engines(checkpoints: Path) -> None:
    """Load, run and close on a thread, twice over and on two threads; the process then ends with status 0."""
    path = make_checkpoint("llama", checkpoints)
    root = Path(__file__).parents[4]
    out = subprocess.run(
        [sys.executable, "-c", _CODE, str(path)], capture_output=True, text=True, cwd=root, check=False
    )
    assert (out.returncode, out.stdout, out.stderr) == (0, "done\n", "")
