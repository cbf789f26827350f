"""Delivering finished calls to services and functions."""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from exo_node.errors import ConfigurationError
from exo_node.routing.callbacks.callbacks import QUEUE, Callbacks, make_callbacks
from tests.unit.routing.callbacks.test_events import record


class Service:
    """A stand-in for Langfuse and Helicone: remembers what it is told, answers as scripted."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, Any]] = []
        self.status = 207
        self.errors: list[Any] = []
        app = web.Application()
        app.router.add_post("/{tail:.*}", self._take)
        self.server = TestServer(app)

    async def _take(self, request: web.Request) -> web.Response:
        self.told.append((request.path, request.headers["Authorization"], await request.json()))
        return web.json_response({"errors": self.errors}, status=self.status)


def shared(session: aiohttp.ClientSession) -> Callable[[], Awaitable[aiohttp.ClientSession]]:
    async def get() -> aiohttp.ClientSession:
        return session

    return get


async def told(callbacks: Callbacks, events: int, *, lost: bool = True) -> None:
    """Wait until so many have been delivered or (`lost`) dropped."""
    async with asyncio.timeout(30):
        while callbacks.delivered + callbacks.dropped * lost != events:  # noqa: ASYNC110 - nothing tells of a delivery
            await asyncio.sleep(0.01)


async def test_langfuse_and_helicone_each_hear_of_a_call_once() -> None:
    """One POST each, with the service's own path and credentials."""
    service = Service()
    async with service.server, aiohttp.ClientSession() as session:
        url = str(service.server.make_url("/"))
        environment = {
            "LANGFUSE_PUBLIC_KEY": "pk",
            "LANGFUSE_SECRET_KEY": "sk",
            "LANGFUSE_HOST": url,
            "HELICONE_API_KEY": "hk",
            "HELICONE_API_BASE": url,
        }
        callbacks = Callbacks(make_callbacks(["langfuse", "helicone", "langfuse"], environment, shared(session)))
        callbacks(record())
        await callbacks.close()
    basic = base64.b64encode(b"pk:sk").decode()
    assert [(path, credentials) for path, credentials, _ in service.told] == [
        ("/api/public/ingestion", f"Basic {basic}"),
        ("/custom/v1/log", "Bearer hk"),
    ]
    assert callbacks.delivered == 2


async def test_own_functions_sync_and_async(monkeypatch: pytest.MonkeyPatch) -> None:
    """`module:function` gets the response; one that raises is logged once and harms nothing."""
    seen: list[str] = []

    async def later(view: Any) -> None:
        seen.append(f"async {view.model}")

    def broken(view: Any) -> None:
        raise RuntimeError("mine")

    module = SimpleNamespace(now=lambda view: seen.append(f"sync {view.model}"), later=later, broken=broken)
    monkeypatch.setitem(sys.modules, "own_hooks", module)
    async with aiohttp.ClientSession() as session:
        names = ["own_hooks:broken", "own_hooks:now", "own_hooks:later"]
        callbacks = Callbacks(make_callbacks(names, {}, shared(session)))
        runner = asyncio.create_task(callbacks.run())
        callbacks(record())
        callbacks(record())
        await told(callbacks, 6)
        runner.cancel()
    assert sorted(seen) == ["async gpt-4o"] * 2 + ["sync gpt-4o"] * 2
    assert (callbacks.delivered, callbacks.dropped) == (4, 2)


async def test_what_an_own_function_raises_is_masked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Keys of the environment, and whatever looks like one, stay out of the log when a function's error holds them."""

    def broken(view: Any) -> None:
        raise RuntimeError("PLANTED-secret-42 and\nsk-planted-0123456789 are no good")

    monkeypatch.setitem(sys.modules, "own_hooks", SimpleNamespace(broken=broken))
    async with aiohttp.ClientSession() as session:
        callbacks = Callbacks(
            make_callbacks(["own_hooks:broken"], {"MY_API_KEY": "PLANTED-secret-42"}, shared(session))
        )
        callbacks(record())
        await callbacks.close()
    assert "callback own_hooks:broken failed: RuntimeError: *** and *** are no good" in caplog.messages
    assert "planted" not in caplog.text.lower()


async def test_one_that_hangs_keeps_no_other_waiting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A function that never returns loses its own events, which is said once; all others are told of every call, and
    of those that wait when the node stops."""
    seen: list[str] = []
    stuck = asyncio.Event()

    async def hangs(view: Any) -> None:
        await stuck.wait()

    module = SimpleNamespace(hangs=hangs, hears=lambda view: seen.append(view.id))
    monkeypatch.setitem(sys.modules, "own_hooks", module)
    async with aiohttp.ClientSession() as session:
        callbacks = Callbacks(make_callbacks(["own_hooks:hangs", "own_hooks:hears"], {}, shared(session)))
        runner = asyncio.create_task(callbacks.run())
        for number in range(QUEUE + 5):
            callbacks(record(id=str(number)))
            if number % 500 == 499 or number >= QUEUE:
                await told(callbacks, number + 1, lost=False)
        runner.cancel()
        callbacks(record(id="last"))
        await callbacks.close(0.2)
    assert seen == [*map(str, range(QUEUE + 5)), "last"]
    assert callbacks.delivered == QUEUE + 6
    full = f"callback own_hooks:hangs: {QUEUE} calls wait for it, more are dropped"
    assert caplog.messages.count(full) == 1


async def test_one_that_ends_or_cancels_itself_has_failed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`sys.exit()` or a cancellation in an own function is that function's failure; it is told of the next call."""

    def ends(view: Any) -> None:
        sys.exit(3)

    async def cancels(view: Any) -> None:
        raise asyncio.CancelledError("mine")

    monkeypatch.setitem(sys.modules, "own_hooks", SimpleNamespace(ends=ends, cancels=cancels))
    async with aiohttp.ClientSession() as session:
        callbacks = Callbacks(make_callbacks(["own_hooks:ends", "own_hooks:cancels"], {}, shared(session)))
        runner = asyncio.create_task(callbacks.run())
        callbacks(record())
        callbacks(record())
        await told(callbacks, 4)
        runner.cancel()
    assert "callback own_hooks:ends failed: SystemExit: 3" in caplog.messages
    assert "callback own_hooks:cancels failed: CancelledError: mine" in caplog.messages


