"""Reads one deployment: `model_name`, `litellm_params`, `model_info`, `transport` (all documents, LiteLLM).

Inside `litellm_params` everything passes; what routing itself needs is taken out and checked. A key that looks like one
of ours is a remark: it would be sent, and the setting that was meant be missing.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, get_args

from exo_node.errors import ConfigurationError
from exo_node.routing.call import Capability
from exo_node.routing.configuration.draft import TIMERS, DeploymentDraft
from exo_node.routing.configuration.environment import is_address
from exo_node.routing.configuration.located import Keys, dotted
from exo_node.routing.configuration.references import Unresolved
from exo_node.routing.configuration.request_fields import DEFAULTS, REQUEST_FIELDS, read_field
from exo_node.routing.configuration.router_section import budget_period
from exo_node.routing.configuration.section import Section, amount, count, positive, seconds
from exo_node.routing.deployment import Price, Transport, is_price

# Without these a provider does not let us in: a deployment whose key is not set is listed, and not routed to.
CREDENTIALS = frozenset(
    {
        "api_key", "aws_access_key_id", "aws_secret_access_key", "aws_session_token", "azure_ad_token",
        "client_secret", "vertex_credentials", "watsonx_apikey", "token",
    }
)  # fmt: skip
# Where an unknown {secret} inside a longer text is a mistake, not a text with braces.
ADDRESSED = frozenset({"api_base", "base_url", "headers", "extra_headers", "default_headers", *CREDENTIALS})
# LiteLLM's limits and switches of a single deployment that are not done here.
WITHOUT_EFFECT = frozenset(
    {
        "fallbacks", "context_window_fallbacks", "retry_policy", "cache", "caching", "ttl", "itpm", "otpm",
        "default_api_key_rpm_limit", "default_api_key_tpm_limit", "tags", "tag_regex",
    }
)  # fmt: skip
SUPPORTS: Mapping[str, str] = {  # LiteLLM's column -> our capability
    "supports_function_calling": "tools",
    "supports_vision": "vision",
    "supports_response_schema": "json_schema",
    "supports_assistant_prefill": "prefill",
    "supports_audio_input": "audio",
}
CAPABILITIES: tuple[str, ...] = get_args(Capability)
TRANSPORTS: tuple[str, ...] = get_args(Transport)
_REFERENCE = re.compile(r"os\.environ/\w+|\$\{[^}]*\}|\{[\w.-]+\}")


def read_deployment(section: Section, notes: list[str]) -> DeploymentDraft | None:
    """An entry of `model_list` or `model_deployments`; None where it is too wrong to go on (already reported)."""
    name = section.text("model_name")
    for key in ("model_name", "litellm_params"):
        if not section.has(key):
            section.wrong(None, f"{key} is missing")
    transport = section.choice("transport", *TRANSPORTS)
    params = section.section("litellm_params")
    info = section.section("model_info")
    section.done()
    if params is None:
        return None
    if not params.has("model"):
        params.wrong(None, "model is missing: what LiteLLM calls it, for example openai/gpt-4o")
    one = read_params(params, name or "", notes)
    if info is not None:
        read_model_info(info, one)
    if transport is not None and one.fields.setdefault("transport", transport) != transport:
        section.wrong("transport", f"litellm_params.transport says {one.fields['transport']}; keep one of them")
    return one if name is not None and one.litellm_model else None


def read_params(section: Section, model_name: str, notes: list[str], model: str = "") -> DeploymentDraft:
    """`litellm_params`. `model` is asked for where they name none."""
    fields = {name: section.read(key, read) for key, (name, read) in _ROUTING.items()}
    fields["transport"] = section.choice("transport", *TRANSPORTS)
    fields["budget_period"] = section.read("budget_duration", budget_period, literal_text=True)
    if section.has("budget_duration") and not section.has("max_budget"):
        section.wrong("budget_duration", "is the time of a max_budget (USD), and there is none")
    if fields["num_retries"] is None and section.has("max_retries"):
        fields["num_retries"] = section.count("max_retries")
    model = section.text("model") or model
    if model.endswith("/"):
        section.wrong("model", "names a provider and no model, for example openai/gpt-4o")
    custom = section.text("custom_llm_provider")
    if custom is not None and model and not model.startswith(f"{custom}/"):
        model = f"{custom}/{model}"
    price = _price(section)
    taken = {*_ROUTING, "transport", "budget_duration", "max_retries", "model", "custom_llm_provider", *_COSTS}
    known = {*taken, *_MISSPELT, *ADDRESSED}
    params: dict[str, Any] = {}
    missing: list[str] = []
    for key, raw in section.table.items():
        if key in taken:
            continue
        if key in WITHOUT_EFFECT:
            notes.append(f"{section.where(key)}: {key} of {model_name} has no effect here")
        if is_price(key):
            notes.append(
                f"{section.where(key)}: {key} of {model_name} does not count: costs are of {', '.join(_COSTS)}"
            )
        if key not in known and (near := difflib.get_close_matches(key, _MISSPELT, 1, 0.85)):
            notes.append(f"{section.where(key)}: {key} goes to the provider of {model_name} (did you mean {near[0]}?)")
        if key in REQUEST_FIELDS:  # a wrong one would fail every call, and only then
            value = read_field(section, key)
            if not isinstance(value, dict | list):
                params |= {} if value is None else {key: value}
                continue
        if key in CREDENTIALS and isinstance(raw, bool | int | float):  # YAML reads a bare 0123 as 83
            section.secret(key)
            continue
        try:
            value = _deep(section, (key,), raw)
        except Unresolved as e:
            if key in CREDENTIALS and e.kind != "syntax":
                missing.append(str(e))
                notes.append(f"{section.where(key)}: {model_name} is not used: {e}")
            continue
        except ConfigurationError as e:  # an encrypted secret that does not open
            section.wrong(key, e.message)
            continue
        if key in ("api_base", "base_url") and value and not (isinstance(value, str) and is_address(value)):
            section.wrong(key, "wants an address such as http://localhost:8000/v1")
            continue
        if key in CREDENTIALS and value in ("", None):
            missing.append(f"{key} is empty")
            notes.append(f"{section.where(key)}: {model_name} is not used: {key} is empty")
        elif value is not None:
            params["api_base" if key == "base_url" else key] = value
    fields["price"] = price
    if missing:
        fields["key"], fields["key_problem"] = "missing", "; ".join(missing)
    raw_key = section.table.get("api_key")
    identity = (
        *(str(params.get(key, "")) for key in ("api_base", "api_version", "aws_region_name", "vertex_location")),
        raw_key if isinstance(raw_key, str) and _REFERENCE.fullmatch(raw_key) else "",  # never of the key itself
    )
    kept = {name: value for name, value in fields.items() if value is not None}
    return DeploymentDraft(model_name, model, params, kept, identity)


_ROUTING: Mapping[str, tuple[str, Any]] = {
    "rpm": ("rpm", positive),
    "tpm": ("tpm", positive),
    "weight": ("weight", amount),
    "order": ("order", count),
    "max_parallel_requests": ("capacity", positive),
    "timeout": (TIMERS["timeout"], seconds),
    "stream_timeout": (TIMERS["stream_timeout"], seconds),
    "num_retries": (TIMERS["num_retries"], count),
    "retry_after": (TIMERS["retry_after"], amount),
    "max_budget": ("max_budget", amount),
    "allowed_fails": (TIMERS["allowed_fails"], count),
    "cooldown_time": (TIMERS["cooldown_time"], amount),
}
# LiteLLM has keys of its own that look like rpm, tpm, prices and clouds' credentials (itpm, s3_access_key_id, ...).
_MISSPELT = (
    "api_base",
    "base_url",
    "api_key",
    "api_version",
    *(key for key in _ROUTING if len(key) > 3),
    *REQUEST_FIELDS,
)
_COSTS = (
    "input_cost_per_token", "output_cost_per_token", "cache_read_input_token_cost", "cost_per_request",
    "output_cost_per_image",
)  # fmt: skip


def _price(section: Section) -> Price | None:
    """LiteLLM's prices are USD per token."""
    given, made, cached, request, image = [section.amount(key) for key in _COSTS]
    if given is None and made is None and request is None and image is None:
        if cached is not None:
            section.wrong("cache_read_input_token_cost", "is no price without input_cost_per_token")
        return None
    read = None if cached is None else _million(cached)
    return Price(_million(given), _million(made), request or 0.0, read, image or 0.0)


