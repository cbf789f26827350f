"""KV slots: lengths, growth in blocks, windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from exo_node.engine.mlx.cache import BLOCK, Pool, Slot
from exo_node.engine.windows import SLACK, kept_tokens
from exo_node.errors import RingBroken

mx: Any = pytest.importorskip("mlx.core")
pytestmark = pytest.mark.engine_mlx
CHUNK = 1024


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
    slot = Pool(mx, 1, 2 * BLOCK + 10, [None], False, CHUNK)[0]
    for n, capacity in ((3, BLOCK), (BLOCK, 2 * BLOCK), (BLOCK, 2 * BLOCK + 10)):
        end = slot.length + n
        assert push(slot, n) == list(range(end))
        assert slot.layers[0].keys.shape[2] == capacity


def test_a_window_cuts_off_what_no_query_sees() -> None:
    """A windowed layer returns the window before its first query and no more; the mask does the rest."""
    slot = Pool(mx, 1, 64, [4], False, CHUNK)[0]
    assert push(slot, 6) == [0, 1, 2, 3, 4, 5]
    assert push(slot, 1) == [3, 4, 5, 6]
    mask = np.array(slot.mask(2, 4))  # queries 7 and 8 over keys 4..8
    assert push(slot, 2) == [4, 5, 6, 7, 8]
    assert mask.tolist() == [[True, True, True, True, False], [False, True, True, True, True]]


def test_masks_without_need_of_an_array() -> None:
    """One token needs no mask, a chunk within the window only a causal one (an array where a family wants it)."""
    slot, arrays = Pool(mx, 1, 64, [8], False, CHUNK)[0], Pool(mx, 1, 64, [8], True, CHUNK)[0]
    assert slot.mask(1, 8) is None
    assert slot.mask(3, 8) == "causal" and slot.mask(30, None) == "causal"
    assert np.array(arrays.mask(2, 8)).tolist() == [[True, False], [True, True]]


def test_cut_and_copied_slots_share_nothing() -> None:
    """Writing after a copy leaves the source alone, and the other way round."""
    pool = Pool(mx, 2, 64, [None], False, CHUNK)
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
    pool = Pool(mx, 2, 2 * BLOCK, [None], False, CHUNK)
    push(pool[0], 40)
    keys, at = pool[0].layers[0], address(pool[0].layers[0].keys)
    pool[0].truncate(35)
    assert push(pool[0], 9)[-1] == 43 and address(keys.keys) == at
    pool[1].copy_from(pool[0], 30)
    push(pool[0], 1)
    assert address(keys.keys) == at


def test_a_copy_takes_the_blocks_of_its_length() -> None:
    """Blocks for the tokens copied and one more, whatever the source holds; onto itself it gives the others back."""
    pool = Pool(mx, 2, 4 * BLOCK, [None], False, CHUNK)
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
    pool = Pool(mx, 1, 4 * BLOCK, [None], False, CHUNK)
    pool[0].layers[0].keys = mx.zeros((1, 1, BLOCK, 1))
    assert pool.bytes() == BLOCK * 4


def test_a_full_slot_is_copied_not_shared() -> None:
    """A copy as long as the context has arrays of its own."""
    pool = Pool(mx, 2, 8, [None], False, CHUNK)
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
    slot = Pool(mx, 1, 64, [None], False, CHUNK)[0]
    push(slot, 2)
    slot.layers[0].update_and_fetch(tokens(50, 60), tokens(50, 60))
    assert slot.length == 2
    assert push(slot, 1) == [0, 1, 2]


def test_out_of_order_is_refused() -> None:
    """Positions, lengths and slots are checked before anything is written."""
    pool = Pool(mx, 2, 8, [None], False, CHUNK)
    push(pool[0], 3)
    for position, length in ((2, 1), (4, 1), (3, 6), (3, 0)):
        with pytest.raises(RingBroken):
            pool[0].expect(position, length)
    for index in (-1, 2):
        with pytest.raises(RingBroken, match="no KV slot"):
            pool[index]


def test_a_deep_cut_gives_memory_back() -> None:
    """What the head does not count any more is not held, but for a little."""
    pool = Pool(mx, 1, 8 * BLOCK, [None], False, CHUNK)
    push(pool[0], 4 * BLOCK)
    pool[0].truncate(9)
    assert pool.bytes() == 2 * BLOCK * 4
    assert push(pool[0], 1) == list(range(10))


def test_a_windowed_layer_keeps_no_more_than_it_says() -> None:
    """Its arrays stop at window, slack and chunk, however long the sequence; one without a window keeps all."""
    window, chunk, context = 4, 8, 8 * BLOCK
    most = kept_tokens(window, context, chunk)
    assert most == window - 1 + SLACK + chunk
    pool = Pool(mx, 1, context, [window], False, chunk)
    whole = Pool(mx, 1, context, [None], False, chunk)
    while pool[0].length < context - chunk:
        for n in (chunk, 1, 3):
            end = pool[0].length + n
            assert push(pool[0], n) == list(range(max(0, end - n + 1 - window), end))
            assert pool[0].layers[0].reaches(max(0, end - SLACK))
            push(whole[0], n)
    assert pool.bytes() == 2 * 4 * most
    assert whole.bytes() == 2 * 4 * context
    pool[0].truncate(pool[0].length - SLACK)
    with pytest.raises(RingBroken, match="8 at most"):
        pool[0].expect(pool[0].length, chunk + 1)


@pytest.mark.parametrize("seed", range(4))
def test_a_windowed_layer_always_has_what_it_promised(seed: int) -> None:
    """Appends, cuts and copies at random over many windows: every query sees the tokens that it would in a layer that
    forgets nothing, whatever a rollback of at most the slack, from the most that was held, has left; beyond is refused
    where it must be."""
    rng = np.random.default_rng(seed)
    window, chunk, context = 20, 40, 6 * BLOCK
    pool = Pool(mx, 3, context, [window, None], False, chunk)
    held: list[list[float]] = [[], [], []]
    most = [0, 0, 0]
    for number in range(300):
        at, other = (int(i) for i in rng.choice(3, 2, replace=False))
        slot = pool[at]
        low = 0 if most[at] <= kept_tokens(window, context, chunk) else most[at] - SLACK
        match int(rng.integers(0, 12)):
            case 0:
                length = int(rng.integers(low, len(held[at]) + 1))
                slot.truncate(length)
                del held[at][length:]
            case 1 if held[at]:
                length = int(rng.integers(max(low, 1), len(held[at]) + 1))
                pool[other].copy_from(slot, length)
                held[other], most[other] = held[at][:length], most[at]
            case 2 if number % 5 == 0 or len(held[at]) + chunk > context:
                slot.truncate(0)
                held[at], most[at] = [], 0
            case _ if len(held[at]) + chunk <= context:
                n = int(rng.integers(1, chunk + 1))
                new = (rng.integers(0, 1 << 20, n)).astype(np.float32)
                seen = []
                for layer in slot.layers:
                    pair = layer.update_and_fetch(mx.array(new)[None, None, :, None], mx.zeros((1, 1, n, 1)))
                    seen.append(pair[0].flatten().tolist())
                slot.commit(n)
                start = len(held[at])
                held[at] += new.tolist()
                most[at] = max(most[at], len(held[at]))
                assert seen == [held[at][max(0, start + 1 - window) :], held[at]]
    pool[0].truncate(0)
    for _ in range(context // chunk):
        push(pool[0], chunk)
    for call in (pool[0].truncate, lambda n: pool[1].copy_from(pool[0], n)):
        with pytest.raises(RingBroken):
            call(pool[0].length - SLACK - 2 * chunk)
