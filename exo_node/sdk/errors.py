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


class SDKError(Exception):
    """Base of our own classes. `status_code` is the HTTP status (None: no answer), `code` and `param` the node's."""

    def __init__(
        self, message: str, *, status_code: int | None = None, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status_code = status_code
        self.code = code
        self.param = param


NAMES = (
    "APIError",
    "APIConnectionError",
    "AuthenticationError",
    "BadRequestError",
    "ContextWindowExceededError",
    "InvalidRequestError",
    "NotFoundError",
    "PermissionDeniedError",
    "RateLimitError",
    "ServiceUnavailableError",
    "Timeout",
)
STATUS: Mapping[int, str] = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    422: "BadRequestError",
    429: "RateLimitError",
    502: "ServiceUnavailableError",
    503: "ServiceUnavailableError",
    504: "Timeout",
}


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
    """What is really raised: LiteLLM's InvalidRequestError is only a sibling of its BadRequestError; ours is both."""
    cls = classes()[name]
    bases = (
        (cls, classes()["InvalidRequestError"]) if name in ("BadRequestError", "ContextWindowExceededError") else (cls,)
    )

    def init(self: Any, message: str, status: int | None, code: str | None, param: str | None) -> None:
        Exception.__init__(self, message)
        self.message, self.status_code, self.code, self.param = message, status, code, param
        self.llm_provider, self.model, self.response, self.request = "exo", None, None, None
        self.body, self.request_id, self.max_retries, self.num_retries = None, None, None, None
        self.litellm_debug_info = None

    return type(name, bases, {"__init__": init, "__str__": lambda self: self.message, "__module__": __name__})


def error_for(status: int | None, body: Any, address: str) -> Exception:
    """The exception for an answer of the node (`status` None: there was none)."""
    told = body.get("error") if isinstance(body, dict) else None
    told = told if isinstance(told, dict) else {}
    if status is None:
        message = f"no exo node answers at {address} ({body}): start one with `exo`, or set EXO_API_BASE"
        return _raised("APIConnectionError")(message, None, None, None)
    code = told.get("code")
    name = STATUS.get(status, "APIError")
    if code == "context_length_exceeded" or code == "upstream_context":
        name = "ContextWindowExceededError"
    message = str(told.get("message") or f"the node answered {status}")
    return _raised(name)(message, status, code, told.get("param"))
