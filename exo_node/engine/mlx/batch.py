"""Rows of several slots in one pass: projections, MLP and LM head read their weights once for all of them.

A pass is ragged: rows of any lengths (a token to decode, a few to verify, a slice of a prompt) stand one behind the
other as [tokens, 1, hidden_size], each token with a position of its own, and only attention takes them apart. Of the
CPU time of one pass a row (two layers and the LM head of Llama-1B's shape, one core) 8 rows of 5 tokens take 0.36,
8 prompts of 40 tokens 0.75; 8 single tokens and a slice of 64 take 0.86 of a pass for each kind.

Each slot keeps arrays of its own (cache.py), and attention runs slot by slot over exactly the keys that it may see.
Measured for 8 rows on two cores, that is as fast as one array for the whole pool (1.3 against 1.5 ms a layer at 128
tokens, 11.7 against 11.9 at 1,000; attention.py has halved the former since), wastes nothing on rows shorter than the
longest, and copies no KV; gathering the slots into one padded array at every step took 2.0 and 15.3 ms.

mlx-lm's attention rotates by `cache.offset` (an array: one position a token), calls `update_and_fetch` and gives what
comes back to a function of its file, which `attend_by_row` replaces. A family that computes attention itself
(families.py, "padded") gets one padded array and a mask, and takes rows of one token only; so does a layer with
recurrent state (recurrent.py), whose states are stacked and taken apart again.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any

from exo_node.engine.mlx.attention import attend
from exo_node.engine.mlx.cache import LayerCache, Slot
from exo_node.engine.mlx.recurrent import RecurrentCache, RecurrentRows


class BatchLayer:
    """One layer of several slots, in the shape that mlx-lm's attention calls."""

    __slots__ = ("_borders", "_layers", "_lengths", "_mx", "offset")

    def __init__(self, mx: Any, layers: Sequence[LayerCache], lengths: Sequence[int], offset: Any) -> None:
        self._mx, self._layers, self._lengths = mx, layers, lengths
        self._borders = [*accumulate(lengths)][:-1]
        self.offset = offset  # [tokens] int32

    def update_and_fetch(self, keys: Any, values: Any) -> tuple[Any, Any]:
        """Append row i's of [tokens, kv_heads, 1, head_dim] to slot i; for each slot [1, kv_heads, seen, head_dim]."""
        rows = zip(self._layers, self._apart(keys), self._apart(values), strict=True)
        found = [layer.update_and_fetch(key, value) for layer, key, value in rows]
        return [key for key, _ in found], [value for _, value in found]

    def attend(self, queries: Any, keys: Sequence[Any], values: Sequence[Any], **options: Any) -> Any:
        """Attention of each row over its own keys: [tokens, heads, 1, head_dim] as `queries`."""
        rows = zip(self._layers, self._lengths, self._apart(queries), keys, values, strict=True)
        found = [(n, attend(self._mx, q, k, v, mask=layer.mask(n), **options)) for layer, n, q, k, v in rows]
        return self._mx.concatenate([out if n == 1 else out.transpose(2, 1, 0, 3) for n, out in found])

    def mask(self, n: int) -> Any:
        return None  # `attend` gives each row its own

    def make_mask(self, *args: Any, **kwargs: Any) -> None:
        """As `LayerCache.make_mask`."""
        return None

    def _apart(self, array: Any) -> list[Any]:
        """[tokens, heads, 1, head_dim] as one [1, heads, n, head_dim] for each row."""
        rows = zip(self._lengths, self._mx.split(array, self._borders), strict=True)
        return [row if n == 1 else row.transpose(2, 1, 0, 3) for n, row in rows]


class PaddedLayer(BatchLayer):
    """As `BatchLayer` with rows of one token, for attention that wants one array.

    Zeros stand behind the shorter rows, and a mask hides them. `axes` of the mask: that many, the rows on the first and
    the keys on the last.
    """

    __slots__ = ("_axes", "_seen")

    def __init__(self, mx: Any, layers: Sequence[LayerCache], offset: Any, axes: int) -> None:
        super().__init__(mx, layers, [1] * len(layers), offset)
        self._seen, self._axes = [layer.seen_by_next() for layer in layers], axes

    def update_and_fetch(self, keys: Any, values: Any) -> tuple[Any, Any]:
        return self._padded(super().update_and_fetch(keys, values))

    def mask(self, n: int) -> Any:
        mx, axes = self._mx, self._axes
        seen = mx.array(self._seen).reshape(-1, *[1] * (axes - 1))
        return mx.arange(max(self._seen)) < seen

    def _padded(self, pair: tuple[list[Any], list[Any]]) -> tuple[Any, Any]:
        mx, longest = self._mx, max(self._seen)
        keys, values = (
            mx.concatenate([mx.pad(one, [(0, 0), (0, 0), (0, longest - one.shape[2]), (0, 0)]) for one in side])
            for side in pair
        )
        return keys, values


class Batch:
    """Rows of different slots in one pass; used as a `Slot` is by `Stage.run`."""

    def __init__(self, mx: Any, slots: Sequence[Slot], lengths: Sequence[int], mask_axes: int | None) -> None:
        """Row i is the next `lengths[i]` tokens of `slots[i]`.

        `mask_axes`: None, or of how many axes the mask of a padded family is (families.decode_mask_axes), whose rows
        must be of one token, as those of a family with recurrent layers.
        """
        self._slots, self._lengths = slots, lengths
        rows = zip(slots, lengths, strict=True)
        positions = chain.from_iterable(range(slot.length, slot.length + n) for slot, n in rows)
        offset = mx.array(list(positions), mx.int32)

        def joined(layers: Sequence[Any]) -> BatchLayer | RecurrentRows:
            if isinstance(layers[0], RecurrentCache):
                return RecurrentRows(mx, layers)
            if mask_axes is None:
                return BatchLayer(mx, layers, lengths, offset)
            return PaddedLayer(mx, layers, offset, mask_axes)

        self.layers = [joined(layers) for layers in zip(*(slot.layers for slot in slots), strict=True)]

    def commit(self) -> None:
        """The pass is complete: its tokens are in their slots."""
        for slot, n in zip(self._slots, self._lengths, strict=True):
            slot.commit(n)


def attend_by_row(mx: Any, attention: Any) -> None:
    """Give the file of `attention` (a layer's, of mlx-lm) our attention: of one row, or of what `BatchLayer` returns.

    Calls with another cache go where they went before. Once for each file and process.
    """
    names = type(attention).__call__.__globals__
    theirs = names["scaled_dot_product_attention"]
    if getattr(theirs, "by_row", False):
        return

    def ours(queries: Any, keys: Any, values: Any, cache: Any, scale: float, mask: Any, **more: Any) -> Any:
        if isinstance(cache, BatchLayer):
            return cache.attend(queries, keys, values, scale=scale, **more)
        if isinstance(cache, LayerCache):
            return attend(mx, queries, keys, values, scale=scale, mask=mask, **more)
        return theirs(queries, keys, values, cache=cache, scale=scale, mask=mask, **more)

    ours.by_row = True  # type: ignore[attr-defined]
    names["scaled_dot_product_attention"] = ours
