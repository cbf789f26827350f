"""Reading single tensors of a checkpoint: by header, through a mapping of the file; nothing anonymous is allocated."""

from __future__ import annotations

import mmap
from collections.abc import Collection
from pathlib import Path

from exo_node.errors import CheckpointError
from exo_node.models.headers import TensorEntry, read_entries
from exo_node.models.layout import role_of
from exo_node.types import ModelSpec, Shard, TensorInfo


class Checkpoint:
    """All tensors of a model folder by canonical name (a `TensorSource`). Files are mapped at the first read of each.

    The views that `read` gives keep their mapping alive; no file stays open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries = read_entries(path)
        self._maps: dict[Path, mmap.mmap] = {}

    def names(self) -> Collection[str]:
        return self._entries.keys()

    def entry(self, name: str) -> TensorEntry:
        """Where the tensor lies. Raises `CheckpointError` for a name that is in none of the files."""
        try:
            return self._entries[name]
        except KeyError:
            raise CheckpointError(f"{self.path} has no tensor {name!r}; fetch the model again") from None

    def info(self, name: str) -> TensorInfo:
        return self.entry(name).info

    def read(self, name: str) -> memoryview:
        """The tensor's bytes, little-endian, C order: a read-only view of the mapped file."""
        entry = self.entry(name)
        mapped = self._map(entry)
        return memoryview(mapped)[entry.offset : entry.offset + entry.info.nbytes]

    def release(self, name: str) -> None:
        """Drop the tensor's pages from this process; a later read fetches them again."""
        entry = self.entry(name)
        mapped = self._maps.get(entry.file)
        if mapped is None or entry.info.nbytes == 0 or not hasattr(mmap, "MADV_DONTNEED"):
            return
        start = (
            entry.offset - entry.offset % mmap.PAGESIZE
        )  # madvise wants whole pages; a neighbour's page is only refetched
        mapped.madvise(mmap.MADV_DONTNEED, start, entry.offset + entry.info.nbytes - start)

    def _map(self, entry: TensorEntry) -> mmap.mmap:
        mapped = self._maps.get(entry.file)
        if mapped is None:
            try:
                with entry.file.open("rb") as handle:
                    mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise CheckpointError(f"{entry.file} cannot be mapped ({error})") from error
            self._maps[entry.file] = mapped
        if entry.offset + entry.info.nbytes > len(mapped):
            raise CheckpointError(f"{entry.file} has become shorter since it was opened; load the model again")
        return mapped


class ShardSource:
    """Exactly the tensors of one shard: its layers, and for the head also embedding, final norm and LM head.

    The LM head of a tied model is in no shard (the engine uses the embedding). Any other name is a `CheckpointError`.
    """

    def __init__(self, checkpoint: Checkpoint, spec: ModelSpec, shard: Shard, is_head: bool) -> None:
        self._checkpoint = checkpoint
        tied = bool(spec.config["tie_word_embeddings"])
        self._names = tuple(name for name in checkpoint.names() if _belongs(name, tied, shard, is_head))
        self._set = frozenset(self._names)

    def names(self) -> Collection[str]:
        return self._names

    def info(self, name: str) -> TensorInfo:
        return self._checkpoint.info(self._own(name))

    def read(self, name: str) -> memoryview:
        return self._checkpoint.read(self._own(name))

    def release(self, name: str) -> None:
        self._checkpoint.release(self._own(name))

    def _own(self, name: str) -> str:
        if name not in self._set:
            raise CheckpointError(f"tensor {name!r} is not part of this shard of {self._checkpoint.path}")
        return name


def _belongs(name: str, tied: bool, shard: Shard, is_head: bool) -> bool:
    role, layer = role_of(name, tied=tied)
    if role == "layer":
        return shard.start_layer <= layer < shard.end_layer
    return is_head and role != "unused"
