"""Whether anything of a call has gone out. LiteLLM fails alike on a request that it cannot put into a provider's form
and on an answer that it cannot read; only the latter is the provider's doing, and may be billed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any


class Sending:
    """Of one call, and of all tasks and threads that work for it."""

    __slots__ = ("begun",)

    def __init__(self) -> None:
        self.begun = False


_CURRENT: ContextVar[Sending | None] = ContextVar("sending", default=None)


def watch() -> Sending:
    """From here on, in this task and those that it makes."""
    sending = Sending()
    _CURRENT.set(sending)
    return sending


def note_requests() -> None:
    """Make the HTTP clients by which LiteLLM asks providers note it."""
    import aiohttp
    import httpx

    httpx.AsyncClient.send = _noting(httpx.AsyncClient.send)  # type: ignore[method-assign]
    httpx.Client.send = _noting(httpx.Client.send)  # type: ignore[method-assign]
    aiohttp.ClientSession._request = _noting(aiohttp.ClientSession._request)  # type: ignore[method-assign]


def _noting(send: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(send)
    def noting(*args: Any, **kwargs: Any) -> Any:
        sending = _CURRENT.get()
        if sending is not None:
            sending.begun = True
        return send(*args, **kwargs)

    return noting
