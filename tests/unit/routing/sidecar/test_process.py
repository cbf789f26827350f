"""A worker that ends is started again (integration/sidecar kills real ones)."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import pytest

from exo_node.routing.masking import Masker
from exo_node.routing.sidecar import process
from exo_node.routing.sidecar.process import WorkerProcess, given_up
from exo_node.routing.sidecar.protocol import Configuration
from exo_node.signals import ChangeSignal


async def test_a_worker_that_dies_at_the_start_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each death is followed by another start after a pause, with the reason kept; cancelling ends the process."""
    monkeypatch.setattr(process, "BACKOFF_S", (0.01,))
    (tmp_path / "litellm.py").write_text("raise RuntimeError('no good')\n")
    changed = ChangeSignal()
    worker = WorkerProcess(0, tmp_path / "0.sock", {**os.environ, "PYTHONPATH": str(tmp_path)}, changed)
    worker.configure(Configuration(1, os.getpid()), Masker())
    task = asyncio.create_task(worker.run())
    async with asyncio.timeout(60):
        while worker.starts < 2:
            await changed.wait(changed.version)
    assert "import litellm: RuntimeError: no good" in worker.error
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert (worker.state, worker.pid) == ("stopped", None)


async def test_nobody_waits_for_a_worker_that_is_not_there(tmp_path: Path) -> None:
    """Who waits for a configuration to arrive does not wait for a worker that will get it at its start."""
    await WorkerProcess(0, tmp_path / "0.sock", {}, ChangeSignal()).confirmed(5)


@pytest.mark.parametrize(
    ("in_flight", "silent_s", "idle_s", "killed"),
    [(0, 10.0, 10.0, False), (1, 10.0, 10.0, True), (1, 10.0, 1.0, False), (0, 31.0, 31.0, True), (1, 31.0, 1.0, True)],
)
def test_patience_with_a_silent_worker(in_flight: int, silent_s: float, idle_s: float, killed: bool) -> None:
    """Calls wait for seconds only on a worker that hangs; one that is busy (an import) or has no calls has longer."""
    assert given_up(in_flight, silent_s, idle_s) == killed
