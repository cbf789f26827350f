"""Rows about models, providers and deployments for clients and peers. Pure; no row holds a secret."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

from exo_node.routing.call import Capability
from exo_node.routing.catalog import providers as keys
from exo_node.routing.catalog.pricing import Priced
from exo_node.routing.catalog.resolution import AUTO
from exo_node.routing.catalog.tables import Provider, Tables
from exo_node.routing.deployment import Deployment, Price, RoutingConfig
from exo_node.types import SharedDeployment

SWITCHED_OFF = "external models are switched off (--no-enable-litellm)"


class Describes(Protocol):
    """What is known of a deployment (candidates.CandidateMaker)."""

    def priced(self, deployment: Deployment) -> Priced | None: ...

    def capabilities(self, deployment: Deployment) -> frozenset[Capability]: ...

    def context(self, deployment: Deployment) -> int | None: ...


def row(
    deployment: Deployment,
    priced: Priced | None,
    context: int | None,
    capabilities: frozenset[Capability],
    rejected: str,
    *,
    added: bool,
) -> dict[str, Any]:
    """One deployment. Prices are USD per million tokens, None when unknown; times seconds; limits per minute."""
    return {
        "id": deployment.id,
        "model_name": deployment.model_name,
        "model": deployment.litellm_model,
        "provider": deployment.provider,
        "upstream_model": deployment.upstream_model,
        "transport": deployment.transport,
        "api_base": _shown(deployment.api_base),
        "key": deployment.key,
        "usable": not rejected,
        "reason": rejected or None,
        "rpm": deployment.rpm,
        "tpm": deployment.tpm,
        "weight": deployment.weight,
        "order": deployment.order,
        "timeout": deployment.timeout_s,
        "context_window": context,
        "capabilities": sorted(capabilities),
        "pricing": price_row(priced),
        "task_types": list(deployment.task_types),
        "fallbacks": list(deployment.fallbacks),
        "added_at_run_time": added,
    }


def price_row(priced: Priced | None) -> dict[str, Any] | None:
    if priced is None:
        return None
    price = priced.price
    return {
        "input": price.input,
        "output": price.output,
        "per_request": price.per_request,
        "unit": "USD per million tokens",
        "source": priced.source,
    }


def _shown(address: str | None) -> str | None:
    """An address without what may be secret in it: user, password, query."""
    if not address:
        return None
    try:
        parts = urlsplit(address)
    except ValueError:  # a variable's: the configuration's are checked
        return "not an address"
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def models(
    deployments: Sequence[Deployment],
    peers: Sequence[Deployment],
    config: RoutingConfig,
    tables: Tables,
    provider: str | None,
    describe: Callable[[Deployment], Mapping[str, Any]],
    rejected: Callable[[Deployment], str],
) -> list[dict[str, Any]]:
    """OpenAI's model objects: configured names, aliases, peers' names, and shipped models of providers with a key, here
    or at a peer."""
    found: dict[str, dict[str, Any]] = {}

    def add(name: str, owner: str, facts: Mapping[str, Any], **more: Any) -> None:
        if provider in (None, owner):
            one = {"id": name, "object": "model", "created": 0, "owned_by": owner, "provider": owner}
            found.setdefault(name, {**one, **facts, **more})

    for one in (*deployments, *peers):
        if "*" not in one.model_name and not rejected(one):
            facts = describe(one)
            node = {"node_id": one.node_id} if one.node_id else {}
            add(one.model_name, one.provider, _card(facts), **node)
    for alias, targets in config.aliases.items():
        owner = next((found[target]["owned_by"] for target in targets if target in found), None)
        if owner is not None or provider is None:
            add(alias, owner or "alias", {}, targets=list(targets))
    for known in tables.providers.values():
        if _key_alone(known, config.environment) or _opened_by_wildcard(known, (*deployments, *peers)):
            for name in tables.models_of(known.id):
                shipped = tables.models[f"{known.id}/{name}".lower()]
                priced = None if shipped.price is None else Priced(shipped.price, "shipped")
                card = {"context_length": shipped.context, "capabilities": sorted(shipped.can | known.adds)}
                add(f"{known.id}/{name}", known.id, {**card, "pricing": price_row(priced)})
    return list(found.values())


def _card(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "context_length": facts["context_window"],
        "capabilities": facts["capabilities"],
        "pricing": facts["pricing"],
    }


def _key_alone(provider: Provider, environment: Mapping[str, str]) -> bool:
    return not provider.keyless and keys.reachable(provider, environment)


def _opened_by_wildcard(provider: Provider, deployments: Iterable[Deployment]) -> bool:
    return any(one.provider == provider.id and one.model_name == f"{provider.id}/*" for one in deployments)


def providers(
    deployments: Sequence[Deployment],
    environment: Mapping[str, str],
    tables: Tables,
    refused: Collection[str],
    *,
    enabled: bool = True,
) -> list[dict[str, Any]]:
    """One row each: `key` present, missing, invalid or keyless; a deployment's own key counts too.

    `refused`: keys that a provider has refused (candidates.which_key). Not `enabled`: none is `configured`, and
    `reason` says why.
    """
    rows = []
    for one in tables.providers.values():
        mine = [deployment for deployment in deployments if deployment.provider == one.id]
        state = keys.key_of(one, {}, environment)
        if state == "present" and f"{AUTO}{one.id}" in refused:
            state = "invalid"
        if state in ("missing", "invalid") and mine:
            states = [state, *("invalid" if deployment.id in refused else deployment.key for deployment in mine)]
            state = next(s for s in ("present", "keyless", "invalid", "missing") if s in states)
        rows.append(
            {
                "id": one.id,
                "name": one.name,
                "format": one.example,
                "features": list(one.features),
                "api_key_required": not one.keyless,
                "key": state,
                "configured": enabled
                and (state in ("present", "invalid") or bool(mine) or keys.reachable(one, environment)),
                "reason": None if enabled else SWITCHED_OFF,
                "key_variables": [*one.keys, *(" + ".join(names) for names in one.credentials)],
                "address_variables": list(one.address),
                "transport": "passthrough" if one.wire == "openai" else "litellm",
                "deployments": len(mine),
            }
        )
    return rows


def shared(
    usable: Iterable[Deployment],
    environment: Mapping[str, str],
    tables: Tables,
    describe: Describes,
    *,
    litellm: bool,
    timeout_s: float | None = None,
) -> list[SharedDeployment]:
    """What peers may call through this node: deployments, and a wildcard for each provider with a key. `timeout_s` is
    the configuration's, for those that have none of their own.

    Timers are told of what is called directly: the start of LiteLLM's worker, which the first call waits for, is none
    of the provider's time, and a peer could not tell one from the other.
    """
    rows = []
    for one in usable:
        priced = describe.priced(one)
        direct = one.transport == "passthrough"
        own_s = timeout_s if one.timeout_s is None else one.timeout_s
        rows.append(
            SharedDeployment(
                id=one.id,
                model_name=one.model_name,
                litellm_model=one.litellm_model,
                provider=one.provider,
                upstream_model=one.upstream_model,
                capabilities=() if "*" in one.upstream_model else tuple(sorted(describe.capabilities(one))),
                context=describe.context(one) or 0,
                price_input=None if priced is None else priced.price.input,
                price_output=None if priced is None else priced.price.output,
                price_cached=None if priced is None else priced.price.cached,
                price_per_request=0.0 if priced is None else priced.price.per_request,
                price_per_image=0.0 if priced is None else priced.price.per_image,
                timeout_s=own_s if direct else None,
                stream_timeout_s=one.stream_timeout_s if direct else None,
            )
        )
    for known in tables.providers.values():
        if _key_alone(known, environment) and (known.wire == "openai" or litellm):
            name = f"{known.id}/*"
            rows.append(
                SharedDeployment(
                    id=f"{AUTO}{name}",
                    model_name=name,
                    litellm_model=name,
                    provider=known.id,
                    upstream_model="*",
                    timeout_s=timeout_s if known.wire == "openai" else None,
                )
            )
    return rows


def of_peer(told: SharedDeployment, node_id: str) -> Deployment:
    """A peer's deployment. What it can is left to our own tables where the peer does not say (wildcards)."""
    price = None
    if told.price_input is not None and told.price_output is not None:
        price = Price(
            told.price_input, told.price_output, told.price_per_request, told.price_cached, told.price_per_image
        )
    return Deployment(
        id=told.id,
        model_name=told.model_name,
        litellm_model=told.litellm_model,
        provider=told.provider,
        upstream_model=told.upstream_model,
        key="present",
        price=price,
        context=told.context or None,
        capabilities=cast("frozenset[Capability]", frozenset(told.capabilities)) if told.capabilities else None,
        node_id=node_id,
        timeout_s=_timer(told.timeout_s),
        stream_timeout_s=_timer(told.stream_timeout_s),
    )


def _timer(told: float | None) -> float | None:
    """None for what is no time to wait, not a number among it."""
    return told if told is not None and told > 0 else None
