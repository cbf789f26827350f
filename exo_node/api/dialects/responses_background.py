"""Responses that are made while nobody waits: their tasks, and the frames that they have sent so far."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from exo_node.api.dialects.responses_encoder import ResponsesEncoder
from exo_node.api.errors import internal
from exo_node.api.leaving import late
from exo_node.errors import ExoError, RateLimited
from exo_node.routing.adapter.watch import Within

MAX_JOBS = 64  # at once: a bound on memory


class Stopped(ExoError):
    """The node ended before the response did."""

    status, code, retryable = 503, "node_stopped", True


class Cancelled(ExoError):
    """Somebody cancelled the response."""

    status, type, code = 409, "invalid_request_error", "response_cancelled"


@dataclass(slots=True)
class Job:
    """One response in the making. `kept` is told when it has ended, however it did."""

    encoder: ResponsesEncoder
    owner: str
    kept: Callable[[Job], None]
    frames: list[bytes] = field(default_factory=list)  # the event of each number
    ended: bool = False
    task: asyncio.Task[None] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, raw: bytes) -> None:
        self.frames += [one + b"\n\n" for one in raw.split(b"\n\n")[:-1]]  # JSON has no raw newlines
        self._tell()

    def end(self) -> None:
        self.ended = True
        self.kept(self)
        self._tell()

    def _tell(self) -> None:
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    async def follow(self, after: int) -> AsyncGenerator[bytes, None]:
        """The events with numbers above `after`, those to come too."""
        at = after + 1
        while True:
            changed = self.changed
            if at < len(self.frames):
                yield b"".join(self.frames[at:])
                at = len(self.frames)
            elif self.ended:
                return
            else:
                await changed.wait()


class Background:
    """Owns the tasks; `close` ends them. Each may take `timeout_s`."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._jobs: dict[str, Job] = {}

    def check_room(self) -> None:
        """Raise `RateLimited` while there are too many."""
        if len(self._jobs) >= MAX_JOBS:
            raise RateLimited(f"{MAX_JOBS} responses are being made in the background already; try again later")

    def start(self, ident: str, job: Job, pieces: AsyncGenerator[bytes, None]) -> None:
        """Make the response of `pieces`, the frames of its whole stream."""
        self._jobs[ident] = job
        job.task = asyncio.create_task(self._run(ident, job, pieces))

    def get(self, ident: str, owner: str) -> Job | None:
        """The job while it runs; None for another owner's."""
        job = self._jobs.get(ident)
        return job if job is not None and job.owner == owner else None

    async def cancel(self, ident: str, job: Job) -> None:
        """End it as cancelled, unless it has ended meanwhile."""
        if await self._stop(ident, job):
            job.add(job.encoder.error(Cancelled("the response was cancelled")))
            job.encoder.broken("cancelled")
            job.end()

    async def close(self) -> None:
        """End what still runs, as failed."""
        for ident, job in list(self._jobs.items()):
            if await self._stop(ident, job):
                job.add(job.encoder.fail(Stopped("the node was stopped before the response was complete")))
                job.end()

    async def _stop(self, ident: str, job: Job) -> bool:
        assert job.task is not None
        job.task.cancel()
        await asyncio.gather(job.task, return_exceptions=True)
        return self._jobs.pop(ident, None) is not None and not job.ended

    async def _run(self, ident: str, job: Job, pieces: AsyncGenerator[bytes, None]) -> None:
        try:
            with Within(self._timeout_s):
                async with aclosing(pieces):
                    async for piece in pieces:
                        job.add(piece)
        except TimeoutError:
            job.add(job.encoder.fail(late(self._timeout_s)))
        except ExoError as e:
            job.add(job.encoder.fail(e))
        except Exception as e:  # the border: nobody waits for this task
            job.add(job.encoder.fail(internal(e)))
        job.end()
        self._jobs.pop(ident, None)
