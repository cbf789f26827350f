"""A front over a ring that answers at once, in a folder of its own, for tests of the front and its parts."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from exo_node.config import Settings
from exo_node.errors import PeerUnavailable
from exo_node.routing.call import Attempt, Batch, Whole
from exo_node.routing.catalog.names import LocalModel
from exo_node.routing.front.front import Front
from exo_node.routing.front.surroundings import Surroundings
from exo_node.routing.upstream.peer_upstream import Peer

DEMO = LocalModel(id="demo", loaded=True, context=8192, slots=4)


class Ring:
    """Says "ring" and writes down what it was asked."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []

    async def stream(self, attempt: Attempt) -> AsyncGenerator[Batch, None]:
        self.attempts.append(attempt)
        head = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "demo"}
        for delta, finish in (({"role": "assistant", "content": "ring"}, None), ({}, "stop")):
            event: dict[str, Any] = {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
            yield Batch(b"data: " + orjson.dumps(event) + b"\n\n", [event])

    async def whole(self, attempt: Attempt) -> Whole:
        self.attempts.append(attempt)
        choice = {"index": 0, "message": {"role": "assistant", "content": "ring"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        data = {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "demo",
            "choices": [choice],
            "usage": usage,
        }
        return Whole(orjson.dumps(data), data)


def nobody(node_id: str) -> Peer:
    raise PeerUnavailable(f"no node {node_id}")


@asynccontextmanager
async def front(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str = "") -> AsyncIterator[tuple[Front, Ring]]:
    """A started front whose configuration is `folder/config.yaml`; no key in the environment."""
    for name in list(os.environ):
        if name.endswith("_API_KEY"):
            monkeypatch.delenv(name)
    config = folder / "config.yaml"
    config.write_text(text or "{}")
    monkeypatch.chdir(folder)
    ring = Ring()
    around = Surroundings(
        node_id="me", ring=ring, local_models=lambda: (DEMO,), fetchable=lambda _: None, peers=dict, peer=nobody
    )
    made = Front(Settings(home=folder, litellm_config=(config,)), around)
    await made.start()
    try:
        yield made, ring
    finally:
        await made.stop()
