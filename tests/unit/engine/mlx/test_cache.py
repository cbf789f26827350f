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


def address(array: Any) -> int:
    """Where the elements of an evaluated array lie."""
    return int(np.asarray(array).__array_interface__["data"][0])


def test_a_rollback_copies_nothing_and_neither_do_writes_after_it() -> None:
    """Cut and written again, also after a copy was taken: the arrays stay where they are."""
    pool = Pool(mx, 2, 2 * BLOCK, [None], False)
    push(pool[0], 40)
    keys, at = pool[0].layers[0], address(pool[0].layers[0].keys)
    pool[0].truncate(35)
    assert push(pool[0], 9)[-1] == 43 and address(keys.keys) == at
    pool[1].copy_from(pool[0], 30)
    push(pool[0], 1)
    assert address(keys.keys) == at


def test_a_copy_takes_the_blocks_of_its_length() -> None:
    """Blocks for the tokens copied and one more, whatever the source holds; onto itself it gives the others back."""
    pool = Pool(mx, 2, 4 * BLOCK, [None], False)
    one = 2 * BLOCK * 4  # a block of keys and values of one float32
    assert pool.bytes() == 0
    push(pool[0], 3 * BLOCK)
    pool[1].copy_from(pool[0], BLOCK - 1)
    assert pool.bytes() == 4 * one
    pool[1].copy_from(pool[0], BLOCK)
    assert pool.bytes() == 5 * one
    pool[1].copy_from(pool[0], 3 * BLOCK)
    pool[0].truncate(9)
    assert pool.bytes() == 7 * one  # a rollback keeps what it has
    pool[0].copy_from(pool[0], 9)
    assert pool.bytes() == 5 * one
    assert push(pool[0], 1) == list(range(10)) and push(pool[1], 1) == list(range(3 * BLOCK + 1))
    pool[1].truncate(0)
    assert pool.bytes() == one


def test_bytes_are_counted_while_a_slot_gets_its_arrays() -> None:
    """Who looks from another thread may find the keys of a layer there and its values not yet."""
    pool = Pool(mx, 1, 4 * BLOCK, [None], False)
    pool[0].layers[0].keys = mx.zeros((1, 1, BLOCK, 1))
    assert pool.bytes() == BLOCK * 4


def test_a_full_slot_is_copied_not_shared() -> None:
    """A copy as long as the context has arrays of its own."""
    pool = Pool(mx, 2, 8, [None], False)
    push(pool[0], 8)
    pool[1].copy_from(pool[0], 8)
    pool[0].truncate(6)
    new = tokens(70, 72)
    pool[0].layers[0].update_and_fetch(new, new)
    mx.eval(pool[0].arrays())
    pool[1].truncate(7)
    assert push(pool[1], 1) == list(range(8))


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


def test_a_deep_cut_gives_memory_back() -> None:
    """What the head does not count any more is not held, but for a little."""
    pool = Pool(mx, 1, 8 * BLOCK, [None], False)
    push(pool[0], 4 * BLOCK)
    pool[0].truncate(9)
    assert pool.bytes() == 2 * BLOCK * 4
    assert push(pool[0], 1) == list(range(10))
