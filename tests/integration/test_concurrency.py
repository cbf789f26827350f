"""A key's requests at once, at a real node whose clients go at every point of a request."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

from exo_node.limits.api_keys import ApiKeys, KeyInfo
from exo_node.store import Store, store_path
from tests.integration.conftest import CONFIG, KEY
from tests.integration.harness import NodeProcess, wait_until
from tests.standins import Script, Standin, serve, standin


@dataclass
class Keyed:
    node: NodeProcess
    behind: Standin
    secret: str

    def ask(self, *, stream: bool) -> socket.socket:
        """A request that is on its way."""
        at = urlsplit(self.node.api)
        body = json.dumps({"model": "fast", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self.secret}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        connection = socket.create_connection((at.hostname or "", at.port or 0), timeout=10)
        connection.sendall(head.encode() + body)
        return connection

    def answer(self) -> bytes:
        """What another request gets."""
        with self.ask(stream=False) as connection:
            return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    """A node with one key, of one request at once, and a stand-in behind the name "fast"."""
    folder = tmp_path_factory.mktemp("keyed")
    store = Store(store_path(folder / "home"))
    _, secret = asyncio.run(ApiKeys(store).add(KeyInfo(id="", name="one", concurrency=1)))
    store.close()
    with serve(behind := standin("openai", key=KEY)):
        config = folder / "config.yaml"
        config.write_text(CONFIG.replace("@OPENAI@", behind.url))
        arguments = ["--discovery-module", "none", "--litellm-config", str(config)]
        node = NodeProcess(folder / "home", *arguments, env={"PLANTED_KEY": KEY})
        try:
            yield Keyed(node.wait_ready(), behind, secret)
        finally:
            node.stop()


POINTS = {
    "waiting for a plain answer": (Script(first_s=30), False, 0),
    "waiting for a stream": (Script(first_s=30), True, 0),
    "in a stream": (Script(chunks=500, gap_s=0.05), True, 300),
    "in a silent stream": (Script(stall_after=2), True, 300),
    "the provider fails": (Script(status=400, message="no"), True, 10_000),
    "the provider breaks off": (Script(eof_after=2), True, 10_000),
    "at the end of a stream": (Script(), True, 100_000),
    "at the end of an answer": (Script(), False, 100_000),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_place_is_given_back_however_a_request_ends(keyed: Keyed, point: str) -> None:
    """While it runs another is refused with the time to wait; when its client is gone, the next is served."""
    script, stream, enough = POINTS[point]
    before = len(keyed.behind.requests)
    keyed.behind.queue.append(script)
    connection = keyed.ask(stream=stream)
    wait_until(lambda: len(keyed.behind.requests) > before, 10)
    got = 0
    while got < enough and (data := connection.recv(65536)):
        got += len(data)
    if enough < 1000:
        refused = keyed.answer()
        assert refused.startswith(b"HTTP/1.1 429")
        assert b"may have 1 request at once" in refused
        assert b"Retry-After: " in refused
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # gone with a reset
    connection.close()
    wait_until(lambda: keyed.answer().startswith(b"HTTP/1.1 200"), 10)
