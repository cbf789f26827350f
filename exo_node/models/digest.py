"""The digest that names a model's content (ARCHITECTURE 3.13).

sha256 over what decides the model's numbers and its token ids: the normalised config (without fields that change
neither), every used tensor as (canonical name, dtype, shape, sha256 of its bytes) in name order, and tokenizer.json's
bytes. So the same weights in one file or in several, under a wrapper's prefix or not, have one digest; the chat
template is left out (only the API node renders it, and ids travel).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from exo_node.errors import CheckpointError
from exo_node.models.headers import TensorEntry, read_entries, read_header
from exo_node.models.layout import role_of
from exo_node.types import ModelSpec
from exo_node.whole_file import replace_file

_CHUNK = 1 << 20  # bytes per read: large enough for full speed, small enough to count for nothing
_RACY_NS = 1_000_000_000  # a file this young may change again within one tick of its mtime: hash it, do not remember it
_MAX_FILES = 4096  # entries kept in the cache file, oldest out first
_NO_MEANING = frozenset({
    "_name_or_path", "name_or_path", "transformers_version", "torch_dtype", "use_cache", "architectures",
    "initializer_range", "attention_dropout", "resid_pdrop", "embd_pdrop", "output_attentions", "output_hidden_states",
    "return_dict", "pretraining_tp", "bos_token_id", "eos_token_id", "pad_token_id", "task_specific_params", "id2label",
    "label2id", "problem_type", "chunk_size_feed_forward", "is_encoder_decoder",
})  # fmt: skip
Stamp = tuple[int, int, int, int]


def compute_digest(spec: ModelSpec, cache_file: Path) -> str:
    """The digest of the files at `spec.path`: 64 hexadecimal digits. Blocking: call it in a thread.

    Hashes of a file are remembered in `cache_file` (JSON) under its path with size, mtime, ctime and inode; several
    processes may share it. Raises `CheckpointError` when a file is missing, broken or changes while it is read.
    """
    folder = Path(spec.path)
    entries = read_entries(folder)
    tied = bool(spec.config["tie_word_embeddings"])
    used = {name: entry for name, entry in entries.items() if role_of(name, tied=tied)[0] != "unused"}
    cache = _HashCache(cache_file)
    tokenizer = folder / "tokenizer.json"
    files = {entry.file for entry in used.values()}
    hashes = {file: cache.get(file, _hash_tensors) for file in sorted(files)}
    tokenizer_hash = cache.get(tokenizer, _hash_whole)[""]
    cache.save()
    total = hashlib.sha256(b"exo-node model digest 1\n")
    total.update(json.dumps(_meaning(spec.config), sort_keys=True, separators=(",", ":")).encode() + b"\n")
    for name, entry in sorted(used.items()):
        line = [name, entry.info.dtype, list(entry.info.shape), hashes[entry.file][entry.stored_name]]
        total.update(json.dumps(line).encode() + b"\n")
    total.update(tokenizer_hash.encode())
    return total.hexdigest()


def _meaning(value: Any) -> Any:
    """The config without what changes no number; whole floats as integers (10000.0 and 10000 mean the same)."""
    if isinstance(value, Mapping):
        return {str(k): _meaning(v) for k, v in value.items() if k not in _NO_MEANING and v is not None}
    if isinstance(value, list | tuple):
        return [_meaning(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _hash_tensors(path: Path) -> dict[str, str]:
    header: dict[str, TensorEntry] = read_header(path)
    buffer = memoryview(bytearray(_CHUNK))
    out: dict[str, str] = {}
    with path.open("rb", buffering=0) as handle:
        for name, entry in sorted(header.items(), key=lambda item: item[1].offset):
            handle.seek(entry.offset)
            digest, left = hashlib.sha256(), entry.info.nbytes
            while left:
                got = handle.readinto(buffer[: min(left, _CHUNK)])
                if not got:
                    raise CheckpointError(f"{path} has become shorter while it was read; fetch the model again")
                digest.update(buffer[:got])
                left -= got
            out[name] = digest.hexdigest()
    return out


def _hash_whole(path: Path) -> dict[str, str]:
    with path.open("rb") as handle:
        return {"": hashlib.file_digest(handle, "sha256").hexdigest()}


def _stamp(path: Path) -> Stamp:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


class _HashCache:
    """Hashes of files that have not changed since. What others add meanwhile is kept when this one saves."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known = self._load()
        self._new: dict[str, Any] = {}

    def get(self, path: Path, compute: Any) -> dict[str, str]:
        try:
            key, before = os.path.realpath(path), _stamp(path)
            known = self._known.get(key)
            if isinstance(known, dict) and known.get("stamp") == list(before) and isinstance(known.get("hashes"), dict):
                return {str(k): str(v) for k, v in known["hashes"].items()}
            hashes: dict[str, str] = compute(path)
            if _stamp(path) != before:
                raise CheckpointError(f"{path} changed while it was read; try again when the copy is complete")
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be read ({error.strerror or error}); fetch the model again"
            ) from error
        if time.time_ns() - max(before[1], before[2]) > _RACY_NS:
            self._new[key] = {"stamp": list(before), "hashes": hashes}
        return hashes

    def save(self) -> None:
        if not self._new:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self._file.with_name(self._file.name + ".lock")):
                merged = self._load()
                for key in self._new:
                    merged.pop(key, None)
                merged |= self._new
                kept = dict(list(merged.items())[-_MAX_FILES:])
                replace_file(self._file, json.dumps(kept).encode())
        except OSError:
            return  # not written (full disk, read-only home): costs time at the next start, nothing else

    def _load(self) -> dict[str, Any]:
        try:
            value = json.loads(self._file.read_bytes())
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    import fcntl  # POSIX only, as the whole project

    with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "w") as handle:  # nobody else may hold it
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
