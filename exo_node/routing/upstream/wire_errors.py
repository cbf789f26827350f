"""What a provider's failure means: HTTP status, error body, headers and socket errors -> `UpstreamError`. Pure.

Messages say what the provider said, on one line, without anything that looks like a key.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Iterable, Mapping
from typing import Any, get_args

import aiohttp
import orjson

from exo_node.routing.call import UNSUPPORTED, UNSUPPORTED_THERE, WORKER_LOST, ErrorClass, UpstreamError
from exo_node.routing.upstream.retry_after import details_of, number, retry_after
from exo_node.routing.upstream.transcript import read_usage

MAX_MESSAGE = 500
_CAUSES: dict[str, ErrorClass] = {name: name for name in get_args(ErrorClass)}

_SECRET = re.compile(
    r"\b(?:sk|pk|gsk|xai|hf|r8|nvapi|pplx|fw|tgp|key|csk|AIza)[-_]?[\w*.\-…]{12,}"
    r"|\bsk-[\w*.\-…]+"  # OpenAI shows a masked key, which is still nobody's business
    r"|\b[0-9a-fA-F]{32,}\b"
    r"|(?<=[Bb]earer )\S+"
    r"|(?<=[?&]key=)[^&\s\"']+"
)

# Providers' words for a prompt that is too long.
_CONTEXT = re.compile(
    r"context[ _]length|context[ _]window|maximum context|context limit|prompt is too long|input is too long"
    r"|too many (?:input )?tokens|input token count|maximum (?:input|prompt) length|max_model_len"
    r"|exceed\w* (?:the )?(?:model'?s? )?(?:maximum|max) (?:number of )?(?:input )?tokens|reduce the length of the",
    re.IGNORECASE,
)
_FILTER = re.compile(
    r"content[ _]filter|content[ _]policy|content management policy|ResponsibleAIPolicy|safety system"
    r"|flagged (?:by|as)|blocked (?:by|due to) (?:safety|content)",
    re.IGNORECASE,
)
_KEY = re.compile(
    r"api[ _]key (?:not valid|is invalid|expired)|invalid (?:api|x-api)[ _-]?(?:key|token)|API_KEY_INVALID"
    r"|credit balance is too low",  # Anthropic's 400
    re.IGNORECASE,
)
_MODEL = re.compile(
    r"model_not_found|DeploymentNotFound|invalid_model|(?:not a valid|unknown|no such) model"
    r"|model \S+ (?:does not exist|not found)",
    re.IGNORECASE,
)
_CAPABILITY = re.compile(
    r"(?:does not|doesn't|do not) support (?:tools?|function|image|vision|audio|response_format|json|logprobs|prefill)"
    r"|(?:tools?|tool_choice|function call\w*|image input|response_format|logprobs|prefill\w*) (?:is|are) not supported"
    r"|must end with a user message|does not support parameters",  # the last are LiteLLM's words
    re.IGNORECASE,
)


def error_from_response(
    backend: str,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    secrets: Iterable[str] = (),
    *,
    now: float | None = None,
    trusted: bool = False,
) -> UpstreamError:
    """The error that an answer with another status than 2xx stands for.

    `now` is wall-clock time for HTTP dates. `trusted`: our own sidecar, which may name the cause (`error.cause`).
    """
    error = _parse(body)
    message = _text(error) or ("" if body[:1] in (b"<", b"") else body[:MAX_MESSAGE].decode(errors="replace"))
    code = _code(error)
    cause = _cause(status, code, message)
    if trusted:
        cause = _named(error, cause)
    wait = retry_after(headers, time.time() if now is None else now, error) if status in (429, 503, 529) else None
    said = f"{backend} answered {status}"
    if 300 <= status < 400:
        said += " (a redirect: its api_base is not the final address)"
    return _error(said, cause, message, code, error, secrets, status, wait, trusted)


def error_from_event(
    backend: str, event: Mapping[str, Any], secrets: Iterable[str] = (), *, trusted: bool = False
) -> UpstreamError:
    """The error that an event (or a body with status 200) with a top-level `error` stands for."""
    error = _inner(event)
    message, code = _text(error), _code(error)
    named = number(error.get("code")) or number(error.get("status_code")) or _STATUS_OF_TYPE.get(code)
    status = named or (400 if trusted and error.get("cause") == "bad_request" else 500)
    if not 400 <= status < 600:
        status = 500
    cause = _cause(int(status), code, message)
    if trusted:
        cause = _named(error, cause)
    return _error(f"{backend} sent an error", cause, message, code, error, secrets, int(status), None, trusted)


def error_from_exception(backend: str, exception: BaseException, *, unix: bool = False) -> UpstreamError:
    """What a socket's or an HTTP parser's error stands for. `unix`: the sidecar's socket."""
    cause: ErrorClass
    code = None
    if isinstance(exception, TimeoutError):  # aiohttp's timeouts are subclasses
        connecting = isinstance(exception, aiohttp.ConnectionTimeoutError)
        cause, what = "timeout", "no connection in time" if connecting else "no answer in time"
    elif unix and isinstance(exception, aiohttp.ClientConnectorError):
        cause, what, code = "unavailable", "its helper process does not answer", WORKER_LOST
    elif unix:  # what happens to the provider's connection comes as an answer of the helper's
        cause, what, code = "reset", "its helper process went away", WORKER_LOST
    elif isinstance(exception, aiohttp.ClientConnectorDNSError):
        cause, what = "dns", f"the name {exception.host} does not resolve"
    elif isinstance(
        exception, (aiohttp.ClientConnectorSSLError, aiohttp.ClientConnectorCertificateError, ssl.SSLError)
    ):
        # Covers aiohttp's certificate errors, which name the reason themselves.
        cause, what = "tls", f"no TLS connection ({_tls_reason(exception)})"
    elif isinstance(exception, aiohttp.ClientProxyConnectionError):
        cause, what = "refused", "the HTTP proxy of this machine does not answer"
    elif isinstance(exception, aiohttp.ClientConnectorError):
        reason = exception.os_error.strerror or "unreachable"
        cause, what = "refused", f"no connection to {exception.host}:{exception.port} ({reason})"
    elif isinstance(exception, aiohttp.ClientHttpProxyError):
        cause, what = "refused", f"the HTTP proxy of this machine answered {exception.status}"
    elif isinstance(exception, aiohttp.InvalidURL):
        cause, what = "unavailable", "its api_base is not a URL"
    elif isinstance(exception, aiohttp.ClientPayloadError):
        cause, what = "reset", "the connection broke in the middle of the answer"
    elif isinstance(exception, aiohttp.ClientResponseError):
        cause, what = "malformed", "what it sent is not HTTP"
    else:  # ServerDisconnectedError, ClientOSError, ConnectionResetError
        cause, what = "reset", "the connection broke"
    return UpstreamError(f"{backend}: {what}", cause, code=code)


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` on one line, at most MAX_MESSAGE characters, without `secrets` and what looks like one."""
    for secret in secrets:
        text = text.replace(secret, "[key]")
    text = _SECRET.sub("[key]", " ".join(text.split()))
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"


_STATUS_OF_TYPE = {
    "rate_limit_error": 429, "rate_limit_exceeded": 429, "insufficient_quota": 429, "overloaded_error": 529,
    "authentication_error": 401, "invalid_api_key": 401, "permission_error": 403, "not_found_error": 404,
    "model_not_found": 404, "invalid_request_error": 400, "context_length_exceeded": 400, "content_filter": 400,
    "RESOURCE_EXHAUSTED": 429, "UNAVAILABLE": 503, "INVALID_ARGUMENT": 400,
}  # fmt: skip


def _cause(status: int, code: str, message: str) -> ErrorClass:
    said = f"{code} {message}"
    if code in ("context_length_exceeded", "string_above_max_length"):
        return "context"
    if status == 429 or code in ("rate_limit_exceeded", "tokens_exceeded"):  # Groq says the latter with 413
        return "rate_limited"
    if status in (401, 402, 407) or code in ("invalid_api_key", "API_KEY_INVALID"):
        return "auth"
    if status in (400, 403, 413, 422):
        if code in ("content_filter", "content_policy_violation") or _FILTER.search(said):
            return "content_filter"
        if status == 403:
            return "auth"
        if _CONTEXT.search(said):
            return "context"
        if _KEY.search(said):
            return "auth"
        if _MODEL.search(said):
            return "not_found"
        return "unavailable" if _CAPABILITY.search(said) else "bad_request"
    if status in (404, 405, 410) or 300 <= status < 400:
        return "not_found"
    if status in (408, 409, 425) or status >= 500:
        return "timeout" if status == 408 else "server"
    return "bad_request"


def _error(
    said: str,
    cause: ErrorClass,
    message: str,
    code: str,
    error: Mapping[str, Any],
    secrets: Iterable[str],
    status: int,
    wait: float | None,
    trusted: bool,
) -> UpstreamError:
    text = scrub(message, secrets)
    param = error.get("param")
    mine: str | None = None
    shown: int | None = None
    if cause == "context":
        mine = "context_length_exceeded"
    elif cause == "content_filter":
        mine = "content_filter"
    elif cause == "bad_request":  # the request's own fault: the client sees what the provider saw
        mine, shown = scrub(code, secrets) or None, status if status < 500 else 400
    elif cause == "unavailable" and status < 500:
        mine, shown = code if code == UNSUPPORTED and trusted else UNSUPPORTED_THERE, 400
    elif trusted:
        mine = code or None
    made = UpstreamError(
        f"{said}: {text}" if text else said, cause, status=shown, code=mine, retry_after=wait, upstream_status=status,
        param=param if isinstance(param, str) and param not in ("", "None") else None,
    )  # fmt: skip
    if shown is not None:
        made.type = "invalid_request_error"
    made.used = read_usage(error.get("usage")) if trusted else None
    return made


def _named(error: Mapping[str, Any], read: ErrorClass) -> ErrorClass:
    """What the sidecar calls it, but where that is just a bad request what we `read` of the provider's words ourselves:
    LiteLLM knows those of the provider for some kinds of calls only."""
    named = _CAUSES.get(str(error.get("cause")), read)
    return read if named == "bad_request" else named


def _parse(body: bytes) -> dict[str, Any]:
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    if isinstance(data, list) and data:  # Gemini's stream without alt=sse
        data = data[0]
    return _inner(data) if isinstance(data, dict) else {}


def _inner(data: Mapping[str, Any]) -> dict[str, Any]:
    """The object that holds the message: `error` where there is one (a text becomes its message)."""
    error = data.get("error")
    if isinstance(error, dict):
        return error
    return {**data, "message": error} if isinstance(error, str) else dict(data)


def _text(error: Mapping[str, Any]) -> str:
    for name in ("message", "detail", "error_message", "msg"):
        value = error.get(name)
        if isinstance(value, str) and value:
            return value
        if value and isinstance(value, (list, dict)):
            return orjson.dumps(value).decode()
    return ""


def _code(error: Mapping[str, Any]) -> str:
    """The provider's word for it: `code`, or where that is a number `status` or `type`."""
    for detail in details_of(error):
        if detail.get("reason") == "API_KEY_INVALID":
            return "API_KEY_INVALID"
    inner = error.get("innererror")
    if isinstance(inner, dict) and inner.get("code") == "ResponsibleAIPolicyViolation":
        return "content_filter"
    for name in ("code", "status", "type"):
        value = error.get(name)
        if isinstance(value, str) and value and value != "None" and not value.isdigit():
            return value
    return ""


def _tls_reason(exception: BaseException) -> str:
    inner = getattr(exception, "certificate_error", None) or getattr(exception, "os_error", None) or exception
    if isinstance(inner, ssl.SSLCertVerificationError):
        return inner.verify_message
    return getattr(inner, "reason", None) or type(inner).__name__
