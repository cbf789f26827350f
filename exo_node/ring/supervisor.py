"""Spawns and supervises runner processes: one per shard of this node.

A runner reads its configuration from its standard input and keeps that pipe open: the only write end is ours, so a
runner ends when we do, however we die (ARCHITECTURE 3.15). It reports on standard output, one JSON object a line, and
logs on standard error, which we forward.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from exo_node.errors import PeerUnavailable, error_from_code
from exo_node.ring.progress import FACTOR, Stalled
from exo_node.transport.client import SILENCE_S

log = logging.getLogger("exo.runner")

# A runner told to end by EOF needs the time to close its server; past this it is killed.
END_GRACE_S = 2.0
STDERR_LINES_KEPT = 20  # quoted when a runner dies while loading
SECRETS = ("EXO_CLUSTER_KEY", "EXO_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # no business of a runner
# The kernel closes the connections of a killed process once it has freed its memory: 130 ms for each GB of small pages,
# 4 ms of huge ones, which glibc 2.35 and later asks for when it is told to (others do not look).
HUGE_PAGES = "glibc.malloc.hugetlb=1"
LINE_LIMIT = 4 * 2**20  # bytes; a "ready" line is a few hundred
LOOKS = 8  # at a runner that loads, within the shortest time that may count as a hang

LoadProgressCallback = Callable[[str, int, int], None]  # (stage, bytes done, bytes total)
ShardKey = tuple[str, int]  # (instance id, stage)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerReady:
    """What a runner says once its shard is loaded and its port is open; see `engine.base.LoadReport`."""

    port: int
    weight_bytes: int
    kv_bytes: int
    rollback_depth: int | None
    whole_tokens: int
    seconds: float
    info: Mapping[str, str]


@dataclass(slots=True)
class _Runner:
    key: ShardKey
    process: asyncio.subprocess.Process
    ready: RunnerReady | None
    stderr_tail: deque[str]
    tasks: list[asyncio.Task[None]]
    ended: asyncio.Event
    lines: int = 0  # that it has said while it loads


class RunnerSupervisor:
    """Owns every runner process of one daemon."""

    def __init__(self, *, on_exit: Callable[[ShardKey, int], None], silence_s: float = SILENCE_S) -> None:
        """`on_exit(key, returncode)` is called when a runner that was ready ends without having been asked to.

        `silence_s` is how long a peer may say nothing, and how long a runner that loads may be stopped. One that is not
        may say nothing for `FACTOR` times as long while it takes no processor time and reads nothing either: a slow
        disk is no hang.
        """
        self._on_exit = on_exit
        self._silence_s = silence_s
        self._stall_s = FACTOR * silence_s
        self._runners: dict[ShardKey, _Runner] = {}
        self._unloading: set[ShardKey] = set()

    def keys(self) -> list[ShardKey]:
        """Shards whose runner is ready and alive."""
        return [key for key, runner in self._runners.items() if runner.ready is not None]

    def ready(self, key: ShardKey) -> RunnerReady | None:
        runner = self._runners.get(key)
        return runner.ready if runner else None

    def pid(self, key: ShardKey) -> int:
        """The runner's process id. Raises `KeyError` when there is none."""
        return self._runners[key].process.pid

    async def load(
        self, key: ShardKey, config: Mapping[str, Any], environment: Mapping[str, str], progress: LoadProgressCallback
    ) -> RunnerReady:
        """Start a runner and wait until it serves its shard.

        `config` is what ring/runner.py documents. Raises the runner's own error, or `PeerUnavailable` with the end of
        its log when it dies, and when it hangs. Cancelling kills it.
        """
        if key in self._runners:
            raise PeerUnavailable(f"shard {key[1]} of instance {key[0]} is already on this node", code="already_loaded")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "exo_node.ring.runner",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT,
            env={**runner_environment(os.environ), **environment},
        )
        runner = _Runner(key, process, None, deque(maxlen=STDERR_LINES_KEPT), [], asyncio.Event())
        self._runners[key] = runner
        runner.tasks.append(asyncio.create_task(self._forward_log(runner)))
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps({**config, "parent_pid": os.getpid()}).encode() + b"\n")
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                await process.stdin.drain()
            runner.ready = await self._watched(runner, progress)
        except BaseException:
            await self._end(runner, grace=0.0)
            raise
        runner.tasks.append(asyncio.create_task(self._watch(runner)))
        log.info("runner %s/%d ready on port %d", key[0][:8], key[1], runner.ready.port)
        return runner.ready

    async def tell(self, key: ShardKey, fields: Mapping[str, Any]) -> None:
        """Write a line to a runner, loading or ready; nothing where there is none any more."""
        runner = self._runners.get(key)
        if runner is None or runner.process.stdin is None:
            return
        runner.process.stdin.write(json.dumps(fields).encode() + b"\n")
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            await runner.process.stdin.drain()

    def all(self) -> list[ShardKey]:
        """Shards with a runner, those that still load too."""
        return list(self._runners)

    def rename(self, old: ShardKey, new: ShardKey) -> None:
        """A runner takes another stage. Raises `KeyError` when there is none."""
        runner = self._runners.pop(old)
        runner.key = new
        self._runners[new] = runner

    async def unload(self, key: ShardKey, *, at_once: bool = False) -> bool:
        """End a runner and free its memory; False when there is none. `at_once`: it may hang."""
        runner = self._runners.get(key)
        if runner is None:
            return False
        self._unloading.add(key)
        try:
            await self._end(runner, grace=0.0 if at_once else END_GRACE_S)
        finally:
            self._unloading.discard(key)
        return True

    async def close(self) -> None:
        """End all runners."""
        await asyncio.gather(*(self.unload(key) for key in list(self._runners)))

    async def _watched(self, runner: _Runner, progress: LoadProgressCallback) -> RunnerReady:
        """`_read_until_ready`, and an end to it when the runner hangs (ARCHITECTURE 3.12)."""
        reading = asyncio.create_task(self._read_until_ready(runner, progress))
        period, stalled, stopped = self._silence_s / LOOKS, Stalled(), Stalled()
        try:
            while not (await asyncio.wait((reading,), timeout=period))[0]:
                # One period however long it was: this process may have been stopped itself.
                if stopped.look(_is_stopped(runner.process.pid) or None, period) >= self._silence_s:
                    raise _hangs(runner, f"it has been stopped for {self._silence_s:g} s")
                if stalled.look((runner.lines, *_work(runner.process.pid)), period) >= self._stall_s:
                    raise _hangs(runner, f"for {self._stall_s:g} s of loading it has said, computed and read nothing")
            return reading.result()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read_until_ready(self, runner: _Runner, progress: LoadProgressCallback) -> RunnerReady:
        assert runner.process.stdout is not None
        async for line in runner.process.stdout:
            runner.lines += 1
            event = json.loads(line)
            match event.pop("event"):
                case "progress":
                    progress(event["stage"], event["done"], event["total"])
                case "ready":
                    return RunnerReady(**event)
                case "error":
                    raise error_from_code(event["code"], event["message"], event.get("status"))
                case other:
                    raise AssertionError(f"runner said {other!r}")
        code = await runner.process.wait()
        await asyncio.wait(runner.tasks[:1], timeout=1)
        tail = " | ".join(list(runner.stderr_tail)[-3:]) or "no output"
        raise PeerUnavailable(
            f"the runner of shard {runner.key[1]} ended while loading ({describe_exit(code)}): {tail}",
            code="runner_died",
        )

    async def _watch(self, runner: _Runner) -> None:
        """Wait for the end of a ready runner and tell the owner when nobody had asked for it."""
        code = await runner.process.wait()
        runner.ended.set()
        self._runners.pop(runner.key, None)
        if runner.key not in self._unloading:
            log.error("runner %s/%d ended: %s", runner.key[0][:8], runner.key[1], describe_exit(code))
            self._on_exit(runner.key, code)

    async def _forward_log(self, runner: _Runner) -> None:
        assert runner.process.stderr is not None
        while True:
            try:
                line = await runner.process.stderr.readline()
            except ValueError:  # a line over the limit: asyncio has dropped it
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            runner.stderr_tail.append(text)
            log.info("[%s/%d] %s", runner.key[0][:8], runner.key[1], text)

    async def _end(self, runner: _Runner, *, grace: float) -> None:
        process = runner.process
        if process.stdin is not None:
            process.stdin.close()
        if process.returncode is None:
            try:
                await asyncio.wait_for(asyncio.shield(process.wait()), grace or 1e-3)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        self._runners.pop(runner.key, None)
        current = asyncio.current_task()
        await asyncio.gather(*(task for task in runner.tasks if task is not current), return_exceptions=True)


