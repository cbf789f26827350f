"""An SQLite file with a thread of its own: reads are awaited, writes are committed together and never waited for."""

from __future__ import annotations

import concurrent.futures
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exo_node.errors import StoreError

if TYPE_CHECKING:
    import sqlite3

log = logging.getLogger("exo.store")

BATCH_S = 0.1  # how long a write may wait for others to be committed with
MAX_BATCH = 1000
BUSY_S = 5.0  # how long we wait for another process that is writing

# Gets the connection, inside a transaction; returns a cursor, a number, or nothing.
Job = Callable[["sqlite3.Connection"], Any]
_Future = concurrent.futures.Future[list[Any]]
_Item = tuple[Job, _Future | None, Callable[[], None] | None]


class DatabaseThread:
    """Runs jobs on the database at `path`, in order. The thread starts and the file is made with the first job.

    `prepare(connection, name of the file)` is called once on a new connection.
    """

    def __init__(self, path: Path, prepare: Callable[[sqlite3.Connection, str], None]) -> None:
        self._path = path
        self._prepare = prepare
        self._jobs: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._complained = False

    @property
    def started(self) -> bool:
        return self._thread is not None

    def ask(self, job: Job) -> _Future:
        """The job's rows as dicts (a number in a list), after every job before it; `StoreError` where it fails."""
        future: _Future = concurrent.futures.Future()
        self._submit((job, future, None))
        return future

    def tell(self, job: Job, lost: Callable[[], None] | None = None) -> None:
        """Run the job soon; never raises. Where it fails, that is logged once until writing works again, and `lost` is
        called (in the thread)."""
        try:
            self._submit((job, None, lost))
        except StoreError as e:
            self._refuse([(job, None, lost)], e)

    def close(self) -> None:
        """Do what is left and end the thread; blocks for that long. Later jobs raise `StoreError`."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None:
            self._jobs.put(None)
            thread.join()

    def _submit(self, item: _Item) -> None:
        with self._lock:
            if self._closed:
                raise StoreError(f"{self._path}: the node is shutting down")
            if self._thread is None:
                # A daemon thread: a process that ends without close() must not be kept alive by it.
                self._thread = threading.Thread(target=self._run, name="store", daemon=True)
                self._thread.start()
            self._jobs.put(item)

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        last = False
        while not last:
            batch, last = self._next_batch()
            if not batch:
                continue
            try:
                connection = connection or self._open()
                self._commit(connection, batch)
            except Exception as e:  # the border of the thread: whoever asked hears of it
                self._refuse(batch, e)
        if connection is not None:
            connection.close()

    def _next_batch(self) -> tuple[list[_Item], bool]:
        """Jobs that come within `BATCH_S`, up to the first that somebody waits for; and whether these are the last."""
        batch: list[_Item] = []
        deadline = 0.0
        while len(batch) < MAX_BATCH:
            try:
                item = self._jobs.get(timeout=max(0.0, deadline - time.monotonic())) if batch else self._jobs.get()
            except queue.Empty:
                break
            if item is None:
                return batch, True
            deadline = deadline or time.monotonic() + BATCH_S
            batch.append(item)
            if item[1] is not None:
                break
        return batch, False

    def _open(self) -> sqlite3.Connection:
        import sqlite3

        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))  # before SQLite makes it readable for others
        except OSError as e:
            raise StoreError(f"{self._path}: {e.strerror or e}") from e
        connection = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None)
        try:
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose the last moments, never the file
            self._prepare(connection, str(self._path))
        except BaseException:
            connection.close()
            raise
        return connection

    def _commit(self, connection: sqlite3.Connection, batch: list[_Item]) -> None:
        alone = len(batch) == 1 and batch[0][1] is not None
        answers: list[tuple[_Item, list[Any] | Exception]] = []
        connection.execute("BEGIN" if alone else "BEGIN IMMEDIATE")  # a lone question need not wait for a writer
        try:
            for item in batch:
                answers.append((item, _attempt(connection, item[0])))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        failed = False
        for item, answer in answers:
            if isinstance(answer, Exception):
                failed = True
                self._refuse([item], answer)
            elif item[1] is not None and item[1].set_running_or_notify_cancel():
                item[1].set_result(answer)
        self._complained = self._complained and failed

    def _refuse(self, batch: list[_Item], error: Exception) -> None:
        told = error if isinstance(error, StoreError) else StoreError(f"{self._path}: {error}")
        for _, future, lost in batch:
            if lost is not None:
                lost()
            if future is not None:
                if future.set_running_or_notify_cancel():
                    future.set_exception(told)
            elif not self._complained:
                self._complained = True
                log.warning("%s (what should have been written down is lost)", told.message)


def _attempt(connection: sqlite3.Connection, job: Job) -> list[Any] | Exception:
    """One job of a transaction: what it did is undone when it fails for a reason of its own (a value, a constraint)."""
    import sqlite3

    connection.execute("SAVEPOINT job")
    try:
        result = job(connection)
        rows = [result] if isinstance(result, int) else _rows(result)
    except sqlite3.OperationalError:
        raise  # disk full, locked, damaged: no other job would do better
    except (sqlite3.Error, ValueError, TypeError, OverflowError) as e:
        connection.execute("ROLLBACK TO job")
        connection.execute("RELEASE job")
        return e
    connection.execute("RELEASE job")
    return rows


def _rows(result: Any) -> list[Any]:
    return [dict(row) for row in result] if getattr(result, "description", None) else []
