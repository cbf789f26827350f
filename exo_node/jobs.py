"""Jobs beside the answers (leases, memory, probes, prices...): what goes wrong in one must not end the node."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger("exo.jobs")

PAUSE_S = 5.0  # before a job that failed begins again


async def lasting(job: Callable[[], Awaitable[None]], pause_s: float = PAUSE_S) -> None:
    """Run `job` to its end; after an unexpected exception, which is our bug and logged, once more from the start."""
    while True:
        try:
            await job()
        except Exception:
            log.exception("%s failed; it begins again in %g s", getattr(job, "__qualname__", job), pause_s)
            await asyncio.sleep(pause_s)
        else:
            return
