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

from exo_node.errors import PeerUnavailable, error_from_code

log = logging.getLogger("exo.runner")

# A runner told to end by EOF needs the time to close its server; past this it is killed.
END_GRACE_S = 2.0
STDERR_LINES_KEPT = 20  # quoted when a runner dies while loading
SECRETS = ("EXO_CLUSTER_KEY", "EXO_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # no business of a runner
# The kernel closes the connections of a killed process once it has freed its memory: 130 ms for each GB of small pages,
# 4 ms of huge ones, which glibc 2.35 and later asks for when it is told to (others do not look).
HUGE_PAGES = "glibc.malloc.hugetlb=1"
LINE_LIMIT = 4 * 2**20  # bytes; a "ready" line is a few hundred

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


class RunnerSupervisor:
    """Owns every runner process of one daemon."""

    def __init__(self, *, on_exit: Callable[[ShardKey, int], None]) -> None:
        """`on_exit(key, returncode)` is called when a runner that was ready ends without having been asked to."""
        self._on_exit = on_exit
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
        its log when it dies. Cancelling kills it.
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
            runner.ready = await self._read_until_ready(runner, progress)
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

    async def _read_until_ready(self, runner: _Runner, progress: LoadProgressCallback) -> RunnerReady:
        assert runner.process.stdout is not None
        async for line in runner.process.stdout:
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
