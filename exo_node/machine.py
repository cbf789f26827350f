"""What this machine gives to the cluster: devices, engines and memory, as far as the settings let it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import resource
import time
from collections.abc import Sequence

from exo_node.config import Settings
from exo_node.engine.detect import chip_name, detect_devices, host_memory, usable_engines
from exo_node.engine.select import choose_engine, devices_for
from exo_node.errors import ConfigurationError
from exo_node.limits.memory import MemoryWatch, floor_of
from exo_node.types import Device

MAX_FILES = 65_536
FRESH_S = 1.0  # how old the free memory that we tell may be
GPU_FRESH_S = 5.0  # the same for discrete GPUs: nvidia-smi takes some 50 ms of CPU


def allow_files() -> None:
    """Let this process, and what it starts, open as many files as it may: each connection is one, a stranger's too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS says "infinite" and means less
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Machine:
    """Read once at start, but for the free memory."""

    def __init__(self, settings: Settings) -> None:
        """Raises `EngineUnavailable` and `ConfigurationError` for engines and devices that are not here."""
        usable = usable_engines()
        found = detect_devices()
        chosen = choose_engine(settings.inference_engine, usable, found)
        others = tuple(one for one in usable if one != chosen) if settings.inference_engine == "auto" else ()
        self.engines = (chosen, *others)
        self.chip = chip_name()
        self.limit = settings.memory_limit
        self._devices = chosen_devices(devices_for(chosen, found), found, settings.devices)
        self._memory = (0, 0)
        self.watch = MemoryWatch(floor_of(host_memory()[0], settings.min_free_memory))
        self._read_at = float("-inf")
        self._freed = asyncio.Event()

    def memory(self) -> tuple[int, int]:
        """(total, free) bytes for instances: the host's, a second old at most, or of all discrete GPUs together.

        The total is capped by `--memory-limit`; what is promised counts against the limit elsewhere (the ledger). Of
        the host's, `--min-free-memory` is left out.
        """
        total, free = self._discrete() or self._host()
        return (total, free) if self.limit is None else (min(total, self.limit), free)

    async def refresh(self) -> None:
        """Runs for ever where there are discrete GPUs: reads their free memory anew (that starts a process)."""
        while self._discrete() is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GPU_FRESH_S):
                    await self._freed.wait()
            self._freed.clear()
            fresh = {one.id: one for one in await asyncio.to_thread(detect_devices)}
            self._devices = tuple(fresh.get(one.id, one) for one in self._devices)

    def freed(self, device: str, size: int) -> None:
        """A runner has ended that held so many bytes there, as far as is known: what was read before is not so any
        more. A discrete GPU has them back until its memory is read anew, which takes its time."""
        self._read_at = float("-inf")
        self._devices = tuple(
            dataclasses.replace(one, memory_free=min(one.memory_total, one.memory_free + size))
            if one.id == device and one.kind in ("cuda", "amd")
            else one
            for one in self._devices
        )
        self._freed.set()

    def _host(self) -> tuple[int, int]:
        now = time.monotonic()
        if now - self._read_at > FRESH_S:
            with contextlib.suppress(OSError):  # no file can be opened just now: as it was
                total, free = host_memory()
                self._memory, self._read_at = (total, max(0, free - self.watch.floor)), now
        return self._memory

    def look(self) -> bool:
        """Whether the host's memory has become short, or is no longer: see `watch`."""
        return self.watch.look(host_memory()[1])

    def _discrete(self) -> tuple[int, int] | None:
        gpus = [one for one in self._devices if one.kind in ("cuda", "amd")]
        return (sum(one.memory_total for one in gpus), sum(one.memory_free for one in gpus)) if gpus else None

    def devices(self) -> tuple[Device, ...]:
        """The devices that may hold shards. What shares the host's memory tells how much of it is free now."""
        total, free = self._host()
        total = total if self.limit is None else min(total, self.limit)
        return tuple(
            dataclasses.replace(one, memory_total=min(one.memory_total, total), memory_free=free)
            if one.kind in ("cpu", "metal")
            else one
            for one in self._devices
        )


def chosen_devices(best: Sequence[Device], found: Sequence[Device], wanted: Sequence[str]) -> tuple[Device, ...]:
    """The devices named by `--devices`, or the engine's best. The CPU may be named several times, as `CPU:0,CPU:1`:
    each is a runner of its own. Raises `ConfigurationError` naming what there is.
    """
    if not wanted:
        return tuple(best)
    by_id = {one.id.upper(): one for one in found}
    chosen: list[Device] = []
    for name in wanted:
        device = by_id.get(name.upper())
        if device is None and name.upper().startswith("CPU:") and name[4:].isdigit() and "CPU" in by_id:
            device = dataclasses.replace(by_id["CPU"], id=name.upper())
        if device is None:
            raise ConfigurationError(f"--devices {name}: this machine has {', '.join(one.id for one in found)}")
        if any(one.id == device.id for one in chosen):
            raise ConfigurationError(f"--devices {name}: named twice")
        chosen.append(device)
    return tuple(chosen)
