"""What an SDK call raises: LiteLLM's own exception classes where LiteLLM is installed, else ours of the same names.

LiteLLM takes seconds to import, so it is looked at when a class is first asked for: `from exo_node.sdk import
RateLimitError`, or the first failure.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Mapping
from functools import cache
from typing import Any

import httpx


class SDKError(Exception):
    """Base of our own classes.

    All that the SDK raises, ours or LiteLLM's, has `message`, `status_code` (None: no answer), the node's `code`,
    `type` and `param`, and `response` (an httpx.Response with its headers, or None).
    """


NAMES = (
    "APIError",
    "APIConnectionError",
    "AuthenticationError",
    "BadRequestError",
    "ContentPolicyViolationError",
    "ContextWindowExceededError",
    "InternalServerError",
    "InvalidRequestError",
    "NotFoundError",
    "PermissionDeniedError",
    "RateLimitError",
    "ServiceUnavailableError",
    "Timeout",
)
STATUS: Mapping[int, str] = {
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    408: "Timeout",
    429: "RateLimitError",
    500: "InternalServerError",
    502: "ServiceUnavailableError",
    503: "ServiceUnavailableError",
    504: "Timeout",
}
# What a code says more exactly than its status: a provider that refuses the node's key is the node's 502, say.
CODES: Mapping[str, str] = {
    "content_policy_violation": "ContentPolicyViolationError",
    "context_length_exceeded": "ContextWindowExceededError",
    "deadline_exceeded": "Timeout",
    "invalid_api_key": "AuthenticationError",
    "upstream_auth": "AuthenticationError",
    "upstream_content_filter": "ContentPolicyViolationError",
    "upstream_context": "ContextWindowExceededError",
    "upstream_rate_limited": "RateLimitError",
    "upstream_timeout": "Timeout",
}
# LiteLLM's BadRequestError and InvalidRequestError are only siblings; what we raise for a bad request is both.
BAD_REQUESTS = ("BadRequestError", "ContentPolicyViolationError", "ContextWindowExceededError")


@cache
def classes() -> Mapping[str, type[Exception]]:
    """Every class of `NAMES`."""
    found: dict[str, type[Exception]] = {}
    theirs: Any = None
    if importlib.util.find_spec("litellm") is not None:
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no call home at import
        theirs = importlib.import_module("litellm.exceptions")
    for name in NAMES:
        cls = getattr(theirs, name, None)
        found[name] = cls if isinstance(cls, type) else type(name, (SDKError,), {"__module__": __name__})
    return found


@cache
def _raised(name: str) -> type[Exception]:
    """What is really raised: the class of that name, with our way of making one."""
    bases = (classes()[name], *((classes()["InvalidRequestError"],) if name in BAD_REQUESTS else ()))
    return type(name, bases, {"__init__": _init, "__str__": lambda self: self.message, "__module__": __name__})


def _init(
    self: Any, message: str, told: Mapping[str, Any], status: int | None = None, response: httpx.Response | None = None
) -> None:
    Exception.__init__(self, message)
    self.message, self.status_code = message, status
    self.code, self.param, self.type = told.get("code"), told.get("param"), told.get("type")
    # LiteLLM's own fields, which its users read.
    self.llm_provider, self.model, self.litellm_debug_info = "exo", None, None
    self.response, self.request = response, None if response is None else response.request
    self.body, self.request_id, self.max_retries, self.num_retries = dict(told) or None, None, None, None


def error_for(response: httpx.Response, body: Any, status: int | None = None) -> Exception:
    """The exception for an answer of the node; `status` where that is not the response's (an error in its stream)."""
    told = body.get("error") if isinstance(body, dict) else None
    told = told if isinstance(told, dict) else {"message": told} if isinstance(told, str) else {}
    status = status or response.status_code
    name = STATUS.get(status, "BadRequestError" if status < 500 else "APIError")
    name = CODES.get(str(told.get("code")), name)
    return _raised(name)(str(told.get("message") or f"the node answered {status}"), told, status, response)


def broken_off(response: httpx.Response, event: Any = None) -> Exception:
    """For a stream that ended with an error event, or with none and without `[DONE]`."""
    if event is None:
        event = {"error": {"message": "the answer's stream broke off", "code": "eof"}}
    told = event.get("error")
    kind = told.get("type") if isinstance(told, dict) else None
    status = {"rate_limit_error": 429, "insufficient_quota": 429, "invalid_request_error": 400}.get(str(kind), 502)
    return error_for(response, event, status)


def no_answer(error: httpx.TransportError, address: str) -> Exception:
    """For a server that is not there, or does not answer in time."""
    if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
        return _raised("Timeout")(f"{address} did not answer in time (timeout_s)", {"code": "timeout"})
    what = " ".join(str(error).split()) or type(error).__name__
    message = f"no exo node answers at {address} ({what}): start one with `exo`, or set EXO_API_BASE"
    return _raised("APIConnectionError")(message, {"code": "connection"})


def no_node(response: httpx.Response) -> Exception:
    """For an answer that is no failure and no node's: a web page, or the way to another address (a proxy's, mostly)."""
    said = f"{response.url} answered {response.status_code}"
    if where := response.headers.get("location"):
        message = f"{said} and points to {where}: use that address (base_url or EXO_API_BASE)"
    else:
        message = f"{said} without JSON: no exo node is at that address (base_url or EXO_API_BASE)"
    return _raised("APIConnectionError")(message, {"code": "connection"}, response.status_code, response)


def not_found(message: str) -> Exception:
    return _raised("NotFoundError")(message, {"code": "not_found"}, 404)
