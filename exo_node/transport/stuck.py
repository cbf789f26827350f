"""Ends connections that take nothing any more. gRPC closes none in the middle of a write: no ping that is not answered,
no end of a call and no stop of a server does; it leaves that to TCP's own clock, which never runs out (server.py).

Linux alone tells what is looked for here. Elsewhere gRPC sets no clock either, and the system's holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
import struct
import sys
import termios
from collections.abc import Iterator

import grpc.aio

from exo_node.transport.server import KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS, NEVER_MS

log = logging.getLogger("exo.stuck")

LOOK_S = 5.0
LOOKS = round((KEEPALIVE_MS + KEEPALIVE_TIMEOUT_MS) / 1000 / LOOK_S)  # as long as a silent connection is kept
STOP_S = 0.5  # for a server to stop by itself
_FILES = "/proc/self/fd"
_ACKED_AT, _ACKED = 120, struct.Struct("@Q")  # tcpi_bytes_acked in struct tcp_info (linux/tcp.h)


class StuckConnections:
    """gRPC's connections of this process, its servers' and its clients', and how long each has taken nothing."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[int, int]] = {}  # by socket: bytes taken, and looks for which they were so many

    def look(self, looks: int = LOOKS) -> int:
        """End those where something waits to be taken, and was not at all since so many looks; how many."""
        waiting, ended = {}, 0
        for name, connection in _connections():
            with contextlib.suppress(OSError):  # it ends by itself just now
                taken = _taken(connection)
                if taken is None:
                    continue
                before, count = self._waiting.get(name, (taken, -1))
                count = count + 1 if before == taken else 0
                if count < looks:
                    waiting[name] = (taken, count)
                    continue
                where = connection.getpeername()
                connection.shutdown(socket.SHUT_RDWR)
                ended += 1
                log.info("ended a connection with %s, which took nothing", where[0])
        self._waiting = waiting
        return ended


async def end_stuck() -> None:
    """Runs for as long as the process serves."""
    connections = StuckConnections()
    while True:
        await asyncio.sleep(LOOK_S)
        connections.look()


async def stop_server(server: grpc.aio.Server, grace: float) -> None:
    """The last of all that this process has to do with peers: `server.stop`, which would wait for what is stuck, as
    the end of the process would, whose clients are closed by now."""
    connections = StuckConnections()
    stopping = asyncio.create_task(server.stop(grace))
    while not (await asyncio.wait((stopping,), timeout=grace + STOP_S))[0]:
        connections.look(0)
    connections.look(0)
    await stopping


def _connections() -> Iterator[tuple[str, socket.socket]]:
    """Known by that clock, which nobody else sets so."""
    if sys.platform != "linux":
        return
    try:
        files = os.listdir(_FILES)
    except OSError:  # every file that this process may have is open: that passes
        return
    for file in files:
        try:
            name = os.readlink(f"{_FILES}/{file}")
            if not name.startswith("socket:"):
                continue
            found = socket.socket(fileno=os.dup(int(file)))
        except OSError:  # closed meanwhile, or no file is left for it
            continue
        with found:
            try:
                is_ours = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == NEVER_MS
            except OSError:  # not TCP
                continue
            if is_ours:
                yield name, found


def _taken(connection: socket.socket) -> int | None:
    """Bytes that the other side has acknowledged; None where it has all that was sent, or the system does not tell."""
    outgoing = fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4))
    if not any(outgoing):
        return None
    told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED_AT + _ACKED.size)
    if len(told) < _ACKED_AT + _ACKED.size:  # Linux before 4.1
        return None
    (taken,) = _ACKED.unpack_from(told, _ACKED_AT)
    return int(taken) or None  # 0 is what gVisor says of every connection
