"""Which backends a call may use, in which order of need: the asked model, then fallbacks and equivalents. Pure.

Tier 0 may answer at once; every further tier only when those before have failed. No backend stands twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from exo_node.routing.call import Call
from exo_node.routing.catalog import names
from exo_node.routing.catalog.equivalents import Equivalents, expand
from exo_node.routing.catalog.names import LocalModel
from exo_node.routing.catalog.resolution import Backend, Found, Resolver, backend_id
from exo_node.routing.deployment import Deployment, RoutingConfig

TEXT = ("chat", "completion")  # where another model's answer may stand in
RING = (*TEXT, "embedding")  # what the ring does


@dataclass(frozen=True, slots=True)
class Place:
    """A backend with its tier. `equivalent`: another model than the asked one. `last`: only since all else failed.
    `model_id`: as `Resolver.id_of_backend` gives it."""

    backend: Backend
    tier: int
    equivalent: bool
    group: str
    last: bool = False
    model_id: str = ""


def of_record(places: Sequence[Place], record: str) -> list[Place]:
    """Without the deployments of other provider records (document 004): records may have groups of the same name."""
    kept = [place for place in places if isinstance(place.backend, LocalModel) or place.backend.record in ("", record)]
    numbers = {tier: number for number, tier in enumerate(sorted({place.tier for place in kept}))}
    return [replace(place, tier=numbers[place.tier]) for place in kept]


class Tiers:
    """`shipped`, `own`: off, failover or latency for the shipped table and for the user's aliases.

    `local_default`: the model that the ring loads when everything external has failed and none is loaded.
    """

    def __init__(
        self,
        resolver: Resolver,
        equivalents: Equivalents,
        config: RoutingConfig,
        *,
        shipped: str,
        own: str,
        local_default: str | None,
    ) -> None:
        self._resolver, self._equivalents, self._config = resolver, equivalents, config
        self._shipped, self._own, self._local_default = shipped, own, local_default

    def places(self, call: Call, name: str, *, too_long: bool) -> list[Place]:
        """`too_long`: the prompt does not fit the asked model, so the models for that come first.

        Empty where nobody knows the name.
        """
        asked, targets = self._asked(call, name)
        explicit = self._fallbacks(call, name, asked, too_long)
        if not asked and not (call.wishes.fallbacks or name in self._config.fallbacks):
            return []
        asked_id = self._asked_id(name, asked)
        absent = [one for one in asked if isinstance(one.backend, LocalModel) and not one.backend.here]
        there = [one for one in asked if one not in absent]
        tiers: list[list[Found]] = [
            [one for one in there if not one.later],
            [one for one in there if one.later],
        ]
        if absent:  # gigabytes to fetch: whoever serves that very model already comes first
            elsewhere = self._shipped != "off" and call.wishes.provider is None
            tiers += [[Found(one) for one in self._resolver.same(asked_id)] if elsewhere else [], absent]
        if self._own == "latency":
            tiers[0] += [one for target in targets for one in self._resolver.find(target, near=False)]
        elif self._own == "failover":
            tiers += [self._resolver.find(target, near=False) for target in targets]
        tiers += [self._follow(fallback) for fallback in explicit]
        alike = self._alike(call, asked_id)
        if self._shipped == "latency":
            tiers[0] += [one for tier in alike for one in tier]
        elif self._shipped == "failover":
            tiers += alike
        last = [] if self._shipped == "off" else self._last(call)
        named = [*asked, *(one for fallback in call.wishes.fallbacks or () for one in self._follow(fallback))]
        able = {backend_id(one.backend) for one in named} if call.kind in RING else set()
        return self._place(call, tiers, last, asked_id, able)

    def _asked(self, call: Call, name: str) -> tuple[list[Found], list[str]]:
        """The name's own backends, and its alias's other targets. An alias that is no deployment is its first target
        that there is."""
        provider = call.wishes.provider
        if provider is not None or name not in self._resolver.aliases:
            return self._resolver.find(name, provider, near=call.kind in TEXT), []
        found = [] if self._resolver.is_mere_alias(name) else self._resolver.find(name)
        targets = expand(self._resolver.aliases[name], self._resolver.aliases)
        targets = [one for one in targets if one != name]
        while not found and targets:
            found = self._resolver.find(targets.pop(0), near=False)
        return found, targets

    def _asked_id(self, name: str, asked: Sequence[Found]) -> str:
        ids = [self._resolver.id_of_backend(one.backend) for one in asked]
        named = self._equivalents.id_of_name(name)
        return named if named in ids or not ids else ids[0]

    def _fallbacks(self, call: Call, name: str, asked: Sequence[Found], too_long: bool) -> list[str]:
        """The request's own list, else the configuration's; names in order, each once."""
        if call.wishes.fallbacks is not None:
            return [one for one in dict.fromkeys(call.wishes.fallbacks) if one != name]
        if call.wishes.provider is not None:
            return []
        own = [n for one in asked if isinstance(one.backend, Deployment) for n in one.backend.fallbacks]
        lists = {**self._config.fallbacks}
        found = expand([*own, *lists.get(name, ())], lists)
        longer = list(self._config.context_fallbacks.get(name, ()))
        found = [*longer, *found] if too_long else [*found, *longer]
        if asked:
            found += self._config.default_fallbacks
        return [one for one in dict.fromkeys(found) if one != name]

    def _follow(self, name: str) -> list[Found]:
        """A fallback's backends; those of an alias are its targets'."""
        found = [] if self._resolver.is_mere_alias(name) else self._resolver.find(name, near=False)
        for target in expand(self._resolver.aliases.get(name, ()), self._resolver.aliases):
            found += self._resolver.find(target, near=False) if target != name else []
        return found

    def _alike(self, call: Call, asked_id: str) -> list[list[Found]]:
        """The same model elsewhere; models like it. Vectors of different models must not be mixed, so nothing but text
        has the latter."""
        if call.wishes.provider is not None:
            return []
        tiers = [[Found(one) for one in self._resolver.same(asked_id)]]
        if call.kind in TEXT:
            like = self._equivalents.like(asked_id)
            tiers.append([Found(one) for model_id in like for one in self._resolver.same(model_id)])
        return tiers

    def _last(self, call: Call) -> list[Found]:
        """Document 000: when everything external fails, a local model answers; a loaded one, else the default model."""
        if call.kind not in TEXT or call.wishes.provider is not None:
            return []
        loaded = [model for model in self._resolver.local if model.loaded]
        if not loaded and self._local_default:
            found = names.find_local(self._local_default, self._resolver.local)
            loaded = [found] if found is not None and found.loadable else []
        return [Found(model) for model in loaded]

    def _place(
        self, call: Call, tiers: list[list[Found]], last: list[Found], asked_id: str, able: set[str]
    ) -> list[Place]:
        """`able`: backends that the request itself names, and whose kind of call the ring does. No others of the ring
        make vectors: their weights or pooling are not what made the caller's other ones."""
        places: dict[str, Place] = {}
        number = 0
        for tier in (*tiers, last):
            new = 0
            for one in tier:
                key = backend_id(one.backend)
                ours = isinstance(one.backend, LocalModel)
                if key in places or (ours and call.kind not in TEXT and key not in able):
                    continue
                model_id = self._resolver.id_of_backend(one.backend)
                other = model_id != asked_id
                places[key] = Place(one.backend, number, other, one.group, tier is last, model_id)
                new += 1
            number += 1 if new else 0
        return list(places.values())
