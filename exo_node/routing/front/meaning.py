"""What a call's name means just now, as far as it changes the answer: a part of the response cache's key."""

from __future__ import annotations

from typing import Any

from exo_node.errors import ExoError
from exo_node.routing.call import Call
from exo_node.routing.catalog.registry import Registry
from exo_node.routing.plan import Candidate
from exo_node.routing.upstream.wire_request import parameters_of


class Meanings:
    """Other after a reload that gives the name another model or other parameters, or a copy that was made anew.

    Who answers does not count (this node, a peer, a host of the same model), so nodes that share a cache share answers.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def __call__(self, call: Call) -> list[Any]:
        asked = [one for one in self._candidates(call) if not one.tier and not one.equivalent]
        if not asked:
            return []
        models = sorted({one.model_id for one in asked})
        own = [self._registry.own(one.backend) for one in asked]
        made = [{**one.defaults, **parameters_of(one)} for one in own if one is not None]
        if any(one.kind == "ring" for one in asked):
            made.append({**self._registry.config.defaults})
        return [models, sorted({repr(sorted(one.items())) for one in made if one})]

    def stands_in(self, call: Call, backend: str) -> bool:
        """Whether the backend has another model, which answers only while the asked one cannot."""
        found = self._candidates(call)
        asked = {one.model_id for one in found if not one.tier}
        models = {one.model_id for one in found if one.backend == backend}
        return bool(asked and models) and not models & asked

    def _candidates(self, call: Call) -> list[Candidate]:
        """None where nobody knows the name: whoever is to serve the call says so."""
        try:
            return self._registry.candidates(call)
        except ExoError:
            return []
