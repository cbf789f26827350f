"""What is sent to a backend that speaks OpenAI's HTTP: address, headers and body. Pure.

Body: the client's, with the deployment's parameters and then its defaults where the client leaves them open; both
`extra_body`s on top.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from yarl import URL

from exo_node import __version__
from exo_node.routing import anthropic_extras
from exo_node.routing.call import Call, CallKind, Partial, UpstreamError
from exo_node.routing.deployment import Deployment, is_price
from exo_node.routing.sidecar.protocol import DEPLOYMENT_HEADER

PATHS: Mapping[CallKind, str] = {
    "chat": "chat/completions",
    "completion": "completions",
    "embedding": "embeddings",
    "rerank": "rerank",
    "image": "images/generations",
    "speech": "audio/speech",
    "transcription": "audio/transcriptions",
    "moderation": "moderations",
}

# Of `litellm_params`: for us or for LiteLLM, never for the provider. Everything else is a parameter of the request.
NOT_SENT = frozenset({
    "api_key", "api_base", "base_url", "api_version", "organization", "custom_llm_provider", "model", "model_info",
    "extra_body", "extra_headers", "headers", "ssl_verify", "azure_ad_token", "tenant_id", "client_id", "client_secret",
    "azure_username", "azure_password", "azure_scope", "project",
    "rpm", "tpm", "itpm", "otpm", "default_api_key_rpm_limit", "default_api_key_tpm_limit", "tag_regex",
    "weight", "order", "priority", "tags", "max_parallel_requests", "region_name", "timeout",
    "stream_timeout", "request_timeout", "max_retries", "num_retries", "retry_after", "retry_policy", "cooldown_time",
    "allowed_fails", "max_budget", "budget_duration", "fallbacks", "context_window_fallbacks",
    "base_model", "custom_price", "drop_params",
    "additional_drop_params", "allowed_openai_params", "caching", "cache", "ttl", "no-log", "metadata_info",
    "mock_response", "mock_tool_calls", "mock_timeout", "litellm_credential_name", "credential_name",
    "use_litellm_proxy", "exo_tools", "use_in_pass_through", "configurable_clientside_auth_params",
    "merge_reasoning_content_in_choices",
    "hf_model_name", "model_list", "guardrails", "silent_model",
    "max_fallbacks", "max_file_size_mb", "force_timeout", "verbose", "supports_system_message", "output_vector_size",
    "turn_off_message_logging", "use_chat_completions_api", "enable_json_schema_validation", "keepalive_seconds",
})  # fmt: skip
# What services beside the provider are told, their keys above all, and what LiteLLM keeps to itself.
_FOR_OTHERS = re.compile(
    r"^_|^(?:litellm|langfuse|langsmith|arize|posthog|humanloop|newrelic|wandb|weave|signoz|dd|s3|gcs|aws|vertex|watsonx)_"
)

_SECRET_NAME = re.compile(r"key|token|secret|password|credential|authorization", re.IGNORECASE)
_ESSENTIAL = frozenset({"model", "messages", "prompt", "input", "query", "documents", "stream"})
# They refuse a field they do not know and report usage by themselves.
_NO_STREAM_OPTIONS = frozenset({"mistral", "codestral"})
_AZURE_STREAM_OPTIONS_SINCE = "2024-09-01"  # api-version; older ones refuse the field
_VLLM = frozenset({"hosted_vllm", "vllm"})


@dataclass(frozen=True, slots=True)
class Target:
    """Where one kind of call goes, with its key in the headers."""

    url: URL
    headers: Mapping[str, str] = field(repr=False)


def secrets_of(deployment: Deployment) -> tuple[str, ...]:
    """Values that must not appear in a message, longest first."""
    found: set[str] = set()
    for part in (deployment.params, deployment.params.get("extra_headers"), deployment.params.get("headers")):
        if isinstance(part, Mapping):
            found |= {v for k, v in part.items() if isinstance(v, str) and len(v) >= 4 and _SECRET_NAME.search(str(k))}
    return tuple(sorted(found, key=len, reverse=True))


def sidecar_target(deployment: Deployment, kind: CallKind) -> Target:
    """The LiteLLM sidecar's address for `kind`; it knows the deployment's parameters itself."""
    return Target(URL(f"http://sidecar/v1/{PATHS[kind]}"), {DEPLOYMENT_HEADER: deployment.id})


def target_of(deployment: Deployment, kind: CallKind, *, prefixed: bool = False) -> Target:
    """Where a call of `kind` goes. `prefixed`: it carries a partial answer.

    Raises `UpstreamError` ("unavailable") where the deployment has no usable address.
    """
    if not deployment.api_base:
        raise UpstreamError(f"{deployment.id} has no api_base, so it is reached through LiteLLM only", "unavailable")
    try:
        base = URL(deployment.api_base)
    except ValueError as e:
        raise UpstreamError(f"{deployment.id}: its api_base is not a URL", "unavailable") from e
    if base.scheme not in ("http", "https") or not base.host:
        raise UpstreamError(f"{deployment.id}: its api_base is not an http(s) URL", "unavailable")
    url = _azure_url(deployment, base, kind) if _is_azure(deployment) else _url(deployment, base, kind, prefixed)
    return Target(url, _headers(deployment))


def parameters_of(deployment: Deployment) -> dict[str, Any]:
    """What of the deployment's parameters goes into each request's body."""
    return {
        name: value
        for name, value in deployment.params.items()
        if name not in NOT_SENT and value is not None and not is_price(name) and not _FOR_OTHERS.search(name)
    }


def body_of(
    deployment: Deployment, call: Call, partial: Partial | None, parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """The JSON object to send to the provider itself; `parameters` are `parameters_of(deployment)`, made once."""
    body = {**deployment.defaults, **parameters, **call.body} if call.kind == "chat" else {**parameters, **call.body}
    for name in _dropped(deployment):
        body.pop(name, None)
    body["model"] = deployment.upstream_model
    for extra in (deployment.params.get("extra_body"), body.pop("extra_body", None)):
        if extra is not None and isinstance(extra, Mapping):
            body.update(extra)
    return _finish(deployment, call, partial, body, _takes_stream_options(deployment))


def _dropped(deployment: Deployment) -> tuple[str, ...]:
    """Fields that the deployment does not take, LiteLLM's `additional_drop_params`; without those the call is none."""
    names = deployment.params.get("additional_drop_params")
    if not isinstance(names, list):
        return ()
    return tuple(name for name in names if isinstance(name, str) and name not in _ESSENTIAL)


