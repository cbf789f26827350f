"""`exo serve`: what is said before the node starts, and how a node that was started for a call ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_a_node_ends_with_its_caller() -> None:
    """When the other end of the pipe closes, however its holder died, the node gets SIGTERM."""
    code = "import time\nfrom exo_node.cli.serve import end_with_parent\nend_with_parent(0)\ntime.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, cwd=ROOT)
    assert child.stdin is not None
    assert child.poll() is None
    child.stdin.close()
    assert child.wait(30) == -15
