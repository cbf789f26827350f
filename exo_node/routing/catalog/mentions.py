"""Names that the configuration gives of something else, and that nothing carries: mistakes, or remarks. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence

from exo_node.limits.budgets import EACH
from exo_node.routing.catalog.names import LocalModel
from exo_node.routing.catalog.providers import target_of
from exo_node.routing.catalog.resolution import Backend, Resolver
from exo_node.routing.catalog.tables import Tables
from exo_node.routing.configuration.located import Problems
from exo_node.routing.deployment import RoutingConfig


def check_providers(config: RoutingConfig, tables: Tables, problems: Problems) -> None:
    """Providers of budgets, and the default one: nobody but the tables and the deployments could know them.

    A budget of nobody would let everything through.
    """
    targets = (target_of(one.litellm_model, one.params, tables).provider for one in config.deployments)
    own = {provider.id for provider in targets if provider is not None}
    for mention in config.mentions:
        if mention.kind != "provider" or mention.name == EACH or mention.name in own:
            continue
        known = tables.provider(mention.name)
        if known is None:
            near = _nearest(mention.name, (*tables.providers, *tables.others, *own))
            problems.add(mention.where, f"{mention.key}: no provider {mention.name!r}{near}")
        elif known.id != mention.name:
            problems.add(mention.where, f"{mention.key}: {mention.name} is called {known.id} here: write {known.id}")


def unknown_models(config: RoutingConfig, tables: Tables, resolver: Resolver, local: Sequence[LocalModel]) -> list[str]:
    """A line for each model's name that is nothing here at present: no deployment, alias, local model or model of the
    tables. No mistake for certain: a local model may come."""
    there = {one.model_name for one in config.deployments} | config.aliases.keys()
    found: dict[str, None] = {}
    for mention in (*config.mentions, *tables.mentions):
        name = mention.name
        if mention.kind in ("provider", "callback", "check") or "*" in name or name in there:
            continue
        if mention.kind == "class":
            known = resolver.kind(name, None) != "unknown"
        else:
            found_here = resolver.find(name, near=mention.kind == "asked")
            known = any(not _might_only_be_fetched(one.backend, local) for one in found_here)
        if not known:
            names = (
                *there,
                *(one.id for one in local),
                *(model.partition("/")[2] for model in tables.spelled.values()),
            )
            found[f"{mention.where}: {mention.key}: no model {name!r} is known here{_nearest(name, names)}"] = None
    return list(found)


def unknown_providers(config: RoutingConfig, tables: Tables) -> list[str]:
    """A line for each deployment with a provider that the tables do not have. No mistake for certain: LiteLLM may."""
    lines = []
    for one in config.deployments:
        provider = target_of(one.litellm_model, one.params, tables).provider
        if provider is not None and provider.id not in tables.providers and provider.id not in tables.others:
            near = _nearest(provider.id, (*tables.providers, *tables.others))
            lines.append(f"deployment {one.id} ({one.litellm_model}): no provider {provider.id!r} is known here{near}")
    return lines


def unknown_keys(config: RoutingConfig, is_key: Callable[[str], bool]) -> list[str]:
    """A line for each budget of an API key that there is not (a name, most likely, where the id is wanted)."""
    named = (name for kind, name in (rule.subject for rule in config.budgets) if kind == "key" and name != EACH)
    return [
        f"budgets: key:{name}: no API key has that id at present (exo apikey list)"
        for name in named
        if not is_key(name)
    ]


def _might_only_be_fetched(backend: Backend, local: Sequence[LocalModel]) -> bool:
    """A name that may be on a peer's disk, as any may. One with a "/" is a repository's."""
    return isinstance(backend, LocalModel) and not backend.here and "/" not in backend.id and backend not in local


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(dict.fromkeys(known)), 1, 0.6)
    return f" (did you mean {close[0]}?)" if close else ""
