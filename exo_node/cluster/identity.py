"""Who this machine is: the cluster key on disk and the ids of the daemons that run here.

Everything lies in folders with mode 0700 under EXO_HOME. Two daemons that start at once agree: changes are made under
a lock and put in place with one rename.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from exo_node.cluster.keys import ClusterKey
from exo_node.errors import ConfigurationError
from exo_node.whole_file import NO_ROOM, replace_file

__all__ = ["ClusterKey", "KeyStore", "NoRoom", "NodeSlot", "check_node_id"]

MAX_SLOTS = 64  # daemons on one machine; more is a runaway script, not a cluster
NODE_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,40}[A-Za-z0-9])?")  # a DNS label, with room for a suffix


class NoRoom(ConfigurationError):
    """The disk under EXO_HOME is full or read-only."""


def check_node_id(node_id: str) -> str:
    """`node_id` if it can be a name on the network, else `ConfigurationError`."""
    if not NODE_ID.fullmatch(node_id):
        raise ConfigurationError(
            f"--node-id {node_id!r}: use 1 to 42 letters, digits and inner dashes (it becomes part of a network name)"
        )
    return node_id


class KeyStore:
    """The cluster key of this machine, in `home/cluster/key` as its join code."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "cluster"
        self.path = self._folder / "key"

    def load(self) -> ClusterKey | None:
        """The stored key, or None on a fresh machine. Raises `ConfigurationError` for a file that cannot be trusted."""
        try:
            with self.path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                text = file.read(4096)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigurationError(f"cannot read the cluster key {self.path}: {error.strerror}") from error
        if mode & 0o077:
            raise ConfigurationError(
                f"the cluster key {self.path} can be read by other users: run `chmod 600 {self.path}`"
            )
        try:
            return ClusterKey.from_join_code(text.decode("ascii"))
        except (ConfigurationError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"the cluster key {self.path} is damaged ({error}); restore it with `exo join CODE`, "
                "or delete the file to start a new cluster"
            ) from error

    def load_or_create(self) -> ClusterKey:
        """The machine's key; the first daemon makes it, one that starts at the same moment gets the same.

        Raises `NoRoom` where there is none yet and the disk takes none.
        """
        try:
            with _locked(self._folder):
                key = self.load()
                if key is None:
                    key = ClusterKey.generate()
                    _write(self.path, key.join_code + "\n")
                return key
        except OSError as error:
            key = self.load()
            if key is None:
                raise _no_room(self.path, error) from error
            return key

    def replace(self, key: ClusterKey) -> None:
        """Make `key` the machine's key (`exo join`, `--cluster-key`). Raises `NoRoom`."""
        try:
            with _locked(self._folder):
                _write(self.path, key.join_code + "\n")
        except OSError as error:
            raise _no_room(self.path, error) from error

    save = replace


class NodeSlot:
    """A running daemon's persistent id. The n-th daemon on a machine gets the n-th id of that machine, every time.

    The slot is held by a file lock that the kernel drops when the process ends, however it ends. With `node_id` that id
    is used and locked instead.
    """

    def __init__(self, home: Path, node_id: str | None = None) -> None:
        self._folder = home / "nodes"
        self._wanted = None if node_id is None else check_node_id(node_id)
        self._fd = -1
        self._node_id = ""

    @property
    def node_id(self) -> str:
        if not self._node_id:
            raise RuntimeError("the slot is not acquired")
        return self._node_id

    def acquire(self) -> str:
        """Take the first free slot and return its id. Raises `ConfigurationError` when there is none.

        Where the disk takes no new one, the id is another one at every start.
        """
        try:
            return self._take()
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise ConfigurationError(f"cannot use {self._folder}: {error.strerror}; check EXO_HOME") from error
            self._node_id = self._wanted or secrets.token_hex(8)
            return self._node_id

    def _take(self) -> str:
        _make_folder(self._folder)
        if self._wanted is not None:
            name = hashlib.sha256(self._wanted.encode()).hexdigest()[:16]
            if not self._try(self._folder / f"id-{name}", self._wanted):
                raise ConfigurationError(f"--node-id {self._wanted}: a daemon with this id already runs here")
            return self._node_id
        for slot in range(MAX_SLOTS):
            if self._try(self._folder / f"slot-{slot}", None):
                return self._node_id
        raise ConfigurationError(f"{MAX_SLOTS} daemons already run with {self._folder}; set another EXO_HOME")

    def _try(self, path: Path, wanted: str | None) -> bool:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in NO_ROOM or not path.exists():
                raise
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # enough for the lock, and the id that it has
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        stored = os.read(fd, 256).decode("ascii", "replace").strip()
        node_id = wanted or (stored if NODE_ID.fullmatch(stored) else secrets.token_hex(8))
        if node_id != stored:
            with contextlib.suppress(OSError):  # no room: another id next time
                os.ftruncate(fd, 0)
                os.pwrite(fd, f"{node_id}\n".encode(), 0)
        self._fd, self._node_id = fd, node_id
        return True

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._node_id = ""

    def __enter__(self) -> NodeSlot:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()


def _make_folder(folder: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_mode & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        raise ConfigurationError(f"cannot use {folder}: {error.strerror}; check EXO_HOME") from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    _make_folder(folder)
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _write(path: Path, text: str) -> None:
    replace_file(path, text.encode())


def _no_room(path: Path, error: OSError) -> ConfigurationError:
    kind = NoRoom if error.errno in NO_ROOM else ConfigurationError
    return kind(f"cannot write {path}: {error.strerror}; check EXO_HOME")
