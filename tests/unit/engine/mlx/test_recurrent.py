"""State of recurrent layers: rows, cuts and copies against a layer that is run over the whole sequence again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exo_node.engine.mlx.recurrent import INPUTS, ROLLBACK, STATES, RecurrentCache
from exo_node.errors import RingBroken

mx: Any = pytest.importorskip("mlx.core")
pytestmark = pytest.mark.engine_mlx


class Hash:
    """A layer whose state depends on every token and their order, in whole numbers: right or wrong, never nearly."""

    def __init__(self) -> None:
        self.tokens = 0

    def __call__(self, x: Any, mask: Any, cache: RecurrentCache) -> Any:
        self.tokens += x.shape[1]
        state, out = cache[0], []
        for i in range(x.shape[1]):
            state = x[:, i] if state is None else (31 * state + x[:, i]) % 65521
            out.append(state)
        cache[0] = state
        cache.advance(x.shape[1])
        return mx.stack(out, axis=1)


class Driven:
    """A cache, the tokens that it should stand for, and the most that it has held."""

    def __init__(self) -> None:
        self.slot = SimpleNamespace(length=0)
        self.cache = RecurrentCache(mx, self.slot, 1)
        self.tokens: list[int] = []
        self.most = 0

    def feed(self, tokens: list[int]) -> None:
        out = self.cache.run(Hash(), mx.array(tokens)[None, :, None])
        self.tokens += tokens
        self.slot.length = len(self.tokens)
        self.most = max(self.most, len(self.tokens))
        assert out[0, :, 0].tolist() == hashes(self.tokens)[-len(tokens) :]

    def cut(self, length: int) -> None:
        assert self.cache.reaches(length)
        del self.tokens[length:]
        self.slot.length = length

    def copy(self) -> Driven:
        made = Driven()
        made.cache.copy_from(self.cache, len(self.tokens))
        made.tokens, made.most, made.slot.length = list(self.tokens), self.most, len(self.tokens)
        return made


def hashes(tokens: list[int]) -> list[int]:
    found: list[int] = []
    for token in tokens:
        found.append((31 * found[-1] + token) % 65521 if found else token)
    return found


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_rows_cuts_and_copies(data: st.DataObject) -> None:
    """Whatever is appended, cut by up to `ROLLBACK` from the most ever held, and copied: the state is that of the
    tokens that stayed; and it holds no more than it says."""
    one, numbers = Driven(), st.integers(1, 999)
    for _ in range(data.draw(st.integers(1, 12))):
        sizes = st.sampled_from([1, 1, 1, 2, 9, ROLLBACK - 1, ROLLBACK, ROLLBACK + 1, 3 * ROLLBACK])
        size = data.draw(sizes)
        one.feed(data.draw(st.lists(numbers, min_size=size, max_size=size)))
        held = one.cache.arrays()
        assert sum(array.shape[1] for array in held if array.ndim == 3) <= INPUTS
        assert sum(array.ndim == 2 for array in held) <= STATES
        if data.draw(st.booleans()):
            other = one.copy()
            shortest = max(1, one.most - ROLLBACK)
            if shortest <= len(one.tokens):
                one.cut(data.draw(st.integers(shortest, len(one.tokens))))
            other.feed([5])
            if data.draw(st.booleans()):
                one = other


def test_a_cut_runs_over_what_stays_of_the_last_row_only() -> None:
    """Drafts that were wrong cost the layer as many tokens as were right; none where all were."""
    driven, layer = Driven(), Hash()
    driven.feed(list(range(1, 71)))
    for kept in (3, 9):
        driven.feed(list(range(1, 10)))
        driven.cut(len(driven.tokens) - 9 + kept)
        layer.tokens = 0
        driven.cache.run(layer, mx.array([7])[None, :, None])
        driven.tokens.append(7)
        driven.slot.length += 1
        assert layer.tokens == 1 + (kept if kept < 9 else 0)


def test_what_is_forgotten_is_refused() -> None:
    """A cut further back than it keeps is an error, not a state that is nearly right; emptied, it begins anew."""
    driven = Driven()
    driven.feed([1] * 100)
    assert driven.cache.reaches(100 - ROLLBACK) and not driven.cache.reaches(99 - ROLLBACK)
    assert not driven.cache.reaches(101)
    driven.slot.length = 40
    with pytest.raises(RingBroken, match="after 40 of 100 tokens"):
        driven.cache.run(Hash(), mx.array([1])[None, :, None])
    driven.cache.clear()
    driven.tokens, driven.slot.length = [], 0
    driven.feed([1, 2, 3])


def test_a_pass_that_failed_leaves_no_trace() -> None:
    """A layer that ran in a pass of which nothing came goes back to where its slot is."""
    driven = Driven()
    driven.feed([4, 5, 6])
    driven.cache.run(Hash(), mx.array([9, 9])[None, :, None])
    driven.feed([7])
