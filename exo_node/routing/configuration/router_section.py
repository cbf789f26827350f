"""Reads `router` (000), `router_settings` (003, LiteLLM): times, retries, strategy, aliases, fallbacks, budgets."""

from __future__ import annotations

from typing import Any, cast

from exo_node.routing.configuration.cache_section import read_redis
from exo_node.routing.configuration.draft import TIMERS, Draft
from exo_node.routing.configuration.section import Section
from exo_node.routing.deployment import BudgetRule
from exo_node.routing.policy.strategies import resolve

NO_EFFECT = "has no effect in exo-node; remove it"
CONTENT = "what one provider refuses for its content is not sent to another; remove it"
_REFUSED_ROUTER = (
    ("content_policy_fallbacks", CONTENT),
    ("retry_policy", "there is one retry budget for all kinds of errors: num_retries"),
    ("allowed_fails_policy", "there is one breaker for all kinds of errors: allowed_fails"),
    ("disable_cooldowns", "the breaker is always on: allowed_fails and cooldown_time set it"),
    *((key, NO_EFFECT) for key in ("routing_strategy_args", "max_fallbacks", "caching_groups", "debug_level")),
)


def strategy(raw: Any) -> str:
    """The one name of a strategy, from any of the documents' and LiteLLM's. Raises ValueError."""
    if not isinstance(raw, str):
        raise ValueError(f"wants the name of a strategy, got {raw!r}")
    return resolve(raw)


# Keys of `TIMERS` that a router may have.
ROUTER_TIMERS = (
    "timeout", "stream_timeout", "num_retries", "retry_delay", "retry_after", "allowed_fails", "cooldown_time"
)  # fmt: skip


def put(fields: dict[str, Any], name: str, value: Any) -> None:
    if value is not None:
        fields[name] = value


def read_timers(section: Section, into: dict[str, Any], keys: tuple[str, ...]) -> None:
    """Times and retries under `keys` of `TIMERS`, as fields of `RoutingConfig` and `Deployment`."""
    for key in keys:
        if TIMERS[key] in ("num_retries", "allowed_fails"):
            put(into, TIMERS[key], section.count(key))
        elif TIMERS[key] in ("retry_after_s", "cooldown_s"):
            put(into, TIMERS[key], section.amount(key))
        else:
            put(into, TIMERS[key], section.seconds(key))


def read_router(section: Section, draft: Draft) -> None:
    read_timers(section, draft.router, ROUTER_TIMERS)
    name = section.read("routing_strategy", strategy, literal_text=True)
    if name is not None:
        draft.group_strategy = name
    put(draft.fields, "rpm", section.positive("rpm"))
    put(draft.fields, "tpm", section.positive("tpm"))
    read_aliases(section, draft)
    read_fallbacks(section, draft)
    read_redis(section, draft, "redis_")
    on = section.switch("cache_responses")
    if on is not None:
        draft.cache.on = on
    budgets = section.section("provider_budget_config")
    if budgets is not None:
        for provider, rule in budgets.children():
            limit = rule.amount("budget_limit")
            period = rule.read("time_period", budget_period, literal_text=True)
            rule.done()
            draft.mention(budgets, provider, (provider,), "provider")
            if not rule.has("budget_limit") or not rule.has("time_period"):
                rule.wrong(None, "wants budget_limit (USD) and time_period (1d or 30d)")
            elif limit is not None and period is not None:  # else it is reported already
                made = BudgetRule(subject=("provider", provider), limit=limit, period=cast(Any, period))
                draft.add_budget(section.source.name, made)
    if section.switch("enable_pre_call_checks") is False:
        section.wrong("enable_pre_call_checks", "limits and context windows are always checked; remove it")
    section.texts("optional_pre_call_checks")  # whatever they name is always done
    put(draft.fields, "verbose", section.switch("set_verbose"))
    section.refuse(_REFUSED_ROUTER)
    section.done()


def read_aliases(section: Section, draft: Draft) -> None:
    """`model_group_alias`: a name, a list of names (003), or LiteLLM's table with `model`."""
    aliases = section.section("model_group_alias")
    if aliases is not None:
        for alias in aliases.table:
            targets = _alias(aliases, alias)
            if targets:
                draft.aliases[alias] = targets
                draft.mention(aliases, alias, targets)


def _alias(aliases: Section, alias: str) -> tuple[str, ...] | None:
    if not isinstance(aliases.table[alias], dict):
        return aliases.texts(alias)
    table = aliases.section(alias)
    if table is None:
        return None
    model = table.text("model")
    if table.switch("hidden"):
        table.wrong("hidden", "names are not hidden here; remove it")
    table.done()
    return None if model is None else (model,)


def read_fallbacks(section: Section, draft: Draft) -> None:
    """`fallbacks`, `context_window_fallbacks`, `default_fallbacks` (also the name "*")."""
    for key, into in (("fallbacks", draft.fallbacks), ("context_window_fallbacks", draft.context_fallbacks)):
        for name, targets in fallback_lists(section, key, draft).items():
            if name == "*" and key == "fallbacks":
                draft.fields["default_fallbacks"] = targets
            else:
                into[name] = targets
    targets_of_all = section.texts("default_fallbacks")
    put(draft.fields, "default_fallbacks", targets_of_all)
    draft.mention(section, "default_fallbacks", targets_of_all)


def fallback_lists(section: Section, key: str, draft: Draft) -> dict[str, tuple[str, ...]]:
    """`{a: [b]}` (document 003) or `[{a: [b]}]` (LiteLLM)."""
    found: dict[str, tuple[str, ...]] = {}
    if not section.has(key):
        return found
    tables: list[Section | None] = list(section.sections(key)) if isinstance(section.table[key], list) else []
    for table in tables or [section.section(key) if not isinstance(section.table[key], list) else None]:
        for name in table.table if table is not None else ():
            targets = cast(Section, table).texts(name)
            if targets:
                found[name] = targets
                draft.mention(cast(Section, table), name, (name,), "asked")
                draft.mention(cast(Section, table), name, targets)
    return found


def budget_period(raw: Any) -> str:
    """LiteLLM's durations, as far as budgets have them here."""
    known = {"1d": "day", "24h": "day", "day": "day", "30d": "month", "1mo": "month", "month": "month"}
    if not isinstance(raw, str) or raw not in known:
        raise ValueError(f"budgets are per day (1d) or per month (30d, 1mo) here, got {raw!r}")
    return known[raw]


def read_budget(entry: Section, draft: Draft) -> BudgetRule | None:
    """`{subject: "provider:openai", limit: 10, period: day}`; subject is provider:, key:, user: or all."""
    subject, limit = entry.text("subject"), entry.amount("limit")
    period = entry.read("period", budget_period, literal_text=True) or "month"
    entry.done()
    kind, _, name = (subject or "").partition(":")
    if not entry.has("limit") or kind not in ("provider", "key", "user", "all") or (kind == "all") == bool(name):
        entry.wrong(None, "wants subject (provider:NAME, key:ID, user:NAME or all) and limit in USD")
        return None
    if kind == "provider":
        draft.mention(entry, "subject", (name,), "provider")
    if limit is None:  # reported already
        return None
    return BudgetRule(subject=(cast(Any, kind), name), limit=limit, period=cast(Any, period))
