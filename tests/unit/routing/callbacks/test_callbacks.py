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
        app = web.Application()
        app.router.add_post("/{tail:.*}", self._take)
        self.server = TestServer(app)

    async def _take(self, request: web.Request) -> web.Response:
        self.told.append((request.path, request.headers["Authorization"], await request.json()))
        return web.json_response({"errors": []}, status=self.status)


def shared(session: aiohttp.ClientSession) -> Callable[[], Awaitable[aiohttp.ClientSession]]:
    async def get() -> aiohttp.ClientSession:
        return session

    return get


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
        await callbacks._queue.join()
        runner.cancel()
    assert seen == ["sync gpt-4o", "async gpt-4o"] * 2
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
