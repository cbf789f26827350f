"""Whether this host has a way to an address now: an interface that is down for a moment has none."""

from __future__ import annotations

import asyncio
import math
import socket

LOOK_S = 0.05


async def route(address: str, timeout: float) -> None:
    """Wait until there is a route to `address` (host:port), for `timeout` seconds at most.

    Without one a connection fails at once, as if nothing ran there. Nothing is sent, and a name is not looked up: what
    cannot be told here the connection will say.
    """
    host, _, port = address.rpartition(":")
    try:
        ((family, kind, _, _, target), *_) = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
        )
    except (OSError, ValueError):
        return
    for _ in range(math.ceil(timeout / LOOK_S)):
        if _has_route(family, kind, target):
            return
        await asyncio.sleep(LOOK_S)


def _has_route(family: int, kind: int, target: tuple[str | int | bytes, ...]) -> bool:
    try:
        datagrams = socket.socket(family, kind)
    except OSError:  # no file is left for it, or this host is without IPv6: the connection will say so
        return True
    with datagrams:
        try:
            datagrams.connect(target)  # of datagrams: picks a route and the source address, and sends nothing
        except OSError:
            return False
    return True
