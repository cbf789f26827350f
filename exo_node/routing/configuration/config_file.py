"""Reads a configuration file: document 000's JSON, LiteLLM's `config.yaml` (001, 003), document 002's settings.

One table of keys for all of them: where two documents name the same thing differently, both names work. Later files win
key by key; `Draft` keeps what was said.
"""

from __future__ import annotations

import re
from typing import Any, cast

from exo_node.limits.rates import Rate
from exo_node.routing.callbacks.names import CALLBACK_PARAMS
from exo_node.routing.configuration.cache_section import read_cache, read_redis
from exo_node.routing.configuration.deployment_section import read_defaults, read_deployment
from exo_node.routing.configuration.draft import Draft
from exo_node.routing.configuration.environment import is_address
from exo_node.routing.configuration.request_fields import read_field
from exo_node.routing.configuration.router_section import (
    CONTENT,
    NO_EFFECT,
    budget_period,
    put,
    read_budget,
    read_fallbacks,
    read_router,
    read_timers,
    strategy,
)
from exo_node.routing.configuration.section import Section
from exo_node.routing.deployment import BudgetRule

_REFUSED_TOP = (
    ("include", "files are not nested here: give each one with --litellm-config"),
    *((key, NO_EFFECT) for key in ("litellm_jwtauth", "mcp_servers", "guardrails", "credential_list")),
)
_REFUSED_LITELLM = (
    ("content_policy_fallbacks", CONTENT),
    ("modify_params", "messages are sent as they came; remove it"),
    *((key, NO_EFFECT) for key in ("json_logs", "turn_off_message_logging", "redact_user_api_key_info")),
)
_REFUSED_GENERAL = tuple(
    (key, NO_EFFECT)
    for key in ("store_model_in_db", "alerting", "completion_model", "proxy_batch_write_at", "ui_access_mode")
)


def read_environment_variables(top: Section, draft: Draft) -> None:
    """LiteLLM's `environment_variables`: read of every file before anything else, for they count in all of them.

    What is wrong with them is reported here, once.
    """
    section = top.section("environment_variables")
    if section is not None:
        for name in section.table:
            value = section.secret(name)
            if value is not None:
                draft.environment[name] = value
    address = top.read("ollama_base_url", address_text, literal_text=True)
    if address is not None:
        draft.environment["OLLAMA_API_BASE"] = draft.environment["OLLAMA_BASE_URL"] = address


def read_config(top: Section, draft: Draft) -> None:
    """Everything but `providers`, `models` and `custom_models`, which the caller asked for; reports unknown keys."""
    for key in ("environment_variables", "ollama_base_url"):
        top.has(key)  # read before
    for key in ("model_list", "model_deployments"):
        for entry in top.sections(key):
            one = read_deployment(entry, draft.notes)
            if one is not None:
                draft.deployments.append(one)
    for key, read in (("litellm_settings", _litellm), ("router", read_router), ("router_settings", read_router)):
        section = top.section(key)
        if section is not None:
            read(section, draft)
    general = top.section("general_settings")
    if general is not None:
        _general(general, draft)
    read_fallbacks(top, draft)
    _callbacks(top, draft)
    _own(top, draft)
    if isinstance(top.table.get("cache"), bool):
        draft.cache.on = top.switch("cache")
    else:
        table = top.section("cache")
        if table is not None:
            draft.cache.on = True
            read_cache(table, draft)
    enabled = top.switch("enable_caching")
    if enabled is not None:
        draft.cache.on = enabled
    redis = top.section("redis")
    if redis is not None:
        read_redis(redis, draft, "")
        redis.done()
    top.refuse(_REFUSED_TOP)
    top.done()


def _own(top: Section, draft: Draft) -> None:
    """Document 002's defaults, and what only exo-node has."""
    section = top.section("defaults")
    if section is not None:
        found, model = read_defaults(section)
        draft.defaults |= found
        if model is not None:
            draft.defaults_model = model
    for key in ("temperature", "max_tokens"):
        value = read_field(top, key)
        if value is not None:
            draft.defaults[key] = value
    for key in ("default_model", "default_provider", "embedding_model", "rerank_model"):
        said = top.text(key)
        put(draft.fields, key, said)
        draft.mention(top, key, None if said is None else (said,), "provider" if key == "default_provider" else "asked")
    put(draft.fields, "max_cost", top.amount("max_cost"))
    put(draft.fields, "equivalents", top.choice("equivalents", "off", "failover", "latency"))
    put(draft.fields, "continuation", top.choice("continuation", "off", "same-model", "any"))
    put(draft.fields, "strategy", top.read("routing_strategy", strategy, literal_text=True))
    if top.switch("enable_cost_tracking") is False:
        top.wrong("enable_cost_tracking", "costs are always tracked; remove it")
    check = top.read("cascade_check", function_name, literal_text=True)
    put(draft.fields, "cascade_check", check)
    draft.mention(top, "cascade_check", None if check is None else (check,), "check")
    limits = top.section("limits")
    if limits is not None:
        _limits(limits, draft)
    for entry in top.sections("budgets"):
        rule = read_budget(entry, draft)
        if rule is not None:
            draft.add_budget(top.source.name, rule)


