"""Everybody who may serve a call: what its name and wishes mean, tier by tier, remembered by what decides it."""

from __future__ import annotations

from collections.abc import Callable

from exo_node.errors import InvalidRequest, ModelNotFound
from exo_node.routing.call import Call, CallKind
from exo_node.routing.catalog import names
from exo_node.routing.catalog.candidates import CandidateMaker
from exo_node.routing.catalog.equivalents import Equivalents
from exo_node.routing.catalog.holdings import Holdings, RegistryOptions, State
from exo_node.routing.catalog.names import LocalModel
from exo_node.routing.catalog.resolution import backend_id
from exo_node.routing.catalog.tables import Tables
from exo_node.routing.catalog.tiers import RING, Place, Tiers, of_record
from exo_node.routing.deployment import Deployment
from exo_node.routing.plan import Candidate

_REMEMBERED = 1024  # names; more are asked only by someone who tries names out
_ISSUED = 16 * _REMEMBERED  # deployments, several for a name


class Finder:
    """`not_found(name, why)` makes the 404; `fetchable`: a model that the ring could fetch under a name."""

    def __init__(
        self,
        holdings: Holdings,
        tables: Tables,
        equivalents: Equivalents,
        options: RegistryOptions,
        make: CandidateMaker,
        *,
        fetchable: Callable[[str], LocalModel | None],
        not_found: Callable[[str, str], ModelNotFound],
    ) -> None:
        self._holdings, self._tables, self._equivalents, self._options = holdings, tables, equivalents, options
        self._make, self._fetchable, self._not_found = make, fetchable, not_found

    def candidates(self, call: Call) -> list[Candidate]:
        """See `Registry.candidates`."""
        state = self._holdings.look()
        name = call.model or self.default_model(call.kind)
        if not name:
            raise InvalidRequest(
                "the request names no model and there is no default (--default-model, or default_model in the config)",
                param="model",
            )
        wishes = call.wishes
        if wishes.provider is not None and not self._knows_provider(wishes.provider):
            known = ", ".join(sorted(self._tables.providers))
            raise InvalidRequest(f"no provider {wishes.provider[:60]!r}; known: {known}", param="provider")
        if wishes.record is not None and wishes.record not in state.config.records:
            known = ", ".join(state.config.records) or "none"
            raise InvalidRequest(f"no provider record {wishes.record[:60]!r}; known: {known}", param="exo.record")
        too_long = self._too_long(state, call, name)
        # Wishes that change the answer; the rest of the call is the policy's.
        key = (name, call.kind, wishes.provider, wishes.fallbacks, wishes.equivalents, wishes.record, too_long)
        found = state.answers.get(key)
        if found is None:
            found = tuple(self._find(state, call, name, too_long))
            if len(state.answers) >= _REMEMBERED:
                state.answers.clear()
            state.answers[key] = found
        return list(found)

    def default_model(self, kind: CallKind) -> str | None:
        """See `Registry.default_model`."""
        config = self._holdings.config
        if kind == "embedding":
            return config.embedding_model
        if kind == "rerank":
            return config.rerank_model
        if kind not in ("chat", "completion"):
            return None
        said = config.default_model or config.defaults.get("model")
        return said if isinstance(said, str) and said else self._options.default_model

    def _knows_provider(self, provider: str) -> bool:
        return provider in names.RING or provider == names.ANY_EXTERNAL or self._tables.provider(provider) is not None

    def _too_long(self, state: State, call: Call, name: str) -> bool:
        """Whether the prompt is longer than the context of each of the name's own deployments (only asked where
        something hangs on it)."""
        if name not in state.config.context_fallbacks:
            return False
        found = state.resolver.find(name, call.wishes.provider)
        contexts = [self._make.context(one.backend) for one in found]
        return bool(contexts) and all(
            one is not None and one < (call.longest or call.prompt_tokens) for one in contexts
        )

    def _find(self, state: State, call: Call, name: str, too_long: bool) -> list[Candidate]:
        if not self._holdings.enabled:
            return self._only_local(state, call, name)
        wish = call.wishes.equivalents or state.config.equivalents or self._options.equivalents
        tiers = Tiers(
            state.resolver, self._equivalents, state.config, shipped=wish or "failover", own=wish or "latency",
            local_default=self.default_model(call.kind),
        )  # fmt: skip
        places = tiers.places(call, name, too_long=too_long)
        if call.wishes.record is not None:
            places = of_record(places, call.wishes.record)
        if not places:
            raise self._nobody(state, call, name)
        made = [(place, self._candidate(state, place)) for place in places]
        asked_outside = any(one.kind != "ring" and not one.rejected for _, one in made)
        return [one for place, one in made if asked_outside or not place.last]

    def _nobody(self, state: State, call: Call, name: str) -> ModelNotFound:
        """Why a name is nothing here."""
        if call.wishes.provider in names.RING:
            return self._not_found(name, "the ring has none of that name")
        if names.find_local(name, state.local) is not None:  # a list of all others of its sort would help nobody
            does = "does chat, completions and embeddings only"
            return ModelNotFound(f"no model {name!r} for {call.kind}: it is a local one, which {does}", param="model")
        return self._not_found(name, "")

    def _only_local(self, state: State, call: Call, name: str) -> list[Candidate]:
        """External models are off, whatever the name says."""
        model = names.find_local(name, state.local) or self._fetchable(name) or names.find_near(name, state.local)
        if model is None or call.kind not in RING:
            off = "external models are off (--no-enable-litellm)"
            raise self._not_found(name, off if call.wishes.provider not in names.RING else "")
        return [self._candidate(state, Place(model, 0, False, ""))]

    def _candidate(self, state: State, place: Place) -> Candidate:
        if isinstance(place.backend, Deployment):
            if len(state.issued) >= _ISSUED:  # the oldest: calls on their way keep theirs
                del state.issued[next(iter(state.issued))]
            state.issued[backend_id(place.backend)] = place.backend
        return self._make.candidate(place, state.config)