def sidecar_body(deployment: Deployment, call: Call, partial: Partial | None) -> dict[str, Any]:
    """The JSON object for the sidecar, which adds the deployment's parameters."""
    body = {**(deployment.defaults if call.kind == "chat" else {}), **call.body, "model": deployment.litellm_model}
    return _finish(deployment, call, partial, body, True)


def _finish(
    deployment: Deployment, call: Call, partial: Partial | None, body: dict[str, Any], with_usage: bool
) -> dict[str, Any]:
    if call.kind in ("chat", "completion"):
        said = "" if partial is None else partial.text
        if anthropic_extras.KEY in body:
            said = anthropic_extras.for_provider(body, deployment.provider, deployment.upstream_model) + said
        if said:
            _go_on(deployment, call.kind, said, body)
        if not call.stream:
            body.pop("stream", None)
            body.pop("stream_options", None)
            return body
        body["stream"] = True
        if with_usage:
            given = body.get("stream_options")
            body["stream_options"] = {**(given if isinstance(given, dict) else {}), "include_usage": True}
        else:
            body.pop("stream_options", None)
    return body


def _go_on(deployment: Deployment, kind: CallKind, said: str, body: dict[str, Any]) -> None:
    """Let the backend go on from the text that the client already has (its limits are the adapter's business)."""
    if kind == "completion":
        if has_text_prompt(body):  # others are not gone on with
            prompt = body["prompt"]
            body["prompt"] = prompt + said if isinstance(prompt, str) else [prompt[0] + said]
    else:
        prefix: dict[str, Any] = {"role": "assistant", "content": said}
        if deployment.provider in ("mistral", "codestral", "deepseek"):
            prefix["prefix"] = True
        elif deployment.provider in _VLLM:
            body["continue_final_message"], body["add_generation_prompt"] = True, False
        body["messages"] = [*body.get("messages", ()), prefix]


def has_text_prompt(body: Mapping[str, Any]) -> bool:
    """Whether a completion's prompt is one text, so that the answer so far can be put behind it (token ids cannot)."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    return isinstance(prompt, str)


def _takes_stream_options(deployment: Deployment) -> bool:
    version = str(deployment.params.get("api_version") or "")
    if _is_azure(deployment) and version[:1].isdigit():
        return version >= _AZURE_STREAM_OPTIONS_SINCE
    return deployment.provider not in _NO_STREAM_OPTIONS


def _is_azure(deployment: Deployment) -> bool:
    return deployment.provider in ("azure", "azure_text")


def _url(deployment: Deployment, base: URL, kind: CallKind, prefixed: bool) -> URL:
    path = base.path.rstrip("/")
    for ending in PATHS.values():  # an address copied whole from the provider's manual
        path = path.removesuffix(f"/{ending}")
    if deployment.provider in ("ollama", "ollama_chat") and not path:
        path = "/v1"
    elif deployment.provider == "cohere" and kind == "rerank" and not path:
        path = "/v2"
    elif deployment.provider == "deepseek" and prefixed and not path.endswith("/beta"):
        path = path.removesuffix("/v1") + "/beta"  # the only path that takes a prefix
    return base.with_path(f"{path}/{PATHS[kind]}", keep_query=True)


def _azure_url(deployment: Deployment, base: URL, kind: CallKind) -> URL:
    """Deployment paths with a dated api-version, the v1 path without (or with "preview", "latest", "v1")."""
    version = str(deployment.params.get("api_version") or base.query.get("api-version") or "")
    path = base.path.rstrip("/")
    if "/openai/deployments/" in path:
        path = path[: path.index("/openai/deployments/")]
    dated = version[:1].isdigit() and not path.endswith("/openai/v1")
    root = path.removesuffix("/v1").removesuffix("/openai")
    if not dated:
        query = {"api-version": version} if version in ("preview", "latest") else {}
        return base.with_path(f"{root}/openai/v1/{PATHS[kind]}").with_query(query)
    path = f"{root}/openai/deployments/{deployment.upstream_model}/{PATHS[kind]}"
    return base.with_path(path).with_query({"api-version": version})


def _headers(deployment: Deployment) -> dict[str, str]:
    params = deployment.params
    headers = {"User-Agent": f"exo-node/{__version__}"}
    key, token = params.get("api_key"), params.get("azure_ad_token")
    if _is_azure(deployment) and key:
        headers["api-key"] = str(key)
    elif token or key:
        headers["Authorization"] = f"Bearer {token or key}"
    if params.get("organization"):
        headers["OpenAI-Organization"] = str(params["organization"])
    if params.get("project") and deployment.provider == "openai":
        headers["OpenAI-Project"] = str(params["project"])
    for name in ("headers", "extra_headers"):
        if isinstance(params.get(name), Mapping):
            headers.update({str(k): str(v) for k, v in params[name].items()})
    return headers
