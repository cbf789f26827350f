"""Tells services and functions of every finished call, one event a call, whatever served it.

Telling never holds a request up: calls queue here, and one owned task for each receiver delivers them. A receiver that
does not answer loses its own events (counted, said once), never another's and never requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import importlib
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import aiohttp

from exo_node.errors import ConfigurationError
from exo_node.routing.call import CallRecord
from exo_node.routing.callbacks.events import response_view, summary
from exo_node.routing.callbacks.names import LITELLM_CALLBACKS, POSTED_CALLBACKS, litellm_callback
from exo_node.routing.callbacks.services import SERVICES, refusal, service_of
from exo_node.routing.masking import Masker, secrets_of_environment
from exo_node.signals import ChangeSignal

log = logging.getLogger("exo.callbacks")

QUEUE = 1000  # calls that wait for one receiver; more are dropped, and counted
TIMEOUT_S = 10.0
MAX_MESSAGE = 500  # characters of a failure


class Callback(Protocol):
    """One receiver. Raises whatever it likes; `Masked` makes a `CallbackFailed` of it, which is logged."""

    name: str

    async def tell(self, record: CallRecord) -> None: ...


class HttpCallback:
    """Posts JSON to a service."""

    def __init__(
        self,
        name: str,
        url: str,
        headers: Mapping[str, str],
        shape: Callable[[CallRecord], dict[str, Any]],
        session: Callable[[], Awaitable[aiohttp.ClientSession]],
    ) -> None:
        self.name = name
        self._url = url
        self._headers = headers
        self._shape = shape
        self._session = session

    async def tell(self, record: CallRecord) -> None:
        session = await self._session()
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with session.post(
            self._url, json=self._shape(record), headers=self._headers, timeout=timeout
        ) as response:
            if response.status >= 400:
                raise aiohttp.ClientResponseError(
                    response.request_info, (), status=response.status, message=(await response.text())[:200]
                )
            if refused := refusal(response.status, await response.read()):
                raise EventRefused(refused)


def described(error: BaseException, mask: Masker) -> str:
    """What foreign code raised, on one line, masked before it is cut."""
    return mask(f"{type(error).__name__}: {' '.join(str(error).split())}")[:MAX_MESSAGE]


class EventRefused(Exception):
    """A service has taken the request and not the event in it; the text is the service's."""


class CallbackFailed(Exception):
    """A receiver failed; the text, on one line, holds no secret."""


class Masked:
    """A receiver whose failures name no secret: it is foreign code, or a service that says what it was sent."""

    def __init__(self, receiver: Callback, mask: Masker) -> None:
        self.name = receiver.name
        self._receiver = receiver
        self._mask = mask

    async def tell(self, record: CallRecord) -> None:
        try:
            await self._receiver.tell(record)
        except (Exception, SystemExit) as error:
            raise CallbackFailed(described(error, self._mask)) from None
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise CallbackFailed(described(error, self._mask)) from None  # its own doing


class FunctionCallback:
    """An own function, `module:function`, sync (in a thread) or async, with what `response_view` gives."""

    def __init__(self, name: str, function: Callable[[Any], Any]) -> None:
        self.name = name
        self._function = function

    async def tell(self, record: CallRecord) -> None:
        view = response_view(record)
        if inspect.iscoroutinefunction(self._function):
            await self._function(view)
        else:
            await asyncio.to_thread(self._function, view)


class ForwardedCallback:
    """One of LiteLLM's own, run where LiteLLM is."""

    def __init__(self, name: str, forward: Callable[[str, dict[str, Any]], Awaitable[None]]) -> None:
        self.name = name
        self._forward = forward

    async def tell(self, record: CallRecord) -> None:
        body = {**summary(record), "request": dict(record.body), "text": record.text}
        await self._forward(self.name, body)


def make_callbacks(
    names: Sequence[str],
    environment: Mapping[str, str],
    session: Callable[[], Awaitable[aiohttp.ClientSession]],
    forward: Callable[[str, dict[str, Any]], Awaitable[None]] | None = None,
) -> list[Masked]:
    """The receivers that these names mean. Raises `ConfigurationError` for a name or a key that is missing."""
    mask = Masker(secrets_of_environment(environment))
    return [Masked(_make(name, environment, session, forward), mask) for name in dict.fromkeys(names)]


