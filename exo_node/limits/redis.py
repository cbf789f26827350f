"""Redis shared by several nodes: limits, budgets' sums, cooldowns, cached answers; and what happens when it goes away.

One task owns the conversation. While a batch of operations is under way the next one gathers, so that two hundred
requests at once are a few round trips. Nobody waits longer than `timeout_s`; while Redis is away nobody waits at all,
and the task knocks every `RETRY_S`. A Redis that has forgotten what it held (emptied, started anew) is told it again
before it decides anything, by every node within `LOOK_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exo_node.limits.redis_script import SCRIPT

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger("exo.limits")

TIMEOUT_S = 0.25  # what a request may lose to Redis at most,
LOOKS = 10  # in so many waits: a node that is busy is late with what has come, which is not Redis's fault
RETRY_S = 1.0
LOOK_S = 5.0  # between two words with Redis: what this node knows, the others miss while Redis has forgotten it
MAX_BATCH = 500
VALUES_AT_ONCE = 16  # of stored values; the rest wait, so that they take no connection from the limits
RESTORED_AT_ONCE = 1000  # entries of one operation when Redis is told again what it missed

Operation = list[Any]


@dataclass(slots=True)
class _Waiting:
    operation: Operation
    answer: asyncio.Future[list[Any] | None] | None
    keep: bool = False  # said again where Redis did not get it


class SharedRedis:
    """Connects when first used. `missed()` gives the operations that tell a Redis that came back what it missed.

    With `tls` the server's certificate is always checked; `ca_file` (PEM) adds to who may have signed it.
    """

    def __init__(
        self,
        host: str,
        port: int = 6379,
        *,
        username: str | None = None,
        password: str | None = None,
        db: int = 0,
        tls: bool = False,
        ca_file: str | None = None,
        namespace: str = "exo:",
        timeout_s: float = TIMEOUT_S,
        look_s: float = LOOK_S,
        missed: Callable[[], list[Operation]] = list,
    ) -> None:
        self.address = f"{'rediss://' if tls else ''}{host}:{port}/{db}"
        self._where: dict[str, Any] = {
            "host": host, "port": port, "username": username, "password": password, "db": db,
        }  # fmt: skip
        if tls:
            self._where |= {
                "ssl": True, "ssl_cert_reqs": "required", "ssl_check_hostname": True, "ssl_ca_certs": ca_file,
            }  # fmt: skip
        self._namespace = namespace
        self._timeout_s, self._look_s = timeout_s, look_s
        self.missed = missed
        self._queue: list[_Waiting] = []
        self._kept: list[Operation] = []  # for when it is back
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._client: Redis | None = None
        self._turns = asyncio.Semaphore(VALUES_AT_ONCE)
        self._up: bool | None = None  # None: not tried yet
        self._since = ""  # what Redis holds, by its own name for it
        self._why = ""
        self._open: dict[str, float] = {}  # shared cooldowns: name -> time.monotonic()

    @property
    def up(self) -> bool:
        """Whether the last conversation went well (or none has been tried)."""
        return self._up is not False

    def status(self) -> dict[str, Any]:
        """For status pages; no password in it."""
        state = {None: "not used yet", True: "up", False: "away: limits hold for each node by itself"}[self._up]
        return {"address": self.address, "state": state, "error": self._why}

    def opened(self) -> Mapping[str, float]:
        """Cooldowns that some node has told: name -> `time.monotonic()` when it ends. As of the last conversation."""
        now = time.monotonic()
        return {name: until for name, until in self._open.items() if until > now}

    async def start(self) -> None:
        """Say hello at start-up, so that the first request need not. Does not raise: an absent Redis is reported."""
        await asyncio.to_thread(_import_redis)
        self._start()
        await self._talk([])

    async def call(self, operation: Operation) -> list[Any] | None:
        """The operation's answer, or None where Redis is away or too slow."""
        self._start()
        if not self.up:
            return None
        answer: asyncio.Future[list[Any] | None] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(operation, answer))
        self._wake.set()
        return answer.result() if await _comes(answer, self._timeout_s) else None

    def tell(self, operation: Operation, *, keep: bool = False) -> None:
        """Run it soon, without an answer; lost while Redis is away (`missed` makes up for it), or kept until it is back
        (one that may run twice)."""
        self._start()
        if self.up:
            self._queue.append(_Waiting(operation, None, keep))
            self._wake.set()
        elif keep:
            self._kept.append(operation)

    async def get(self, key: str) -> bytes | None:
        """A stored value; None where there is none, or Redis is away."""
        found = await self._plain(lambda client: client.get(f"{self._namespace}cache:{key}"))
        return found if isinstance(found, bytes) else None

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Store a value for `ttl_s`; nothing happens while Redis is away."""
        name, milliseconds = f"{self._namespace}cache:{key}", max(1, round(ttl_s * 1000))
        await self._plain(lambda client: client.set(name, value, px=milliseconds))

    async def close(self) -> None:
        """Say what was told, then hang up."""
        if self._task is not None:
            if self._queue and self._up:
                await self._talk(self._queue[:MAX_BATCH])
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for waiting in self._queue:
            _answer(waiting, None)
        self._queue.clear()
        if self._client is not None:
            await self._client.aclose()

    def _start(self) -> None:
        if self._task is None:  # ended by close()
            self._task = asyncio.get_running_loop().create_task(self._run(), name="redis")

    async def _run(self) -> None:
        await asyncio.to_thread(_import_redis)  # 0.2 s, in which the loop has other work
        while True:
            if self._up is False:
                await asyncio.sleep(RETRY_S)
                await self._come_back()
                continue
            if not await self._is_woken():
                await self._talk([])
            self._wake.clear()
            while self._queue and self.up:
                batch, self._queue = self._queue[:MAX_BATCH], self._queue[MAX_BATCH:]
                await self._talk(batch)

    async def _is_woken(self) -> bool:
        """Whether there was something to say before it was time for another look."""
        try:
            async with asyncio.timeout(self._look_s):
                return await self._wake.wait()
        except TimeoutError:
            return False

    async def _talk(self, batch: list[_Waiting]) -> None:
        try:
            results = await self._run_script([waiting.operation for waiting in batch])
        except Unreachable as e:
            self._queue[:0] = [waiting for waiting in batch if waiting.keep]
            self._lost(e)
            results = [None] * len(batch)
        except BaseException:  # cancelled: those who wait must not wait for nobody
            for waiting in batch:
                _answer(waiting, None)
            raise
        for waiting, result in zip(batch, results, strict=True):
            _answer(waiting, result)

    async def _come_back(self) -> None:
        """Knock; a Redis that answers is told first what it missed, before anybody asks it again."""
        try:
            kept = len(self._kept)
            operations = [*self._kept, *self.missed()]
            for start in range(0, max(1, len(operations)), MAX_BATCH):
                await self._run_script(operations[start : start + MAX_BATCH])
            late, self._kept = self._kept[kept:], []
            for operation in late:
                self.tell(operation, keep=True)
        except Unreachable as e:
            self._why = str(e)

    async def _run_script(self, operations: Sequence[Operation]) -> list[list[Any] | None]:
        """Raises `Unreachable`."""
        while "results" not in (decoded := await self._ask(operations)):
            self._since = decoded["since"]
            missed = self.missed()
            for start in range(0, len(missed), MAX_BATCH):
                await self._ask(missed[start : start + MAX_BATCH])
        now = time.monotonic()
        self._open = {name: now + left / 1e6 for name, left in dict(decoded["open"]).items()}
        if self._up is False:
            log.warning("Redis at %s is back: limits are shared again", self.address)  # as loud as its going
        self._up, self._why = True, ""
        return [list(result) for result in decoded["results"]]

    async def _ask(self, operations: Sequence[Operation]) -> dict[str, Any]:
        """The script's answer. Raises `Unreachable`."""
        from redis.exceptions import NoScriptError

        client = self._connection()
        values = (self._namespace, json.dumps(operations), self._since, uuid.uuid4().hex)
        try:
            reply = await self._within(client.evalsha(_SHA, 1, *values))
        except NoScriptError:
            reply = await self._within(client.eval(SCRIPT, 1, *values))
        decoded: dict[str, Any] = json.loads(reply)
        return decoded

    async def _plain(self, command: Callable[[Redis], Any]) -> Any:
        self._start()
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._turns.acquire()
        except TimeoutError:  # too many at once; nothing says that Redis is away
            return None
        try:
            return await self._within(command(self._connection())) if self.up else None
        except Unreachable as e:
            self._lost(e)
            return None
        finally:
            self._turns.release()

    async def _within(self, answer: Any) -> Any:
        from redis.exceptions import NoScriptError, RedisError

        task = asyncio.ensure_future(answer)
        try:
            if not await _comes(task, self._timeout_s):
                raise Unreachable(f"no answer within {self._timeout_s:g} s")
            return task.result()
        except NoScriptError:
            raise
        except (RedisError, OSError) as e:
            raise Unreachable(" ".join(str(e).split()) or type(e).__name__) from e
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    def _connection(self) -> Redis:
        if self._client is None:
            from redis.asyncio import Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff

            # Its own repeats would multiply ours.
            self._client = Redis(
                **self._where,
                socket_timeout=LOOKS * self._timeout_s,  # ours ends first
                socket_connect_timeout=LOOKS * self._timeout_s,
                retry=Retry(NoBackoff(), 0),
                max_connections=2 * VALUES_AT_ONCE,
            )
        return self._client

    def _lost(self, error: Unreachable) -> None:
        self._why = str(error)
        if self.up:
            log.warning("Redis at %s is away (%s): limits hold for each node by itself", self.address, error)
        self._up = False
        for waiting in self._queue:
            _answer(waiting, None)
        self._kept += [waiting.operation for waiting in self._queue if waiting.keep]
        self._queue.clear()
        self._wake.set()  # the task looks at the state again


def _import_redis() -> None:
    import redis.asyncio  # noqa: F401


class Unreachable(Exception):
    """Redis did not answer, or not in time."""


async def _comes(answer: asyncio.Future[Any], seconds: float) -> bool:
    """Whether it is there within `seconds`, not counting those in which this loop did something else."""
    for _ in range(LOOKS):
        await asyncio.wait({answer}, timeout=seconds / LOOKS)
        if answer.done():
            return True
    return False


def _answer(waiting: _Waiting, result: list[Any] | None) -> None:
    if waiting.answer is not None and not waiting.answer.done():
        waiting.answer.set_result(result)


def _sha() -> str:
    import hashlib

    return hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()  # what EVALSHA names scripts by


_SHA = _sha()
