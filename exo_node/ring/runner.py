"""A runner: the process that holds one shard of one instance. `python -m exo_node.ring.runner`, started by its daemon.

Standard input: one line of JSON (`runner_config.py`), then the life pipe: its end ends the runner at once, and a line
on it (`{"papers": ...}`) replaces its certificate. Standard output: one JSON object a line (`progress`, `ready` or
`error`, see ring/supervisor.py). Standard error: the log.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent() -> None:
    """On Linux: SIGKILL when the parent ends. Called before the imports; `check_parent` closes the gap."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":  # the first lines that run, before the imports below take their time
    die_with_parent()

import asyncio  # noqa: E402
import json  # noqa: E402
import logging  # noqa: E402
import threading  # noqa: E402
import traceback  # noqa: E402
from collections.abc import Callable, Mapping, Sequence  # noqa: E402
from concurrent.futures import Future  # noqa: E402
from typing import Any  # noqa: E402

from exo_node.errors import ConfigurationError, ExoError  # noqa: E402
from exo_node.ring.messages import Epoch  # noqa: E402
from exo_node.ring.runner_config import RunnerConfig, parse_config, read_papers  # noqa: E402
from exo_node.types import Papers  # noqa: E402

log = logging.getLogger("exo.runner")

# Beside a busy engine thread a hop took 5.3 ms at the default of 5 ms, 0.31 ms at this (ARCHITECTURE 3.15).
SWITCH_INTERVAL_S = 1e-4
MAX_CONFIG = 2**20  # bytes


class Reporter:
    """Writes JSON lines to the real standard output, which nothing else in the process can reach."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()

    def __call__(self, event: str, **fields: Any) -> None:
        line = json.dumps({"event": event, **fields}).encode() + b"\n"
        with self._lock:
            while line:
                line = line[os.write(self._fd, line) :]

    def error(self, error: BaseException) -> None:
        if isinstance(error, ExoError):
            self("error", code=error.code, message=error.message, status=error.status)
            return
        traceback.print_exception(error)
        message = " ".join(f"{type(error).__name__}: {error}".split())
        self("error", code="internal_error", message=f"the runner failed: {message}", status=500)


def take_pipes() -> tuple[int, int]:
    """Our own copies of standard input and output; then 0 is empty and 1 is the log, whatever a library prints."""
    life, out = os.dup(0), os.dup(1)
    with open(os.devnull, "rb") as null:
        os.dup2(null.fileno(), 0)
    os.dup2(2, 1)
    return life, out


class LifePipe:
    """What the daemon says to its runner, line by line."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._rest = b""

    def line(self) -> bytes:
        """The next line; empty when the pipe has ended."""
        while b"\n" not in self._rest:
            piece = os.read(self._fd, 65536)
            if not piece:
                return b""
            self._rest += piece
            if len(self._rest) > MAX_CONFIG:
                raise ConfigurationError(f"a line for the runner is longer than {MAX_CONFIG} bytes")
        line, _, self._rest = self._rest.partition(b"\n")
        return line + b"\n"


class PapersBox:
    """The runner's latest papers. `changed` is called with others, in the thread that hears of them."""

    def __init__(self, papers: Papers) -> None:
        self.latest = papers
        self.changed: Callable[[Papers], None] = lambda papers: None

    def put(self, papers: Papers) -> None:
        self.latest = papers
        self.changed(papers)


def watch_life(pipe: LifePipe, papers: PapersBox) -> None:
    """End the process at the end of the life pipe, even while the engine or the event loop hangs."""

    def watch() -> None:
        try:
            while line := pipe.line():
                papers.put(read_papers(json.loads(line)["papers"]))
        finally:  # the end, or a line that makes no sense
            os._exit(0)

    threading.Thread(target=watch, name="life", daemon=True).start()


def check_parent(parent_pid: int | None) -> None:
    """The parent may have died before prctl: then we have another one already."""
    if parent_pid is not None and os.getppid() != parent_pid:
        os._exit(0)


