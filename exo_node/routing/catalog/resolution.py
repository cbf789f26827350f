"""From a name to the backends that carry it: deployments, ring models and peers' deployments. Pure.

A snapshot of what there is, indexed once; `Registry` makes a new one when something changes.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from exo_node.routing.catalog import names, providers
from exo_node.routing.catalog.equivalents import Equivalents
from exo_node.routing.catalog.names import LocalModel
from exo_node.routing.catalog.tables import Provider, Tables
from exo_node.routing.deployment import Deployment

AUTO = "auto:"  # ids of deployments that are made of a key in the environment: "auto:openai/gpt-4o"
Backend = Deployment | LocalModel


@dataclass(frozen=True, slots=True)
class Found:
    """A backend for a name. `later`: 0 at once, 1 when the ones before have failed. `group`: of its router."""

    backend: Backend
    later: int = 0
    group: str = ""


class Resolver:
    """`deployments` are complete (providers.complete); `peers` are other nodes' and carry their `node_id`.

    `fetchable`: a model that the ring could fetch under a name that it does not have; `detect`: LiteLLM's word on whose
    a name is; `defaults`: request fields for what is made of the environment alone (configured ones bring their own).
    """

    def __init__(
        self,
        tables: Tables,
        equivalents: Equivalents,
        deployments: Sequence[Deployment],
        peers: Sequence[Deployment],
        local: Sequence[LocalModel],
        environment: Mapping[str, str],
        aliases: Mapping[str, tuple[str, ...]],
        default_provider: str | None,
        *,
        fetchable: Callable[[str], LocalModel | None] = lambda _: None,
        detect: Callable[[str], str | None] = lambda _: None,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        self._fetchable, self._detect = fetchable, detect
        self._defaults = defaults or {}
        self._tables, self._equivalents = tables, equivalents
        self._env, self.local, self.aliases = environment, local, aliases
        self._default_provider = default_provider
        self.groups = _index(deployments, lambda one: one.model_name)
        self._targets = _index(deployments, lambda one: f"{one.provider}/{one.upstream_model}".lower())
        self._peers = _index(peers, lambda one: one.model_name)
        self._peer_targets = _index(peers, lambda one: f"{one.provider}/{one.upstream_model}".lower())
        self._patterns = [one for one in deployments if "*" in one.model_name]
        self._peer_patterns = [one for one in peers if "*" in one.model_name]
        self.by_id: dict[str, list[Deployment]] = {}
        for one in (*deployments, *peers):
            if "*" not in one.model_name:
                self.by_id.setdefault(equivalents.id_of(one.provider, one.upstream_model), []).append(one)
        self._local_ids: dict[str, list[LocalModel]] = {}
        for model in local:
            if model.here and (model_id := self.id_of_local(model)) is not None:
                self._local_ids.setdefault(model_id, []).append(model)

    def kind(self, name: str, provider: str | None) -> names.NameKind:
        """By which rule a name goes (names.py)."""
        return self._kind(name, aliases=self.aliases, provider=provider)

    def _kind(self, name: str, *, aliases: Collection[str], provider: str | None = None) -> names.NameKind:
        known = self.groups.keys() | self._peers.keys()
        return names.kind_of(
            name, provider=provider, deployments=known, aliases=aliases, local=self.local, tables=self._tables,
            equivalents=self._equivalents,
        )  # fmt: skip

    def is_mere_alias(self, name: str) -> bool:
        """An alias that is nothing else: no deployment, and not one of its own targets."""
        return name in self.aliases and name not in self.aliases[name] and name not in self.groups

    def find(self, name: str, provider: str | None = None, *, near: bool = True) -> list[Found]:
        """Backends for the name itself, aliases not followed; empty where nobody knows it.

        `near` False: no near local name for one that nobody knows (names in lists of fallbacks).
        """
        if provider in names.RING:
            return self._ring(name, near=True)
        if provider is not None and provider != names.ANY_EXTERNAL:
            return self._of_provider(name, provider)
        kind = self._kind(name, aliases=())
        if kind == "deployment":
            return self._group(name)
        if kind == "provider":
            # A name that a model of ours has too ("openai/gpt-oss-20b"): the ring when the provider cannot.
            elsewhere = [*self._instead_of_a_key(name), *self._ring(name)]
            return [*self._prefixed(name), *(replace(one, later=1) for one in elsewhere)]
        if kind == "local":
            return [] if provider else self._ring(name)
        if pattern := self._wildcard(name, self._patterns):
            return pattern
        if kind == "cloud":
            return self._cloud(name)
        return self._unknown(name, local=provider is None, near=near)

    def id_of(self, name: str, found: Sequence[Found]) -> str:
        """The id of the model that a name asks for (equivalents.py)."""
        model_id = self._equivalents.id_of_name(name)
        if model_id != name.lower():
            return model_id
        for one in found:
            return self.id_of_backend(one.backend)
        return model_id

    def id_of_backend(self, backend: Backend) -> str:
        if isinstance(backend, LocalModel):
            return self.id_of_local(backend) or backend.id.lower()
        return self._equivalents.id_of(backend.provider, backend.upstream_model)

    def id_of_local(self, model: LocalModel) -> str | None:
        return self._equivalents.id_of_local((model.id, *model.aliases))

    def same(self, model_id: str) -> list[Backend]:
        """Everything that serves the model of that id: configured, peers', local, and what a key in the environment
        allows, here or at a peer."""
        found: list[Backend] = [*self.by_id.get(model_id, ()), *self._local_ids.get(model_id, ())]
        taken = {(one.provider, one.upstream_model.lower()) for one in found if isinstance(one, Deployment)}
        for host, model in self._equivalents.hosts(model_id):
            provider = self._tables.provider(host)
            if provider is None or (host, model.lower()) in taken:
                continue
            if providers.reachable(provider, self._env):
                found.append(self.make(provider, model))
            else:
                found += [one.backend for one in self._wildcard(f"{provider.id}/{model}", self._peer_patterns)]
        return found

    def make(self, provider: Provider, model: str, transport: Literal["auto", "litellm"] = "auto") -> Deployment:
        """A deployment of nothing but the environment."""
        model = self._equivalents.spelled(provider.id, model)
        blank = Deployment(
            id=f"{AUTO}{provider.id}/{model}",
            model_name=f"{provider.id}/{model}",
            litellm_model=f"{provider.id}/{model}",
            provider=provider.id,
            upstream_model=model,
            transport=transport,
            defaults=self._defaults,
        )
        return providers.complete(blank, self._env, self._tables)

    def _group(self, name: str) -> list[Found]:
        own = [Found(one, group=name) for one in self.groups.get(name, ())]
        return own + [Found(one) for one in self._peers.get(name, ())]

    def _prefixed(self, name: str) -> list[Found]:
        """`provider/model`: configured deployments of that very model, else one made of the environment's key, else a
        peer's."""
        prefix, _, model = name.partition("/")
        provider = self._tables.provider(prefix)
        if provider is None:
            return []
        spelled = self._equivalents.spelled(provider.id, model)
        targets = dict.fromkeys((f"{provider.id}/{model}".lower(), f"{provider.id}/{spelled}".lower()))
        found = [Found(one, group=one.model_name) for t in targets for one in self._targets.get(t, ())]
        found = (
            found or self._wildcard(name, self._patterns) or self._wildcard(f"{provider.id}/{model}", self._patterns)
        )
        peers = [Found(one) for t in targets for one in self._peer_targets.get(t, ())]
        peers += self._wildcard(f"{provider.id}/{spelled}", self._peer_patterns)
        if not found and (not peers or providers.reachable(provider, self._env)):
            found = [Found(self.make(provider, model))]
        return found + peers

    def _instead_of_a_key(self, name: str) -> list[Found]:
        """The upstream proxy, which knows LiteLLM's prefixes, where this node has no key for the name's provider."""
        provider = self._tables.provider(name.partition("/")[0])
        if provider is None or provider.id == "litellm_proxy" or providers.reachable(provider, self._env):
            return []
        return self._proxy(name)

    def _of_provider(self, name: str, wanted: str) -> list[Found]:
        """The field `provider`: that one and no other."""
        provider = self._tables.provider(wanted)
        if provider is None:
            return []
        prefix, slash, rest = name.partition("/")
        said = self._tables.provider(prefix) if slash else None
        model = rest if said is not None and said.id == provider.id else name
        own = [Found(one, group=name) for one in self.groups.get(name, ()) if one.provider == provider.id]
        return own or self._prefixed(f"{provider.id}/{model}")

    def _ring(self, name: str, *, near: bool = False) -> list[Found]:
        model = names.find_local(name, self.local) or (names.find_near(name, self.local) if near else None)
        return [] if model is None else [Found(model)]

    def _cloud(self, name: str) -> list[Found]:
        moves = names.proxy_moves(self._env)
        proxy = self._proxy(name) if moves else []
        transport: Literal["auto", "litellm"] = "litellm" if moves and not proxy else "auto"
        owner = self._tables.maker_of(name)
        hosts = self._equivalents.hosts(self._equivalents.id_of_name(name))
        if owner is not None:
            direct = self._owned(owner, name, transport)
        elif self._default_provider and (default := self._tables.provider(self._default_provider)) is not None:
            direct = self._prefixed(f"{default.id}/{name}")
        else:  # an open model: every host that there is a key for
            able = [(p, m) for h, m in hosts if (p := self._tables.provider(h)) and providers.reachable(p, self._env)]
            known = [Found(b) for b in self.same(self._equivalents.id_of_name(name)) if isinstance(b, Deployment)]
            direct = [Found(self.make(p, m, transport)) for p, m in able]
            direct = list({backend_id(one.backend): one for one in (*known, *direct)}.values())
            if not direct and not proxy and hosts:
                first = next(p for h, _ in hosts if (p := self._tables.provider(h)) is not None)
                direct = [Found(self.make(first, hosts[0][1], transport))]
        return proxy + [replace(one, later=1 if proxy else one.later) for one in direct]

    def _owned(self, owner: Provider, name: str, transport: Literal["auto", "litellm"]) -> list[Found]:
        found = self._prefixed(f"{owner.id}/{name}")
        if transport == "auto":
            return found
        return [
            replace(one, backend=self.make(owner, name, transport))
            if isinstance(one.backend, Deployment) and one.backend.id.startswith(AUTO) and not one.backend.node_id
            else one
            for one in found
        ]

    def _unknown(self, name: str, *, local: bool, near: bool) -> list[Found]:
        """LiteLLM first: the upstream proxy, the default provider, what LiteLLM's own table says. Then local."""
        found = self._proxy(name)
        for guess in (self._default_provider, self._detect(name)):
            if guess and (provider := self._tables.provider(guess)) is not None:
                found += [replace(one, later=1 if found else 0) for one in self._prefixed(f"{provider.id}/{name}")]
        if local:
            later = 1 if found else 0
            fetched = self._fetchable(name)
            ring = self._ring(name, near=near) if fetched is None else [Found(fetched)]
            found += [replace(one, later=later) for one in ring]
        return found

    def _proxy(self, name: str) -> list[Found]:
        if not names.proxy_address(self._env):
            return []
        return [Found(self.make(self._tables.providers["litellm_proxy"], name))]

    def _wildcard(self, name: str, patterns: Iterable[Deployment]) -> list[Found]:
        """LiteLLM's wildcards: a deployment "openai/*" serves "openai/gpt-4o". The narrowest pattern counts."""
        fits = [one for one in patterns if fnmatch.fnmatchcase(name, one.model_name)]
        if not fits:
            return []
        narrow = max(len(one.model_name) for one in fits)
        return [
            Found(self._instance(one, name), group="" if one.node_id else one.model_name)
            for one in fits
            if len(one.model_name) == narrow
        ]

    def of_wildcard(self, backend: str) -> Deployment | None:
        """What `_instance` named `backend`: a peer that was told of the wildcard asks for it, which nobody here did."""
        for pattern in self._patterns:
            head, _, tail = pattern.id.partition("*") if "*" in pattern.id else (f"{pattern.id}:", "", "")
            part = backend[len(head) : len(backend) - len(tail)]
            if part and "*" in pattern.litellm_model and backend == f"{head}{part}{tail}":
                made = self._instance(pattern, pattern.model_name.replace("*", part, 1))
                if made.id == backend:
                    return made
        return None

    def _instance(self, pattern: Deployment, name: str) -> Deployment:
        """The deployment that a wildcard means for a name."""
        if "*" not in pattern.litellm_model:
            return replace(pattern, model_name=name)
        head, _, tail = pattern.model_name.partition("*")
        part = name[len(head) : len(name) - len(tail)]
        made = replace(
            pattern,
            id=pattern.id.replace("*", part, 1) if "*" in pattern.id else f"{pattern.id}:{part}",
            limits_id=pattern.id,
            model_name=name,
            upstream_model=pattern.upstream_model.replace("*", part, 1),
            litellm_model=pattern.litellm_model.replace("*", part, 1),
        )
        # "*" alone: only now it is known whose model it is.
        return made if made.provider else providers.complete(made, self._env, self._tables)


def backend_id(backend: Backend) -> str:
    """What keys profile and breaker: "ring:MODEL", a deployment's id, "ID@NODE" of a peer's."""
    if isinstance(backend, LocalModel):
        return f"ring:{backend.id}"
    return f"{backend.id}@{backend.node_id}" if backend.node_id else backend.id


def _index(deployments: Iterable[Deployment], key: Callable[[Deployment], str]) -> dict[str, list[Deployment]]:
    found: dict[str, list[Deployment]] = {}
    for one in deployments:
        if "*" not in one.model_name:
            found.setdefault(key(one), []).append(one)
    return found
