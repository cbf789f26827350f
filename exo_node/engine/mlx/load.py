"""Read a shard's tensors into a model of mlx-lm, one at a time (memory: the shard as held, plus one tensor)."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from exo_node.engine.base import Progress, TensorInfo, TensorSource
from exo_node.engine.mlx.rearranged import Rearranged
from exo_node.engine.mlx.support import TENSOR_DTYPES
from exo_node.errors import CheckpointError, UnsupportedModel
from exo_node.packing import PACKED, scales_of
from exo_node.types import Shard

# A tensor that must be cast is cast in pieces of about this many bytes: an LM head may be a third of a small model,
# and a second whole copy of it would not be within the memory that a load may use.
_PIECE = 32 << 20
# Rows of a matrix that are turned at a time (8 to 256 take the same, more take longer).
_TURNED_ROWS = 64


def wanted_prefixes(config: Mapping[str, Any], shard: Shard, is_head: bool) -> tuple[str, ...]:
    """Prefixes of the parameters (mlx-lm's names) that the shard holds."""
    layers = [f"model.layers.{i}." for i in range(shard.start_layer, shard.end_layer)]
    outer = ["model.embed_tokens.", "model.norm.", "model.embedding_norm.", "lm_head."]
    return tuple(layers + (outer if is_head else []))


def load_weights(
    mx: Any, model: Any, source: TensorSource, prefixes: tuple[str, ...], dtype: Any, progress: Progress
) -> int:
    """Fill the parameters of `model` under `prefixes` from `source`, cast to `dtype`; return the bytes held.

    Modules whose matrices are packed (exo_node/packing.py) become quantized ones: their integers are kept as they are.
    Those of a layer's experts are one tensor, which is filled expert by expert where they are stored so.
    On a Linux CPU the matrices of products lie in memory column by column: see `_turned`.
    Raises `CheckpointError` (before anything is read) for a tensor that is missing, unknown or of another shape, and
    `UnsupportedModel` for one that is not of floating point, and for experts that MLX does not multiply in `dtype`.
    """
    from mlx.utils import tree_flatten

    from exo_node.engine.mlx.experts import prepare_experts
    from exo_node.engine.mlx.quantized import quantize_modules

    source = Rearranged(source)
    quantize_modules(model, source)
    prepare_experts(model, set(source.names()), dtype)
    kept = _sanitized(mx, model, source)
    turned = _turned(mx, model, dtype)
    shapes = {name: tuple(p.shape) for name, p in tree_flatten(model.parameters()) if name.startswith(prefixes)}
    _check(source, kept, shapes)
    total, done, held = sum(source.info(name).nbytes for name in kept), 0, 0
    progress(0, total)
    # In the order of the file as far as names tell: layer 2 before layer 10.
    for name in sorted(kept, key=_natural):
        info = source.info(name)
        if source.pieces(name) == (name,):
            array = _read(mx, source.read(name), name, info, dtype, name in turned)
            source.release(name)
        else:
            array = _stacked(mx, source, name, dtype)
        model.load_weights([(name, array)], strict=False)
        held += array.nbytes
        done += info.nbytes
        del array
        mx.clear_cache()
        progress(done, total)
    return held


def _sanitized(mx: Any, model: Any, source: TensorSource) -> list[str]:
    """Names that the model file keeps of the source's (it drops, for instance, precomputed rope tables).

    The file sees placeholders that are never evaluated. A file that renames or merges tensors is none of ours.
    """
    names = {name: mx.zeros(source.info(name).shape) for name in source.names()}
    if hasattr(model, "sanitize"):
        kept = set(model.sanitize(dict(names)))
        if not kept <= set(names):
            raise UnsupportedModel(f"mlx-lm rearranges tensors of this model ({sorted(kept - set(names))[0]})")
        return sorted(kept)
    return sorted(names)


def _check(source: TensorSource, kept: Iterable[str], shapes: Mapping[str, tuple[int, ...]]) -> None:
    names = set(kept)
    if missing := sorted(set(shapes) - names, key=_natural):
        raise CheckpointError(f"tensor {missing[0]} ({len(missing)} in all) is missing; fetch the model again")
    if unknown := sorted(names - set(shapes), key=_natural):
        raise CheckpointError(f"tensor {unknown[0]} ({len(unknown)} in all) has no place in this config.json's model")
    for name in sorted(names, key=_natural):
        info = source.info(name)
        if info.dtype == PACKED and scales_of(name)[0] in names:
            pass
        elif info.dtype not in TENSOR_DTYPES:
            raise UnsupportedModel(f"tensor {name} is {info.dtype}; the mlx engine loads {', '.join(TENSOR_DTYPES)}")
        if info.shape != shapes[name]:
            raise CheckpointError(
                f"tensor {name} has shape {list(info.shape)}, but config.json asks for {list(shapes[name])}"
            )


def _turned(mx: Any, model: Any, dtype: Any) -> Collection[str]:
    """Parameters W of products x @ W.T for which OpenBLAS is quicker when W.T is the one that lies row by row.

    It copies the whole matrix into an order of its own for each product, whatever the rows of x: [8192, 2048] times 1,
    4 or 8 rows takes 0.73 to 0.77 of the time, 512 rows 0.99, [2048, 8192] 0.87 to 0.9; the results are equal in every
    bit. A row that is looked up in a turned embedding takes 24 us instead of 1. 16-bit products have MLX's own kernel,
    which likes them as they are.
    """
    import mlx.nn as nn

    if sys.platform != "linux" or mx.default_device() != mx.Device(mx.cpu) or dtype != mx.float32:
        return ()
    modules = dict(model.named_modules())
    kinds = (nn.Linear,) if "lm_head" in modules else (nn.Linear, nn.Embedding)
    return {f"{path}.weight" for path, module in modules.items() if type(module) in kinds}


def _natural(name: str) -> tuple[tuple[int, int | str], ...]:
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in name.split("."))


