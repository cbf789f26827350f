"""What the readers of configuration files write into, and how it becomes a `RoutingConfig` (pure).

Files are read in order and a later one wins, key by key; what deployments inherit is put into them at the end, when all
of it is known.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from exo_node import values
from exo_node.limits.rates import Rate
from exo_node.routing.configuration.located import dotted
from exo_node.routing.configuration.redis_url import parse_redis_url
from exo_node.routing.configuration.section import Section
from exo_node.routing.deployment import BudgetRule, CacheConfig, Deployment, Mention, MentionKind, Price, RedisConfig

# RoutingConfig's field for each of the keys that set times and retries, under all their names.
TIMERS: Mapping[str, str] = {
    "timeout": "timeout_s",
    "request_timeout": "timeout_s",  # LiteLLM's name in litellm_settings
    "stream_timeout": "stream_timeout_s",
    "num_retries": "num_retries",
    "retry_after": "retry_after_s",
    "retry_delay": "retry_after_s",  # document 000
    "allowed_fails": "allowed_fails",
    "cooldown_time": "cooldown_s",
}


@dataclass(slots=True)
class DeploymentDraft:
    """`fields` are `Deployment`'s. `grouped`: its group's settings (timers, strategy, defaults) are already in."""

    model_name: str
    litellm_model: str
    params: dict[str, Any] = field(default_factory=dict, repr=False)
    fields: dict[str, Any] = field(default_factory=dict)
    identity: tuple[str, ...] = ()
    id: str | None = None
    grouped: bool = False


@dataclass(slots=True)
class CacheDraft:
    on: bool | None = None
    kind: Literal["memory", "sqlite", "redis"] | None = None
    ttl_s: float | None = None
    max_bytes: int | None = None


@dataclass(slots=True)
class CustomModel:
    """Document 001: what is known of a model, whoever serves it."""

    provider: str | None = None
    price: Price | None = None
    rpm: int | None = None
    tpm: int | None = None
    context: int | None = None
    task_types: tuple[str, ...] = ()

    def into(self, fields: dict[str, Any]) -> None:
        """Fills what a deployment leaves open."""
        for name in ("price", "rpm", "tpm", "context", "task_types"):
            value = getattr(self, name)
            if value and not fields.get(name):
                fields[name] = value


@dataclass(slots=True)
class Draft:
    """Everything that the files said. `router`, `general`: timers of `router(_settings)` and of `litellm_settings`."""

    deployments: list[DeploymentDraft] = field(default_factory=list)
    custom: dict[str, CustomModel] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    router: dict[str, Any] = field(default_factory=dict)
    general: dict[str, Any] = field(default_factory=dict)
    group_strategy: str | None = None
    aliases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    record_names: dict[str, str] = field(default_factory=dict)  # system_name of a model record -> its ai_model
    fallbacks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    context_fallbacks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    defaults_model: str | None = None  # a `defaults` table's, after any `default_model`
    every_params: dict[str, Any] = field(default_factory=dict)  # litellm_params for all (drop_params)
    cache: CacheDraft = field(default_factory=CacheDraft)
    redis: dict[str, Any] = field(default_factory=dict, repr=False)
    budgets: list[tuple[str, BudgetRule]] = field(default_factory=list)  # with the file that says so
    callbacks: list[str] = field(default_factory=list)
    callback_params: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    model_limits: dict[str, Rate] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    notes: list[str] = field(default_factory=list)
    mentions: list[Mention] = field(default_factory=list)
    record_models: dict[str, dict[str, str]] = field(default_factory=dict)
    providers: list[str] = field(default_factory=list)  # `system_name`s of provider records

    def mention(self, section: Section, key: str, names: Iterable[str] | None, kind: MentionKind = "model") -> None:
        """What stands at `key` are names of something that is elsewhere."""
        for i, name in enumerate(names or ()):
            path = (*section.keys, key)
            where = section.source.where(path if name == key else (*path, i))  # the key itself, or one of its list
            self.mentions.append(Mention(where, dotted(path), name, kind))

    def add_budget(self, file: str, rule: BudgetRule) -> None:
        """In place of what earlier files say of the same money; of one file all hold."""
        said = (rule.subject, rule.period)
        self.budgets = [one for one in self.budgets if one[0] == file or (one[1].subject, one[1].period) != said]
        self.budgets.append((file, rule))

    def add_callbacks(self, names: Iterable[str]) -> None:
        self.callbacks += [name for name in names if name not in self.callbacks]


def aliases(draft: Draft, made: Iterable[Deployment]) -> dict[str, tuple[str, ...]]:
    """The user's own, and the names of model records that no group has."""
    groups = {one.model_name for one in made}
    records = {name: (model,) for name, model in draft.record_names.items() if name not in groups}
    return {**records, **draft.aliases}


