"""Reads document 004's database records: providers (router mode), AI models (direct mode); 001's custom models.

A provider's settings hold for its own deployments only. A model record is a deployment of the group `ai_model` whose id
is its `system_name`; secrets, endpoint and defaults come from the provider that it names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from exo_node.routing.configuration.cache_section import read_cache, read_redis
from exo_node.routing.configuration.config_file import address_text
from exo_node.routing.configuration.deployment_section import TRANSPORTS, read_defaults, read_deployment, read_params
from exo_node.routing.configuration.draft import CustomModel, DeploymentDraft, Draft
from exo_node.routing.configuration.references import References
from exo_node.routing.configuration.request_fields import REQUEST_FIELDS
from exo_node.routing.configuration.router_section import (
    ROUTER_TIMERS,
    put,
    read_aliases,
    read_fallbacks,
    read_timers,
    strategy,
)
from exo_node.routing.configuration.secrets import SecretStore
from exo_node.routing.configuration.section import Section
from exo_node.routing.deployment import Price

PROVIDER_KEYS = frozenset({"type", "connection_config", "secrets_encrypted", "metadata_info", "endpoint"})
MODEL_KEYS = frozenset({"ai_model", "provider_system_name", "routing_config"})
CUSTOM_KEYS = frozenset({"pricing", "rate_limits", "metadata"})
# Of a chat's deployment, what says nothing of another model at the same account.
CHAT_ONLY = frozenset({"price", "context", "capabilities", "task_types", "rpm", "tpm", "weight"})
CHAT_PARAMS = REQUEST_FIELDS.keys() - {"user"} | {"base_model"}  # providers refuse fields that mean nothing to them


@dataclass(slots=True)
class Provider:
    """What a provider record gives to its deployments."""

    references: References = field(repr=False)
    fields: dict[str, Any] = field(default_factory=dict)
    endpoint: str | None = None
    name: str = ""
    models: dict[str, str] = field(default_factory=dict)  # kind of call -> default model


def is_provider(table: Mapping[str, Any]) -> bool:
    return "system_name" in table and bool(PROVIDER_KEYS & table.keys()) and not MODEL_KEYS & table.keys()


def is_model(table: Mapping[str, Any]) -> bool:
    return "ai_model" in table or ("system_name" in table and "routing_config" in table)


def are_custom_models(table: Mapping[str, Any]) -> bool:
    return bool(table) and all(isinstance(v, dict) and v and v.keys() <= CUSTOM_KEYS for v in table.values())


def read_provider(section: Section, draft: Draft, store: SecretStore, providers: dict[str, Provider]) -> None:
    """A provider record; router mode where it has a `router_config`."""
    name = section.text("system_name")
    if name is None and not section.has("system_name"):
        section.wrong(None, "system_name is missing")
    section.text("name")
    section.choice("type", "litellm")
    table = section.section("secrets_encrypted")
    references = References(section.refs.env, _secrets(table, section.refs, store))
    section = section.with_references(references)
    endpoint = section.read("endpoint", address_text, literal_text=True)
    provider = Provider(references, endpoint=endpoint, name=name or "")
    connection = section.section("connection_config")
    if connection is not None:
        _connection(connection, draft, provider.fields)
    info = section.section("metadata_info")
    if info is not None:
        defaults = info.section("defaults")
        if defaults is not None:
            provider.fields["defaults"], model = read_defaults(defaults)
            draft.defaults_model = model or draft.defaults_model
            put(provider.models, "chat", model)
        router = info.section("router_config")
        if router is not None:
            _router(router, draft, provider)
        info.done()
    section.done()
    if name is not None:
        if name in providers:
            section.wrong("system_name", f"another provider is called {name} too")
        providers[name] = provider
        draft.providers.append(name)
        draft.record_models[name] = provider.models


def _secrets(table: Section | None, refs: References, store: SecretStore) -> Callable[[str], str | None]:
    """The record's own secrets (plain, `enc:v1:` or a variable), then those of this machine."""
    for name, raw in table.table.items() if table is not None else ():
        if table is not None and not isinstance(raw, str | None):
            table.wrong(name, "wants a text in quotes")

    def secret(name: str) -> str | None:
        raw = None if table is None else table.table.get(name)
        if not isinstance(raw, str) or not raw:
            return store.get(name)
        return store.open(name, raw) if raw.startswith("enc:") else refs.resolve(raw)

    return secret


def _connection(section: Section, draft: Draft, fields: dict[str, Any]) -> None:
    read_redis(section, draft, "redis_")
    put(fields, "cache", section.switch("cache_enabled"))
    options = section.section("cache_config")
    if options is not None:
        put(fields, "cache_ttl_s", options.seconds("ttl"))
        read_cache(options, draft, ttl=False)
    section.done()


