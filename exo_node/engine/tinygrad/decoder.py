"""The decoder as tinygrad graphs: one JIT per chunk length runs all layers of the shard for any slot and position.

Imports tinygrad: only engine.py imports this module, after `select_backend`. Layout of the KV pool, per layer:
[slots, 2, kv_heads, context + longest chunk, head_dim]. A chunk is padded to one of a few lengths; what the padding
writes lies past the sequence's end, is never attended to by a real row, and the next chunk overwrites it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tinygrad import Device, Tensor, TinyJit, UOp, dtypes
from tinygrad.helpers import Context

from exo_node.engine.tinygrad.rope import rope_tables
from exo_node.engine.tinygrad.spec import DecoderSpec, LayerSpec
from exo_node.types import Dtype, Shard

DTYPES: Mapping[Dtype, Any] = {"float32": dtypes.float32, "float16": dtypes.float16, "bfloat16": dtypes.bfloat16}


def empty(shape: Sequence[int], dtype: Any, device: str) -> Tensor:
    """An allocated, uninitialised tensor. On a CPU its pages are committed when they are first written."""
    tensor = Tensor.empty(*shape, dtype=dtype, device=device).realize()
    tensor.uop.buffer.ensure_allocated()
    return tensor


def from_numpy(values: npt.NDArray[Any], dtype: Any, device: str) -> Tensor:
    tensor = empty(values.shape, dtype, device)
    tensor.uop.buffer.copyin(np.ascontiguousarray(values).data.cast("B"))
    return tensor


def write(tensor: Tensor, offset: int, block: memoryview) -> None:
    """Copy `block` (possibly read-only) into a tensor's memory at byte `offset`; done when this returns."""
    buffer = tensor.uop.buffer
    if buffer.device == "CPU":
        buffer.as_memoryview(force_zero_copy=True)[offset : offset + block.nbytes] = block
        return
    part = buffer.view(block.nbytes // buffer.dtype.itemsize, buffer.dtype, offset).ensure_allocated()
    part.copyin(memoryview(bytearray(block)))  # tinygrad takes the address, which ctypes gives of writable memory only
    Device[buffer.device].synchronize()


class Program:
    """One captured JIT with its input buffer: numpy in, numpy out.

    The first call captures (`cnt = 1` skips tinygrad's uncaptured warm-up call: all our inputs are realised buffers, so
    there is nothing for it to do, and it would lower every kernel for nothing).
    """

    def __init__(self, function: Any, shape: Sequence[int], dtype: Any, device: str) -> None:
        self._jit = TinyJit(function)
        self._jit.cnt = 1
        self._input = empty(shape, dtype, device)
        self._host = np.zeros(shape, dtype=np.int32 if dtype is dtypes.int32 else np.float32)

    def __call__(self, values: npt.NDArray[Any], *variables: Any) -> npt.NDArray[np.float32]:
        """Run on `values` (at most as many rows as the program has; the rest are zeros) and copy the output rows of
        `values` out: the JIT's buffer belongs to its next call."""
        n = len(values)
        self._host[:n] = values
        self._host[n:] = 0
        self._input.uop.buffer.copyin(self._host.data.cast("B"))
        # one graph per call: launching is most of a small model's step; SPEC only checks tinygrad's own graphs
        with Context(JIT_BATCH_SIZE=0, SPEC=0):
            output = self._jit(self._input, *variables)
        result = np.empty(output.shape, dtype=np.float32)
        output.uop.base.buffer.copyout(result.data.cast("B"))
        return result[:n]


class ShardDecoder:
    """Layers, embedding, norm and LM head of one shard as programs; `weights` come from weights.held_tensors' keys."""

    def __init__(
        self,
        spec: DecoderSpec,
        shard: Shard,
        weights: Mapping[str, Tensor],
        *,
        slots: int,
        context: int,
        max_chunk: int,
        activation: Dtype,
        device: str,
    ) -> None:
        self._spec, self._shard, self._weights = spec, shard, weights
        self._slots, self._context, self._device = slots, context, device
        self._activation = DTYPES[activation]
        self._capacity = context + max_chunk
        self._ropes = [
            [from_numpy(table, dtypes.float32, device) for table in rope_tables(rope, self._capacity, context)]
            for rope in spec.ropes
        ]
        self._positions = from_numpy(np.arange(self._capacity, dtype=np.int32), dtypes.int32, device)
        shape = (slots, 2, spec.n_kv_heads, self._capacity, spec.head_dim)
        self._kv = [empty(shape, self._activation, device) for _ in range(shard.n_owned)]
        self.kv_bytes = shard.n_owned * math.prod(shape) * self._activation.itemsize

    def step_program(self, length: int, *, embeds: bool) -> Program:
        """int32 [length] (`embeds`) or float32 [length, hidden], slot, position -> float32 [length, hidden]."""

        def step(values: Tensor, slot: Any, position: Any) -> Tensor:
            x = self._embed(values) if embeds else values
            for index, kv in enumerate(self._kv):
                # realised layer by layer: tinygrad schedules a graph in seconds, but equal graphs only once
                x = self._layer(self._shard.start_layer + index, x, kv, slot, position).realize()
            return x.contiguous()

        shape = (length,) if embeds else (length, self._spec.hidden_size)
        return Program(step, shape, dtypes.int32 if embeds else dtypes.float32, self._device)

    def logits_program(self, rows: int) -> Program:
        """float32 [rows, hidden] -> float32 [rows, vocab]: final norm, LM head, soft cap."""
        head = self._weights["embed" if self._spec.tied else "head"]

        def logits(values: Tensor) -> Tensor:
            x = self._norm("norm", values).cast(self._activation).contiguous()
            return _capped(self._linear(x, head), self._spec.logit_softcap).contiguous()

        return Program(logits, (rows, self._spec.hidden_size), dtypes.float32, self._device)

    def states_program(self, rows: int) -> Program:
        """float32 [rows, hidden] -> the same shape: final norm."""

        def states(values: Tensor) -> Tensor:
            return self._norm("norm", values).contiguous()

        return Program(states, (rows, self._spec.hidden_size), dtypes.float32, self._device)

    def place(self, slot: int, position: int) -> tuple[Any, Any]:
        """Slot and position as the bound variables that every step program shares."""
        return (
            UOp.variable("slot", 0, max(self._slots - 1, 1)).bind(slot),
            UOp.variable("position", 0, self._context).bind(position),
        )

    def copy(self, target: int, source: int, length: int) -> None:
        """Copy the first `length` cached tokens of one slot to another."""
        count = UOp.variable("count", 1, self._context).bind(length)
        to, of = (UOp.variable(n, 0, max(self._slots - 1, 1)).bind(v) for n, v in (("to", target), ("of", source)))
        for kv in self._kv:
            kept = kv.shrink(((of, of + 1), None, None, (0, count), None)).contiguous()
            kv.shrink(((to, to + 1), None, None, (0, count), None)).assign(kept).realize()

    def synchronize(self) -> None:
        Device[self._device].synchronize()

    def _embed(self, ids: Tensor) -> Tensor:
        return self._weights["embed"][ids].cast(dtypes.float32) * self._spec.embedding_scale

    def _layer(self, layer: int, x: Tensor, kv: Tensor, slot: Any, position: Any) -> Tensor:
        """float32 [tokens, hidden] -> the same; the residual stream stays in float32 whatever the weights are."""
        spec = self._spec
        h = self._norm(f"{layer}.attention_norm", x).cast(self._activation).contiguous()
        h = self._attention(layer, spec.layers[layer], h, kv, slot, position)
        if spec.post_norms:
            h = self._norm(f"{layer}.attention_post_norm", h.contiguous())
        x = (x + h).contiguous()
        h = self._norm(f"{layer}.mlp_norm", x).cast(self._activation).contiguous()
        gate_up = self._linear(h, self._weights[f"{layer}.gate_up"], self._weights.get(f"{layer}.gate_up_bias"))
        gate, up = gate_up.split(spec.intermediate_size, dim=-1)
        inner = (_ACTIVATIONS[spec.activation](gate) * up).cast(self._activation).contiguous()
        h = self._linear(inner, self._weights[f"{layer}.down"], self._weights.get(f"{layer}.down_bias"))
        if spec.post_norms:
            h = self._norm(f"{layer}.mlp_post_norm", h.contiguous())
        return (x + h).contiguous()

    def _attention(self, layer: int, kind: LayerSpec, h: Tensor, kv: Tensor, slot: Any, position: Any) -> Tensor:
        spec, length = self._spec, h.shape[0]
        heads, kv_heads, dim = spec.n_heads, spec.n_kv_heads, spec.head_dim
        qkv = self._linear(h, self._weights[f"{layer}.qkv"], self._weights.get(f"{layer}.qkv_bias"))
        q, k, v = qkv.reshape(length, heads + 2 * kv_heads, dim).transpose(0, 1).split([heads, kv_heads, kv_heads])
        if spec.qk_norm:
            q, k = self._norm(f"{layer}.q_norm", q), self._norm(f"{layer}.k_norm", k)
        cos, sin = (t.shrink(((position, position + length), None)).unsqueeze(0) for t in self._ropes[kind.rope])
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        new = Tensor.stack(k, v).cast(self._activation).unsqueeze(0)
        kv.shrink(((slot, slot + 1), None, None, (position, position + length), None)).assign(new)
        seen = kv.shrink(((slot, slot + 1), None, None, (0, position + length), None))
        keys, values = seen[0, 0].unsqueeze(1), seen[0, 1].unsqueeze(1)  # [kv_heads, 1, seen, dim]
        q = q.cast(self._activation).reshape(kv_heads, heads // kv_heads, length, dim)
        scores = q.matmul(keys.transpose(-1, -2), dtype=dtypes.float32) * spec.attention_scale
        scores = _capped(scores, spec.attention_softcap)
        scores = self._hide(scores, length, position, kind.window)
        weights = scores.softmax(-1).cast(self._activation)
        out = weights.matmul(values, dtype=dtypes.float32).reshape(heads, length, dim).transpose(0, 1)
        out = out.reshape(length, heads * dim).cast(self._activation).contiguous()
        return self._linear(out, self._weights[f"{layer}.out"], self._weights.get(f"{layer}.out_bias"))

    def _hide(self, scores: Tensor, length: int, position: Any, window: int | None) -> Tensor:
        """Set to -inf what query position + i may not see: later keys, and keys `window` or more tokens back."""
        if length == 1 and window is None:
            return scores
        # a table, because tinygrad computes an arange of symbolic length by a sum of quadratic cost
        keys = self._positions.shrink(((0, position + length),)).unsqueeze(0)
        queries = self._positions.shrink(((position, position + length),)).unsqueeze(1)
        seen = keys <= queries
        if window is not None:
            seen = seen & (keys > queries - window)
        return seen.where(scores, float("-inf"))

    def _norm(self, key: str, x: Tensor) -> Tensor:
        """RMS norm over the last axis, in float32."""
        return x * (x.square().mean(-1, keepdim=True) + self._spec.norm_eps).rsqrt() * self._weights[key]

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """x @ weight.T (+ bias), accumulated and returned in float32; `weight` may be narrower than `x`."""
        y = x.matmul(_widened(weight, self._activation).transpose(), dtype=dtypes.float32)
        return y if bias is None else y + bias


_ACTIVATIONS: Mapping[str, Any] = {
    "silu": lambda x: x.silu(),
    "gelu": lambda x: x.gelu(approximate="none"),
    "gelu_tanh": lambda x: x.gelu(approximate="tanh"),
}


def _widened(weight: Tensor, dtype: Any) -> Tensor:
    """`weight` in `dtype`, exactly. bfloat16 is float32's upper half: shifting bits is 2.6 times as fast on a CPU as
    tinygrad's own emulated cast."""
    if weight.dtype == dtypes.bfloat16 and dtype == dtypes.float32:
        return (weight.bitcast(dtypes.uint16).cast(dtypes.uint32) * 65536).bitcast(dtypes.float32)
    return weight.cast(dtype)


def _capped(x: Tensor, cap: float | None) -> Tensor:
    return x if cap is None else (x / cap).tanh() * cap


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first 2 * cos.shape[-1] elements of [heads, tokens, dim], halves against each other; keep the rest."""
    half = cos.shape[-1]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    parts = [a * cos - b * sin, b * cos + a * sin]
    return parts[0].cat(*parts[1:], *([rest] if rest.shape[-1] else []), dim=-1)
