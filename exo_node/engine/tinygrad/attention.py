"""Attention over the KV pool: of a chunk of one sequence, or of one token each of several sequences.

Imports tinygrad: imported after `select_backend` only. A layer's pool is [2 * slots, kv_heads, capacity, head_dim]:
keys of slot s at 2 s, values at 2 s + 1. Both classes take queries [tokens, heads, head_dim] and keys and values
[tokens, kv_heads, head_dim], rotated, in float32; they append to the pool and return [tokens, heads * head_dim] in
float32.

A layer with a window may be a ring of fewer places than the context (`LayerKv.ring`): the token at position p lies at
p modulo that. There a token sees what is less than a window behind it, modulo the ring; all else there is older, or of
padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from tinygrad import Tensor, UOp, dtypes
from tinygrad.codegen.opt import Opt, OptOps
from tinygrad.helpers import CPU_COUNT
from tinygrad.uop.ops import AxisType, KernelInfo, Ops

from exo_node.engine.tinygrad.spec import DecoderSpec

LOG2_E = 1.4426950408889634


@dataclass(frozen=True, slots=True)
class LayerKv:
    """A layer's pool. `window`: how many tokens a token sees, itself included (None: all); `ring`: how many places it
    has for a sequence, where those are fewer than the context."""

    pool: Tensor
    window: int | None
    ring: int | None


class ChunkAttention:
    """`length` consecutive tokens of the sequence in `slot`, from `position` on; in a ring from `place` on, over the
    first `near` places (all bound variables; the last two only where a layer is a ring). No chunk goes over its end.

    `table`: 0, 1, ... as int32, because tinygrad computes an arange of symbolic length by a sum of quadratic cost.
    """

    def __init__(
        self,
        spec: DecoderSpec,
        dtype: Any,
        table: Tensor,
        length: int,
        slot: Any,
        position: Any,
        place: Any = None,
        near: Any = None,
    ) -> None:
        self._spec, self._dtype, self._table = spec, dtype, table
        self._length, self._slot, self._position, self._place, self._near = length, slot, position, place, near

    def rotation(self, table: Tensor) -> Tensor:
        """The rows of a cosine or sine table for the tokens: [tokens, 1, dims / 2]."""
        return table.shrink(((self._position, self._position + self._length), None)).unsqueeze(1)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, kv: LayerKv) -> Tensor:
        spec, length, slot = self._spec, self._length, self._slot
        place, end = (self._position, self._position + length) if kv.ring is None else (self._place, self._near)
        heads, kv_heads, dim = spec.n_heads, spec.n_kv_heads, spec.head_dim
        new = Tensor.stack(k.transpose(0, 1), v.transpose(0, 1)).cast(self._dtype)
        sides = (slot * 2, slot * 2 + 2)
        kv.pool.shrink((sides, None, (place, place + length), None)).assign(new)
        seen = kv.pool.shrink((sides, None, (0, end), None))
        keys, values = seen[0].unsqueeze(1), seen[1].unsqueeze(1)  # [kv_heads, 1, seen, dim]
        q = q.transpose(0, 1).cast(self._dtype).reshape(kv_heads, heads // kv_heads, length, dim)
        scores = q.matmul(keys.transpose(-1, -2), dtype=dtypes.float32) * spec.attention_scale
        scores = self._hide(capped(scores, spec.attention_softcap), kv, end)
        weights = scores.softmax(-1).cast(self._dtype)
        out = weights.matmul(values, dtype=dtypes.float32)
        return out.reshape(heads, length, dim).transpose(0, 1).reshape(length, heads * dim)

    def _hide(self, scores: Tensor, kv: LayerKv, end: Any) -> Tensor:
        """Causal mask, and the window's."""
        length, position = self._length, self._position
        keys = self._table.shrink(((0, end),)).unsqueeze(0)
        queries = self._table.shrink(((position, position + length),)).unsqueeze(1)
        seen = keys <= queries
        if kv.ring is not None and kv.window is not None:
            seen = seen & ((queries - keys) % kv.ring < kv.window)
        elif kv.window is not None:
            seen = seen & (keys > queries - kv.window)
        return seen.where(scores, float("-inf"))


