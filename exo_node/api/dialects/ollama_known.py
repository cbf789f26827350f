"""Which models there are for Ollama's routes: its names to ours, whether one is loaded, and what a key may ask for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from exo_node.api.dialects.ollama_models import our_name
from exo_node.api.guard import check_allowed, may_ask
from exo_node.api.ports import ClusterPort, RoutingPort
from exo_node.errors import ModelNotFound
from exo_node.types import Backend, ModelCard

FRESH_S = 2.0  # a model that appears is found after this long; asking for the lists takes a millisecond
SHOWN = 40  # models that an error lists


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """`name` is ours. `card`: a model of the cluster; `row`: a provider's; neither: perhaps one that can be fetched.

    `remote`: a provider's, listed or not.
    """

    name: str
    card: ModelCard | None = None
    row: Mapping[str, Any] | None = None
    remote: bool = False

    @property
    def is_copy(self) -> bool:
        """Whether `name` is only another name for the card's model."""
        card = self.card
        return card is not None and card.id != self.name and self.name.lower() in map(str.lower, card.copies)

    @property
    def placed_as(self) -> str:
        """The model of its instances."""
        return self.card.id if self.card is not None else self.name


class KnownModels:
    """Lists that are a moment old."""

    def __init__(
        self, backend: Backend, cluster: ClusterPort, routing: RoutingPort, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._backend, self._cluster, self._routing, self._clock = backend, cluster, routing, clock
        self._read_at: float | None = None
        self._cards: list[ModelCard] = []
        self._rows: list[dict[str, Any]] = []

    async def lists(self, *, fresh: bool = False) -> tuple[list[ModelCard], list[dict[str, Any]]]:
        """The cluster's models, and the providers' that hide none of them."""
        now = self._clock()
        if fresh or self._read_at is None or now - self._read_at > FRESH_S:
            self._cards = await self._backend.models()
            self._rows = await self._routing.models()
            self._read_at = now
        return self._cards, self._rows

    async def find(self, asked: str) -> Found:
        """What Ollama's name means: a configured name first, as everywhere."""
        cards, rows = await self.lists()
        by_name = {name.lower(): card for card in cards for name in (*card.copies, *card.aliases, card.id)}
        aliases = self._cluster.aliases()
        spelled = [name for card in cards for name in (card.id, *card.copies)]
        name = our_name(asked, [*(row["id"] for row in rows), *spelled, *by_name, *aliases])
        row = next((row for row in rows if row["id"] == name), None)
        if row is not None:
            return Found(name=name, row=row, remote=True)
        card = next((card for card in cards if card.id == name), None) or by_name.get(name.lower())
        if card is not None:
            return Found(name=name, card=card)
        if "/" not in name:  # gpt-4o, where a provider with a key has it
            row = next((row for row in rows if row["id"] == f"{row['owned_by']}/{name}"), None)
            return Found(name=name, row=row, remote=row is not None)
        prefix = name.partition("/")[0].lower()
        return Found(name=name, remote=any(one["id"] == prefix for one in self._routing.providers()))

    async def of_cluster(self, asked: str) -> Found:
        """A model that there is, ours or a provider's. Raises `ModelNotFound`, `ModelNotAllowed`."""
        found = await self.find(asked)
        check_allowed(found.name)
        if found.card is None and found.row is None:
            cards, rows = await self.lists()
            names = [name for name in (*(card.id for card in cards), *(row["id"] for row in rows)) if may_ask(name)]
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            raise ModelNotFound(
                f"model {asked[:200]!r} not found; there are: {', '.join(names[:SHOWN])}{more}", param="model"
            )
        return found

    async def is_theirs(self, name: str) -> bool:
        """Whether a name is a provider's model, or a configured one."""
        _, rows = await self.lists()
        theirs = {one.lower() for row in rows for one in (row["id"], row["id"].removeprefix(f"{row['owned_by']}/"))}
        return name.lower() in theirs or self._routing.is_external(name)

    def is_loaded(self, found: Found) -> bool:
        return any(one["model"] == found.placed_as and one["state"] == "ready" for one in self._cluster.instances())
