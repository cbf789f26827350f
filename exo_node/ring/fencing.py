"""Fences the stages of a ring at once, and finds out which of them are lost."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping

from exo_node.errors import ExoError, RingBroken
from exo_node.transport.generated.exo.v1 import ring_pb2
from exo_node.transport.ring_client import RingClient

log = logging.getLogger("exo.recovery")

# A stage that hangs takes connections and says nothing. The others show how long an answer takes just now: one that
# needs so much longer than the slowest of them, and this on top, is not waited for.
TIMES, MORE_S = 5.0, 0.3


async def fence(
    clients: Mapping[int, RingClient], request: ring_pb2.FenceRequest, silence_s: float
) -> dict[int, ring_pb2.FenceResponse]:
    """End the old epoch on every stage of `clients`; what each one holds that answers, the others are lost.

    A stage may be silent for `silence_s` seconds at most; one that answers at all has all the time that its running
    step takes. Raises `RingBroken` (code stale_epoch) where another coordinator is ahead.
    """
    reached = await _reached(clients, silence_s)

    async def ask(stage: int) -> ring_pb2.FenceResponse | None:
        try:
            return await clients[stage].fence(request)
        except RingBroken:
            raise  # another coordinator is ahead of us
        except ExoError as error:
            log.info("stage %d is lost: %s", stage, error.message)
            return None

    answers = await asyncio.gather(*map(ask, reached))
    return {stage: answer for stage, answer in zip(reached, answers, strict=True) if answer is not None}


async def _reached(clients: Mapping[int, RingClient], silence_s: float) -> list[int]:
    begun = time.monotonic()
    until = begun + silence_s
    tasks = {asyncio.create_task(client.reach(silence_s)): stage for stage, client in clients.items()}
    waiting, found = set(tasks), []
    try:
        while waiting:
            left = max(0.0, until - time.monotonic())
            done, waiting = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            for task in done:
                if (error := task.exception()) is None:
                    found.append(tasks[task])
                    took = time.monotonic() - begun
                    until = min(begun + silence_s, begun + took * TIMES + MORE_S)
                elif not isinstance(error, ExoError):
                    raise error
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    return sorted(found)
