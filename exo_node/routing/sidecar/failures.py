"""LiteLLM's exceptions as what went wrong, for whom, and with which status. Reads exceptions, does nothing else."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time
from typing import Any

import httpx
from litellm import exceptions as said

from exo_node.routing.call import STATUS_OF, ErrorClass
from exo_node.routing.sidecar.masking import Masker
from exo_node.routing.sidecar.protocol import CAUSE_HEADER

MAX_MESSAGE = 2000  # characters; providers answer whole HTML pages


class CallFailed(Exception):
    """A failure that we found ourselves: an unknown deployment, a parameter that is refused, a cut stream."""

    def __init__(
        self, message: str, cause: ErrorClass, *, status: int | None = None, code: str | None = None, param: str = ""
    ) -> None:
        super().__init__(message)
        self.failure = Failure(
            status or STATUS_OF.get(cause, 502), cause, message, code or f"upstream_{cause}", param or None
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """`status` is the provider's own where it answered. `retry_after` in seconds."""

    status: int
    cause: ErrorClass
    message: str
    code: str
    param: str | None = None
    retry_after: float | None = None

    def body(self) -> dict[str, Any]:
        """OpenAI's error object; `cause` is for a reader that has no headers any more (an event of a stream)."""
        kind = "invalid_request_error" if self.status in (400, 404, 413, 422) else "server_error"
        if self.status == 429:
            kind = "rate_limit_error"
        elif self.status in (401, 403):
            kind = "authentication_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code, "cause": self.cause}
        return {"error": error}

    def headers(self) -> dict[str, str]:
        headers: dict[str, str] = {CAUSE_HEADER: self.cause}
        if self.retry_after is not None:
            headers["Retry-After"] = f"{self.retry_after:g}"
        return headers


def failure_of(error: BaseException, mask: Masker) -> Failure:
    """What became of a call that raised `error`."""
    if isinstance(error, CallFailed):
        return error.failure
    if isinstance(error, said.MidStreamFallbackError) and error.original_exception is not None:
        return failure_of(error.original_exception, mask)
    status, cause, code = _classify(error)
    message = mask(_message(error))
    param = _refused_parameter(message) if isinstance(error, said.UnsupportedParamsError) else None
    return Failure(status, cause, message, code, param, _retry_after(error))


def _classify(error: BaseException) -> tuple[int, ErrorClass, str]:
    """(status, cause, code). Order matters: several of LiteLLM's classes are each other's children."""
    # 401 and 403 travel as they are; who relays them decides that they are our fault, not the caller's.
    match error:
        case said.ContextWindowExceededError():
            return 400, "context", "context_length_exceeded"
        case said.ContentPolicyViolationError():
            return 400, "content_filter", "content_filter"
        case said.UnsupportedParamsError():
            return 400, "bad_request", "unsupported_parameter"
        case said.LiteLLMUnknownProvider():
            return 404, "not_found", "unknown_provider"
        case said.PaymentRequiredError():
            return 402, "auth", "insufficient_quota"
        case said.AuthenticationError():
            return 401, "auth", "invalid_api_key"
        case said.PermissionDeniedError():
            return 403, "auth", "permission_denied"
        case said.NotFoundError():
            return 404, "not_found", "model_not_found"
        case said.RateLimitError():
            return 429, "rate_limited", "rate_limit_exceeded"
        case said.Timeout():
            return 504, "timeout", "upstream_timeout"
        case said.UnprocessableEntityError():
            return 422, "bad_request", "upstream_bad_request"
        case said.BadRequestError() | said.InvalidRequestError():
            return 400, "bad_request", "upstream_bad_request"
        case said.APIResponseValidationError():
            return 502, "malformed", "upstream_malformed"
        case ImportError():
            return 503, "unavailable", "missing_dependency"
        case TimeoutError():
            return 504, "timeout", "upstream_timeout"
    if (cause := _connection_cause(error)) is not None:
        return STATUS_OF.get(cause, 502), cause, f"upstream_{cause}"
    if isinstance(error, said.APIConnectionError) or not isinstance(error, _FROM_LITELLM):
        # LiteLLM's catch-all, mostly for its own readers failing on an answer of an unexpected shape.
        return 502, "malformed", "upstream_malformed"
    status = getattr(error, "status_code", None)
    return (status if isinstance(status, int) and 500 <= status < 600 else 502), "server", "upstream_server"


_FROM_LITELLM = (said.ServiceUnavailableError, said.BadGatewayError, said.InternalServerError, said.APIError)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from or while handling."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _connection_cause(error: BaseException) -> ErrorClass | None:
    """What the socket said, somewhere below the classes of LiteLLM, the SDK and the HTTP client."""
    chain = list(_chain(error))
    names = {cls.__name__ for e in chain for cls in type(e).__mro__}
    if any(isinstance(e, ssl.SSLError) for e in chain) or names & {"ClientConnectorSSLError", "ClientSSLError"}:
        return "tls"
    if any(isinstance(e, socket.gaierror) for e in chain) or "ClientConnectorDNSError" in names:
        return "dns"
    if any(isinstance(e, ConnectionRefusedError) for e in chain):
        return "refused"
    if any(isinstance(e, httpx.TimeoutException) for e in chain):
        return "timeout"
    if any(isinstance(e, ConnectionResetError | BrokenPipeError | httpx.ReadError | httpx.RemoteProtocolError)
           for e in chain) or names & {"ServerDisconnectedError", "ClientPayloadError"}:  # fmt: skip
        return "reset"
    if any(isinstance(e, httpx.ConnectError) for e in chain) or "ClientConnectorError" in names:
        return "refused"
    return None


_PREFIX = re.compile(r"^(?:litellm\.)?(?:[A-Za-z]+(?:Error|Exception)|Timeout): *")


def _message(error: BaseException) -> str:
    """One line, without LiteLLM's class names in front."""
    text = " ".join(str(getattr(error, "message", None) or error).split()) or type(error).__name__
    while (shorter := _PREFIX.sub("", text, count=1)) != text and shorter:
        text = shorter
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 3] + "..."


def _refused_parameter(message: str) -> str | None:
    """The first parameter that LiteLLM names as unsupported: "... does not support parameters: ['logit_bias'] ..."."""
    found = re.search(r"parameters: *[\[{] *'(\w+)'", message)
    return found.group(1) if found else None


def _retry_after(error: BaseException) -> float | None:
    """`Retry-After` in seconds, from the answer that the error carries; dates too (RFC 9110, 10.2.3)."""
    for holder in (getattr(error, "response", None), error):
        for attribute in ("headers", "litellm_response_headers"):
            headers: Any = getattr(holder, attribute, None)
            value = headers.get("retry-after") if hasattr(headers, "get") else None
            if value is None:
                continue
            try:
                return max(0.0, float(value))
            except ValueError:
                pass
            try:
                return max(0.0, parsedate_to_datetime(value).timestamp() - time())
            except ValueError:
                continue
    return None