class LoopOutlet:
    """The engine thread's output, handed to the event loop. `servicer` is set before the first event."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.servicer: Any = None

    def send(self, epoch: Epoch, step: bytes) -> None:
        self._loop.call_soon_threadsafe(self.servicer.send, epoch, step)

    def notify(self, epoch: Epoch, notices: Sequence[Any]) -> None:
        self._loop.call_soon_threadsafe(self.servicer.deliver, notices)


async def serve(config: RunnerConfig, report: Reporter, papers: PapersBox) -> None:
    """Load the shard, open the port, say so, and serve until the process is ended."""
    from exo_node.ring.drafting import Drafter
    from exo_node.ring.events import Worker
    from exo_node.ring.kv_account import Pool
    from exo_node.ring.progress import Turns
    from exo_node.ring.runner_engine import EngineThread
    from exo_node.ring.runner_load import LoadedShard, load_shard
    from exo_node.ring.shard import ShardLogic
    from exo_node.ring.stage import Stage
    from exo_node.ring.workers import FollowerWorker, HeadWorker

    loop = asyncio.get_running_loop()
    outlet = LoopOutlet(loop)
    turns = Turns()
    loading: Future[tuple[LoadedShard, Worker]] = Future()

    def load() -> Worker:
        loaded = load_shard(config, lambda done, total: report("progress", stage="loading", done=done, total=total))
        found = loaded.report
        pool = Pool(
            config.slots,
            config.context,
            config.max_chunk,
            rollback_depth=found.rollback_depth,
            whole_tokens=found.whole_tokens,
            kv_tokens=config.kv_tokens,
        )
        stage = Stage(loaded.engine, ShardLogic(pool), turns=turns)
        make_drafter = Drafter if loaded.draft is None else loaded.draft.drafter
        worker: Worker = (
            HeadWorker(config.instance_id, stage, outlet, make_drafter)
            if config.is_head
            else FollowerWorker(config.instance_id, stage, outlet)
        )
        loading.set_result((loaded, worker))
        return worker

    def dead(error: BaseException) -> None:
        if not loading.done():
            loading.set_exception(error)
            return
        traceback.print_exception(error)
        os._exit(1)  # nothing can be computed any more: the daemon sees the end and what was printed

    thread = EngineThread(load, dead, turns)
    thread.start()
    # While the engine loads: these take a tenth of a second.
    from exo_node.ring.liveness import end_process, watch
    from exo_node.ring.runner_service import RingServicer
    from exo_node.ring.spare import watch_memory
    from exo_node.transport.gate import Gate
    from exo_node.transport.ring_client import MAX_STEP
    from exo_node.transport.server import bind, create_server
    from exo_node.transport.step_stream import STEPS, add_ring_service
    from exo_node.transport.stuck import end_stuck
    from exo_node.transport.tls import TlsIdentity

    tls = TlsIdentity(papers.latest)
    # A stream of steps lives as long as its epoch: a member that is shut out leaves the ring, and a new epoch ends it.
    gate = Gate(tls, lasting=(STEPS,))

    def replace(latest: Papers) -> None:
        tls.replace(latest)
        gate.sweep()

    def heard(latest: Papers) -> None:
        loop.call_soon_threadsafe(replace, latest)

    papers.changed = heard
    loaded, worker = await asyncio.wrap_future(loading)
    servicer = outlet.servicer = RingServicer(config, loaded, worker, thread.post, tls)
    server = create_server([gate], max_receive=MAX_STEP)
    add_ring_service(server, servicer)
    replace(papers.latest)  # others may have come before `changed` was set
    port = bind(server, config.host, 0, tls.server_credentials(), flag="runner port")
    await server.start()
    report("ready", **ready_event(loaded.report, port, loaded.info))
    sparing = asyncio.create_task(watch_memory(config.min_free_memory, thread.post))
    ending = asyncio.create_task(end_stuck())
    try:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch(servicer, turns, end_process))
            await server.wait_for_termination()
            watching.cancel()
    finally:
        sparing.cancel()
        ending.cancel()
        thread.stop()
        await servicer.close()


def ready_event(found: Any, port: int, info: Mapping[str, str]) -> dict[str, Any]:
    """The fields of `ready`, as ring/supervisor.py reads them."""
    return {
        "port": port,
        "weight_bytes": found.weight_bytes,
        "kv_bytes": found.kv_bytes,
        "rollback_depth": found.rollback_depth,
        "whole_tokens": found.whole_tokens,
        "seconds": found.seconds,
        "info": dict(info),
    }


def main() -> int:
    """Exit status 0 at the end of the life pipe, 1 after an error that was reported."""
    life, out = take_pipes()
    report, pipe = Reporter(out), LifePipe(life)
    try:
        line = pipe.line()
        if not line:
            return 0
        config = parse_config(line)
    except ConfigurationError as error:
        report.error(error)
        return 1
    check_parent(config.parent_pid)
    papers = PapersBox(config.papers)
    watch_life(pipe, papers)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the daemon ends us in its time
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    logging.basicConfig(stream=sys.stderr, level=config.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(serve(config, report, papers))
    # The border of the process: the daemon shows the reason instead of an exit status.
    except Exception as error:
        report.error(error)
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # no teardown: framework threads and device memory go with the process
