"""The daemon's client of a runner; its calls are tested with real runners."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from exo_node.errors import PeerUnavailable
from exo_node.transport import ring_client
from exo_node.transport.generated.exo.v1 import ring_pb2
from exo_node.transport.ring_client import RingClient
from tests.papers import tls


def test_it_costs_a_daemon_no_numpy() -> None:
    """The daemon imports this module and stays small."""
    code = "import sys, exo_node.transport.ring_client; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_a_runner_that_is_not_there_is_unavailable() -> None:
    """Every call says who cannot be reached."""
    client = RingClient("127.0.0.1:1", b"secret", tls("ann.exo"), "i")
    with pytest.raises(PeerUnavailable, match=r"127\.0\.0\.1:1"):
        await client.stats()
    with pytest.raises(PeerUnavailable):
        await client.configure(ring_pb2.ConfigureRequest())
    with pytest.raises(PeerUnavailable):
        async for _ in client.generate(ring_pb2.GenerateRequest()):
            pass
    await client.close()
    await client.close()


async def test_what_is_closed_while_it_waits_for_a_route_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that came before the end fails as those do that were under way, and so does one that comes after it."""
    waits, goes_on = asyncio.Event(), asyncio.Event()

    async def no_route_yet(address: str, timeout: float) -> None:
        waits.set()
        await goes_on.wait()

    monkeypatch.setattr(ring_client, "route", no_route_yet)
    client = RingClient("127.0.0.1:1", b"secret", tls("ann.exo"), "i")
    call = asyncio.create_task(client.stats())
    await waits.wait()
    await client.close()
    goes_on.set()
    with pytest.raises(PeerUnavailable, match="was closed"):
        await call
    with pytest.raises(PeerUnavailable, match="was closed"):
        await client.stats()
