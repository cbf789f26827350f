"""What the API needs from the rest of the node. The daemon implements these; `Backend` is in `exo_node/types.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

Progress = Callable[[dict[str, Any]], None]


class ClusterPort(Protocol):
    """The cluster as this node sees it, JSON-ready (`api/views.py` makes the shapes)."""

    node_id: str

    def topology(self) -> dict[str, Any]:
        """exo's shape: `nodes` by id, `peer_graph`, `active_node_id`; and `instances`."""
        ...

    def health(self) -> dict[str, Any]:
        """At least `status`: "ok", or why not."""
        ...

    def instances(self) -> list[dict[str, Any]]: ...

    async def instance_stats(self, instance_id: str) -> list[dict[str, Any]] | None:
        """What each runner of an instance reports, in ring order: KV slots, memory, steps. None: no such instance."""
        ...

    async def place(
        self,
        model: str,
        *,
        min_nodes: int,
        nodes: tuple[str, ...],
        engines: tuple[str, ...],
        reuse: bool = False,
        on_progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Place a model; returns the instance when it is ready. Cancelling the call gives the memory back.

        With `reuse` an instance that is ready already is good enough.

        `on_progress` gets JSON-ready objects: `stage`, `detail`, `done`, `total` (bytes), and what else there is.
        """
        ...

    async def remove(self, instance_id: str) -> bool:
        """False when there is no such instance."""
        ...
