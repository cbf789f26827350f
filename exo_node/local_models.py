"""The cluster's own models as the registry of backends wants them: quick to ask, seldom read from the disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from exo_node.errors import DownloadError, ModelNotFound
from exo_node.models.catalog import Catalog
from exo_node.models.names_file import is_repo_id
from exo_node.routing.catalog.names import LocalModel
from exo_node.types import Instance, ModelCard

FRESH_S = 2.0  # a folder or name that somebody else makes is served after this long; placing looks at the disk itself
# Predicted seconds until a model that is not loaded answers: read from the disk, or fetched first.
LOAD_S, FETCH_S = 5.0, 120.0


class Instances(Protocol):
    """What is needed of ring/instances.py."""

    def all(self) -> list[Instance]: ...

    def models(self) -> list[ModelCard]: ...


class LocalModels:
    """Call it for the models of this moment. `has_peers`: others may hold what this node has never heard of."""

    def __init__(
        self,
        instances: Instances,
        catalog: Catalog,
        max_context: int,
        has_peers: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._instances = instances
        self._catalog = catalog
        self._max_context = max_context
        self._has_peers = has_peers
        self._clock = clock
        self._read: tuple[float, tuple[Instance, ...], object] | None = None
        self._models: tuple[LocalModel, ...] = ()

    def __call__(self) -> tuple[LocalModel, ...]:
        now, instances, read = self._clock(), tuple(self._instances.all()), self._read
        if read is None or now - read[0] > FRESH_S or instances != read[1] or self._catalog.last_names is not read[2]:
            self._models = self._list(instances)
            self._read = (now, instances, self._catalog.last_names)
        return self._models

    def fetchable(self, name: str) -> LocalModel | None:
        """A model that the ring does not have, but might get: from the hub, or from a peer's disk."""
        try:
            self._catalog.resolve(name)
        except DownloadError:
            pass  # the ring says so itself, with what to do
        except ModelNotFound:
            # A repository that may not be fetched (--offline): the ring says so itself too.
            if not self._has_peers() and not is_repo_id(name):
                return None
        return LocalModel(id=name, loaded=False, here=False, cold_s=FETCH_S)

    def _list(self, instances: tuple[Instance, ...]) -> tuple[LocalModel, ...]:
        ready: dict[str, list[Instance]] = {}
        for instance in instances:
            if instance.state == "ready":
                ready.setdefault(instance.model_id, []).append(instance)
        found = [self._model(card, ready.get(card.id, [])) for card in self._instances.models()]
        known = {name.lower() for model in found for name in (model.id, *model.aliases, *model.copies)}
        found += [
            LocalModel(id=alias, loaded=False, here=False, cold_s=FETCH_S)
            for alias, repo in self._catalog.aliases.items()
            if alias.lower() not in known and repo.lower() not in known and is_repo_id(repo)
        ]
        return tuple(found)

    def _model(self, card: ModelCard, ready: list[Instance]) -> LocalModel:
        context = card.context_length
        if context is not None:
            context = min(context, self._max_context)
        return LocalModel(
            id=card.id,
            loaded=bool(ready),
            context=max(one.context for one in ready) if ready else context,
            slots=sum(one.slots for one in ready) or None,
            cold_s=0.0 if ready else LOAD_S,
            aliases=card.aliases,
            copies=card.copies,
        )
