"""Products with a weight matrix. Imports tinygrad: imported after `select_backend` only.

On a CPU a matrix [rows, width] is held in tiles, [rows / tile, width, tile] (weights.Held.tile), and multiplied by a
kernel of our own: the tile lies in vector registers' order, so weights stream through once for up to `TOGETHER` rows of
`x`. tinygrad's own kernels for two to sixteen rows are two to four times as slow (decoder.py's shapes, X86 renderer).
Everywhere else it is tinygrad's matmul, which knows what the device likes.
"""

from __future__ import annotations

from typing import Any

from tinygrad import Tensor, UOp, dtypes
from tinygrad.codegen.opt import Opt, OptOps
from tinygrad.helpers import CPU_COUNT
from tinygrad.uop.ops import AxisType, KernelInfo, Ops

TOGETHER = 4  # rows of x against one reading of a tile: 4 x 16 sums are what a kernel of the X86 renderer keeps moving
THREAD_WORK = 1 << 20  # multiplications worth a thread of their own


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: Any) -> Tensor:
    """x [n, width] @ weight.T (+ bias): float32 [n, rows], accumulated in float32.

    `weight`: [rows, width], or [rows / tile, width, tile] with `x` in float32. It may be narrower than `dtype`, which
    is x's; uint16 is bfloat16's bits.
    """
    tiled = weight.ndim == 3
    y = _tiled(x, weight) if tiled else x.matmul(widened(weight, dtype).transpose(), dtype=dtypes.float32)
    return y if bias is None else y + bias


def rows_of(weight: Tensor, ids: Tensor) -> Tensor:
    """Rows `ids` [n] of a matrix that `linear` takes, in float32: [n, width]."""
    if weight.ndim == 3:
        tiles, width, tile = weight.shape
        weight = weight.permute(0, 2, 1).reshape(tiles * tile, width)
    return widened(weight[ids], dtypes.float32)


def widened(weight: Any, dtype: Any) -> Any:
    """`weight` (a tensor, or an element in a kernel) in `dtype`, exactly. bfloat16 is float32's upper half: shifting
    bits is 2.6 times as fast on a CPU as tinygrad's own emulated cast."""
    if weight.dtype == dtypes.bfloat16 and dtype == dtypes.float32:
        weight = weight.bitcast(dtypes.uint16)
    if weight.dtype == dtypes.uint16:
        return (weight.cast(dtypes.uint32) * 65536).bitcast(dtypes.float32)
    return weight.cast(dtype)


def _tiled(x: Tensor, weight: Tensor) -> Tensor:
    (n, width), (tiles, _, tile) = x.shape, weight.shape
    together = next(size for size in (TOGETHER, 2, 1) if n % size == 0)
    steps = 2 if width % 2 == 0 else 1
    work = n * width * tiles * tile
    threads = next(t for t in range(max(1, min(CPU_COUNT.value, work // THREAD_WORK)), 0, -1) if tiles % t == 0)

    def kernel(out: UOp, x: UOp, weight: UOp) -> UOp:
        block, group = UOp.range(tiles, 0), UOp.range(n // together, 1)
        row, column = UOp.range(together, 2, AxisType.UPCAST), UOp.range(tile, 3, AxisType.UPCAST)
        outer, inner = UOp.range(width // steps, 4, AxisType.REDUCE), UOp.range(steps, 5, AxisType.UNROLL)
        r, k = group * together + row, outer * steps + inner
        product = x[r, k] * widened(weight[block, k, column], dtypes.float32)
        total = product.reduce(outer, inner, arg=Ops.ADD)
        stored = out[r, block * tile + column].store(total).end(block, group, row, column)
        opts = (Opt(OptOps.THREAD, 0, threads),) if threads > 1 else ()
        return stored.sink(arg=KernelInfo(name=f"linear_{n}_{tiles * tile}_{width}", opts_to_apply=opts))

    out = Tensor.empty(n, tiles * tile, dtype=dtypes.float32, device=x.device)
    return Tensor.custom_kernel(out, x, weight, fxn=kernel)[0]
