"""What a route takes and gives, said once at its handler: bodies are checked by it, the OpenAPI document shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from aiohttp import web

H = TypeVar("H", bound=Callable[..., Any])

SSE = "text/event-stream"
JSON = "application/json"
NDJSON = "application/x-ndjson"
BYTES = "application/octet-stream"

# Who may ask: "open" anybody (probes carry no keys), "see" every key, "use", "read" and "admin" keys of that scope.
Scope = Literal["open", "see", "use", "read", "admin"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """`body` and `query` are msgspec Structs, `answer` any type that msgspec knows; None: not declared (any object).

    `answers` says of what media type the answer is, the first one where nothing else is asked for. `form`: the body is
    multipart/form-data. `checked_later`: whoever makes the call of the body checks it by the same schema. `scope`: who
    may ask; None, not said, is the admin. `act`: it changes what the node does, and is in the audit log.
    """

    tag: str
    scope: Scope | None = None
    act: bool = False
    body: Any = None
    answer: Any = None
    query: Any = None
    answers: tuple[str, ...] = (JSON,)
    form: bool = False
    checked_later: bool = False
    status: int = 200


def operation(
    tag: str,
    *,
    scope: Scope | None = None,
    act: bool = False,
    body: Any = None,
    answer: Any = None,
    query: Any = None,
    answers: tuple[str, ...] = (JSON,),
    form: bool = False,
    checked_later: bool = False,
    status: int = 200,
) -> Callable[[H], H]:
    """Say it of a handler; its docstring's first line is the summary."""
    said = Operation(
        tag=tag, scope=scope, act=act, body=body, answer=answer, query=query, answers=answers, form=form,
        checked_later=checked_later, status=status,
    )  # fmt: skip

    def mark(handler: H) -> H:
        handler.operation = said  # type: ignore[attr-defined]
        return handler

    return mark


def operation_of(handler: Any) -> Operation | None:
    """What was said of a handler; None where nothing was."""
    found = getattr(handler, "operation", None)
    return found if isinstance(found, Operation) else None


def of_request(request: web.Request) -> Operation | None:
    """The operation that serves `request`."""
    return operation_of(request.match_info.handler)