async def test_after_a_reload(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Who stays hears of the calls that wait, who came of the next ones, who went of none; a failure is said anew."""
    seen: list[str] = []

    def hears(name: str) -> Callable[[Any], None]:
        return lambda view: seen.append(f"{name} {view.id}")

    def broken(view: Any) -> None:
        raise RuntimeError("no")

    module = SimpleNamespace(stays=hears("stays"), came=hears("came"), went=hears("went"), broken=broken)
    monkeypatch.setitem(sys.modules, "own_hooks", module)
    async with aiohttp.ClientSession() as session:

        def made(*names: str) -> Any:
            return make_callbacks([f"own_hooks:{name}" for name in names], {}, shared(session))

        callbacks = Callbacks(made("stays", "went", "broken"))
        callbacks(record(id="1"))
        callbacks.replace(made("came", "stays", "broken"))
        runner = asyncio.create_task(callbacks.run())
        await told(callbacks, 2)
        callbacks.replace(made("broken", "came", "stays"))
        callbacks(record(id="2"))
        await told(callbacks, 5)
        callbacks.replace([])
        callbacks(record(id="3"))
        runner.cancel()
    assert sorted(seen) == ["came 2", "stays 1", "stays 2"]
    assert caplog.messages.count("callback own_hooks:broken failed: RuntimeError: no") == 2


async def test_an_event_that_langfuse_refuses_is_not_delivered(caplog: pytest.LogCaptureFixture) -> None:
    """Langfuse answers 207 to every batch; what it says of the event in it counts."""
    service = Service()
    service.errors = [{"id": "x", "status": 400, "message": "Invalid request data"}]
    async with service.server, aiohttp.ClientSession() as session:
        url = str(service.server.make_url("/"))
        environment = {"LANGFUSE_PUBLIC_KEY": "pk", "LANGFUSE_SECRET_KEY": "sk", "LANGFUSE_HOST": url}
        callbacks = Callbacks(make_callbacks(["langfuse"], environment, shared(session)))
        callbacks(record())
        await callbacks.close()
    assert (callbacks.delivered, callbacks.dropped) == (0, 1)
    assert "Invalid request data" in caplog.text


async def test_a_full_queue_drops_events_not_requests() -> None:
    """When nobody delivers, telling still returns at once; what does not fit is counted."""
    async with aiohttp.ClientSession() as session:
        callbacks = Callbacks(make_callbacks(["helicone"], {"HELICONE_API_KEY": "k"}, shared(session)))
        for _ in range(QUEUE + 3):
            callbacks(record())
    assert callbacks.dropped == 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("langfuse", "LANGFUSE_PUBLIC_KEY"),
        ("helicone", "HELICONE_API_KEY"),
        ("no_such_module_x:f", "cannot be imported: No module named .* folders of PYTHONPATH"),
        ("tests.unit.routing.callbacks.test_callbacks:f", "cannot be imported: AttributeError: module"),
        ("sys:version", "no function"),
        ("datadogs", "unknown"),
    ],
)
async def test_names_that_cannot_work_are_refused(name: str, words: str) -> None:
    """A missing key, module or name is a configuration error that says so."""
    async with aiohttp.ClientSession() as session:
        with pytest.raises(ConfigurationError, match=words):
            make_callbacks([name], {}, shared(session))


async def test_other_names_are_forwarded_to_litellm() -> None:
    """A callback of LiteLLM's own runs where LiteLLM is, with all that is known of the call."""
    told: list[tuple[str, dict[str, Any]]] = []

    async def forward(name: str, body: dict[str, Any]) -> None:
        told.append((name, body))

    async with aiohttp.ClientSession() as session:
        callbacks = Callbacks(make_callbacks(["datadog"], {}, shared(session), forward))
        callbacks(record())
        await callbacks.close()
    assert [(name, body["text"]) for name, body in told] == [("datadog", "hello")]


def test_unknown_names_are_refused() -> None:
    """With the nearest name; LiteLLM's own also where LiteLLM is missing."""

    async def forward(name: str, body: dict[str, Any]) -> None: ...

    async def session() -> aiohttp.ClientSession:
        raise AssertionError("nothing is sent")

    with pytest.raises(ConfigurationError, match=r"'datadogg' is unknown \(did you mean datadog\?\)"):
        make_callbacks(["datadogg"], {}, session, forward)
    with pytest.raises(ConfigurationError, match=r"LiteLLM is not installed: pip install 'exo-node\[litellm\]'"):
        make_callbacks(["datadog"], {}, session)
