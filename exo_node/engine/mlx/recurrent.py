"""What a layer with recurrent state (short convolution, state space) keeps of one slot.

Such a state stands for every token before it and cannot be cut. So the state before some earlier tokens is kept, a
snapshot (arrays are never changed in place: it costs no copy), and the layer's inputs since; a cut goes back to the
snapshot and runs the layer over the inputs that stay. Evaluation is lazy: of that run only what the state needs is
computed, no MLP. A slot can be cut by `ROLLBACK` tokens from the most that it has ever held, and copied after that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from exo_node.errors import RingBroken

# The longest draft is 8 tokens; the next turn of a chat may end this one otherwise by a few (a stop token, a newline).
ROLLBACK = 32
# Of one layer and slot at most: the state, one before the latest pass, two others; inputs between three of these.
STATES, INPUTS = 4, 3 * ROLLBACK


class HasLength(Protocol):
    length: int


@dataclass(slots=True)
class _Piece:
    """Consecutive tokens from `start` on: what entered the layer [1, n, hidden_size], and the state before them (empty:
    not kept)."""

    start: int
    state: tuple[Any, ...]
    inputs: Any


class RecurrentCache:
    """One layer of one slot, in the shape that mlx-lm's layers call: state arrays by number, `lengths`, `advance`."""

    __slots__ = ("_end", "_most", "_mx", "_now", "_pieces", "_slot")

    offset = 0
    lengths = None  # rows are never padded

    def __init__(self, mx: Any, slot: HasLength, n_states: int) -> None:
        self._mx, self._slot = mx, slot
        self._now: list[Any] = [None] * n_states  # after `_end` tokens
        self.clear()

    def __getitem__(self, number: int) -> Any:
        return self._now[number]

    def __setitem__(self, number: int, state: Any) -> None:
        self._now[number] = self._mx.contiguous(state)  # a slice would keep all that it is a slice of

    def advance(self, n: int) -> None:
        """For padded rows, of which there are none."""

    def make_mask(self, *args: Any, **kwargs: Any) -> None:
        """No row is padded: nothing is masked."""
        return None

    def run(self, layer: Any, x: Any) -> Any:
        """`layer` over [1, n, hidden_size], the tokens that follow those of the slot; the same shape.

        The last `ROLLBACK` tokens go by themselves: the state before them is what a cut by so many goes back to, and
        the inputs of a long row need not be kept.
        """
        n, start = x.shape[1], self._slot.length
        self.rewind(layer)
        border = max(0, n - ROLLBACK)
        outputs = [self._append(layer, x[:, a:b], start + a) for a, b in ((0, border), (border, n)) if a < b]
        return outputs[0] if len(outputs) == 1 else self._mx.concatenate(outputs, axis=1)

    @property
    def length(self) -> int:
        """Tokens of the slot."""
        return self._slot.length

    def reaches(self, length: int) -> bool:
        """Whether the state after the first `length` tokens can still be had."""
        return length == self._end or (bool(self._pieces) and self._pieces[0].start <= length < self._end)

    def spare(self, length: int) -> int:
        """As `LayerCache.spare`: nothing here is longer than it must be."""
        return 0

    def clear(self) -> None:
        self._now = [None] * len(self._now)
        self._pieces: list[_Piece] = []
        self._end = self._most = 0

    def copy_from(self, source: RecurrentCache, length: int) -> None:
        """Hold what `source` holds; a cut to `length` comes with the next row."""
        self._now, self._pieces = list(source._now), [_Piece(p.start, p.state, p.inputs) for p in source._pieces]
        self._end, self._most = source._end, source._most

    def newest(self) -> Sequence[Any]:
        """The state after its tokens."""
        return self._now

    def arrays(self) -> list[Any]:
        """Every array that it holds, of which some may be held by the slot that it was copied from."""
        held = [*self._now, *(array for piece in tuple(self._pieces) for array in (*piece.state, piece.inputs))]
        return [array for array in held if array is not None]

    def rewind(self, layer: Any) -> None:
        """Back to the state after the tokens of the slot, if it has been cut since."""
        length = self._slot.length
        if length == self._end:
            return
        if not self.reaches(length):
            raise RingBroken(f"the state after {length} of {self._end} tokens is not held any more")
        pieces = self._pieces
        while pieces[-1].start >= length:
            last = pieces.pop()
            if last.start == length and last.state:
                self._now, self._end = list(last.state), length
                return
        snapshot = max(i for i, piece in enumerate(pieces) if piece.state)
        last = pieces[-1]
        last.inputs = last.inputs[:, : length - last.start]
        self._now = list(pieces[snapshot].state)
        inputs = [piece.inputs for piece in pieces[snapshot:]]
        layer(inputs[0] if len(inputs) == 1 else self._mx.concatenate(inputs, axis=1), None, self)
        self._end = length

    def follow(self, x: Any, start: int, state: Sequence[Any]) -> None:
        """The layer has run over [1, n, hidden_size], tokens from `start` on: it is in `state` now."""
        pieces = self._pieces
        # Of snapshots close to each other the later are left out, but for the one before the newest tokens.
        if len(pieces) > 1:
            earlier = next(piece.start for piece in reversed(pieces[:-1]) if piece.state)
            if pieces[-1].start - earlier < ROLLBACK:
                pieces[-1].state = ()
        pieces.append(_Piece(start, tuple(self._now), self._mx.contiguous(x)))
        self._now, self._end = list(state), start + x.shape[1]
        self._most = max(self._most, self._end)
        useful = [i for i, piece in enumerate(pieces) if piece.state and piece.start <= self._most - ROLLBACK]
        del pieces[: useful[-1] if useful else 0]

    def _append(self, layer: Any, x: Any, start: int) -> Any:
        before = self._now
        self._now = list(before)
        out = layer(x, None, self)
        self._now, state = before, self._now
        self.follow(x, start, state)
        return out


class RecurrentRows:
    """One recurrent layer of several slots in one pass, a token of each; used as a `RecurrentCache` is."""

    __slots__ = ("_mx", "_now", "_rows")

    offset = 0
    lengths = None

    def __init__(self, mx: Any, rows: Sequence[RecurrentCache]) -> None:
        self._mx, self._rows = mx, rows
        self._now: list[Any] = []

    def __getitem__(self, number: int) -> Any:
        return self._now[number]

    def __setitem__(self, number: int, state: Any) -> None:
        self._now[number] = state

    def advance(self, n: int) -> None:
        """As `RecurrentCache.advance`."""

    def make_mask(self, *args: Any, **kwargs: Any) -> None:
        """As `RecurrentCache.make_mask`."""
        return None

    def run(self, layer: Any, x: Any) -> Any:
        """`layer` over [slots, 1, hidden_size], the next token of each."""
        mx, n = self._mx, len(self._rows)
        for row in self._rows:
            row.rewind(layer)
        self._now = [self._together(states) for states in zip(*(row.newest() for row in self._rows), strict=True)]
        out = layer(x, None, self)
        apart = zip(*([mx.contiguous(one) for one in mx.split(state, n)] for state in self._now), strict=True)
        for row, one, state in zip(self._rows, mx.split(x, n), apart, strict=True):
            row.follow(one, row.length, state)
        return out

    def _together(self, states: Sequence[Any]) -> Any:
        """None is what a slot begins with: zeros, to every layer."""
        like = next((state for state in states if state is not None), None)
        if like is None:
            return None
        return self._mx.concatenate([self._mx.zeros_like(like) if one is None else one for one in states])
