"""Brings batches from state to state until they have ended: whichever node of this machine has claimed one.

What a batch has done is in its output and error files, each answer a line that is written at once and whole: a node
that goes on after a kill asks those lines of the input that neither file has.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from exo_node.api.batching import lines
from exo_node.api.batching.area import Claim, FileArea
from exo_node.api.errors import REQUEST_ID, error_body, internal
from exo_node.errors import ExoError, NoCapacity, NotFound, PeerUnavailable, RateLimited, RingBroken, StoreError
from exo_node.store_batches import UNFINISHED, BatchRow, BatchTable, FileRow

log = logging.getLogger("exo.batches")

# Requests of all batches under way at once on this node. A ring gives clients' requests its slots first (these have a
# low priority); half of its 8 leave it some that need nobody's prompt computed twice, and own servers some peace.
LIMIT = 4
LOOK_S = 10.0  # until a batch, or a cancel, of another node's is noticed
OURS = (PeerUnavailable, RingBroken, NoCapacity)  # of the ring, whose state changes in seconds
TRIES = 4
LONGEST_PAUSE_S = 60.0

# (owner, endpoint, body) -> the answer. Raises `ExoError`.
Ask = Callable[[str, str, Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


@dataclass(slots=True)
class _Progress:
    """`done`: the custom_ids that have their line."""

    done: set[str]
    total: int
    completed: int
    failed: int

    def counts(self) -> dict[str, int]:
        return {"total": self.total, "completed": self.completed, "failed": self.failed}


class BatchWorker:
    """`run` is a task of the node's."""

    def __init__(self, table: BatchTable, area: FileArea, ask: Ask) -> None:
        self._table = table
        self._area = area
        self._ask = ask
        self._slots = asyncio.Semaphore(LIMIT)
        self._news = asyncio.Event()
        self._running: dict[str, asyncio.Event] = {}  # each set when its batch may have been cancelled

    def notice(self, ident: str) -> None:
        """The batch is new, or was cancelled."""
        self._news.set()
        if ident in self._running:
            self._running[ident].set()

    async def run(self) -> None:
        """For ever."""
        await asyncio.to_thread(self._area.sweep)
        async with asyncio.TaskGroup() as group:
            while True:
                self._news.clear()
                try:
                    await self._look(group)
                except ExoError as e:
                    log.warning("batches wait: %s", e.message)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._news.wait()

    async def _look(self, group: asyncio.TaskGroup) -> None:
        for ident in await self._table.expired_files(time.time()):
            if await self._table.using(ident) is None:
                await self._table.remove_file(ident)
                await asyncio.to_thread(self._area.remove, ident)
        for row in await self._table.unfinished():
            if row.id in self._running:
                continue
            claim = await asyncio.to_thread(self._area.claim, row.id)
            if claim is not None:
                self._running[row.id] = asyncio.Event()
                group.create_task(self._work(row.id, claim))

    async def _work(self, ident: str, claim: Claim) -> None:
        try:
            while (row := await self._table.batch(ident)) is not None and row.status in UNFINISHED:
                self._running[ident].clear()
                await self._step(row)
        except StoreError as e:
            log.warning("batch %s waits: %s", ident, e.message)  # the next look takes it up again
        except Exception as e:  # the border of one batch: no other one fails with it
            error = e if isinstance(e, ExoError) else internal(e)
            log.warning("batch %s failed: %s", ident, error.message)
            await self._fail(ident, [lines.LineError(error.code or "internal_error", error.message)])
        finally:
            del self._running[ident]
            claim.release()

    async def _step(self, row: BatchRow) -> None:
        match row.status:
            case "validating":
                await self._validate(row)
            case "in_progress":
                await self._answer(row)
            case "finalizing":
                await self._end(row, "completed")
            case "cancelling":
                await self._end(row, "cancelled")

    async def _validate(self, row: BatchRow) -> None:
        checked = await asyncio.to_thread(lambda: lines.check(self._area.lines(row.input_id), row.batch["endpoint"]))
        if checked.errors:
            await self._fail(row.id, checked.errors)
            return
        counts = _Progress(set(), checked.total, 0, 0).counts()
        changes = {"in_progress_at": int(time.time()), "request_counts": counts}
        await self._table.move(row.id, ("validating",), "in_progress", changes)

    async def _fail(self, ident: str, errors: Any) -> None:
        shown = {"object": "list", "data": [error.shown() for error in errors]}
        with contextlib.suppress(StoreError):  # said by the caller, or found again by the next look
            await self._table.move(ident, UNFINISHED, "failed", {"failed_at": int(time.time()), "errors": shown})

    async def _answer(self, row: BatchRow) -> None:
        """Until all is answered, the batch is cancelled, or its time is over."""
        progress = await asyncio.to_thread(self._resume, row)
        if await self._may_go_on(row) and await self._worked(row, progress):
            await self._table.move(row.id, ("in_progress",), "finalizing", {"finalizing_at": int(time.time())})
        elif time.time() >= row.expires:
            await asyncio.to_thread(self._write_expired, row, progress)
            self._table.count(row.id, progress.counts())
            await self._end(row, "expired")

    async def _worked(self, row: BatchRow, progress: _Progress) -> bool:
        """Whether all is answered; False where that may not go on."""
        work = asyncio.create_task(self._all(row, progress))
        try:
            while not work.done() and await self._may_go_on(row):
                await _first(work, self._running[row.id], min(LOOK_S, max(0.0, row.expires - time.time())))
        finally:
            work.cancel()
            await asyncio.wait((work,))
        if work.cancelled():
            return False
        work.result()
        return True

    async def _may_go_on(self, row: BatchRow) -> bool:
        self._running[row.id].clear()
        now = await self._table.batch(row.id)
        return now is not None and now.status == row.status and time.time() < row.expires

    def _resume(self, row: BatchRow) -> _Progress:
        if not self._area.size(row.input_id):
            raise NotFound(f"the bytes of {row.input_id} are gone", code="input_file_gone")
        for ident in (row.output_id, row.error_id):
            self._area.mend(ident)
        completed, failed = (lines.custom_ids(self._area.lines(one)) for one in (row.output_id, row.error_id))
        total = row.batch["request_counts"]["total"]
        return _Progress(completed | failed, total, len(completed), len(failed))

    def _left(self, row: BatchRow, progress: _Progress) -> Iterator[lines.Line]:
        for raw in self._area.lines(row.input_id):
            if raw.strip():
                line = lines.read_line(raw, row.batch["endpoint"])
                if line.custom_id not in progress.done:
                    yield line

    def _write_expired(self, row: BatchRow, progress: _Progress) -> None:
        message = "the completion window ended before this request was answered"
        for line in self._left(row, progress):
            self._area.append(row.error_id, lines.unanswered(_ident(), line.custom_id, "batch_expired", message))
            progress.failed += 1

    async def _all(self, row: BatchRow, progress: _Progress) -> None:
        left = self._left(row, progress)
        tasks = [asyncio.create_task(self._pull(row, left, progress)) for _ in range(LIMIT)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pull(self, row: BatchRow, left: Iterator[lines.Line], progress: _Progress) -> None:
        for line in left:
            status, raw = await self._one(row, line)
            # Nothing waits between these: a cancel finds the line written and counted, or not begun.
            self._area.append(row.output_id if status == 200 else row.error_id, raw)
            progress.done.add(line.custom_id)
            progress.completed += status == 200
            progress.failed += status != 200
            self._table.count(row.id, progress.counts())

    async def _one(self, row: BatchRow, line: lines.Line) -> tuple[int, bytes]:
        """The answer's status and its line."""
        request_id = f"req-{random.getrandbits(128):032x}"
        REQUEST_ID.set(request_id)
        tries = 0
        while True:
            tries += 1
            try:
                async with self._slots:
                    body = await self._ask(row.owner, row.batch["endpoint"], line.body)
                return 200, lines.answered(_ident(), line.custom_id, 200, request_id, body)
            except ExoError as e:
                error, pause_s = e, pause_after(e, tries)
            except Exception as e:  # the border of one of many: our bug is logged and fails this one only
                error, pause_s = internal(e), None
            if pause_s is None:
                body = error_body(error)
                return error.status, lines.answered(_ident(), line.custom_id, error.status, request_id, body)
            await asyncio.sleep(pause_s)

    async def _end(self, row: BatchRow, status: str) -> None:
        """Make files of the results, where there are any, and say that this was all."""
        now = time.time()
        keep_s = row.batch.get("output_expires_s")
        files: list[FileRow] = []
        changes: dict[str, Any] = {f"{status}_at": int(now)}
        for name, ident in (("output", row.output_id), ("error", row.error_id)):
            size = await asyncio.to_thread(self._area.size, ident)
            if size:
                changes[f"{name}_file_id"] = ident
                files.append(
                    FileRow(
                        id=ident,
                        owner=row.owner,
                        purpose="batch_output",
                        filename=f"{row.id}_{name}.jsonl",
                        bytes=size,
                        created=now,
                        expires=None if keep_s is None else now + keep_s,
                    )
                )
        await self._table.move(row.id, (row.status,), status, changes, files)


def pause_after(error: ExoError, tries: int) -> float | None:
    """Seconds until a request that has failed `tries` times is asked again; None: its error is its answer.

    A key's own limits a minute are waited for, however long that takes.
    """
    if isinstance(error, RateLimited) and error.retryable:
        return min(LONGEST_PAUSE_S, max(1.0, error.retry_after or 1.0))
    passes = isinstance(error, OURS) or (error.status == 429 and error.retryable)
    if not passes or tries >= TRIES:
        return None
    return min(LONGEST_PAUSE_S, max(2.0 ** (tries - 1), error.retry_after or 0.0))


async def _first(work: asyncio.Task[None], event: asyncio.Event, timeout_s: float) -> None:
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait((work, waiting), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


def _ident() -> str:
    return f"batch_req_{random.getrandbits(96):024x}"
