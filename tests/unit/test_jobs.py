"""jobs.py: what happens to a job that fails."""

from __future__ import annotations

import asyncio

import pytest

from exo_node.jobs import lasting


async def test_a_job_that_fails_is_logged_and_begins_again(caplog: pytest.LogCaptureFixture) -> None:
    """The job runs until it ends by itself; each failure leaves its traceback in the log."""
    runs = 0

    async def job() -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise ValueError(f"run {runs}")

    await lasting(job, 0.0)
    assert runs == 3
    assert [str(one.exc_info[1]) for one in caplog.records if one.exc_info] == ["run 1", "run 2"]


async def test_cancelling_ends_a_job() -> None:
    """A cancellation goes through to the job and is no failure."""
    ended = asyncio.Event()

    async def job() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(lasting(job, 0.0))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
