"""The decoder as tinygrad graphs. One JIT per chunk length runs all layers of the shard for any slot and position, and
one per width does so for one token each of that many sequences, wherever they stand.

Imports tinygrad: only engine.py imports this module, after `select_backend`. Layout of the KV pool, per layer:
[2 * slots, kv_heads, context + longest chunk, head_dim], of a layer that is a ring (attention.py) its places instead
of the context. A chunk is padded to one of a few lengths; what the padding writes lies past the sequence's end, is
never attended to by a real row, and the next chunk overwrites it. Rows are padded with a token of slot 0 at position
`context`, where no sequence ever is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from tinygrad import Device, Tensor, UOp, dtypes

from exo_node.engine.tinygrad.attention import ChunkAttention, LayerKv, RowsAttention, capped
from exo_node.engine.tinygrad.copying import CopyProgram, copy_on_host
from exo_node.engine.tinygrad.matrices import linear, rows_of
from exo_node.engine.tinygrad.memory import DTYPES, empty, from_numpy
from exo_node.engine.tinygrad.program import Program
from exo_node.engine.tinygrad.rope import rope_tables
from exo_node.engine.tinygrad.spec import DecoderSpec
from exo_node.types import Dtype, Shard


class ShardDecoder:
    """Layers, embedding, norm and LM head of one shard as programs; `weights` come from weights.held_tensors' keys."""

    def __init__(
        self,
        spec: DecoderSpec,
        shard: Shard,
        weights: Mapping[str, Any],
        *,
        slots: int,
        context: int,
        max_chunk: int,
        kept: int,
        activation: Dtype,
        device: str,
    ) -> None:
        """`max_chunk`: the longest of the chunk programs. `kept`: tokens of a slot that layers with a window keep."""
        self._spec, self._shard, self._weights = spec, shard, weights
        self._slots, self._context, self._device = slots, context, device
        self._activation = DTYPES[activation]
        self._capacity = context + max_chunk
        self._ropes = [
            [from_numpy(table, dtypes.float32, device) for table in rope_tables(rope, self._capacity, context)]
            for rope in spec.ropes
        ]
        self._positions = from_numpy(np.arange(self._capacity, dtype=np.int32), dtypes.int32, device)
        self._kv: list[LayerKv] = []
        for layer in spec.layers[shard.start_layer : shard.end_layer]:
            ring = kept if layer.window is not None and kept < context else None
            shape = (2 * slots, spec.n_kv_heads, (ring or context) + max_chunk, spec.head_dim)
            self._kv.append(LayerKv(empty(shape, self._activation, device), layer.window, ring))
        self._pools = [kv.pool for kv in self._kv]
        self._copy = CopyProgram(self._pools, slots, context)
        self.ring = next((kv.ring for kv in self._kv if kv.ring is not None), None)  # all have the same
        self.kv_bytes = sum(math.prod(pool.shape) for pool in self._pools) * self._activation.itemsize

    def chunk_program(self, length: int, *, embeds: bool) -> Program:
        """int32 [length] (`embeds`) or float32 [length, hidden] -> float32 [length, hidden]; variables: `place`."""

        def chunk(values: Tensor, *place: Any) -> Tensor:
            attention = ChunkAttention(self._spec, self._activation, self._positions, length, *place)
            return self._layers(values, attention, embeds=embeds)

        return Program(chunk, [self._entering(length, embeds=embeds)], (0,), self._device)

    def rows_program(self, width: int, *, embeds: bool) -> Program:
        """int32 [width] (`embeds`) or float32 [width, hidden], twice the slots and positions (int32 [width]) ->
        float32 [width, hidden]; variables: `seen`."""

        def rows(values: Tensor, keys_at: Tensor, positions: Tensor, *seen: Any) -> Tensor:
            inner, is_cpu = (self._spec, self._activation, keys_at, positions, *seen), self._device == "CPU"
            attention = RowsAttention(*inner, context=self._context, is_cpu=is_cpu)
            return self._layers(values, attention, embeds=embeds)

        number = ((width,), dtypes.int32)
        inputs = [self._entering(width, embeds=embeds), number, number]
        return Program(rows, inputs, (0, 0, self._context), self._device)

    def logits_program(self, rows: int) -> Program:
        """float32 [rows, hidden] -> float32 [rows, vocab]: final norm, LM head, soft cap."""
        head = self._weights["embed" if self._spec.tied else "head"]

        def logits(values: Tensor) -> Tensor:
            x = self._norm("norm", values).cast(self._activation).contiguous()
            return capped(linear(x, head, None, self._activation), self._spec.logit_softcap).contiguous()

        return Program(logits, [self._entering(rows, embeds=False)], (0,), self._device)

    def states_program(self, rows: int) -> Program:
        """float32 [rows, hidden] -> the same shape: final norm."""

        def states(values: Tensor) -> Tensor:
            return self._norm("norm", values).contiguous()

        return Program(states, [self._entering(rows, embeds=False)], (0,), self._device)

    def place(self, slot: int, position: int, length: int) -> tuple[Any, ...]:
        """Where a chunk program of this length is to run, as its bound variables: slot and position, and in a ring the
        place and how many are seen."""
        bound = (
            UOp.variable("slot", 0, max(self._slots - 1, 1)).bind(slot),
            UOp.variable("position", 0, self._context).bind(position),
        )
        if self.ring is None:
            return bound
        place = UOp.variable("place", 0, self.ring - 1).bind(position % self.ring)
        return (*bound, place, UOp.variable("near", 1, self.ring).bind(min(position + length, self.ring)))

    def seen(self, keys: int) -> tuple[Any, ...]:
        """The most keys that a row sees, of all and of a ring's, as the bound variables of every rows program."""
        bound = (UOp.variable("seen", 1, self._context).bind(keys),)
        if self.ring is None:
            return bound
        return (*bound, UOp.variable("near", 1, self.ring).bind(min(keys, self.ring)))

    def copy(self, target: int, source: int, length: int) -> None:
        """Copy the first `length` cached tokens of one slot to another."""
        if self._device == "CPU":
            copy_on_host(self._pools, target, source, length)
        else:
            self._copy(target, source, length)

    def synchronize(self) -> None:
        Device[self._device].synchronize()

    def _entering(self, count: int, *, embeds: bool) -> tuple[tuple[int, ...], Any]:
        return ((count,), dtypes.int32) if embeds else ((count, self._spec.hidden_size), dtypes.float32)

    def _layers(self, values: Tensor, attention: ChunkAttention | RowsAttention, *, embeds: bool) -> Tensor:
        x = rows_of(self._weights["embed"], values) * self._spec.embedding_scale if embeds else values
        for index, kv in enumerate(self._kv):
            # realised layer by layer: tinygrad schedules a graph in seconds, but equal graphs only once
            x = self._layer(self._shard.start_layer + index, x, kv, attention).realize()
        return x.contiguous()

    def _layer(self, layer: int, x: Tensor, kv: LayerKv, attention: ChunkAttention | RowsAttention) -> Tensor:
        """float32 [tokens, hidden] -> the same; the residual stream stays in float32 whatever the weights are."""
        spec = self._spec
        h = self._norm(f"{layer}.attention_norm", x).cast(self._activation).contiguous()
        h = self._attention(layer, h, kv, attention)
        if spec.post_norms:
            h = self._norm(f"{layer}.attention_post_norm", h.contiguous())
        x = (x + h).contiguous()
        h = self._norm(f"{layer}.mlp_norm", x).cast(self._activation).contiguous()
        gate, up = self._linear(f"{layer}.gate_up", h).split(spec.intermediate_size, dim=-1)
        inner = (_ACTIVATIONS[spec.activation](gate) * up).cast(self._activation).contiguous()
        h = self._linear(f"{layer}.down", inner)
        if spec.post_norms:
            h = self._norm(f"{layer}.mlp_post_norm", h.contiguous())
        return (x + h).contiguous()

    def _attention(self, layer: int, h: Tensor, kv: LayerKv, attention: ChunkAttention | RowsAttention) -> Tensor:
        spec, kind = self._spec, self._spec.layers[layer]
        heads, kv_heads, dim = spec.n_heads, spec.n_kv_heads, spec.head_dim
        qkv = self._linear(f"{layer}.qkv", h)
        q, k, v = qkv.reshape(h.shape[0], heads + 2 * kv_heads, dim).split([heads, kv_heads, kv_heads], dim=1)
        if spec.qk_norm:
            q, k = self._norm(f"{layer}.q_norm", q), self._norm(f"{layer}.k_norm", k)
        cos, sin = (attention.rotation(table) for table in self._ropes[kind.rope])
        out = attention(_rotate(q, cos, sin), _rotate(k, cos, sin), v, kv)
        return self._linear(f"{layer}.out", out.cast(self._activation).contiguous())

    def _linear(self, key: str, x: Tensor) -> Tensor:
        return linear(x, self._weights[key], self._weights.get(f"{key}_bias"), self._activation)

    def _norm(self, key: str, x: Tensor) -> Tensor:
        """RMS norm over the last axis, in float32."""
        return x * (x.square().mean(-1, keepdim=True) + self._spec.norm_eps).rsqrt() * self._weights[key]


_ACTIVATIONS: Mapping[str, Any] = {
    "silu": lambda x: x.silu(),
    "gelu": lambda x: x.gelu(approximate="none"),
    "gelu_tanh": lambda x: x.gelu(approximate="tanh"),
}


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first 2 * cos.shape[-1] elements of [tokens, heads, dim], halves against each other; keep the rest."""
    half = cos.shape[-1]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    parts = [a * cos - b * sin, b * cos + a * sin]
    return parts[0].cat(*parts[1:], *([rest] if rest.shape[-1] else []), dim=-1)
