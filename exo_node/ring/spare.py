"""A runner's own look at its machine's memory: what finished requests have left is given up before the kernel kills."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from exo_node.engine.detect import host_memory
from exo_node.limits.memory import LOOK_S, MemoryWatch
from exo_node.ring.events import Event
from exo_node.ring.head_data import Memory


async def watch_memory(floor: int, post: Callable[[Event], None]) -> None:
    """For ever: tell the engine thread while memory is low, and once when it is no longer. `floor` 0: never."""
    watch = MemoryWatch(floor)
    while floor:
        changed = watch.look(host_memory()[1])
        if changed or watch.level != "ok":
            post(Memory(watch.level, watch.words()))
        await asyncio.sleep(LOOK_S)
