"""Safetensors files by their headers: which tensor lies where. Reads headers only, never weights.

Format: 8 bytes little-endian header length, a JSON header, then the data that the header's offsets point into
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exo_node.errors import CheckpointError
from exo_node.types import TensorInfo

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_HEADER_LIMIT = 100_000_000  # bytes; the safetensors library's own limit
_INDEX_LIMIT = 100_000_000  # bytes; the largest known (DeepSeek V3, 91,991 tensors) is under 10 MB
_BITS: Mapping[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
_AGAIN = "fetch the model again"


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies: bytes `[offset, offset + info.nbytes)` of `file`, under `stored_name` in its header."""

    file: Path
    stored_name: str
    offset: int
    info: TensorInfo


def canonical_name(name: str) -> str:
    """The name under which engines know a tensor: wrappers' prefixes become `model.` (or nothing for the LM head)."""
    for prefix in ("language_model.model.", "model.language_model."):
        if name.startswith(prefix):
            return "model." + name[len(prefix) :]
    if name.startswith("language_model.lm_head."):
        return name.removeprefix("language_model.")
    if name.startswith(("layers.", "embed_tokens.", "norm.")):  # saved from the base class, without its LM head
        return "model." + name
    return name


def read_json(path: Path, limit: int = _INDEX_LIMIT) -> dict[str, Any]:
    """The JSON object in `path`. Raises `CheckpointError` naming the file when it is missing, huge or broken."""
    try:
        if path.stat().st_size > limit:
            raise CheckpointError(f"{path}: larger than {limit} bytes, not a plausible model file; {_AGAIN}")
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; {_AGAIN}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({_one_line(error)}); {_AGAIN}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object; {_AGAIN}")
    return value


def optional_json(path: Path) -> dict[str, Any]:
    """As `read_json`; empty where there is no such file."""
    return read_json(path) if path.is_file() else {}


def read_entries(folder: Path) -> dict[str, TensorEntry]:
    """Every tensor of the model in `folder` by canonical name, from the index and the headers.

    Raises `CheckpointError` for a missing or truncated file, a tensor that the index places in a file that lacks it,
    a corrupt header, or two tensors of one name.
    """
    index_path = folder / INDEX
    if (folder / SINGLE).is_file() or not index_path.is_file():
        if not (folder / SINGLE).is_file():
            raise CheckpointError(
                f"{folder} has neither {SINGLE} nor {INDEX}; only safetensors weights are read{_pickled(folder)}"
            )
        return _by_canonical_name(read_header(folder / SINGLE))
    weight_map = read_json(index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index_path}: field 'weight_map' is missing; {_AGAIN}")
    headers: dict[str, dict[str, TensorEntry]] = {}
    for file in sorted({str(file) for file in weight_map.values()}):
        if Path(file).name != file or file in ("", ".", ".."):
            raise CheckpointError(f"{index_path}: {file!r} is not a plain file name; {_AGAIN}")
        if not _is_there(folder / file):
            raise CheckpointError(f"{folder / file} is missing (named in {INDEX}); {_AGAIN}")
        headers[file] = read_header(folder / file)
    chosen: dict[str, TensorEntry] = {}
    for name, file in weight_map.items():
        if name not in headers[file]:
            raise CheckpointError(f"{folder / file} lacks tensor {name!r} that {INDEX} places there; {_AGAIN}")
        chosen[name] = headers[file][name]
    unlisted = sorted({name for header in headers.values() for name in header} - chosen.keys())
    if unlisted:
        raise CheckpointError(f"{index_path} has no entry for tensor {unlisted[0]!r} ({len(unlisted)} such); {_AGAIN}")
    return _by_canonical_name(chosen)


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have
        return False


def _pickled(folder: Path) -> str:
    """What there is instead of weights that are only numbers."""
    found = sorted(one.name for one in folder.iterdir() if one.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt"))
    return f": {found[0]} is a pickle, which may run code when it is read; convert it to safetensors" if found else ""


def _by_canonical_name(entries: Mapping[str, TensorEntry]) -> dict[str, TensorEntry]:
    out: dict[str, TensorEntry] = {}
    for name, entry in entries.items():
        canonical = canonical_name(name)
        if canonical in out:
            raise CheckpointError(f"{entry.file}: {name!r} and {out[canonical].stored_name!r} are the same tensor")
        out[canonical] = entry
    return out


def read_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors of one safetensors file by stored name, every offset checked against the file's real size."""
    try:
        with path.open("rb") as handle:
            size = handle.seek(0, 2)
            handle.seek(0)
            prefix = handle.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or not 2 <= length <= _HEADER_LIMIT:
                raise CheckpointError(f"{path} is not a safetensors file (header of {length} bytes); {_AGAIN}")
            if 8 + length > size:
                raise CheckpointError(
                    f"{path} is truncated: {size} bytes, its header alone wants {8 + length}; {_AGAIN}"
                )
            header = json.loads(handle.read(length))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: corrupt safetensors header ({_one_line(error)}); {_AGAIN}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: corrupt safetensors header (not an object); {_AGAIN}")
    header.pop("__metadata__", None)
    entries: dict[str, TensorEntry] = {}
    for name, raw in header.items():
        info, begin = _entry(path, name, raw)
        entries[name] = TensorEntry(path, name, 8 + length + begin, info)
    end = 8 + length
    for entry in sorted(entries.values(), key=lambda e: (e.offset, e.info.nbytes)):
        if entry.offset != end:
            raise CheckpointError(f"{path}: tensor {entry.stored_name!r} overlaps another or leaves a hole; {_AGAIN}")
        end = entry.offset + entry.info.nbytes
    if end != size:
        what = "truncated" if end > size else "longer than its header says"
        raise CheckpointError(f"{path} is {what}: {size} bytes, its header wants {end}; {_AGAIN}")
    return entries


def _entry(path: Path, name: str, raw: Any) -> tuple[TensorInfo, int]:
    try:
        dtype, shape, (begin, end) = raw["dtype"], tuple(raw["shape"]), raw["data_offsets"]
        numbers = (*shape, begin, end)
    except (TypeError, KeyError, ValueError):
        raise CheckpointError(f"{path}: corrupt header entry of tensor {name!r}; {_AGAIN}") from None
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 1 << 60 for n in numbers):
        raise CheckpointError(f"{path}: corrupt header entry of tensor {name!r}; {_AGAIN}")
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise CheckpointError(f"{path}: tensor {name!r} has unknown dtype {dtype!r}")
    if end - begin != math.prod(shape) * _BITS[dtype] // 8:
        raise CheckpointError(
            f"{path}: tensor {name!r} has {end - begin} bytes, not what {dtype} {shape} takes; {_AGAIN}"
        )
    return TensorInfo(dtype, shape, end - begin), begin


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
