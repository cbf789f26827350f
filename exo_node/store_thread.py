"""An SQLite file with a thread of its own: reads are awaited, writes are committed together and never waited for.

Where nothing can be written (a full or a read-only disk) reads go on, what is told is lost and that is said once, and
every second the next job tries whether there is room again. A file that is damaged is left as it is.
"""

from __future__ import annotations

import concurrent.futures
import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exo_node.errors import StoreError
from exo_node.store_file import Prepare, explained, open_readable, open_writable

if TYPE_CHECKING:
    import sqlite3

log = logging.getLogger("exo.store")

BATCH_S = 0.1  # how long a write may wait for others to be committed with
MAX_BATCH = 1000
RETRY_S = 1.0  # between two attempts to write where it failed
SAY_S = 600.0  # between two warnings of a disk that has room and has none by turns

# Gets the connection, inside a transaction; returns a cursor, a number, or nothing.
Job = Callable[["sqlite3.Connection"], Any]
_Future = concurrent.futures.Future[list[Any]]
_Item = tuple[Job, _Future | None, Callable[[], None] | None]


class DatabaseThread:
    """Runs jobs on the database at `path`, in order. The thread starts and the file is made with the first job.

    `prepare(connection, name of the file)` is called on every new connection that may write.
    """

    def __init__(self, path: Path, prepare: Prepare) -> None:
        self._path = path
        self._prepare = prepare
        self._jobs: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._asked = 0  # jobs in the queue that somebody waits for
        self._hurry = threading.Event()  # there are such, or these are the last
        # The thread's own, but that others may look at `problem`.
        self._connection: sqlite3.Connection | None = None
        self._writable = False
        self._inode = 0
        self._retry_at = 0.0
        self._said_at = -SAY_S
        self._said = False  # and not yet that it is over
        self.problem: StoreError | None = None  # why nothing can be written, as of the last attempt

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
            self._jobs.put(None)
            self._hurry.set()
        if thread is not None:
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
            if item[1] is not None:
                self._asked += 1
                self._hurry.set()

    def _run(self) -> None:
        last = False
        while not last:
            batch, last = self._next_batch()
            if batch:
                self._do(batch)
        self._drop()

    def _next_batch(self) -> tuple[list[_Item], bool]:
        """Jobs that come within `BATCH_S`, up to the first that somebody waits for; and whether these are the last."""
        batch: list[_Item] = []
        item = self._jobs.get()
        if item is not None and item[1] is None:
            self._hurry.wait(
                BATCH_S
            )  # not for each job: every waking of this thread stops the event loop's for a while
        while item is not None:
            batch.append(item)
            if item[1] is not None:
                self._taken()
            if item[1] is not None or len(batch) == MAX_BATCH:
                return batch, False
            try:
                item = self._jobs.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _taken(self) -> None:
        with self._lock:
            self._asked -= 1
            if not self._asked and not self._closed:
                self._hurry.clear()

    def _do(self, batch: list[_Item]) -> None:
        try:
            self._commit(self._connected(), batch)
        except Exception as e:  # the border of the thread: whoever asked hears of it
            self._failed(batch, e)

    def _connected(self) -> sqlite3.Connection:
        """A connection that may write where that is possible, else one that reads."""
        if self._connection is not None and self._path_inode() != self._inode:
            self._drop()  # the file was moved away, or another was put in its place
        if self._connection is None or (not self._writable and time.monotonic() >= self._retry_at):
            try:
                connection = open_writable(self._path, self._prepare)
            except Exception as e:
                self.problem = explained(self._path, e)
                self._retry_at = time.monotonic() + RETRY_S
                if self._connection is None:
                    self._connection = open_readable(self._path, self._prepare, self.problem)
            else:
                self._drop()
                self._connection, self._writable = connection, True
            self._inode = self._path_inode()
        return self._connection

    def _path_inode(self) -> int:
        try:
            return self._path.stat().st_ino
        except OSError:
            return 0

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection, self._writable = None, False

    def _failed(self, batch: list[_Item], e: Exception) -> None:
        """What was told is lost; who only wants to read may still be able to."""
        import sqlite3

        error = explained(self._path, e)
        asked = [item for item in batch if item[1] is not None]
        if len(batch) > len(asked) or isinstance(e, sqlite3.OperationalError):
            self.problem = error
        self._refuse([item for item in batch if item[1] is None], error)
        if isinstance(e, sqlite3.DatabaseError) and error.code not in ("storage_full", "storage_busy"):
            self._drop()  # it is made anew: with what the disk is then
            self._retry_at = time.monotonic() + RETRY_S
        if len(batch) == 1:
            self._refuse(asked, error)
        for item in asked if len(batch) > 1 else ():
            self._do([item])

    def _commit(self, connection: sqlite3.Connection, batch: list[_Item]) -> None:
        alone = len(batch) == 1 and batch[0][1] is not None
        answers: list[tuple[_Item, list[Any] | Exception]] = []
        before = connection.total_changes
        connection.execute("BEGIN" if alone else "BEGIN IMMEDIATE")  # a lone question need not wait for a writer
        try:
            for item in batch:
                answers.append((item, _attempt(connection, item[0])))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        if connection.total_changes > before:
            self._wrote()
        for item, answer in answers:
            if isinstance(answer, Exception):
                self._refuse([item], explained(self._path, answer))
            elif item[1] is not None and item[1].set_running_or_notify_cancel():
                item[1].set_result(answer)

    def _wrote(self) -> None:
        if self.problem is not None and self._said:
            log.warning("%s: can be written again", self._path)
            self._said = False
        self.problem = None

    def _refuse(self, batch: list[_Item], error: StoreError) -> None:
        for _, future, lost in batch:
            if lost is not None:
                lost()
            if future is not None:
                if future.set_running_or_notify_cancel():
                    future.set_exception(error)
                continue
            if time.monotonic() - self._said_at >= SAY_S:
                self._said_at, self._said = time.monotonic(), True
                log.warning("%s; what should have been written down (spend, budgets, answers) is lost", error.message)


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
