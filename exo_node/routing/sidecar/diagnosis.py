"""LiteLLM's exceptions as what went wrong, for whom, and with which status. Reads exceptions, does nothing else."""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace
from time import time
from typing import Any

import httpx
from litellm import exceptions as said

from exo_node.routing.call import STATUS_OF, UNSUPPORTED_THERE, ErrorClass
from exo_node.routing.masking import Masker
from exo_node.routing.sidecar.failures import AfterAnswer, CallFailed, Failure
from exo_node.routing.upstream.retry_after import standard

# Whose errors LiteLLM's translation of a request raises.
_TRANSLATORS = frozenset({"builtins", "json", "litellm", "openai", "jinja2", "pydantic", "pydantic_core", "binascii"})
MAX_MESSAGE = 2000  # characters; providers answer whole HTML pages


def failure_of(error: BaseException, mask: Masker, *, sent: bool = True) -> Failure:
    """What became of a call that raised `error`; `sent`: whether the provider was asked at all."""
    if isinstance(error, CallFailed):
        return error.failure
    if isinstance(error, AfterAnswer) and error.__cause__ is not None:
        return replace(failure_of(error.__cause__, mask), usage=error.usage)
    if isinstance(error, said.MidStreamFallbackError) and error.original_exception is not None:
        return failure_of(error.original_exception, mask)
    status, cause, code = _classify(error)
    message = mask(_message(error))
    param = _refused_parameter(message) if isinstance(error, said.UnsupportedParamsError) else None
    if not sent and cause in ("malformed", "bad_request"):  # LiteLLM's own word: another backend may take the request
        status = 400 if cause == "bad_request" else _unsent_status(error)
        code = code if param else UNSUPPORTED_THERE
        return Failure(status, "unavailable", f"this request cannot be sent there: {message}", code, param)
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
        case _ if isinstance(error, _SAYS_UNREADABLE) and any(words in str(error) for words in _UNREADABLE):
            return 502, "malformed", "upstream_malformed"
        case said.UnprocessableEntityError():
            return 422, "bad_request", "upstream_bad_request"
        case said.BadRequestError() if "LLM Provider NOT provided" in str(error):
            return 404, "not_found", "unknown_provider"
        case said.BadRequestError() if codes := [s for s in _statuses(error) if s in _OF_STATUS]:
            # LiteLLM calls an OpenAI-like server's 401 or 404 a bad request, going by the words in its body.
            return codes[0], _OF_STATUS[codes[0]], f"upstream_{_OF_STATUS[codes[0]]}"
        case said.BadRequestError() | said.InvalidRequestError():
            return 400, "bad_request", "upstream_bad_request"
        case said.APIResponseValidationError():
            return 502, "malformed", "upstream_malformed"
        case ImportError():
            return 503, "unavailable", "missing_dependency"
        case TimeoutError():
            return 504, "timeout", "upstream_timeout"
    if type(error).__module__.startswith("openai") and isinstance(status := getattr(error, "status_code", None), int):
        answered: ErrorClass = _OF_STATUS.get(status, "server" if status >= 500 else "bad_request")
        return status, answered, f"upstream_{answered}"  # moderations: LiteLLM lets OpenAI's own errors through
    if (cause := _connection_cause(error)) is not None:
        return STATUS_OF.get(cause, 502), cause, f"upstream_{cause}"
    if isinstance(error, said.APIConnectionError) or not isinstance(error, _FROM_LITELLM):
        # LiteLLM's catch-all, mostly for its own readers failing on an answer of an unexpected shape.
        return 502, "malformed", "upstream_malformed"
    status = getattr(error, "status_code", None)
    return (status if isinstance(status, int) and 500 <= status < 600 else 502), "server", "upstream_server"


# LiteLLM's readers (Gemini's and Bedrock's, Ollama's of streams, Anthropic's) on an answer that they cannot read; of
# some it makes a bad request, of others a server's error.
_UNREADABLE = (
    "Error converting to valid response block",
    "Got unexpected response from Ollama",
    "Unable to get json response",
)
_SAYS_UNREADABLE = (said.BadRequestError, said.UnprocessableEntityError, said.InternalServerError, said.APIError)
_OF_STATUS: dict[int, ErrorClass] = {
    401: "auth", 402: "auth", 403: "auth", 404: "not_found", 408: "timeout", 429: "rate_limited",
}  # fmt: skip
_FROM_LITELLM = (said.ServiceUnavailableError, said.BadGatewayError, said.InternalServerError, said.APIError)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from or while handling."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _unsent_status(error: BaseException) -> int:
    """400, unless what failed on our side was another library than LiteLLM: one that looks for credentials."""
    modules = {type(one).__module__.partition(".")[0] for one in _chain(error)}
    return 400 if modules <= _TRANSLATORS else 503


def _statuses(error: BaseException) -> list[int]:
    """HTTP statuses of the error and of what it was made from."""
    found = [getattr(one, "status_code", None) for one in _chain(error)]
    return [status for status in found if isinstance(status, int)]


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
    text = text.partition(" Traceback (most recent call last)")[0]
    while (shorter := _PREFIX.sub("", text, count=1)) != text and shorter:
        text = shorter
    text = _told(text)
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 3] + "..."


def _told(text: str) -> str:
    """What the provider said, out of "AnthropicException - {its error body}"; other texts as they stand.

    >>> _told('GeminiException - b\'{"error": {"code": 400, "message": "too long"}}\'')
    'too long'
    """
    start = text.find("{")
    if start < 0 or not re.search(r"(Exception|Error) *- ", text[:start]):
        return text
    try:
        said, _ = json.JSONDecoder().raw_decode(text, start)
    except ValueError:
        return text
    for part in (said.get("error"), said):
        if isinstance(part, dict) and isinstance(part.get("message"), str) and part["message"]:
            return str(part["message"])
        if isinstance(part, str) and part:
            return part
    return text


def _refused_parameter(message: str) -> str | None:
    """The first parameter that LiteLLM names as unsupported: "... does not support parameters: ['logit_bias'] ..."."""
    found = re.search(r"parameters: *[\[{] *'(\w+)'", message)
    return found.group(1) if found else None


def _retry_after(error: BaseException) -> float | None:
    """`Retry-After` in seconds, from the answer that the error carries; dates too (RFC 9110, 10.2.3)."""
    # LiteLLM's own class often has an empty answer; what it was made from has the provider's.
    for holder in (holder for one in _chain(error) for holder in (getattr(one, "response", None), one)):
        for attribute in ("headers", "litellm_response_headers"):
            headers: Any = getattr(holder, attribute, None)
            value = headers.get("retry-after") if hasattr(headers, "get") else None
            if value is not None and (wait := standard(str(value), time())) is not None:
                return max(0.0, wait)
    return None
