"""Leases on shards: a node unloads what nobody renews. First the coordinator does, then the daemon of the head."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable

from exo_node.errors import ExoError
from exo_node.ring.members import Member
from exo_node.transport.generated.exo.v1 import node_pb2
from exo_node.types import Instance

LEASE_MS = 10_000  # ARCHITECTURE 4
RENEW_EVERY_S = 3.0  # three chances within a lease


async def renew(member: Callable[[str], Member], instances: Iterable[Instance]) -> None:
    """Ask all nodes that hold shards of these for another lease, all at once."""
    by_node: dict[str, list[str]] = {}
    for instance in instances:
        spares = (one.assignment for one in instance.spares)
        for node_id in dict.fromkeys(one.node_id for one in (*instance.assignments, *spares)):
            by_node.setdefault(node_id, []).append(instance.instance_id)

    async def ask(node_id: str, instance_ids: list[str]) -> None:
        request = node_pb2.RenewLeaseRequest(instance_ids=instance_ids, lease_ms=LEASE_MS)
        with contextlib.suppress(ExoError):  # an unreachable node is noticed by membership
            await member(node_id).renew_lease(request)

    await asyncio.gather(*(ask(node_id, ids) for node_id, ids in by_node.items()))


@contextlib.asynccontextmanager
async def renewed(
    member: Callable[[str], Member], instance: Instance, every_s: float = RENEW_EVERY_S
) -> AsyncIterator[None]:
    """Renew meanwhile: a shard that is loaded waits for slower ones, whose files may have to be fetched first."""

    async def again() -> None:
        while True:
            await asyncio.sleep(every_s)
            await renew(member, (instance,))

    task = asyncio.create_task(again())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
