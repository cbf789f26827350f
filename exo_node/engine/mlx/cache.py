"""KV slots: `slots` sequences of at most `context` tokens, each with keys and values of the shard's layers.

A slot's length changes only when a whole pass over the layers has succeeded (`commit`), so every layer of a pass sees
the same offset. Arrays grow in blocks up to `context` and are written in place: MLX donates the old buffer of a slice
update when nothing else refers to it (a copy is therefore evaluated at once: pending, it would hold its source's
buffers). What a window hides is cut off before attention.

When a windowed layer's arrays are as long as engine/windows.py lets them be, they give up their oldest tokens.

Cutting a slot costs nothing and keeps its arrays; `copy` of a slot onto itself gives back what they are too long by.

mlx-lm's own caches do not serve: one cannot be rolled back when full, another not row by row (ARCHITECTURE 3.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from exo_node.engine.mlx.recurrent import RecurrentCache
from exo_node.engine.windows import base_after, kept_tokens, reaches
from exo_node.errors import RingBroken

BLOCK = 256  # tokens by which a slot's arrays grow; mlx-lm's own step
SPARE = 2 * BLOCK  # tokens of room that a slot keeps after a cut: drafts cut and append again and again


class LayerCache:
    """One layer of one slot, in the shape that mlx-lm's attention calls: `offset`, `update_and_fetch`."""

    __slots__ = ("_base", "_most", "_mx", "_slot", "_window", "keys", "values")

    def __init__(self, mx: Any, slot: Slot, window: int | None, most: int) -> None:
        """`most`: its `kept_tokens`."""
        self._mx, self._slot, self._window, self._most = mx, slot, window, most
        self._base = 0  # the position of the first token that the arrays hold
        self.keys: Any = None  # [1, kv_heads, capacity, head_dim]
        self.values: Any = None

    @property
    def offset(self) -> int:
        return self._slot.length

    def update_and_fetch(self, keys: Any, values: Any) -> tuple[Any, Any]:
        """Append [1, kv_heads, T, head_dim] and return the keys and values that any of these T queries may see."""
        start = self._slot.length
        end = start + keys.shape[2]
        if end - self._base > self.capacity:
            self._make_room(keys, values, start, end)
        at, to = start - self._base, end - self._base
        self.keys[..., at:to, :] = keys
        self.values[..., at:to, :] = values
        first = 0 if self._window is None else max(0, at + 1 - self._window)
        if first == 0 and to == self.capacity:
            return self.keys, self.values
        return self.keys[..., first:to, :], self.values[..., first:to, :]

    @property
    def capacity(self) -> int:
        """Tokens that its arrays have room for."""
        return 0 if self.keys is None else int(self.keys.shape[2])

    def mask(self, n: int) -> Any:
        return self._slot.mask(n, self._window)

    def seen_by_next(self) -> int:
        """How many keys one more token would see, its own included."""
        tokens = self._slot.length + 1
        return tokens if self._window is None else min(tokens, self._window)

    def make_mask(self, *args: Any, **kwargs: Any) -> None:
        """What a model asks for its own idea of a mask: not used, the stage hands each layer `mask`."""
        return None

    def reaches(self, length: int) -> bool:
        """Whether it still holds all that the token behind the first `length` may see."""
        return self._window is None or reaches(self._base, self._window, length)

    def spare(self, length: int) -> int:
        """By how many tokens its arrays are longer than the first `length` tokens need."""
        return self.capacity - self._capacity_for(length - self._base)

    def clear(self) -> None:
        self.keys = self.values = None
        self._base = 0

    def arrays(self) -> list[Any]:
        return [array for array in (self.keys, self.values) if array is not None]

    def copy_from(self, source: LayerCache, length: int) -> None:
        if source.keys is None:
            self.clear()
            return
        kept = length - source._base
        # Room for a token more, or the first one of a copy that ends with a block would copy it again.
        capacity = self._capacity_for(kept + 1)
        if source is self and self.capacity <= capacity:
            return
        self._base = source._base
        self.keys = self._resized(source.keys, source.keys, 0, kept, capacity)
        self.values = self._resized(source.values, source.values, 0, kept, capacity)

    def _capacity_for(self, n: int) -> int:
        return min(self._most, -(-n // BLOCK) * BLOCK)

    def _make_room(self, keys: Any, values: Any, start: int, end: int) -> None:
        """Longer arrays, for tokens up to `end`; where they may not be longer, the same without their oldest tokens."""
        base, capacity = self._base, self._capacity_for(end - self._base)
        if end - base > self._most and self._window is not None:
            base, capacity = base_after(self._window, start), self._most
        gone = base - self._base
        self.keys = self._resized(self.keys, keys, gone, start - base, capacity)
        self.values = self._resized(self.values, values, gone, start - base, capacity)
        self._base = base

    def _resized(self, old: Any, like: Any, first: int, length: int, capacity: int) -> Any:
        """A new array of `capacity` tokens that begins with `length` of those of `old`, from `first` on."""
        mx, (batch, heads, _, dim) = self._mx, like.shape
        kept = 0 if old is None else min(length, capacity)
        rest = mx.zeros((batch, heads, capacity - kept, dim), like.dtype)
        return rest if kept == 0 else mx.concatenate([old[..., first : first + kept, :], rest], axis=2)


class Slot:
    """One sequence's KV in every owned layer."""

    def __init__(
        self,
        mx: Any,
        index: int,
        context: int,
        windows: Sequence[int | None],
        array_mask: bool,
        max_chunk: int,
        states: Sequence[int],
    ) -> None:
        self._mx, self.index, self._context, self._array_mask = mx, index, context, array_mask
        self._max_chunk = max_chunk
        self.length = 0
        self.layers: list[Any] = [
            RecurrentCache(mx, self, n) if n else LayerCache(mx, self, window, kept_tokens(window, context, max_chunk))
            for window, n in zip(windows, states, strict=True)
        ]
        self._masks: dict[tuple[int, int | None], Any] = {}

    def expect(self, position: int, length: int) -> None:
        """Raise `RingBroken` unless `length` tokens at `position` go on exactly where the slot ends."""
        if position != self.length:
            raise RingBroken(f"slot {self.index} holds {self.length} tokens, but a row starts at position {position}")
        if length < 1 or position + length > self._context:
            raise RingBroken(
                f"slot {self.index} at position {position} cannot take {length} tokens: context is {self._context}"
            )
        if length > self._max_chunk:
            raise RingBroken(f"a row has {length} tokens; this shard was loaded for {self._max_chunk} at most")

    def commit(self, n: int) -> None:
        """The pass over `n` new tokens is complete."""
        self.length += n
        self._masks.clear()

    def mask(self, n: int, window: int | None) -> Any:
        """Mask for `n` new queries over what `update_and_fetch` returns: None, "causal", or bool [n, keys]."""
        if n == 1:
            return None  # the one query sees all that a window leaves
        first = 0 if window is None else max(0, self.length + 1 - window)
        # No query of the pass reaches past its window: plain causal, which needs no array.
        if window is None or self.length + n <= window:
            window = None
            if not self._array_mask:
                return "causal"
        if (n, window) not in self._masks:
            mx, end = self._mx, self.length + n
            queries = mx.arange(self.length, end)[:, None]
            keys = mx.arange(first, end)[None]
            mask = queries >= keys
            self._masks[n, window] = mask if window is None else mask & (queries < keys + window)
        return self._masks[n, window]

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens. Frees the arrays of a slot that is emptied, and after a deep cut the blocks
        that the head does not count any more, which copies what stays; else it copies nothing."""
        if not self._reaches(length):
            raise RingBroken(f"slot {self.index} holds {self.length} tokens and cannot be cut to {length}")
        self.commit(length - self.length)
        if length == 0:
            for layer in self.layers:
                layer.clear()
        elif any(layer.spare(length) > SPARE for layer in self.layers):
            self.copy_from(self, length)

    def copy_from(self, source: Slot, length: int) -> None:
        """Hold the first `length` tokens of `source`, in arrays of as many blocks as they and one more token need."""
        if not source._reaches(length):
            raise RingBroken(f"slot {source.index} holds {source.length} tokens: {length} cannot be copied from it")
        if source is not self or length == 0:
            self.truncate(0)
        elif length < self.length:
            self.commit(length - self.length)
        if length == 0:
            return
        for mine, other in zip(self.layers, source.layers, strict=True):
            mine.copy_from(other, length)
        self._mx.eval(self.arrays())
        self.commit(length - self.length)

    def _reaches(self, length: int) -> bool:
        """Whether its first `length` tokens can be had alone."""
        return length == 0 or (0 < length <= self.length and all(layer.reaches(length) for layer in self.layers))

    def states(self) -> list[Any]:
        """The newest states of its recurrent layers."""
        return [array for layer in self.layers if isinstance(layer, RecurrentCache) for array in layer.newest()]

    def arrays(self) -> list[Any]:
        """Every array that the slot holds (to be evaluated when nothing else asks for the pass)."""
        return [array for layer in self.layers for array in layer.arrays()]


class Pool:
    """The fixed set of slots of one shard. `states`: for each layer how many arrays its state has, 0 = attention."""

    def __init__(
        self,
        mx: Any,
        slots: int,
        context: int,
        windows: Sequence[int | None],
        array_mask: bool,
        max_chunk: int,
        states: Sequence[int] | None = None,
    ) -> None:
        by_layer = states or [0] * len(windows)
        self._slots = [Slot(mx, i, context, windows, array_mask, max_chunk, by_layer) for i in range(slots)]

    def __getitem__(self, index: int) -> Slot:
        if not 0 <= index < len(self._slots):
            raise RingBroken(f"no KV slot {index}: this shard holds {len(self._slots)}")
        return self._slots[index]

    def bytes(self) -> int:
        """What the slots' arrays take at present. Another thread may ask: a layer's arrays are replaced one by one."""
        return sum(array.nbytes for slot in self._slots for array in slot.arrays())