def deployments(draft: Draft, defaults: Mapping[str, Any], upstream_proxy: bool) -> tuple[Deployment, ...]:
    """With what they inherit, custom models among them, each with an id of its own.

    `defaults`: request fields of the whole node. `upstream_proxy`: a LiteLLM proxy is there for custom models that no
    deployment serves.
    """
    found = [*draft.deployments, *_custom_deployments(draft, upstream_proxy)]
    group = {name: value for name, value in draft.router.items() if name == "stream_timeout_s"}
    taken: set[str] = set()
    made = []
    for one in found:
        fields = dict(one.fields)
        if one.model_name in draft.custom:
            draft.custom[one.model_name].into(fields)
        if not one.grouped:
            fields = {**group, "strategy": draft.group_strategy, **fields}
        fields["defaults"] = {**defaults, **fields.get("defaults", {})}
        made.append(
            Deployment(
                id=_unique(one.id or _name_of(one), taken),
                model_name=one.model_name,
                litellm_model=one.litellm_model,
                provider=one.litellm_model.partition("/")[0] if "/" in one.litellm_model else "",
                upstream_model=one.litellm_model.partition("/")[2] or one.litellm_model,
                params={**draft.every_params, **one.params},
                **{name: value for name, value in fields.items() if value is not None},
            )
        )
    return tuple(made)


def _custom_deployments(draft: Draft, upstream_proxy: bool) -> list[DeploymentDraft]:
    served = {one.model_name for one in draft.deployments}
    made = []
    for name, model in draft.custom.items():
        if name not in served:
            provider = "litellm_proxy" if upstream_proxy else model.provider
            bare = name.startswith(f"{provider}/") or provider is None
            made.append(DeploymentDraft(name, name if bare else f"{provider}/{name}", identity=("custom", name)))
    return made


def _name_of(one: DeploymentDraft) -> str:
    """Readable, and the same after a reload whatever stands around it."""
    readable = re.sub(r"[^A-Za-z0-9._]+", "-", one.litellm_model).strip("-")
    known = "\0".join((one.model_name, one.litellm_model, *one.identity))
    return f"{readable}-{hashlib.sha256(known.encode()).hexdigest()[:6]}"


def _unique(name: str, taken: set[str]) -> str:
    chosen, n = name, 1
    while chosen in taken:
        n += 1
        chosen = f"{name}-{n}"
    taken.add(chosen)
    return chosen


def cache_config(draft: Draft, made: Iterable[Deployment]) -> CacheConfig:
    """Off until a switch is on; a deployment's own switch is for that deployment only."""
    everywhere = draft.cache.on is True
    if not everywhere and not any(one.cache for one in made):
        return CacheConfig()
    known = {"ttl_s": draft.cache.ttl_s, "max_bytes": draft.cache.max_bytes}
    given: dict[str, Any] = {name: value for name, value in known.items() if value is not None}
    return CacheConfig(kind=draft.cache.kind or "memory", everywhere=everywhere, **given)


def redis_config(draft: Draft, environment: Mapping[str, str]) -> RedisConfig | None:
    """The file's server, else the environment's (`REDIS_URL`, `REDIS_HOST` with its parts), else for a cache that names
    no server the one on this machine, which is noted. The environment fills the parts that the file leaves open.

    Raises ValueError for a variable that is wrong, and for certificates without TLS.
    """
    given = dict(draft.redis)
    if "host" not in given and (url := environment.get("REDIS_URL")):
        given = {**_variable("REDIS_URL", parse_redis_url, url), **given}
    for name, (field_name, read) in _REDIS_VARIABLES.items():
        if field_name not in given and (value := environment.get(name)):
            given[field_name] = _variable(name, read, value)
    if "host" not in given:
        if draft.cache.kind != "redis":
            return None
        given["host"] = "localhost"
        draft.notes.append("cache: no Redis server is named: localhost:6379 is used (REDIS_HOST names another)")
    if "ca_file" in given and not given.get("tls"):
        raise ValueError("Redis: ssl_ca_certs means nothing without ssl (redis_ssl: true, REDIS_SSL, or rediss://)")
    return RedisConfig(**given)


_REDIS_VARIABLES: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "REDIS_HOST": ("host", values.text),
    "REDIS_PORT": ("port", values.integer(1, 65535)),
    "REDIS_USERNAME": ("username", values.text),
    "REDIS_PASSWORD": ("password", values.text),
    "REDIS_DB": ("db", values.integer(0)),
    "REDIS_SSL": ("tls", values.switch),
    "REDIS_SSL_CA_CERTS": ("ca_file", values.text),
}


def _variable(name: str, read: Callable[[Any], Any], value: str) -> Any:
    """Raises ValueError that names the variable, without its value."""
    try:
        return read(value)
    except ValueError as e:
        raise ValueError(f"{name}: {str(e).partition(', got ')[0]}") from None
