"""Responses that are made while nobody waits: their tasks, and the frames that they have sent so far."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass, field

from exo_node.api.dialects.responses_encoder import ResponsesEncoder
from exo_node.api.dialects.responses_kept import Owner
from exo_node.api.errors import internal
from exo_node.api.leaving import late
from exo_node.api.mirroring.log import ResponseLog
from exo_node.errors import ExoError, RateLimited
from exo_node.routing.adapter.watch import Within
from exo_node.routing.call import Said
from exo_node.routing.frames import events_in

MAX_JOBS = 64  # at once: a bound on memory
MAX_ENDED = 4096  # of which the term is remembered
Source = AsyncGenerator[tuple[bytes, Said | None], None]  # frames of a chat's stream, and of whom all so far are


class Stopped(ExoError):
    """The node ended before the response did."""

    status, code, retryable = 503, "node_stopped", True


class Cancelled(ExoError):
    """Somebody cancelled the response."""

    status, type, code = 409, "invalid_request_error", "response_cancelled"


@dataclass(slots=True)
class Job:
    """One response in the making. `kept` is told when it has ended, however it did; `told` whenever the log has grown,
    and answers by `show`, now or later: readers get no event before."""

    encoder: ResponsesEncoder
    owner: Owner
    kept: Callable[[Job], None]
    log: ResponseLog
    told: Callable[[Job], None] = lambda job: job.show(job.log.version)
    frames: list[bytes] = field(default_factory=list)  # the event of each number
    shown: int = 0  # so many of them readers may have
    ended: bool = False
    moved: bool = False  # another node makes it now
    task: asyncio.Task[None] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    _marks: deque[tuple[int, int]] = field(default_factory=deque)  # (version of the log, frames that it stands for)

    def add(self, raw: bytes) -> None:
        self.frames += [one + b"\n\n" for one in raw.split(b"\n\n")[:-1]]  # JSON has no raw newlines

    def take(self, raw: bytes, said: Said | None) -> None:
        """More of the chat."""
        self.log.add(raw, said)
        self.add(b"".join(map(self.encoder.feed, events_in(raw))))
        self.tell()

    def tell(self) -> None:
        self._marks.append((self.log.version, len(self.frames)))
        self.told(self)

    def end(self) -> None:
        self.ended = True
        self.kept(self)
        self.tell()

    def show(self, version: int) -> None:
        """Readers may have what the log had at `version`."""
        shown = self.shown
        while self._marks and self._marks[0][0] <= version:
            shown = self._marks.popleft()[1]
        if shown != self.shown:
            self.shown = shown
            self._wake()

    def move(self) -> None:
        """Another node makes it: readers are to go there."""
        self.moved = True
        self._wake()

    def _wake(self) -> None:
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    async def follow(self, after: int) -> AsyncGenerator[tuple[int, bytes], None]:
        """The events with numbers above `after`, those to come too, each time with the last one's number."""
        at = after + 1
        while True:
            changed, shown = self.changed, self.shown
            if at < shown:
                raw = b"".join(self.frames[at:shown])
                at = shown
                yield at - 1, raw
            elif self.moved or (self.ended and shown == len(self.frames)):
                return
            else:
                await changed.wait()


class Background:
    """Owns the tasks; `close` ends them. Each may take `timeout_s`."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._jobs: dict[str, Job] = {}
        self._ended: OrderedDict[str, int] = OrderedDict()  # terms

    def check_room(self) -> None:
        """Raise `RateLimited` while there are too many."""
        if len(self._jobs) >= MAX_JOBS:
            raise RateLimited(f"{MAX_JOBS} responses are being made in the background already; try again later")

    def start(self, ident: str, job: Job, source: Source) -> None:
        """Make the response of `source`, a chat's whole stream."""
        self._jobs[ident] = job
        job.task = asyncio.create_task(self._run(ident, job, source))

    def get(self, ident: str, owner: Owner) -> Job | None:
        """The job while it runs; None for another owner's."""
        job = self._jobs.get(ident)
        return job if job is not None and job.owner.shares(owner) else None

    def made(self, ident: str) -> Job | None:
        """The same, whoever asks."""
        return self._jobs.get(ident)

    def term(self, ident: str) -> int:
        """See `ResponseLog.term`; 0 where it is not made here, and was not lately."""
        job = self._jobs.get(ident)
        return self._ended.get(ident, 0) if job is None else job.log.term

    def remember(self, ident: str, term: int) -> None:
        """It has ended: whoever still makes it is late."""
        self._ended[ident] = term
        while len(self._ended) > MAX_ENDED:
            self._ended.popitem(last=False)

    def running(self) -> list[tuple[str, Job]]:
        return list(self._jobs.items())

    async def cancel(self, ident: str, job: Job) -> None:
        """End it as cancelled, unless it has ended meanwhile."""
        if await self._stop(ident, job):
            job.add(job.encoder.error(Cancelled("the response was cancelled")))
            job.encoder.broken("cancelled")
            job.end()

    async def leave(self, ident: str) -> None:
        """End the work, not the response: another node makes it."""
        job = self._jobs.get(ident)
        if job is not None and await self._stop(ident, job):
            job.move()

    async def drain(self, seconds: float) -> None:
        """Wait so long for what runs."""
        if tasks := [job.task for job in self._jobs.values() if job.task is not None]:
            await asyncio.wait(tasks, timeout=seconds)

    async def close(self, hand_over: Callable[[], Awaitable[Collection[str]]]) -> None:
        """End what still runs: as failed, but those with which another node goes on, as `hand_over` says."""
        stopped = [(ident, job) for ident, job in self.running() if await self._stop(ident, job)]
        handed = await hand_over()
        for ident, job in stopped:
            if ident in handed:
                job.move()
            else:
                job.add(job.encoder.fail(Stopped("the node was stopped before the response was complete")))
                job.end()

    async def _stop(self, ident: str, job: Job) -> bool:
        assert job.task is not None
        job.task.cancel()
        await asyncio.gather(job.task, return_exceptions=True)
        return self._jobs.pop(ident, None) is not None and not job.ended

    async def _run(self, ident: str, job: Job, source: Source) -> None:
        try:
            with Within(self._timeout_s):
                async with aclosing(source):
                    async for raw, said in source:
                        job.take(raw, said)
            job.add(job.encoder.end())
        except TimeoutError:
            job.add(job.encoder.fail(late(self._timeout_s)))
        except ExoError as e:
            job.add(job.encoder.fail(e))
        except Exception as e:  # the border: nobody waits for this task
            job.add(job.encoder.fail(internal(e)))
        job.end()
        self._jobs.pop(ident, None)
        self.remember(ident, job.log.term)