def _million(per_token: float | None) -> float:
    return round((per_token or 0.0) * 1e6, 9)  # 1e-7 * 1e6 is not quite 0.1


def _deep(section: Section, keys: Keys, raw: Any) -> Any:
    """Resolves the texts inside. Reports what cannot be resolved, and raises `Unresolved`."""
    if isinstance(raw, dict):
        return {key: _deep(section, (*keys, key), value) for key, value in raw.items()}
    if isinstance(raw, list):
        return [_deep(section, (*keys, i), value) for i, value in enumerate(raw)]
    if not isinstance(raw, str):
        return raw
    try:
        return section.refs.resolve(raw, embedded=True, strict=keys[0] in ADDRESSED)
    except Unresolved as e:
        if keys[0] not in CREDENTIALS or e.kind == "syntax":
            path = (*section.keys, *keys)
            section.problems.add(section.source.where(path), f"{dotted(path)}: {e}")
        raise


def read_model_info(section: Section, one: DeploymentDraft) -> None:
    """LiteLLM's `model_info`, as far as it means something here; `task_types` and `capabilities` are ours."""
    one.id = section.text("id")
    price = _price(section)
    context = section.positive("max_input_tokens") or section.positive("context_window")
    task_types = section.texts("task_types")
    base_model = section.text("base_model")
    mode = section.choice(
        "mode", "chat", "completion", "embedding", "rerank", "image_generation", "audio_speech", "audio_transcription",
        "moderation",
    )  # fmt: skip
    flags = {capability: section.switch(key) for key, capability in SUPPORTS.items()}
    given = section.texts("capabilities")
    said = {capability for capability, flag in flags.items() if flag}
    if given is not None:
        for wrong in set(given) - set(CAPABILITIES):
            section.wrong("capabilities", f"no capability {wrong!r}; there are: {', '.join(CAPABILITIES)}")
        said |= set(given) & set(CAPABILITIES)
    if mode in ("embedding", "rerank"):
        said.add(mode)
    section.refuse((key, _NO_EFFECT) for key in ("max_tokens", "max_output_tokens"))
    section.done()
    if said or given is not None or any(flag is not None for flag in flags.values()):
        one.fields["capabilities"] = frozenset(said)
    if base_model is not None:
        one.params.setdefault("base_model", base_model)
    for name, value in (("price", price), ("context", context), ("task_types", task_types)):
        if value:
            one.fields.setdefault(name, value)


_NO_EFFECT = (
    "has no effect here: max_tokens belongs into litellm_params or the request, the context into max_input_tokens"
)


def read_defaults(section: Section) -> tuple[dict[str, Any], str | None]:
    """Request fields of a `defaults` table, and its `model`."""
    model = section.text("model")
    found = {key: read_field(section, key) for key in DEFAULTS}
    section.done()
    return {key: value for key, value in found.items() if value is not None}, model
