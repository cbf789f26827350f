"""`exo [serve]`: this process becomes a node."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading

from exo_node.cli.parser import Parsed, Parser
from exo_node.options import OPTIONS
from exo_node.values import is_loopback

# Set by `exo run` for the node that it starts: the read end of a pipe whose only write end the caller holds.
PARENT_PIPE = "EXO_PARENT_PIPE"


def arguments(parser: Parser, verb: str) -> None:
    parser.add_settings(option.field for option in OPTIONS)
    parser.add_argument("--disable-tui", action="store_true", default=False, help="exo's; output is plain anyway")


def run(parsed: Parsed, verb: str) -> int:
    settings = parsed.settings(check=True)
    if parsed.own.disable_tui:
        print("exo: --disable-tui: there is no TUI yet, output is plain anyway", file=sys.stderr)
    if settings.open and not settings.api_key and not is_loopback(settings.api_host):
        print(f"exo: WARNING: --open: whoever reaches {settings.api_host} can use this node", file=sys.stderr)
    pipe = os.environ.pop(PARENT_PIPE, "")
    if pipe.isdigit():
        end_with_parent(int(pipe))
    if settings.debug < 2:
        # gRPC's core writes its own lines beside our errors (a taken port, a peer that is away); read when it loads.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from exo_node import daemon

    return daemon.run(settings)


def end_with_parent(fd: int) -> None:
    """Send this process SIGTERM when the pipe's other end closes, however the process that holds it dies."""
    os.set_inheritable(fd, False)

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(fd, 1):
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    # A daemon thread, because a blocking read needs one and nothing has to be cleaned up when the process ends first.
    threading.Thread(target=wait, name="parent-watch", daemon=True).start()
