"""One worker as the daemon sees it: started, watched, started again. The daemon's side; imports no litellm."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import aiohttp
import psutil

from exo_node.routing.masking import Masker
from exo_node.routing.sidecar.protocol import Configuration, encode, process_environment
from exo_node.signals import ChangeSignal

log = logging.getLogger("exo.litellm")

State = Literal["starting", "serving", "silent", "down", "stopped"]

START_S = 120.0  # importing takes 3 s of CPU; a loaded or cold machine takes many times that
PING_EVERY_S = 1.0
PING_TIMEOUT_S = 1.0
MISSES = 2  # missed pings until new calls go elsewhere; one may be a garbage collection
SILENT_KILL_S = 30.0  # its event loop will not come back: some library waits for a network
HUNG_KILL_S = 4.0  # with calls, which could go on elsewhere, and without any work: an import may take as long
CPU_NOISE_S = 0.02  # seconds of processor time that are no work: a clock tick or two
BACKOFF_S = (0.1, 0.5, 2.0, 10.0, 30.0)  # before starts after deaths in a row
STEADY_S = 60.0  # served this long: the next death is the first one again
LOG_LINES_KEPT = 20
LINE_LIMIT = 2**20  # bytes


class WorkerProcess:
    """Keeps one worker alive from `run` until it is cancelled. `changed` hears of every change of `state`."""

    def __init__(self, number: int, socket: Path, environment: Mapping[str, str], changed: ChangeSignal) -> None:
        self.number = number
        self.socket = socket
        self.state: State = "stopped"
        self.error = ""  # why the last start failed
        self.pid: int | None = None
        self.rss = 0  # bytes, at the last ping
        self.starts = 0
        self.start_s = 0.0  # the last start's time, from the process's own clock
        self.in_flight = 0
        self._killed = False  # by a signal, the last time it ended
        self._environment = process_environment(environment)
        self._changed = changed
        self._configuration = Configuration(0, os.getpid())
        self._mask = Masker()
        self._process: asyncio.subprocess.Process | None = None
        self._version = -1  # that the worker confirmed
        self._tail: deque[str] = deque(maxlen=LOG_LINES_KEPT)

    def configure(self, configuration: Configuration, mask: Masker) -> None:
        """What the worker is told now, and at every start."""
        self._configuration = configuration
        self._mask = mask
        process = self._process
        if process is not None and process.stdin is not None and self.state in ("serving", "silent"):
            process.stdin.write(encode(configuration))

    @property
    def reachable(self) -> bool:
        """Whether a new connection finds it: somebody may have taken its socket away."""
        return self.socket.exists()

    @property
    def hopeless(self) -> bool:
        """Down, and has never served. A signal during the first start (memory was short, say) may not come again."""
        bad_luck = self._killed and self.starts == 1
        return self.state == "down" and not self.start_s and not bad_luck

    async def confirmed(self, version: int) -> None:
        """Wait until the worker has taken `version`; at once when it is not serving (its next start takes it)."""
        while self.state == "serving" and self._version < version:
            await self._changed.wait(self._changed.version)

    async def run(self) -> None:
        """Start the worker, and start it again whenever it ends. Cancelling ends it."""
        deaths = 0
        try:
            while True:
                served = await self._live()
                deaths = 1 if served > STEADY_S else deaths + 1
                pause = BACKOFF_S[min(deaths, len(BACKOFF_S)) - 1]
                log.warning("sidecar %d ended (%s); starting it again in %g s", self.number, self.error, pause)
                await asyncio.sleep(pause)
        finally:
            self._enter("stopped")

    async def _live(self) -> float:
        """One life of the process; returns for how many seconds it served."""
        self._tail.clear()
        self._version = -1
        self.starts += 1
        self._enter("starting")
        with contextlib.suppress(FileExistsError):
            self.socket.parent.mkdir(mode=0o700)  # cleaners of temporary files take it away
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "exo_node.routing.sidecar", "--socket", str(self.socket),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT, env=self._environment,
        )  # fmt: skip
        self._process, self.pid = process, process.pid
        began = 0.0
        try:
            async with asyncio.TaskGroup() as tasks:
                forward = tasks.create_task(self._forward_log(process))
                watch = tasks.create_task(self._watch(process))
                code = await process.wait()
                began = await watch
                # A child of the worker may hold the log's pipe open.
                await asyncio.wait((forward,), timeout=1)
                forward.cancel()
        finally:
            self._process, self.pid = None, None
            await _end(process)
        self._killed = code < 0
        if began:
            self.error = _describe(code)
        elif not self.error:
            self.error = f"{_describe(code)} while starting: {' | '.join(list(self._tail)[-3:]) or 'no output'}"
        self._enter("down")
        return time.monotonic() - began if began else 0.0

    async def _watch(self, process: asyncio.subprocess.Process) -> float:
        """Tell the worker its configuration, wait until it serves, ping it until it ends; returns when it began."""
        assert process.stdin is not None and process.stdout is not None
        self.error = ""
        process.stdin.write(encode(self._configuration))
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            await process.stdin.drain()
        told = self._configuration
        try:
            async with asyncio.timeout(START_S):
                if not await self._until_ready(process.stdout):
                    return 0.0
        except TimeoutError:
            self.error = f"not ready within {START_S:g} s"
            process.kill()
            return 0.0
        if told is not self._configuration:  # updated while it started
            process.stdin.write(encode(self._configuration))
        self._enter("serving")
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            pings = tasks.create_task(self._ping(process))
            await self._listen(process.stdout)  # until its end
            pings.cancel()
        return began

    async def _until_ready(self, events: asyncio.StreamReader) -> bool:
        async for line in events:
            event = json.loads(line)
            if event["event"] == "failed":
                self.error = self._mask(event["message"])
            elif event["event"] == "ready":
                self._version, self.start_s = event["version"], event["seconds"]
                return True
        return False

    async def _listen(self, events: asyncio.StreamReader) -> None:
        async for line in events:
            event = json.loads(line)
            if event["event"] == "configured":
                self._version = event["version"]
                self._changed.notify()

    async def _ping(self, process: asyncio.subprocess.Process) -> None:
        misses = 0
        answered = alive = time.monotonic()
        worked_s = _cpu_s(process.pid)
        timeout = aiohttp.ClientTimeout(total=PING_TIMEOUT_S)
        connector = aiohttp.UnixConnector(str(self.socket))
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            while True:
                gone = not self.reachable
                if gone and self.state == "serving":
                    log.warning("the socket of sidecar %d is gone; new calls go elsewhere", self.number)
                    self._enter("silent")
                if gone and not self.in_flight:  # those that it has go on to their end
                    process.kill()
                    return
                try:
                    async with session.get("http://litellm/ping") as response:
                        self.rss = (await response.json())["rss"]
                except (aiohttp.ClientError, TimeoutError):
                    misses += 1
                    if misses == MISSES:
                        log.warning("sidecar %d does not answer; new calls go elsewhere", self.number)
                        self._enter("silent")
                    now, used_s = time.monotonic(), _cpu_s(process.pid)
                    if used_s - worked_s > CPU_NOISE_S:
                        worked_s, alive = used_s, now
                    if given_up(self.in_flight, now - answered, now - alive):
                        log.error("sidecar %d has been silent for %.0f s: killed", self.number, now - answered)
                        with contextlib.suppress(ProcessLookupError):
                            process.kill()
                        return
                else:
                    misses, answered = 0, time.monotonic()
                    alive, worked_s = answered, _cpu_s(process.pid)
                    if self.state == "silent" and not gone:
                        self._enter("serving")
                await asyncio.sleep(PING_EVERY_S)

    async def _forward_log(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        while True:
            try:
                line = await process.stderr.readline()
            except ValueError:  # a line over the limit: asyncio has dropped it
                continue
            if not line:
                return
            text = self._mask(line.decode(errors="replace").rstrip())
            self._tail.append(text)
            log.info("[sidecar %d] %s", self.number, text)

    def _enter(self, state: State) -> None:
        self.state = state
        self._changed.notify()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Close the pipe (which ends a worker that lives) and reap it."""
    if process.stdin is not None:
        process.stdin.close()
    if process.returncode is None:
        try:
            await asyncio.wait_for(process.wait(), 1.0)
        except (TimeoutError, asyncio.CancelledError):
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def given_up(in_flight: int, silent_s: float, idle_s: float) -> bool:
    """Whether to kill a worker with so many calls that has not answered for `silent_s` nor worked for `idle_s`."""
    return silent_s > SILENT_KILL_S or (in_flight > 0 and idle_s > HUNG_KILL_S)


def _cpu_s(pid: int) -> float:
    """The process's processor time so far, in seconds; of one that has ended, 0."""
    try:
        used = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(used.user + used.system)


def _describe(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit status {code}"
