"""A worker: `python -m exo_node.routing.sidecar --socket PATH`, started by its daemon (process.py).

Standard input: configurations, one JSON object a line; its end ends the worker at once, however the daemon died.
Standard output: events, one JSON object a line. Standard error: the log. Nothing secret stands in the arguments, the
environment block, the log or on the disk.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h

if __name__ == "__main__" and sys.platform == "linux":  # before the imports below take their time
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

import argparse  # noqa: E402
import asyncio  # noqa: E402
import contextlib  # noqa: E402
import json  # noqa: E402
import logging  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, BinaryIO  # noqa: E402

from exo_node.routing.sidecar import engine  # noqa: E402
from exo_node.routing.sidecar.protocol import Configuration, decode  # noqa: E402


class Pipes:
    """Both pipes to the daemon. Afterwards 0 is empty and 1 is the log, whatever a library reads and prints."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._in: BinaryIO = os.fdopen(os.dup(0), "rb")
        self._out = os.dup(1)
        with open(os.devnull, "rb") as null:
            os.dup2(null.fileno(), 0)
        os.dup2(2, 1)

    def read(self) -> Configuration:
        """The next configuration; ends the process when the daemon is gone.

        Read in a thread of its own: an event loop that a library blocks would not see the pipe's end.
        """
        line = self._in.readline()
        if not line.endswith(b"\n"):
            self.leave()
        return decode(line)

    def say(self, event: str, **fields: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # the daemon is gone: `read` notices
            os.write(self._out, json.dumps({"event": event, **fields}).encode() + b"\n")

    def leave(self) -> None:
        """End at once, without the socket."""
        with contextlib.suppress(OSError):
            self._socket.unlink()
            self._socket.parent.rmdir()  # the last worker takes the folder with it
        os._exit(0)


async def serve(pipes: Pipes, socket: Path, litellm: Any, first: Configuration, started: float) -> None:
    """Serve until the process is ended by `Pipes.leave` or a signal."""
    from aiohttp import web

    from exo_node.routing.sidecar.server import Worker

    worker = Worker(litellm, first)
    await engine.warm(litellm)
    # A call whose client has gone is cancelled, and with it the provider's work.
    runner = web.AppRunner(worker.app(), handler_cancellation=True, access_log=None, keepalive_timeout=3600)
    await runner.setup()
    mask = os.umask(0o177)
    try:
        await web.UnixSite(runner, socket).start()
    finally:
        os.umask(mask)
    loop = asyncio.get_running_loop()
    before = engine.apply_environment(first.environment, {})

    def configure(configuration: Configuration) -> None:
        nonlocal before
        before = engine.apply_environment(configuration.environment, before)
        worker.configure(configuration)
        pipes.say("configured", version=configuration.version)

    def listen() -> None:
        while True:
            configuration = pipes.read()
            loop.call_soon_threadsafe(configure, configuration)

    threading.Thread(target=listen, name="pipe", daemon=True).start()
    pipes.say("ready", version=first.version, seconds=round(time.monotonic() - started, 3))
    await asyncio.Event().wait()


def main() -> None:
    """Entry of the process."""
    started = time.monotonic()
    parser = argparse.ArgumentParser(prog="exo_node.routing.sidecar")
    parser.add_argument("--socket", type=Path, required=True)
    socket: Path = parser.parse_args().socket
    for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C goes to the whole group; the daemon drains, then ends us
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    pipes = Pipes(socket)
    socket.unlink(missing_ok=True)  # of the worker before, which had no time to
    first = pipes.read()
    if os.getppid() != first.parent_pid:  # it died before prctl
        pipes.leave()
    engine.apply_environment(first.environment, {})
    try:
        litellm = engine.load()
    except Exception as e:  # whatever a broken installation raises: the daemon tells its user
        pipes.say("failed", message=f"import litellm: {type(e).__name__}: {e}")
        sys.exit(1)
    asyncio.run(serve(pipes, socket, litellm, first, started))


if __name__ == "__main__":
    main()
