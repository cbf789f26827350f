"""Connections open nothing until asked, and follow the environment's proxies."""

from __future__ import annotations

import pytest
from yarl import URL

from exo_node.routing.upstream.connections import Connections


async def test_sessions_are_made_once_and_closed() -> None:
    """One session for TCP and one for a unix socket, each made at its first use."""
    connections = Connections()
    tcp, unix = connections.session(), connections.session("/nowhere/s")
    assert connections.session() is tcp
    assert connections.session("/nowhere/s") is unix
    await connections.forget("/nowhere/s")
    assert unix.closed
    await connections.close()
    assert tcp.closed


def test_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTPS_PROXY and NO_PROXY hold."""
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "localhost,internal.example")
    connections = Connections()
    assert connections.proxy_for(URL("https://api.example.com/v1")) == "http://proxy.example:3128"
    assert connections.proxy_for(URL("https://internal.example/v1")) is None
    assert connections.proxy_for(URL("http://api.example.com/v1")) is None
