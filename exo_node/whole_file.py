"""Files that a reader, and a machine that lost its power, find whole: as they were before or as they are after."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path

# What a disk says that has no room or takes nothing: no fault of the one who chose the folder.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def replace_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put `data` in the file's place in one step; on the disk when this returns. Raises `OSError`, leaving nothing."""
    made = _written(path, data, mode)
    try:
        os.replace(made, path)
    except OSError:
        made.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def create_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """As `replace_file`, but raises `FileExistsError` where there is a file: of two processes one makes it."""
    made = _written(path, data, mode)
    try:
        os.link(made, path)
    finally:
        made.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    with contextlib.suppress(OSError):  # some file systems know no such thing
        fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _written(path: Path, data: bytes, mode: int) -> Path:
    made = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with open(made, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            made.unlink(missing_ok=True)
        raise
    return made
