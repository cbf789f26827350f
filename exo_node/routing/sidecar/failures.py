"""What went wrong with a call: its status, its cause, OpenAI's error object. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from exo_node.routing.call import STATUS_OF, ErrorClass
from exo_node.routing.sidecar.protocol import CAUSE_HEADER


class CallFailed(Exception):
    """A failure that we found ourselves: an unknown deployment, a parameter that is refused, a cut stream."""

    def __init__(
        self, message: str, cause: ErrorClass, *, status: int | None = None, code: str | None = None, param: str = ""
    ) -> None:
        super().__init__(message)
        self.failure = Failure(
            status or STATUS_OF.get(cause, 502), cause, message, code or f"upstream_{cause}", param or None
        )


class AfterAnswer(Exception):
    """A call that failed (`__cause__`) when a part of it had been answered, and `usage` had been used for that."""

    def __init__(self, usage: Mapping[str, int]) -> None:
        super().__init__()
        self.usage = usage


@dataclass(frozen=True, slots=True)
class Failure:
    """`status` is the provider's own where it answered. `retry_after` in seconds; `usage`: OpenAI's, of what was
    answered all the same."""

    status: int
    cause: ErrorClass
    message: str
    code: str
    param: str | None = None
    retry_after: float | None = None
    usage: Mapping[str, int] | None = None

    def body(self) -> dict[str, Any]:
        """OpenAI's error object; `cause` is for a reader that has no headers any more (an event of a stream)."""
        kind = "invalid_request_error" if self.status in (400, 404, 413, 422) else "server_error"
        if self.status == 429:
            kind = "rate_limit_error"
        elif self.status in (401, 403):
            kind = "authentication_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code, "cause": self.cause}
        return {"error": error if self.usage is None else {**error, "usage": dict(self.usage)}}

    def headers(self) -> dict[str, str]:
        headers: dict[str, str] = {CAUSE_HEADER: self.cause}
        if self.retry_after is not None:
            headers["Retry-After"] = f"{self.retry_after:g}"
        return headers
