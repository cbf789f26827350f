"""Opening a node's database file, making a new one, and saying what is wrong with one. Blocking.

A new file is made whole under another name and then linked into its place, so a file that is empty or cut short was
damaged, and is never taken for a new one: the API keys would be gone and the node open.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from exo_node.errors import StoreError
from exo_node.whole_file import sync_folder

if TYPE_CHECKING:
    import sqlite3

BUSY_S = 5.0  # how long we wait for another process that is writing
_NUMBER_AT = 68  # of a database's application_id (sqlite.org/fileformat2.html), random in files that are made here
FULL_BYTES = 128 * 1024  # with less, the files beside a database cannot be made

# Brings the tables up to date; gets the name of the file too. Raises `StoreError` for a version that it does not know.
Prepare = Callable[["sqlite3.Connection", str], None]


def open_writable(path: Path, prepare: Prepare) -> sqlite3.Connection:
    """A connection that may write; the file is made where there is none. Raises `StoreError`, `OSError`, sqlite3's."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _make(path, prepare)
    if not os.access(path, os.W_OK):  # SQLite would quietly open it for reading; a look of our own at it costs locks
        number = errno.EROFS if _is_read_only(path) else errno.EACCES
        raise OSError(number, os.strerror(number), str(path))
    _refuse_empty(path)
    connection = _connect(str(path))
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose the last moments, never the file
        prepare(connection, str(path))
    except BaseException:
        connection.close()
        raise
    return connection


def open_readable(path: Path, prepare: Prepare, why: StoreError) -> sqlite3.Connection:
    """A connection to a file that cannot be written, for the reason `why`. Raises `why` where it cannot be read either.

    On a disk that is full or read-only SQLite makes no files beside a database; without a log of writes beside it,
    which would have to be read too, the file alone is all there is.
    """
    if why.code not in ("storage_full", "storage_read_only", "storage_failed"):
        raise why
    import sqlite3

    log_path = path.with_name(f"{path.name}-wal")
    for how in ("mode=ro", "mode=ro&immutable=1"):
        try:
            _refuse_empty(path)
            if "immutable" in how and log_path.exists() and log_path.stat().st_size:
                break
            connection = _connect(f"{path.absolute().as_uri()}?{how}")
        except (sqlite3.Error, OSError):
            continue
        try:
            prepare(connection, str(path))  # writes nothing where the tables are as they should be
        except sqlite3.Error:
            connection.close()
            continue
        except BaseException:
            connection.close()
            raise
        return connection
    raise why


class FileMark:
    """Tells the file at a path from another one in its place.

    It is held open: nobody gets its inode meanwhile. And it is not closed while it is at its path: the first descriptor
    of a file that a process closes takes with it every lock that the process has there, SQLite's too, and then another
    process would delete the log under us (sqlite.org/howtocorrupt.html, 2.2).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._at = (0, 0)

    def number(self) -> int:
        """0 where there is no file. A copy over it counts as another one, though it keeps the inode."""
        try:
            found = self._path.stat()
            if self._fd < 0 or (found.st_dev, found.st_ino) != self._at:
                fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
                self.close()
                found = os.fstat(fd)
                self._fd, self._at = fd, (found.st_dev, found.st_ino)
        except FileNotFoundError:
            return 0
        except OSError:  # it may not be read: as much as is known
            return found.st_ino << 32
        return found.st_ino << 32 | int.from_bytes(os.pread(self._fd, 4, _NUMBER_AT), "big")

    def close(self) -> None:
        """When nothing of this process uses the file at the path any more, or when it is another one by now."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def explained(path: Path, error: Exception) -> StoreError:
    """What a failure means for the user: the disk's fault is a 507, a lock that stays a 503, else a 500."""
    if isinstance(error, StoreError):
        return error
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    number = error.errno if isinstance(error, OSError) else None
    if code == 5 or code == 6:  # SQLITE_BUSY, SQLITE_LOCKED
        return StoreError(f"{path}: another process is writing and does not end", code="storage_busy", status=503)
    if code in (11, 26):  # SQLITE_CORRUPT, SQLITE_NOTADB
        return damaged(path, str(error))
    if code in (8, 10, 13, 14) or number is not None:  # SQLITE_READONLY, _IOERR, _FULL, _CANTOPEN
        if code == 13 or number in (errno.ENOSPC, errno.EDQUOT) or _is_full(path):
            return StoreError(f"{path}: cannot be written: the disk is full", code="storage_full", status=507)
        if number == errno.EROFS or _is_read_only(path):
            text = f"{path}: cannot be written: the disk is read-only"
            return StoreError(text, code="storage_read_only", status=507)
        said = os.strerror(number) if number else str(error)
        return StoreError(f"{path}: cannot be written: {said}", code="storage_failed", status=507)
    return StoreError(f"{path}: {error}")


def damaged(path: Path, how: str) -> StoreError:
    """For a file that is no database any more. It is left as it is: without its API keys the node would be open."""
    return StoreError(
        f"{path}: damaged ({how}), so its API keys and spend cannot be read: bring back a copy, or move it away and "
        "make the keys anew (exo apikey add)",
        code="storage_damaged",
    )


def _connect(name: str) -> sqlite3.Connection:
    import sqlite3

    connection = sqlite3.connect(name, timeout=BUSY_S, isolation_level=None, uri=name.startswith("file:"))
    connection.row_factory = sqlite3.Row
    return connection


def _make(path: Path, prepare: Prepare) -> None:
    """A new file at `path`, all at once; another process's counts where it was faster."""
    made = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        os.close(os.open(made, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))  # before SQLite makes it readable for others
        connection = _connect(str(made))
        try:
            prepare(connection, str(path))
            connection.execute(f"PRAGMA application_id = {1 + secrets.randbelow(2**31 - 1)}")  # see FileMark
            connection.execute("PRAGMA journal_mode = WAL")
        finally:
            connection.close()
        fd = os.open(made, os.O_RDWR)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        try:
            os.link(made, path)
        except FileExistsError:
            return
        except OSError:  # a file system without links
            if not path.exists():
                made.rename(path)
        sync_folder(path.parent)
    finally:
        for name in (made, f"{made}-wal", f"{made}-shm", f"{made}-journal"):
            with contextlib.suppress(OSError):
                os.unlink(name)


def _refuse_empty(path: Path) -> None:
    if path.stat().st_size == 0:
        raise damaged(path, "it is empty")


def _is_full(path: Path) -> bool:
    try:
        state = os.statvfs(path.parent)
    except OSError:
        return False
    return state.f_bavail * state.f_frsize < FULL_BYTES


def _is_read_only(path: Path) -> bool:
    try:
        return bool(os.statvfs(path.parent).f_flag & os.ST_RDONLY)
    except OSError:
        return False
