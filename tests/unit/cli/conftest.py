"""A node for the command line to talk to: the real API over a scripted backend, in a thread, with its run file."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.unit.api.scripted import ScriptedBackend, ScriptedCluster, serve_api

StartNode = Callable[..., str]


@contextmanager
def api_thread(backend: ScriptedBackend, cluster: ScriptedCluster, **settings: Any) -> Iterator[str]:
    """`serve_api` on an event loop of its own; gives the URL."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    stack = AsyncExitStack()
    try:
        enter = stack.enter_async_context(serve_api(backend, cluster, **settings))
        yield asyncio.run_coroutine_threadsafe(enter, loop).result(10)
    finally:
        asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def write_run_file(home: Path, url: str, started: float = 1.0, pid: int | None = None) -> Path:
    """What a running daemon leaves for the command line."""
    path = home / "run" / f"{started}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"pid": pid or os.getpid(), "api_url": url, "node_id": "node-a", "started": started}
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def start_node(exo_home: Path) -> Iterator[StartNode]:
    """Starts a node that `exo` finds by itself; gives its URL."""
    with ExitStack() as stack:

        def start(backend: ScriptedBackend, cluster: ScriptedCluster | None = None, **settings: Any) -> str:
            url = stack.enter_context(api_thread(backend, cluster or ScriptedCluster(), **settings))
            write_run_file(exo_home, url)
            return url

        yield start
