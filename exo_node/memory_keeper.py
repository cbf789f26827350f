"""Looks at this machine's memory, and gives up what the daemon keeps for later while there is little of it."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from typing import Protocol

import psutil

from exo_node.limits.memory import LOOK_S, MemoryWatch

log = logging.getLogger("exo.memory")

SAYS = {
    "ok": "there is enough memory again: %s",
    "low": "memory is low, what is kept for later is given up: %s%s",
    "critical": "memory runs out, no request and no model is taken until there is more: %s%s",
}


class Measured(Protocol):
    """What is needed of machine.py."""

    watch: MemoryWatch

    def look(self) -> bool: ...


async def keep_memory(machine: Measured, give_up: Callable[[], None], changed: Callable[[], None]) -> None:
    """For ever. `give_up` is called again and again while memory is low; runners look after theirs themselves
    (ring/spare.py). `changed`: what this node says of itself has."""
    while True:
        try:
            new, watch = machine.look(), machine.watch
        except OSError as error:  # every file that this process may have is open: nothing is known, and that passes
            log.warning("how much memory is free cannot be read: %s", error.strerror)
            await asyncio.sleep(LOOK_S)
            continue
        if new and watch.level == "ok":
            log.warning(SAYS["ok"], watch.words())
        elif new:
            log.warning(SAYS[watch.level], watch.words(), runners_say())
        if watch.level != "ok":
            give_up()
            gc.collect()
        if new:
            changed()
        await asyncio.sleep(LOOK_S)


def runners_say() -> str:
    """What the processes that this one has started hold: who is looking for memory begins there."""
    held = []
    for child in psutil.Process().children():
        try:
            held.append(f"{child.pid}: {child.memory_info().rss // 2**20} MiB")
        except psutil.NoSuchProcess:
            continue
    return f"; runners hold {', '.join(held)}" if held else ""
