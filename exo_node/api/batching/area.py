"""The bytes of uploaded files and of batches' results: one file each in a folder of this machine's nodes.

Everything here blocks for as long as the disk takes. Nobody but this user may read the folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from exo_node.errors import ExoError
from exo_node.whole_file import sync_folder

ABANDONED_S = 86400.0  # an upload without an end, of a node that was killed
PIECE = 1024 * 1024


class FileArea:
    """The folder at `path`, made with the first file. Every method may raise `DiskError`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def path(self, ident: str) -> Path:
        """`ident` is one of ours, never a client's text."""
        return self._path / ident

    def receive(self, ident: str) -> Arriving:
        """A file that comes in pieces: enter it, and `keep` it when it is complete."""
        with _disk():
            self._path.mkdir(parents=True, exist_ok=True, mode=0o700)
            return Arriving(self.path(ident))

    def append(self, ident: str, line: bytes) -> None:
        """Add a whole line, or nothing."""
        with _disk():
            self._path.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd = os.open(self.path(ident), os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
            try:
                size = os.fstat(fd).st_size
                try:
                    _write(fd, line)
                except OSError:
                    os.ftruncate(fd, size)
                    raise
            finally:
                os.close(fd)

    def lines(self, ident: str) -> Iterator[bytes]:
        """The file's lines as they are read, without their ends; none where there is no such file."""
        try:
            with _disk(), self.path(ident).open("rb") as handle:
                for line in handle:
                    yield line.rstrip(b"\r\n")
        except FileNotFoundError:
            return

    def mend(self, ident: str) -> None:
        """Cut off the half of a line at the end, which a node that was killed may have left."""
        path = self.path(ident)
        with contextlib.suppress(FileNotFoundError), _disk(), path.open("r+b") as handle:
            end = handle.seek(0, os.SEEK_END)
            start = end
            while start > 0:
                start = max(0, start - PIECE)
                handle.seek(start)
                newline = handle.read(min(PIECE, end - start)).rfind(b"\n")
                if newline >= 0:
                    handle.truncate(start + newline + 1)
                    return
            handle.truncate(0)

    def size(self, ident: str) -> int:
        """Bytes; 0 where there is no such file."""
        try:
            with _disk():
                return self.path(ident).stat().st_size
        except FileNotFoundError:
            return 0

    def remove(self, ident: str) -> None:
        with _disk():
            self.path(ident).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Drop what uploads have left that never ended."""
        with _disk():
            for part in self._path.glob("*.part"):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - part.stat().st_mtime > ABANDONED_S:
                        part.unlink()

    def claim(self, ident: str) -> Claim | None:
        """The right to work on a batch, for one process of this machine; None while another has it."""
        with _disk():
            self._path.mkdir(parents=True, exist_ok=True, mode=0o700)
            path = self.path(f"{ident}.lock")
            fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Its last holder may have unlinked the file between our open and our lock.
                if not path.exists() or not os.path.samestat(os.fstat(fd), path.stat()):
                    raise BlockingIOError
            except BlockingIOError:
                os.close(fd)
                return None
            except BaseException:
                os.close(fd)
                raise
            return Claim(fd, path)


class Claim:
    """Held until `release`, or until this process ends, however it does."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self._path = path

    def release(self) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._fd)


class Arriving:
    """Leaving it without `keep` drops what has come."""

    def __init__(self, path: Path) -> None:
        self.size = 0
        self._path = path
        self._part = path.with_name(f"{path.name}.part")
        self._fd = os.open(self._part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        self._kept = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        os.close(self._fd)
        if not self._kept:
            self._part.unlink(missing_ok=True)

    def restart(self) -> None:
        """Forget what has come."""
        with _disk():
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
            self.size = 0

    def write(self, piece: bytes) -> None:
        with _disk():
            _write(self._fd, piece)
        self.size += len(piece)

    def keep(self) -> None:
        """It is on the disk, whole, when this returns."""
        with _disk():
            os.fsync(self._fd)
            os.replace(self._part, self._path)
        sync_folder(self._path.parent)
        self._kept = True


class DiskError(ExoError):
    """The disk is full, or the folder cannot be used."""

    status, type, code = 507, "server_error", "storage_failed"


@contextlib.contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as e:
        said = "the disk is full" if e.errno in (errno.ENOSPC, errno.EDQUOT) else str(e.strerror or e)
        raise DiskError(f"the node's folder of files cannot be used: {said}") from e


def _write(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
