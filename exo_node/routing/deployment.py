"""Deployments and the routing configuration, as all file formats and the environment come out of the reader. Pure data.

Times are seconds, prices USD per million tokens, limits per minute.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from exo_node.limits.budgets import Budget, Period
from exo_node.limits.rates import Rate
from exo_node.routing.call import Capability, Continuation

Transport = Literal["auto", "passthrough", "litellm"]


_PRICE = re.compile(r"(^|_)costs?(_|$)|^tiered_pricing$")  # LiteLLM has 130 of them: cache_read_input_token_cost, ...


def is_price(key: str) -> bool:
    """Whether a key of `litellm_params` is a price, which is nothing for a provider."""
    return _PRICE.search(key) is not None


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens; `per_request` USD for calls that are not counted in tokens; `cached` for tokens of the
    prompt that the provider had in its own cache (None: as any other); `per_image` USD for each that is made."""

    input: float
    output: float
    per_request: float = 0.0
    cached: float | None = None
    per_image: float = 0.0

    @property
    def free(self) -> bool:
        return not (self.input or self.output or self.per_request or self.per_image)

    def cost(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0, images: int = 0) -> float:
        """`cached_tokens` are some of the prompt's."""
        paid = self.input * prompt_tokens + self.output * completion_tokens
        if self.cached is not None:
            paid += (self.cached - self.input) * min(cached_tokens, prompt_tokens)
        return paid / 1e6 + self.per_request + self.per_image * images


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One external target. `id` is unique on this node and stable across reloads (it keys the latency profile).

    `model_name` is what requests ask for (the group); `litellm_model` is LiteLLM's string ("azure/gpt-4o-deployment");
    `provider` its prefix after our renames ("google/" -> "gemini"), `upstream_model` the rest. `params` are all other
    `litellm_params` (api_key, api_base, api_version, ...), resolved: **secret**, never logged, never leaves the node.
    `key` says whether the provider's key is there; `keyless` providers count as valid when they answer.
    """

    id: str
    model_name: str
    litellm_model: str
    provider: str
    upstream_model: str
    params: Mapping[str, Any] = field(default_factory=dict, repr=False)
    transport: Transport = "auto"
    api_base: str | None = None  # where the pass-through goes; None: only through LiteLLM
    key: Literal["present", "missing", "invalid", "keyless"] = "present"
    key_problem: str = ""  # why a key that the configuration names is "missing"; names the variable or the secret
    rpm: int | None = None
    tpm: int | None = None
    weight: float | None = None
    order: int | None = None  # priority: lower first
    timeout_s: float | None = None
    stream_timeout_s: float | None = None  # to the first content
    num_retries: int | None = None
    retry_after_s: float | None = None
    allowed_fails: int | None = None
    cooldown_s: float | None = None
    cache: bool | None = None
    cache_ttl_s: float | None = None
    price: Price | None = None  # configured; the registry fills shipped and LiteLLM's
    context: int | None = None
    capabilities: frozenset[Capability] | None = None  # None: by provider and model
    fallbacks: tuple[str, ...] = ()
    task_types: tuple[str, ...] = ()
    strategy: str | None = None  # of its router group (None: simple-shuffle)
    limits_id: str = ""  # whose limits it shares: a wildcard's; "" = its own
    node_id: str = ""  # "" = this node's; else the peer that holds the key
    defaults: Mapping[str, Any] = field(default_factory=dict)  # request fields where a request is silent; whole merge
    record: str = ""  # the provider record that it belongs to (document 004)
    capacity: int | None = None  # requests at once (LiteLLM's max_parallel_requests)
    max_budget: float | None = None  # USD per `budget_period`
    budget_period: Period = "month"

    @property
    def limited_as(self) -> str:
        """The id under which its limits count."""
        return self.limits_id or self.id

    @property
    def budget(self) -> Budget | None:
        if self.max_budget is None:
            return None
        return Budget(
            "deployment", self.limited_as, self.max_budget, self.budget_period, f"deployment {self.limited_as}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """The one response cache. `kind` "off" unless some switch in the configuration turned it on.

    `everywhere` False: only answers of deployments whose own `cache` is True are kept (the switch was theirs).
    """

    kind: Literal["off", "memory", "sqlite", "redis"] = "off"
    everywhere: bool = True
    ttl_s: float = 3600.0
    max_bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RedisConfig:
    """`ca_file`: certificates (PEM) that sign the server's, where the machine's own do not."""

    host: str
    port: int = 6379
    password: str | None = field(default=None, repr=False)
    db: int = 0
    username: str | None = None
    tls: bool = False
    ca_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetRule:
    """At most `limit` USD per `period` for `subject`: ("provider", "openai"), ("key", id), ("user", name), or
    ("all", "")."""

    subject: tuple[Literal["provider", "key", "user", "all"], str]
    limit: float
    period: Literal["day", "month"] = "month"


MentionKind = Literal["model", "asked", "class", "provider", "callback", "check"]


@dataclass(frozen=True, slots=True)
class Mention:
    """A name that a file gives of something that is elsewhere, and where: `where` is FILE:LINE, `key` what was set.

    `kind`: a model that calls may be sent to; a name that requests may ask for; a model in a class of equivalents; a
    provider; a service or function that is told of calls; the function that checks a cascade's answers.
    """

    where: str
    key: str
    name: str
    kind: MentionKind = "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingConfig:
    """Everything that configuration files, `.env` and variables say of routing, merged; see FEATURES "Defaults".

    `aliases` are the user's own (model_group_alias): name -> targets, in order, may contain cycles. `fallbacks`
    likewise; `default_fallbacks` for every model. Deployments that are made from keys in the environment
    (`OPENAI_API_KEY`: every `openai/...` and `gpt-...` name) are not in `deployments`: the registry makes them when
    asked.
    `defaults`: request fields that hold where a request leaves them open and its deployment has no `defaults` (a
    temperature comes after the model's own `generation_config.json`). `callbacks`: names ("langfuse", "helicone",
    "module:function", LiteLLM's own); `callback_params`: LiteLLM's settings for those of its own. `cascade_check`:
    "module:function" that judges a cascade's answers. `model_limits`: by the name that requests ask for;
    `user_limits`: of each user. `notes`: what the user should know though nothing is wrong. `database`: SQLite file in
    place of our own (`general_settings.database_url`). `record_models`: each provider record's default model by kind of
    call ("chat", "embedding", "rerank").
    """

    deployments: tuple[Deployment, ...] = ()
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fallbacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    context_fallbacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    default_fallbacks: tuple[str, ...] = ()
    strategy: str | None = None
    max_cost: float | None = None
    default_model: str | None = None
    default_provider: str | None = None  # of names without a provider (document 002)
    embedding_model: str | None = None
    rerank_model: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    timeout_s: float | None = None
    num_retries: int | None = None
    retry_after_s: float | None = None
    allowed_fails: int | None = None
    cooldown_s: float | None = None
    rpm: int | None = None  # of the whole router
    tpm: int | None = None
    model_limits: Mapping[str, Rate] = field(default_factory=dict)
    user_limits: Rate = field(default_factory=Rate)
    cascade_check: str | None = None
    equivalents: Literal["off", "failover", "latency"] | None = None
    continuation: Continuation | None = None
    cache: CacheConfig = field(default_factory=CacheConfig)
    redis: RedisConfig | None = None
    budgets: tuple[BudgetRule, ...] = ()
    master_key: str | None = field(default=None, repr=False)
    callbacks: tuple[str, ...] = ()
    callback_params: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    verbose: bool = False
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)  # process environment over .env
    enabled: bool = True
    sources: tuple[str, ...] = ()  # files read, for `exo status` and errors
    notes: tuple[str, ...] = ()
    database: str | None = None
    mentions: tuple[Mention, ...] = ()  # names that should be something here (catalog/mentions.py looks)
    records: tuple[str, ...] = ()  # `system_name`s of document 004's provider records
    record_models: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