def _stacked(mx: Any, source: Rearranged, name: str, dtype: Any) -> Any:
    """The tensor of which each expert's part lies by itself, as an evaluated array."""
    pieces = source.pieces(name)
    array = None
    for i, piece in enumerate(pieces):
        one = _read(mx, source.read(piece), piece, source.info(piece), dtype, turned=False)
        if array is None:
            array = mx.zeros((len(pieces), *one.shape), one.dtype)
        array[i] = one
        mx.eval(array)  # in place, as in `_read`
        source.release(piece)
    return array


def _read(mx: Any, data: memoryview, name: str, info: TensorInfo, dtype: Any, turned: bool) -> Any:
    """The tensor as an evaluated array of `dtype`, in memory column by column if `turned`; bf16 goes by its raw bits,
    numpy has no such type."""
    if len(data) != info.nbytes:
        raise CheckpointError(f"tensor {name} has {len(data)} bytes instead of {info.nbytes}; fetch the model again")
    if info.dtype == PACKED:
        array = mx.array(np.frombuffer(data, dtype="<u4").reshape(info.shape))
        mx.eval(array)
        return array
    stored = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}[info.dtype]
    flat = np.frombuffer(data, dtype={"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[info.dtype])

    def piece(start: int, stop: int) -> Any:
        part = mx.array(flat[start:stop])
        return part.view(stored) if info.dtype == "BF16" else part

    step = _PIECE // 4
    if turned:
        rows, columns = info.shape
        array = mx.zeros((columns, rows), dtype)
        for start in range(0, rows, _TURNED_ROWS):
            stop = min(start + _TURNED_ROWS, rows)
            array[:, start:stop] = piece(start * columns, stop * columns).astype(dtype).reshape(-1, columns).T
            mx.eval(array)  # in place, as below
        array = mx.contiguous(array).T  # no copy, but where one piece was all of it
    elif stored == dtype or flat.size <= step:
        array = piece(0, flat.size).astype(dtype).reshape(info.shape)
    else:
        array = mx.zeros((flat.size,), dtype)
        for start in range(0, flat.size, step):
            stop = min(start + step, flat.size)
            array[start:stop] = piece(start, stop).astype(dtype)
            mx.eval(array)  # in place: the array before it is donated
        array = array.reshape(info.shape)
    mx.eval(array)
    return array
