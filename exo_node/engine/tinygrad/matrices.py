"""Weight matrices as a shard holds them: read once, multiplied by. Imports tinygrad: after `select_backend` only.

A matrix is a tensor (linear.py), packed (packed.py), or, where its parts are of different kinds, several of them that
follow each other.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from tinygrad import Tensor, dtypes

from exo_node.engine.base import TensorSource
from exo_node.engine.tinygrad import linear as plain
from exo_node.engine.tinygrad import packed
from exo_node.engine.tinygrad.memory import DTYPES, empty, write
from exo_node.engine.tinygrad.packed import PackedMatrix
from exo_node.engine.tinygrad.packed_weights import integer_blocks
from exo_node.engine.tinygrad.weights import Held, read_blocks
from exo_node.packing import Packing, scales_of
from exo_node.types import Dtype

Matrix: TypeAlias = Tensor | PackedMatrix | tuple[Tensor | PackedMatrix, ...]


def linear(x: Tensor, weight: Matrix, bias: Tensor | None, dtype: Any) -> Tensor:
    """x [n, width] in `dtype` @ weight.T (+ bias): float32 [n, rows], accumulated in float32."""
    if isinstance(weight, Tensor):
        return plain.linear(x, weight, bias, dtype)
    if isinstance(weight, PackedMatrix):
        y = packed.product(x, weight, dtype)
    else:
        first, *rest = (linear(x, part, None, dtype) for part in weight)
        y = first.cat(*rest, dim=-1)
    return y if bias is None else y + bias


def rows_of(weight: Tensor | PackedMatrix, ids: Tensor) -> Tensor:
    """Rows `ids` [n] of a matrix, in float32: [n, width]."""
    return packed.rows_of(weight, ids) if isinstance(weight, PackedMatrix) else plain.rows_of(weight, ids)


def read_run(
    run: Held, packing: Packing | None, source: TensorSource, compute: Dtype, device: str, *, tiles: bool
) -> Tensor | PackedMatrix:
    """Read one of packed_weights.runs_of into the device's memory, its file's pages given back as they are copied.

    `tiles`: matrices are laid out in tiles, bfloat16 as its raw bits (linear.py).
    """
    tile = run.tile if tiles else 1

    def held(dtype: Any, shape: tuple[int, ...]) -> Tensor:
        if tile == 1:
            return empty(shape, dtype, device)
        kind = dtypes.uint16 if dtype == dtypes.bfloat16 else dtype
        return empty((shape[0] // tile, shape[1], tile), kind, device)

    if packing is None:
        dtype = run.dtype(compute)
        target, at = held(DTYPES[dtype], run.shape), 0
        for name, _ in run.parts:
            for block in read_blocks(source, name, dtype, run.offset, tile):
                write(target, at, block)
                at += block.nbytes
            source.release(name)
        return target
    rows, columns = run.shape
    (_, words), scales = packing.shapes(rows, columns)
    integers = held(dtypes.uint8, (rows, 4 * words))
    floats = [held(DTYPES[compute], scales) for _ in range(2)]
    at, ends = 0, [0, 0]
    for name, _ in run.parts:
        for i, one in enumerate(scales_of(name)):
            for block in read_blocks(source, one, compute, 0.0, tile):
                write(floats[i], ends[i], block)
                ends[i] += block.nbytes
            source.release(one)
        for block in integer_blocks(source, name, tile):
            write(integers, at, block)
            at += block.nbytes
        source.release(name)
    return PackedMatrix(integers, floats[0], floats[1], packing)
