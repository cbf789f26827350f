"""The memory that a node has promised: who holds how much on which device, and until when. Pure; time comes in.

ARCHITECTURE 4: memory is reserved by the node that owns it, as leases. A reservation passes through
reserved (lease runs) -> held (its load is running: no lease) -> committed (lease runs again, renewed by the head).
Times are seconds of one monotonic clock of the caller.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from exo_node.errors import InvalidRequest, NoCapacity

State = Literal["reserved", "held", "committed"]


@dataclass(frozen=True, slots=True)
class Reservation:
    """`bytes` of `device` for a stage of `instance_id`; void after `until` (inf while its load is running)."""

    instance_id: str
    stage: int
    device: str
    bytes: int
    until: float
    state: State


class ReservationLedger:
    """One node's promises. `limit` is --memory-limit in bytes: what all instances together may hold."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._entries: dict[tuple[str, int], Reservation] = {}

    def entries(self) -> list[Reservation]:
        return list(self._entries.values())

    def available(self, free: int, now: float, *, device: str | None = None) -> int:
        """Bytes that may still be promised, where the machine (or `device`) measures `free` bytes unused.

        What is committed already shows in the measurement; what is only promised does not yet. Leases that ran out no
        longer count.
        """
        live = [entry for entry in self._entries.values() if entry.until > now]
        pending = sum(e.bytes for e in live if e.state != "committed" and device in (None, e.device))
        left = free - pending
        if self._limit is not None:
            left = min(left, self._limit - sum(entry.bytes for entry in live))
        return max(0, left)

    def reserve(
        self, instance_id: str, stage: int, device: str, size: int, *, free: int, now: float, until: float
    ) -> Reservation:
        """Promise `size` bytes until `until`; all or nothing. The same call again replaces the promise.

        Raises `NoCapacity` with both numbers, `InvalidRequest` when the instance already loads or runs there.
        """
        key = (instance_id, stage)
        old = self._entries.get(key)
        if old is not None and old.until > now and old.state != "reserved":
            raise InvalidRequest(f"stage {stage} of instance {instance_id} is on this node already")
        self._entries.pop(key, None)
        left = self.available(free, now)
        if size > left:
            if old is not None:
                self._entries[key] = old
            raise NoCapacity(
                f"device {device} has {left:,} bytes left for instances, {size:,} are wanted: unload a model, "
                "raise --memory-limit, or add nodes"
            )
        entry = self._entries[key] = Reservation(instance_id, stage, device, size, until, "reserved")
        return entry

    def hold(self, instance_id: str, stage: int) -> None:
        """Its load begins: no lease until `commit` or `release`. Raises `NoCapacity` when the promise is gone."""
        self._change(instance_id, stage, "held", math.inf)

    def commit(self, instance_id: str, stage: int, *, until: float) -> None:
        """Its shard is loaded. Raises `NoCapacity` when the promise is gone."""
        self._change(instance_id, stage, "committed", until)

    def rename(self, instance_id: str, old: int, new: int) -> None:
        """A stage takes another's place. Raises `KeyError` when there is none."""
        self._entries[instance_id, new] = replace(self._entries.pop((instance_id, old)), stage=new)

    def _change(self, instance_id: str, stage: int, state: State, until: float) -> None:
        entry = self._entries.get((instance_id, stage))
        if entry is None:
            raise NoCapacity(
                f"stage {stage} of instance {instance_id} has no memory reserved (any more): place it again",
                code="reservation_lost",
            )
        self._entries[instance_id, stage] = replace(entry, state=state, until=until)

    def renew(self, instance_id: str, *, until: float) -> bool:
        """Extend all leases of an instance; one never shortens. False when it holds nothing here."""
        found = [entry for entry in self._entries.values() if entry.instance_id == instance_id]
        for entry in found:
            self._entries[instance_id, entry.stage] = replace(entry, until=max(entry.until, until))
        return bool(found)

    def release(self, instance_id: str, stage: int | None = None) -> list[Reservation]:
        """Give back what an instance (or one stage of it) holds; what that was."""
        keys = [key for key in self._entries if key[0] == instance_id and stage in (None, key[1])]
        return [self._entries.pop(key) for key in keys]

    def holds(self, instance_id: str) -> bool:
        """Whether anything is promised to an instance."""
        return any(key[0] == instance_id for key in self._entries)

    def expire(self, now: float) -> list[str]:
        """Drop what ran out and return those instances, each once; the caller unloads them."""
        gone = {entry.instance_id: None for entry in self._entries.values() if entry.until <= now}
        for instance_id in gone:
            self.release(instance_id)
        return list(gone)
