"""A client's body and a deployment's parameters as the keyword arguments of LiteLLM's function. Pure.

The client owns what OpenAI's API gives it, and what a provider adds; the deployment owns where the call goes, with
which key, and how LiteLLM behaves. A body that tries the second is refused by name: `api_base` in a body would send the
deployment's key to any address.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from exo_node.routing.sidecar.failures import CallFailed
from exo_node.routing.sidecar.protocol import Target

Kind = Literal["chat", "completion", "embedding", "rerank", "image", "speech", "transcription", "moderation"]

# LiteLLM's function for each kind of call, and the fields without which it makes no sense.
FUNCTIONS: Mapping[Kind, tuple[str, tuple[str, ...]]] = {
    "chat": ("acompletion", ("messages",)),
    "completion": ("atext_completion", ("prompt",)),
    "embedding": ("aembedding", ("input",)),
    "rerank": ("arerank", ("query", "documents")),
    "image": ("aimage_generation", ("prompt",)),
    "speech": ("aspeech", ("input", "voice")),
    "transcription": ("atranscription", ("file",)),
    "moderation": ("amoderation", ("input",)),
}

# Names by which LiteLLM's functions steer themselves, beside its own list (`all_litellm_params`).
_STEERING = frozenset(
    {
        "api_base", "base_url", "api_key", "api_version", "api_type", "organization", "project", "deployment_id",
        "custom_llm_provider", "model_list", "timeout", "request_timeout", "stream_timeout", "max_retries",
        "num_retries", "extra_headers", "default_headers", "headers", "client", "shared_session", "logger_fn", "cache",
        "caching", "callbacks", "success_callback", "failure_callback", "input_callback", "service_callback", "proxy",
        "drop_params", "additional_drop_params", "allowed_openai_params", "mock_response", "mock_tool_calls",
        "mock_delay", "mock_timeout", "credentials", "verbose", "force_timeout", "fallbacks", "hf_model_name",
        "include_server_side_tool_invocations", "enable_json_schema_validation", "http_client", "extra_query", "args",
    }
)  # fmt: skip
_STEERING_PREFIXES = (
    "litellm_",
    "aws_",
    "vertex_",
    "azure_",
    "watsonx_",
    "oci_",
    "sagemaker_",
    "databricks_",
    "s3_",
    "_",
)

# OpenAI's own fields that LiteLLM also knows as its own.
_CLIENTS = frozenset({"model", "stream", "user", "n"})

# Read by routers, not by a call. (Our own readers take them out; a record added at run time may still have them.)
_ROUTERS = frozenset(
    {"rpm", "tpm", "weight", "order", "model", "max_parallel_requests", "model_info", "tags", "cooldown_time"}
)


@dataclass(frozen=True, slots=True)
class Upload:
    """The file of a multipart call."""

    filename: str
    content_type: str
    data: bytes


def arguments(
    kind: Kind, target: Target, body: Mapping[str, Any], steering: Collection[str], upload: Upload | None = None
) -> dict[str, Any]:
    """Keyword arguments for `FUNCTIONS[kind]`. `steering` is LiteLLM's `all_litellm_params`.

    The client's fields win over the deployment's (which are its defaults there). Raises `CallFailed` naming a field
    that is missing or that only a deployment may set.
    """
    for field in FUNCTIONS[kind][1]:
        if field != "file" and body.get(field) is None:
            raise CallFailed(f"{field} is missing", "bad_request", code="missing_required_parameter", param=field)
    if kind == "transcription" and upload is None:
        raise CallFailed("file is missing", "bad_request", code="missing_required_parameter", param="file")
    given = {name: value for name, value in body.items() if value is not None and name != "model"}
    extra = given.get("extra_body")
    if extra is not None and not isinstance(extra, Mapping):
        raise CallFailed("extra_body must be an object", "bad_request", code="invalid_type", param="extra_body")
    for name in (*given, *(extra or ())):
        if is_steering(name, steering):
            raise CallFailed(
                f"{name} cannot be set by a request to {target.model}: it belongs into the deployment's litellm_params",
                "bad_request", code="unsupported_parameter", param=name,
            )  # fmt: skip
    merged = {name: value for name, value in target.params.items() if name not in _ROUTERS}
    if extra and isinstance(merged.get("extra_body"), Mapping):
        given["extra_body"] = {**merged["extra_body"], **extra}
    merged |= given
    if upload is not None:
        merged["file"] = (upload.filename, upload.data, upload.content_type)
    if kind == "embedding":
        merged.pop("encoding_format", None)  # answered by us, for every provider alike (answers.py)
    # One owner of retries: whatever a deployment says of them is the adapter's to do.
    merged |= {"model": _model(kind, target.model), "max_retries": 0, "num_retries": 0}
    if kind == "chat":
        # With tools LiteLLM otherwise imports its MCP gateway, which a plain installation does not have.
        merged["_skip_mcp_handler"] = True
    return merged


def _model(kind: Kind, model: str) -> str:
    """Ollama's chat has a provider name of its own, under which LiteLLM finds nothing else of Ollama's."""
    if kind != "chat" and model.startswith("ollama_chat/"):
        return model.replace("ollama_chat/", "ollama/", 1)
    return model


def is_steering(name: str, steering: Collection[str]) -> bool:
    """Whether only a deployment may set `name`."""
    if name in _CLIENTS:
        return False
    return name in _STEERING or name in steering or name.startswith(_STEERING_PREFIXES)
