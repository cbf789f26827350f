"""Products with quantized matrices, which stay packed in memory. Imports tinygrad: after `select_backend` only.

Weights are widened in the product's own kernel. On a CPU (tiles, as linear.py's) that takes 1.2 to 1.6 times as long
as a float32 matrix for one row, about as long for four or more, and a sixth to a third of its memory: widening at load
would buy less than it costs. Measured on [2048, 2048] in groups of 64, one thread, ms for 1, 4 and 16 rows: float32
1.3, 3.4, 12.6; 8 bits 1.7, 4.0, 14.6; 4 bits 2.2, 3.8, 15.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tinygrad import Tensor, UOp, dtypes
from tinygrad.codegen.opt import Opt, OptOps
from tinygrad.helpers import CPU_COUNT
from tinygrad.uop.ops import AxisType, KernelInfo, Ops

from exo_node.engine.tinygrad.linear import THREAD_WORK, TOGETHER, widened
from exo_node.packing import Packing


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """A matrix [rows, columns] in MLX's affine packing (exo_node/packing.py).

    `integers`: uint8 [rows, columns * bits / 8], `scales` and `biases` [rows, columns / group_size]; in tiles each of
    them as [rows / tile, ..., tile].
    """

    integers: Tensor
    scales: Tensor
    biases: Tensor
    packing: Packing


def product(x: Tensor, matrix: PackedMatrix, dtype: Any) -> Tensor:
    """x [n, columns] in `dtype` @ matrix.T: float32 [n, rows], accumulated in float32; of tiles x is float32."""
    if matrix.integers.ndim == 3:
        return _tiled(x, matrix)
    weight = _widened(matrix.integers, matrix.scales, matrix.biases, matrix.packing)
    return x.matmul(weight.cast(dtype).transpose(), dtype=dtypes.float32)


def rows_of(matrix: PackedMatrix, ids: Tensor) -> Tensor:
    """Rows `ids` [n] of the matrix: float32 [n, columns]."""
    integers, scales, biases = (_flat(part)[ids] for part in (matrix.integers, matrix.scales, matrix.biases))
    return _widened(integers, scales, biases, matrix.packing)


def _flat(part: Tensor) -> Tensor:
    """Tiles [n, width, tile] as rows [n * tile, width]."""
    if part.ndim == 2:
        return part
    tiles, width, tile = part.shape
    return part.permute(0, 2, 1).reshape(tiles * tile, width)


def _widened(integers: Tensor, scales: Tensor, biases: Tensor, packing: Packing) -> Tensor:
    """float32 [rows, columns]."""
    rows, groups = scales.shape
    if packing.bits == 4:
        integers = (integers & 15).stack(integers >> 4, dim=-1)
    # By way of int32: from uint8 to float32 tinygrad's CPU code goes element by element.
    values = integers.cast(dtypes.int32).cast(dtypes.float32).reshape(rows, groups, packing.group_size)
    scale, bias = (widened(part, dtypes.float32).unsqueeze(-1) for part in (scales, biases))
    return (values * scale + bias).reshape(rows, groups * packing.group_size)


def _tiled(x: Tensor, matrix: PackedMatrix) -> Tensor:
    """linear.py's kernel over integers: sum over groups of scale * (sum of q * x) + bias * (sum of x)."""
    bits, size = matrix.packing.bits, matrix.packing.group_size
    (n, width), (tiles, _, tile) = x.shape, matrix.integers.shape
    together = next(rows for rows in (TOGETHER, 2, 1) if n % rows == 0)
    work = n * width * tiles * tile
    threads = next(t for t in range(max(1, min(CPU_COUNT.value, work // THREAD_WORK)), 0, -1) if tiles % t == 0)
    sums = x.reshape(n, width // size, size).sum(-1).contiguous()

    def kernel(out: UOp, x: UOp, sums: UOp, integers: UOp, scales: UOp, biases: UOp) -> UOp:
        block, pack = UOp.range(tiles, 0), UOp.range(n // together, 1)
        row, column = UOp.range(together, 2, AxisType.UPCAST), UOp.range(tile, 3, AxisType.UPCAST)
        groups = [UOp.range(width // size, 4, AxisType.REDUCE)] if width > size else []
        group = groups[0] if groups else 0
        outer, inner = UOp.range(size // 2, 5, AxisType.REDUCE), UOp.range(2, 6, AxisType.UNROLL)
        r = pack * together + row
        if bits == 4:
            held = integers[block, group * (size // 2) + outer, column].cast(dtypes.int32) >> (inner * 4) & 15
        else:
            held = integers[block, group * size + outer * 2 + inner, column].cast(dtypes.int32)
        term = x[r, group * size + outer * 2 + inner] * held.cast(dtypes.float32)
        scale, bias = (widened(part[block, group, column], dtypes.float32) for part in (scales, biases))
        total = term.reduce(outer, inner, arg=Ops.ADD) * scale + sums[r, group] * bias
        total = total.reduce(*groups, arg=Ops.ADD) if groups else total
        stored = out[r, block * tile + column].store(total).end(block, pack, row, column)
        opts = (Opt(OptOps.THREAD, 0, threads),) if threads > 1 else ()
        name = f"packed{bits}_{n}_{tiles * tile}_{width}_{size}"
        return stored.sink(arg=KernelInfo(name=name, opts_to_apply=opts))

    out = Tensor.empty(n, tiles * tile, dtype=dtypes.float32, device=x.device)
    return Tensor.custom_kernel(out, x, sums, matrix.integers, matrix.scales, matrix.biases, fxn=kernel)[0]