def runner_environment(ours: Mapping[str, str]) -> dict[str, str]:
    """What a runner gets of our environment: no secrets, and huge pages unless the user has said otherwise.

    >>> runner_environment({"HF_TOKEN": "secret", "GLIBC_TUNABLES": "glibc.malloc.check=1"})
    {'GLIBC_TUNABLES': 'glibc.malloc.check=1:glibc.malloc.hugetlb=1'}
    """
    given = ours.get("GLIBC_TUNABLES", "")
    tunables = given if "hugetlb" in given else f"{given}:{HUGE_PAGES}".lstrip(":")
    return {name: value for name, value in ours.items() if name not in SECRETS} | {"GLIBC_TUNABLES": tunables}


def _hangs(runner: _Runner, how: str) -> PeerUnavailable:
    return PeerUnavailable(f"the runner of shard {runner.key[1]} hangs: {how}", code="runner_hangs")


def _is_stopped(pid: int) -> bool:
    """Whether the system gives a process no processor until somebody lets it go on (SIGSTOP, a debugger)."""
    try:
        return psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    except psutil.Error:
        return False


def _work(pid: int) -> tuple[float, int]:
    """Processor seconds that a process, and those that it has waited for, have taken, and bytes read from disk (0 where
    the system does not tell). Nothing for one that has ended."""
    try:
        process = psutil.Process(pid)
        used = process.cpu_times()
        read = process.io_counters().read_bytes if hasattr(process, "io_counters") else 0
    except psutil.Error:
        return 0.0, 0
    return used.user + used.system + used.children_user + used.children_system, read


def describe_exit(code: int) -> str:
    """A process's exit status in words; negative means killed by that signal.

    >>> describe_exit(-9)
    'killed by SIGKILL (out of memory?)'
    >>> describe_exit(3)
    'exit status 3'
    """
    if code >= 0:
        return f"exit status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
