"""Copies of cached tokens from one slot to another. Imports tinygrad: imported after `select_backend` only.

A layer's pool is [2 * slots, kv_heads, capacity, head_dim], as attention.py has it; of a ring that is shorter than what
is to be copied all is copied. A graph that is scheduled anew for each copy took 13 ms a layer, in which nobody's token
comes.
"""

from __future__ import annotations

from collections.abc import Sequence

from tinygrad import Device, Tensor, TinyJit, UOp
from tinygrad.helpers import Context

from exo_node.engine.tinygrad.memory import host_bytes


def copy_on_host(pools: Sequence[Tensor], target: int, source: int, length: int) -> None:
    """The first `length` tokens in memory that a CPU shares with its device: 18 GB/s, where kernels made 1 GB/s."""
    Device["CPU"].synchronize()
    for pool in pools:
        memory = host_bytes(pool)
        memory[2 * target : 2 * target + 2, :, :length] = memory[2 * source : 2 * source + 2, :, :length]


class CopyProgram:
    """The same as one captured JIT, for any device. The first call captures, as in program.py."""

    def __init__(self, pools: Sequence[Tensor], slots: int, context: int) -> None:
        self._slots, self._context = slots, context

        def copy(target: UOp, source: UOp, count: UOp) -> None:
            for pool in pools:
                tokens = (0, count) if pool.shape[2] >= context else None  # None: all
                kept = pool.shrink(((source * 2, source * 2 + 2), None, tokens, None)).contiguous()
                pool.shrink(((target * 2, target * 2 + 2), None, tokens, None)).assign(kept).realize()

        self._jit = TinyJit(copy)
        self._jit.cnt = 1

    def __call__(self, target: int, source: int, length: int) -> None:
        slots = (UOp.variable(name, 0, self._slots - 1) for name in ("target", "source"))
        to, of = (variable.bind(slot) for variable, slot in zip(slots, (target, source), strict=True))
        with Context(JIT_BATCH_SIZE=0, SPEC=0):
            self._jit(to, of, UOp.variable("count", 1, self._context).bind(length))