def _limits(section: Section, draft: Draft) -> None:
    """`limits: {models: {NAME: {rpm, tpm}}, user: {rpm, tpm}}`."""
    models = section.section("models")
    if models is not None:
        for name, table in models.children():
            draft.model_limits[name] = _rate(table)
            draft.mention(models, name, (name,), "asked")
    user = section.section("user")
    if user is not None:
        draft.fields["user_limits"] = _rate(user)
    section.done()


def _rate(table: Section) -> Rate:
    rule = Rate(table.positive("rpm"), table.positive("tpm"))
    if not table.has("rpm") and not table.has("tpm"):
        table.wrong(None, "wants rpm (requests per minute), tpm (tokens per minute) or both")
    table.done()
    return rule


def _litellm(section: Section, draft: Draft) -> None:
    put(draft.fields, "verbose", section.switch("set_verbose"))
    read_timers(section, draft.general, ("request_timeout", "timeout", "num_retries", "retry_after"))
    read_timers(section, draft.general, ("allowed_fails", "cooldown_time"))
    on = section.switch("cache")
    if on is not None:
        draft.cache.on = on
    params = section.section("cache_params")
    if params is not None:
        read_cache(params, draft)
    for key in CALLBACK_PARAMS:
        table = section.section(key)
        if table is not None:
            draft.callback_params[key] = {
                name: table.secret(name) if isinstance(value, str) else value for name, value in table.table.items()
            }
    put(draft.every_params, "drop_params", section.switch("drop_params"))
    read_fallbacks(section, draft)
    _callbacks(section, draft)
    limit, period = section.amount("max_budget"), section.read("budget_duration", budget_period, literal_text=True)
    if limit is not None:
        rule = BudgetRule(subject=("all", ""), limit=limit, period=cast(Any, period) or "month")
        draft.add_budget(section.source.name, rule)
    if section.switch("telemetry"):
        section.wrong("telemetry", "exo-node reports to nobody; remove it")
    section.refuse(_REFUSED_LITELLM)
    section.done()


def _callbacks(section: Section, draft: Draft) -> None:
    for key in ("callbacks", "success_callback", "failure_callback"):
        names = [callback_name(name) for name in section.texts(key) or ()]
        draft.mention(section, key, names, "callback")
        draft.add_callbacks(name for name in names if name != "prometheus")  # /metrics is always there


def _general(section: Section, draft: Draft) -> None:
    put(draft.fields, "master_key", section.secret("master_key"))
    raw = section.secret("database_url")
    if raw is not None:
        path = sqlite_path(raw)
        if path is None:
            section.wrong(
                "database_url",
                "only SQLite is used here (sqlite:///path); spend and keys live in one file on each node, "
                "Redis shares limits between nodes",
            )
        else:
            draft.fields["database"] = section.refs.resolve(path)  # `~/` behind the prefix
    section.refuse(_REFUSED_GENERAL)
    section.done()


def sqlite_path(url: str) -> str | None:
    """The path of `sqlite:///relative`, `sqlite:////absolute`, `file:path` or a plain `*.db`/`*.sqlite`/`*.sqlite3`."""
    if url.startswith("sqlite:///"):
        return url.removeprefix("sqlite:///") or None
    if url.startswith("file:") and "//" not in url:
        return url.removeprefix("file:") or None
    return url if "://" not in url and re.search(r"\.(db|sqlite3?)$", url) else None


def function_name(raw: Any) -> str:
    """`module:function`, also as `module.function`."""
    if isinstance(raw, str):
        module, dot, attribute = raw.rpartition("." if ":" not in raw else ":")
        if dot and all(part.isidentifier() for part in (*module.split("."), attribute)):
            return f"{module}:{attribute}"
    raise ValueError(f"wants module:function, got {raw!r}")


def callback_name(name: str) -> str:
    """A service's name as it is; `module.function` as `module:function`."""
    module, dot, attribute = name.rpartition(".")
    return f"{module}:{attribute}" if dot and ":" not in name else name


def address_text(raw: Any) -> str:
    """http(s)://HOST[:PORT]."""
    if not isinstance(raw, str) or not is_address(raw):
        raise ValueError("wants an address such as http://localhost:11434")
    return raw
