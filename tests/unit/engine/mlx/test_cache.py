"""KV slots: lengths, growth in blocks, windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from exo_node.engine.mlx.cache import BLOCK, Pool, Slot
from exo_node.errors import RingBroken

mx: Any = pytest.importorskip("mlx.core")
pytestmark = pytest.mark.engine_mlx


def tokens(start: int, stop: int) -> Any:
    """[1, 1, n, 1]: each token's key is its position."""
    return mx.arange(start, stop).astype(mx.float32)[None, None, :, None]


def push(slot: Slot, n: int, layer: int = 0) -> list[float]:
    """Append `n` tokens and return the keys that the layer may see."""
    new = tokens(slot.length, slot.length + n)
    keys, values = slot.layers[layer].update_and_fetch(new, new + 0.5)
    slot.commit(n)
    assert np.array_equal(np.array(values), np.array(keys) + 0.5)
    return [float(k) for k in np.array(keys)[0, 0, :, 0]]


def test_grows_in_blocks_up_to_the_context() -> None:
    """Arrays grow block by block, never past the context, and keep what they hold."""
    slot = Pool(mx, 1, 2 * BLOCK + 10, [None], False)[0]
    for n, capacity in ((3, BLOCK), (BLOCK, 2 * BLOCK), (BLOCK, 2 * BLOCK + 10)):
        end = slot.length + n
        assert push(slot, n) == list(range(end))
        assert slot.layers[0].keys.shape[2] == capacity


def test_a_window_cuts_off_what_no_query_sees() -> None:
    """A windowed layer returns the window before its first query and no more; the mask does the rest."""
    slot = Pool(mx, 1, 64, [4], False)[0]
    assert push(slot, 6) == [0, 1, 2, 3, 4, 5]
    assert push(slot, 1) == [3, 4, 5, 6]
    mask = np.array(slot.mask(2, 4))  # queries 7 and 8 over keys 4..8
    assert push(slot, 2) == [4, 5, 6, 7, 8]
    assert mask.tolist() == [[True, True, True, True, False], [False, True, True, True, True]]


def test_masks_without_need_of_an_array() -> None:
    """One token needs no mask, a chunk within the window only a causal one (an array where a family wants it)."""
    slot, arrays = Pool(mx, 1, 64, [8], False)[0], Pool(mx, 1, 64, [8], True)[0]
    assert slot.mask(1, 8) is None
    assert slot.mask(3, 8) == "causal" and slot.mask(30, None) == "causal"
    assert np.array(arrays.mask(2, 8)).tolist() == [[True, False], [True, True]]


def test_cut_and_copied_slots_share_nothing() -> None:
    """Writing after a copy leaves the source alone, and the other way round."""
    pool = Pool(mx, 2, 64, [None], False)
    push(pool[0], 5)
    pool[1].copy_from(pool[0], 3)
    new = tokens(90, 92)
    pool[1].layers[0].update_and_fetch(new, new + 0.5)
    pool[1].commit(2)
    assert push(pool[0], 1) == [0, 1, 2, 3, 4, 5]
    assert push(pool[1], 1) == [0, 1, 2, 90, 91, 5]
    pool[0].copy_from(pool[0], 2)
    assert pool[0].length == 2 and push(pool[0], 1) == [0, 1, 2]
    pool[0].truncate(0)
    assert pool[0].arrays() == []


def test_a_pass_that_fails_changes_nothing() -> None:
    """What a layer has written counts only once the pass is committed."""
    slot = Pool(mx, 1, 64, [None], False)[0]
    push(slot, 2)
    slot.layers[0].update_and_fetch(tokens(50, 60), tokens(50, 60))
    assert slot.length == 2
    assert push(slot, 1) == [0, 1, 2]


def test_out_of_order_is_refused() -> None:
    """Positions, lengths and slots are checked before anything is written."""
    pool = Pool(mx, 2, 8, [None], False)
    push(pool[0], 3)
    for position, length in ((2, 1), (4, 1), (3, 6), (3, 0)):
        with pytest.raises(RingBroken):
            pool[0].expect(position, length)
    for index in (-1, 2):
        with pytest.raises(RingBroken, match="no KV slot"):
            pool[index]
