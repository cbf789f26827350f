"""A host whose only interface is down for a moment: real ones are in tests/integration/test_two_hosts.py."""

from __future__ import annotations

import asyncio
import errno
import socket
import time

import pytest

from exo_node.transport.route import LOOK_S, route


def unreachable(monkeypatch: pytest.MonkeyPatch, looks: int) -> list[object]:
    """No route for so many looks. Returns what was asked for."""
    asked: list[object] = []

    class Datagrams(socket.socket):
        def connect(self, target: object) -> None:
            asked.append(target)
            if len(asked) <= looks:
                raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(socket, "socket", Datagrams)
    return asked


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1"])
async def test_where_there_is_a_way_nobody_waits(address: str) -> None:
    """Whether anything listens there is not asked."""
    async with asyncio.timeout(5):
        await route(address, 3600.0)


async def test_it_waits_for_the_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks until there is a route, and then no more."""
    asked = unreachable(monkeypatch, looks=3)
    await route("10.77.0.1:5000", 60.0)
    assert asked == [("10.77.0.1", 5000)] * 4


async def test_it_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the timeout the connection may say what is wrong."""
    asked = unreachable(monkeypatch, looks=1000)
    begun = time.monotonic()
    await route("[fe80::1%1]:5000", 4 * LOOK_S)
    assert time.monotonic() - begun >= 4 * LOOK_S
    assert asked == [("fe80::1", 5000, 0, 1)] * 4


@pytest.mark.parametrize("address", ["no-such-host.invalid:1", "nonsense", "10.0.0.1:notaport"])
async def test_what_is_no_number_is_left_to_the_connection(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """A name is not looked up here, and no error is raised."""
    asked = unreachable(monkeypatch, looks=1000)
    await route(address, 3600.0)
    assert asked == []


async def test_where_none_can_be_looked_for_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is left for the look, or the host has no such addresses: no error of it, and the connection is tried."""

    def refused(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socket", refused)
    async with asyncio.timeout(5):
        await route("127.0.0.1:1", 3600.0)
