"""Whom the prober may ask, and what it must know of them first."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from exo_node.errors import ExoError
from exo_node.routing.call import Call
from exo_node.routing.catalog.names import LocalModel
from exo_node.routing.catalog.registry import Registry
from exo_node.routing.plan import Candidate


class Probed:
    """`local_models`: the ring's, as `Surroundings.local_models`."""

    def __init__(self, registry: Registry, local_models: Callable[[], Sequence[LocalModel]]) -> None:
        self._registry, self._local_models = registry, local_models

    def candidates(self) -> list[Candidate]:
        """Every backend that chats: deployments, loaded rings."""
        names = {str(row["model_name"]) for row in self._registry.deployments()}
        names |= {model.id for model in self._local_models() if model.loaded}
        found: dict[str, Candidate] = {}
        for name in names:
            ask = Call(
                id="", kind="chat", model=name, body={}, stream=True, deadline=0.0, prompt_tokens=1, max_tokens=1
            )
            with contextlib.suppress(ExoError):  # a name that nobody serves any more
                found |= {one.backend: one for one in self._registry.candidates(ask) if one.tier == 0}
        return list(found.values())

    def is_loaded(self, candidate: Candidate) -> bool:
        model = self._registry.local(candidate.backend)
        return model is not None and model.loaded

    def is_keyless(self, candidate: Candidate) -> bool:
        deployment = self._registry.own(candidate.backend)
        return deployment is not None and deployment.key == "keyless"