def _make(
    name: str,
    environment: Mapping[str, str],
    session: Callable[[], Awaitable[aiohttp.ClientSession]],
    forward: Callable[[str, dict[str, Any]], Awaitable[None]] | None,
) -> Callback:
    if name in SERVICES:
        service = service_of(name, environment)
        return HttpCallback(name, service.url, service.headers, service.shape, session)
    if ":" in name:
        return FunctionCallback(name, import_function(name))
    theirs = litellm_callback(name)
    if theirs is None:
        raise ConfigurationError(
            f"callback {name!r} is unknown{_near(name)}; known: {', '.join(SERVICES)}, module:function, and LiteLLM's "
            f"own: {', '.join(sorted(LITELLM_CALLBACKS | POSTED_CALLBACKS))}"
        )
    if forward is None:
        raise ConfigurationError(
            f"callback {name!r} is LiteLLM's own, and LiteLLM is not installed: pip install 'exo-node[litellm]'"
        )
    return ForwardedCallback(theirs, forward)


def _near(name: str) -> str:
    near = difflib.get_close_matches(name, [*SERVICES, *LITELLM_CALLBACKS, *POSTED_CALLBACKS], 1, 0.6)
    return f" (did you mean {near[0]}?)" if near else ""


def import_function(name: str, what: str = "callback") -> Callable[..., Any]:
    """The function `module:function`. Raises `ConfigurationError` that calls it `what`."""
    module_name, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{what} {name!r} cannot be imported: {error}; modules are looked for in the folders of PYTHONPATH and "
            "among the packages of this Python"
        ) from error
    except Exception as error:  # foreign code
        raise ConfigurationError(f"{what} {name!r} cannot be imported: {described(error, Masker())}") from None
    if not callable(found):
        raise ConfigurationError(f"{what} {name!r} is no function")
    function: Callable[..., Any] = found
    return function


class _Line:
    """What waits for one receiver, in the order of the calls."""

    def __init__(self, receiver: Masked) -> None:
        self.receiver = receiver
        self.waiting: asyncio.Queue[CallRecord] = asyncio.Queue(QUEUE)
        self.task: asyncio.Task[None] | None = None
        self.failing = False  # it was said, and has not been delivered to since
        self.full = False  # it was said, and the line has not been empty since


class Callbacks:
    """The sink that feeds every receiver. `run` delivers until cancelled; `close` gives what waits a last moment."""

    def __init__(self, receivers: Sequence[Masked] = ()) -> None:
        self._lines = [_Line(one) for one in receivers]
        self._changed = ChangeSignal()
        self.delivered = 0
        self.dropped = 0

    def replace(self, receivers: Sequence[Masked]) -> None:
        """After a reload. What waits for one that stays is told to it as it is now."""
        before = {line.receiver.name: line for line in self._lines}
        self._lines = []
        for one in receivers:
            line = before.pop(one.name, None) or _Line(one)
            line.receiver, line.failing = one, False
            self._lines.append(line)
        for line in before.values():
            if line.task is not None:
                line.task.cancel()
        self._changed.notify()

    def __call__(self, record: CallRecord) -> None:
        for line in self._lines:
            try:
                line.waiting.put_nowait(record)
            except asyncio.QueueFull:
                self.dropped += 1
                if not line.full:
                    line.full = True
                    log.warning("callback %s: %d calls wait for it, more are dropped", line.receiver.name, QUEUE)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                seen = self._changed.version
                for line in self._lines:
                    if line.task is None or line.task.done():
                        line.task = group.create_task(self._work(line), name=f"callback-{line.receiver.name}")
                await self._changed.wait(seen)

    async def close(self, timeout_s: float = 2.0) -> None:
        """Deliver what still waits, for at most `timeout_s`; call after `run` was cancelled."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*(self._rest(line) for line in self._lines))

    async def _work(self, line: _Line) -> None:
        while True:
            await self._deliver(line, await line.waiting.get())

    async def _rest(self, line: _Line) -> None:
        while not line.waiting.empty():
            await self._deliver(line, line.waiting.get_nowait())

    async def _deliver(self, line: _Line, record: CallRecord) -> None:
        line.full = line.full and not line.waiting.empty()
        try:
            await line.receiver.tell(record)
        except CallbackFailed as error:
            self.dropped += 1
            if not line.failing:
                line.failing = True
                log.warning("callback %s failed: %s", line.receiver.name, error)
        else:
            self.delivered += 1
            line.failing = False
