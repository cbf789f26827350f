"""`success_callback` of the SDK: functions, "langfuse" and "helicone" hear of every successful call, once.

    from exo_node import sdk
    sdk.success_callback = [my_function, "langfuse"]

A node tells its own `callbacks`, configured there, of every call that it serves: name a service at one of the two ends.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from exo_node.routing.call import Caller, CallKind, CallRecord
from exo_node.routing.callbacks.services import SERVICES, refusal, service_of
from exo_node.sdk.replies import Reply, wrap
from exo_node.sdk.tools import Collected
from exo_node.types import Usage

log = logging.getLogger("exo.sdk")
TIMEOUT_S = 10.0


def receivers() -> list[Any]:
    """What the user put into `exo_node.sdk.success_callback`."""
    from exo_node import sdk  # late: the package's front imports this module

    return list(sdk.success_callback)


class Watch:
    """One call of the SDK, watched to its end. A stream counts when it was read to its end."""

    def __init__(self, body: Mapping[str, Any], kind: CallKind = "chat") -> None:
        self._body = body
        self._kind = kind
        self._started = time.time()
        self._begun = time.perf_counter()
        self._ttft: float | None = None

    def whole(self, ask: Callable[[], Any]) -> Any:
        answer = ask()
        self.tell(answer)
        return answer

    async def awhole(self, asked: Awaitable[Any]) -> Any:
        answer = await asked
        self.tell(answer)
        return answer

    def stream(self, chunks: Iterator[Reply]) -> Iterator[Reply]:
        collected, last = Collected(), Reply()
        for chunk in chunks:
            last = self._saw(chunk, collected, last)
            yield chunk
        self.tell(_assembled(last, collected), stream=True)

    async def astream(self, chunks: AsyncIterator[Reply]) -> AsyncIterator[Reply]:
        collected, last = Collected(), Reply()
        async for chunk in chunks:
            last = self._saw(chunk, collected, last)
            yield chunk
        self.tell(_assembled(last, collected), stream=True)

    def tell(self, answer: Any, *, stream: bool = False) -> None:
        """The call has succeeded with `answer`."""
        wanted = receivers()
        if not wanted:
            return
        record = self._record(answer, stream)
        for one in wanted:
            try:
                _deliver(one, answer, record)
            except Exception as error:  # a callback never breaks the call that it hears of
                log.warning("success_callback %s failed: %s: %s", one, type(error).__name__, error)

    def _saw(self, chunk: Reply, collected: Collected, last: Reply) -> Reply:
        if self._ttft is None:
            self._ttft = time.perf_counter() - self._begun
        collected.add(chunk)
        return Reply({**last, **chunk})

    def _record(self, answer: Any, stream: bool) -> CallRecord:
        used = answer.get("usage") or {}
        choices = answer.get("choices") or [{}]
        text = (choices[0].get("message") or {}).get("content") or ""
        return CallRecord(
            id=str(answer.get("id") or uuid.uuid4().hex),
            kind=self._kind,
            model=str(self._body.get("model") or ""),
            served_model=str(answer.get("model") or ""),
            backend="",
            provider=str(self._body.get("provider") or ""),
            stream=stream,
            caller=Caller(user=str(self._body.get("user") or "")),
            started=self._started,
            ttft_s=self._ttft,
            total_s=time.perf_counter() - self._begun,
            usage=Usage(int(used.get("prompt_tokens") or 0), int(used.get("completion_tokens") or 0)),
            body=self._body,
            text=text,
        )


def flush() -> None:
    """Wait until what was told so far is delivered."""
    _POSTS.submit(lambda: None).result()


def _assembled(last: Reply, collected: Collected) -> Reply:
    """The completion that the chunks stand for."""
    choice = {"index": 0, "message": collected.message(), "finish_reason": collected.finish_reason}
    whole: Reply = wrap({**last, "object": "chat.completion", "usage": collected.usage or {}, "choices": [choice]})
    return whole


def _deliver(receiver: Any, answer: Any, record: CallRecord) -> None:
    if receiver in SERVICES:
        service = service_of(receiver, os.environ)
        _POSTS.submit(_post, service.url, service.headers, service.shape(record))
    elif callable(receiver):
        if _positional(receiver) >= 4:  # LiteLLM's own signature: (kwargs, response, start, end)
            told = receiver(dict(record.body), answer, record.started, record.started + record.total_s)
        else:
            told = receiver(answer)
        if inspect.iscoroutine(told):
            _POSTS.submit(_finish, receiver, told)
    else:
        raise ValueError("known: a function, 'langfuse', 'helicone'; set others up at the node (callbacks)")


def _positional(function: Callable[..., Any]) -> int:
    """How many arguments it needs."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # print and other built-in ones tell nothing
        return 1
    return sum(one.kind in kinds and one.default is inspect.Parameter.empty for one in parameters)


# One thread: events leave in the order of the calls. It is joined at the interpreter's exit, so none is lost.
_POSTS = ThreadPoolExecutor(1, thread_name_prefix="exo-sdk-callbacks")


def _finish(receiver: Any, told: Coroutine[Any, Any, None]) -> None:
    """What an async function does, in a loop of its own: there is none, or it ends before the function does."""
    try:
        asyncio.run(told)
    except Exception as error:  # as in `tell`
        log.warning("success_callback %s failed: %s: %s", receiver, type(error).__name__, error)


def _post(url: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> None:
    try:
        answer = httpx.post(url, headers=dict(headers), json=body, timeout=TIMEOUT_S).raise_for_status()
    except httpx.HTTPError as error:
        log.warning("a callback's service failed: %s", error)
    else:
        if refused := refusal(answer.status_code, answer.content):
            log.warning("a callback's service refused an event: %s", refused)