def _router(section: Section, draft: Draft, provider: Provider) -> None:
    fields = provider.fields
    read_timers(section, fields, ROUTER_TIMERS)
    put(fields, "strategy", section.read("routing_strategy", strategy, literal_text=True))
    for key in ("embedding_model", "rerank_model"):
        said = section.text(key)
        put(draft.fields, key, said)
        put(provider.models, key.removesuffix("_model"), said)
        draft.mention(section, key, None if said is None else (said,), "asked")
    read_fallbacks(section, draft)
    read_aliases(section, draft)
    if not section.has("model_list"):
        section.wrong(None, "model_list is missing: without it there is nothing to route to")
    made = [one for entry in section.sections("model_list") if (one := read_deployment(entry, draft.notes)) is not None]
    named = {one.model_name for one in made}
    embeds = section.text("embedding_model")
    if embeds is not None and "/" not in embeds and embeds not in named:
        made += [_for_model(embeds, one) for one in _accounts(made)]
    draft.deployments += [_inherit(one, provider) for one in made]
    section.done()


def _accounts(made: list[DeploymentDraft]) -> list[DeploymentDraft]:
    """One deployment of each provider, address and key."""
    found: dict[tuple[Any, ...], DeploymentDraft] = {}
    for one in made:
        params = one.params
        # As texts: what is none was complained of when it was read.
        account = (one.litellm_model.partition("/")[0], str(params.get("api_base")), str(params.get("api_key")))
        found.setdefault(account, one)
    return list(found.values())


def _for_model(model: str, like: DeploymentDraft) -> DeploymentDraft:
    """A default model that no entry of the list serves: asked at the list's accounts, with failover (document 004)."""
    provider, slash, _ = like.litellm_model.partition("/")
    return DeploymentDraft(
        model,
        f"{provider}{slash}{model}" if slash else model,
        params={name: value for name, value in like.params.items() if name not in CHAT_PARAMS},
        fields={name: value for name, value in like.fields.items() if name not in CHAT_ONLY},
        identity=(*like.identity, model),
    )


def _inherit(one: DeploymentDraft, provider: Provider) -> DeploymentDraft:
    one.grouped = True
    defaults = {**provider.fields.get("defaults", {}), **one.fields.get("defaults", {})}
    one.fields = {**provider.fields, **one.fields, "defaults": defaults, "record": provider.name}
    if provider.endpoint is not None:
        one.params.setdefault("api_base", provider.endpoint)
    return one


def read_model(section: Section, draft: Draft, providers: Mapping[str, Provider]) -> None:
    """An AI model record (direct mode)."""
    name, asked, owner = section.text("system_name"), section.text("ai_model"), section.text("provider_system_name")
    section.text("name")
    provider = providers.get(owner or "") or Provider(section.refs)
    if owner is not None and owner not in providers:
        draft.notes.append(
            f"{section.where('provider_system_name')}: no record of {owner}: {name} uses the environment"
        )
    fields: dict[str, Any] = {}
    info = section.section("metadata_info")
    if info is not None:
        defaults = info.section("defaults")
        if defaults is not None:
            fields["defaults"], _ = read_defaults(defaults)
        info.done()
    routing = section.section("routing_config")
    params: Section | None = None
    if routing is not None:
        _routing_config(routing, fields)
        draft.mention(routing, "fallback_models", fields.get("fallbacks"))
        params = routing.section("litellm_params")
        routing.done()
    section.done()
    if asked is None or name is None:
        for key in ("system_name", "ai_model"):
            if not section.has(key):
                section.wrong(None, f"{key} is missing")
        return
    if params is None:
        params = Section(section.source, section.keys, {}, section.refs, section.problems)
    one = read_params(params.with_references(provider.references), name, draft.notes, asked)
    one.model_name, one.id = asked, name
    draft.record_names[name] = asked  # document 004's fallback_models name records
    one.fields = {**fields, **one.fields}
    draft.deployments.append(_inherit(one, provider))


def _routing_config(section: Section, fields: dict[str, Any]) -> None:
    for key in ("rpm", "tpm"):
        put(fields, key, section.positive(key))
    put(fields, "order", section.count("priority"))
    put(fields, "weight", section.amount("weight"))
    put(fields, "fallbacks", section.texts("fallback_models"))
    put(fields, "cache", section.switch("cache_enabled"))
    put(fields, "cache_ttl_s", section.seconds("cache_ttl"))
    put(fields, "transport", section.choice("transport", *TRANSPORTS))
    read_timers(section, fields, ROUTER_TIMERS)


def read_custom_model(name: str, section: Section, draft: Draft) -> None:
    """Document 001: `pricing` in USD per 1,000 tokens, `rate_limits`, `metadata`."""
    model = draft.custom.setdefault(name, CustomModel())
    pricing = section.section("pricing")
    if pricing is not None:
        cost_in, cost_out = pricing.amount("input"), pricing.amount("output")
        pricing.done()
        if cost_in is None or cost_out is None:
            pricing.wrong(None, "wants input and output, in USD per 1,000 tokens")
        else:
            model.price = Price(per_million(cost_in), per_million(cost_out))
    limits = section.section("rate_limits")
    if limits is not None:
        model.rpm = limits.positive("requests_per_minute") or model.rpm
        model.tpm = limits.positive("tokens_per_minute") or model.tpm
        limits.done()
    about = section.section("metadata")
    if about is not None:
        model.provider = about.text("provider") or model.provider
        model.context = about.positive("context_window") or model.context
        model.task_types = about.texts("task_types") or model.task_types
        about.done()
    section.done()


def per_million(per_thousand: float) -> float:
    """USD per million tokens, without the dust that 0.00025 * 1000 leaves."""
    return round(per_thousand * 1000, 9)