class RowsAttention:
    """One token each of several sequences, whose keys the pool has at `keys_at`, at `positions` (both int32 [rows]);
    `seen`: a bound variable, the most keys that any of them sees; `near`: the same of a ring's places. A row at
    position `context` is padding.

    `keys_at` and not slots: of 2 s in a pool of one slot tinygrad knows that it is 0, drops it, and then loses the
    slots' place among a kernel's arguments.

    Kernels of our own, because a pool indexed by a tensor is copied by tinygrad's before it is used. All rows run over
    `seen` keys; what lies behind a row's own position is given no weight and, since it may be anything, not read into
    the sum.
    """

    def __init__(
        self,
        spec: DecoderSpec,
        dtype: Any,
        keys_at: Tensor,
        positions: Tensor,
        seen: Any,
        near: Any = None,
        *,
        context: int,
        is_cpu: bool,
    ) -> None:
        self._spec, self._dtype, self._keys_at, self._positions = spec, dtype, keys_at, positions
        self._seen = seen.unbind()[0]
        self._near = None if near is None else near.unbind()[0]
        self._context = context
        self._is_cpu = is_cpu

    def rotation(self, table: Tensor) -> Tensor:
        """As `ChunkAttention.rotation`."""
        return table[self._positions].unsqueeze(1).contiguous()

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, kv: LayerKv) -> Tensor:
        spec = self._spec
        rows, heads, dim = q.shape
        kv_heads, group = spec.n_kv_heads, heads // spec.n_kv_heads
        capacity = kv.pool.shape[2]
        seen = self._seen if kv.ring is None else self._near
        new = Tensor.stack(k, v, dim=1).cast(self._dtype).contiguous()
        # heads that share a key side by side: one key times a vector of queries
        q = q.cast(self._dtype).reshape(rows, kv_heads, group, dim).transpose(2, 3).contiguous()
        at = (self._keys_at, self._positions)
        pool = self._run(kv.pool, new, *at, kernel=partial(self._append, kv.ring))
        full, small = (rows, kv_heads, capacity, group), (rows, kv_heads, group)
        scores = self._run(self._empty(*full), q, pool, *at, kernel=partial(self._scores, seen, kv.window, kv.ring))
        largest = self._run(self._empty(*small), scores, kernel=partial(self._largest, seen))
        weights = self._run(self._empty(*full), scores, largest, kernel=partial(self._weights, seen))
        total = self._run(self._empty(*small), weights, kernel=partial(self._total, seen))
        out = self._empty(rows, kv_heads, group, dim)
        out = self._run(out, weights, total, pool, *at, kernel=partial(self._values, seen))
        return out.reshape(rows, heads * dim)

    def _empty(self, *shape: int) -> Tensor:
        return Tensor.empty(*shape, dtype=dtypes.float32, device=self._keys_at.device)

    @staticmethod
    def _run(out: Tensor, *inputs: Tensor, kernel: Any) -> Tensor:
        return Tensor.custom_kernel(out, *inputs, fxn=kernel)[0]

    def _append(self, ring: int | None, kv: UOp, new: UOp, keys_at: UOp, positions: UOp) -> UOp:
        rows, _, kv_heads, dim = new.shape
        row, side, head, d = UOp.range(rows, 1), UOp.range(2, 2), UOp.range(kv_heads, 0), UOp.range(dim, 3)
        place = _index(positions[row])
        if ring is not None:
            place = (place < self._context).where(place % ring, place.const_like(ring))  # padding lies behind it
        to = kv[_index(keys_at[row]) + side, head, place, d]
        return to.store(new[row, side, head, d]).end(row, side, head, d).sink(arg=self._info("append", 1))

    def _scores(
        self, seen: UOp, window: int | None, ring: int | None, out: UOp, q: UOp, kv: UOp, keys_at: UOp, positions: UOp
    ) -> UOp:
        spec, (rows, kv_heads, dim, _) = self._spec, q.shape
        row, head, key = UOp.range(rows, 1), UOp.range(kv_heads, 0), UOp.range(seen, 2)
        g, g_ranges = self._lanes(q.shape[3], 3)
        step = next(n for n in (4, 2, 1) if dim % n == 0)
        outer, inner = UOp.range(dim // step, 6, AxisType.REDUCE), UOp.range(step, 7, AxisType.UNROLL)
        d = outer * step + inner
        product = _float(q[row, head, d, g]) * _float(kv[_index(keys_at[row]), head, key, d])
        score = product.reduce(outer, inner, arg=Ops.ADD) * spec.attention_scale
        if spec.attention_softcap is not None:
            score = (score * (1 / spec.attention_softcap)).tanh() * spec.attention_softcap
        position = _index(positions[row])
        visible = key <= position
        if window is not None and ring is not None:
            visible = visible & ((position - key + ring) % ring < window)
        elif window is not None:
            visible = visible & (position < key + window)
        hidden = UOp.const(dtypes.float32, float("-inf"))
        stored = out[row, head, key, g].store(visible.where(score, hidden))
        return stored.end(row, head, key, *g_ranges).sink(arg=self._info("scores", kv_heads))

    def _largest(self, seen: UOp, out: UOp, scores: UOp) -> UOp:
        return self._over_keys("largest", Ops.MAX, seen, out, scores)

    def _total(self, seen: UOp, out: UOp, weights: UOp) -> UOp:
        return self._over_keys("total", Ops.ADD, seen, out, weights)

    def _over_keys(self, name: str, op: Any, seen: UOp, out: UOp, values: UOp) -> UOp:
        rows, kv_heads, group = out.shape
        row, head, key = UOp.range(rows, 1), UOp.range(kv_heads, 0), UOp.range(seen, 2, AxisType.REDUCE)
        g, g_ranges = self._lanes(group, 3)
        stored = out[row, head, g].store(values[row, head, key, g].reduce(key, arg=op))
        return stored.end(row, head, *g_ranges).sink(arg=self._info(name, kv_heads))

    def _weights(self, seen: UOp, out: UOp, scores: UOp, largest: UOp) -> UOp:
        rows, kv_heads, group = largest.shape
        row, head, key = UOp.range(rows, 1), UOp.range(kv_heads, 0), UOp.range(seen, 2)
        g, g_ranges = self._lanes(group, 3)
        weight = ((scores[row, head, key, g] - largest[row, head, g]) * LOG2_E).exp2()
        stored = out[row, head, key, g].store(weight)
        return stored.end(row, head, key, *g_ranges).sink(arg=self._info("weights", kv_heads))

    def _values(self, seen: UOp, out: UOp, weights: UOp, total: UOp, kv: UOp, keys_at: UOp, positions: UOp) -> UOp:
        rows, kv_heads, group, dim = out.shape
        row, head, key = UOp.range(rows, 1), UOp.range(kv_heads, 0), UOp.range(seen, 2, AxisType.REDUCE)
        g, g_ranges = self._lanes(group, 3)
        d, d_ranges = self._lanes(dim, 5)
        value = _float(kv[_index(keys_at[row]) + 1, head, key, d])
        value = (key <= _index(positions[row])).where(value, UOp.const(dtypes.float32, 0.0))
        summed = (weights[row, head, key, g] * value).reduce(key, arg=Ops.ADD) / total[row, head, g]
        stored = out[row, head, g, d].store(summed)
        return stored.end(row, head, *g_ranges, *d_ranges).sink(arg=self._info("values", kv_heads))

    def _lanes(self, size: int, axis: int) -> tuple[UOp, tuple[UOp, ...]]:
        """An index over `size` in ranges `axis` and `axis + 1`. On a CPU the inner of them is unrolled; elsewhere
        tinygrad chooses."""
        if not self._is_cpu:
            whole = UOp.range(size, axis)
            return whole, (whole,)
        lanes = size if size < 8 else next(n for n in (16, 8, 7, 6, 5, 4, 3, 2, 1) if size % n == 0)
        outer, inner = UOp.range(size // lanes, axis), UOp.range(lanes, axis + 1, AxisType.UPCAST)
        return outer * lanes + inner, (outer, inner)

    def _info(self, name: str, kv_heads: int) -> Any:
        if not self._is_cpu:
            return KernelInfo(name=name)
        threads = next(n for n in range(max(CPU_COUNT.value, 1), 0, -1) if kv_heads % n == 0)
        opts = (Opt(OptOps.THREAD, 0, threads),) if threads > 1 else ()
        return KernelInfo(name=name, opts_to_apply=opts)


def capped(x: Tensor, cap: float | None) -> Tensor:
    return x if cap is None else (x / cap).tanh() * cap


def _index(value: UOp) -> UOp:
    return value.cast(dtypes.weakint)


def _float(value: UOp) -> UOp:
    return value.cast(dtypes.float32)
