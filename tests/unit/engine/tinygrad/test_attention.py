"""One token each of several slots in one pass: against the same rows one by one, for every family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from exo_node.engine.windows import SLACK
from tests.checkpoints import FAMILIES, make_checkpoint, reference_logits
from tests.unit.engine.tinygrad.harness import Pair, Ring, tokens, two_layers

pytestmark = pytest.mark.engine_tinygrad
TOLERANCE = 2e-5  # of the largest logit, float32


def check_alike(got: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> None:
    assert got.shape == wanted.shape
    bound = TOLERANCE * np.abs(wanted).max()
    assert np.abs(got - wanted).max() <= bound
    second, first = np.sort(wanted, axis=1)[:, -2:].T
    clear = first - second > 2 * bound
    assert np.array_equal(got.argmax(axis=1)[clear], wanted.argmax(axis=1)[clear])


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_together_equal_rows_alone(family: str, pair_of: Callable[[str], Pair]) -> None:
    """Ragged rows, slots out of order, beside a chunk, after rollback and copy: as on a ring that runs each alone."""
    pair = pair_of(family)
    a, b = tokens(60, 1), tokens(60, 2)

    def step(*rows: tuple[int, Sequence[int], int]) -> None:
        check_alike(*(ring.step(rows) for ring in pair.rings))

    step((1, a[:31], 1), (0, b[:1], 1))
    step((1, a[31:32], 1), (0, b[1:2], 1))  # one past the windows of these checkpoints, one within
    for ring in pair.rings:
        ring.truncate(1, 29)
        ring.copy(0, 1, 27)
    step((0, b[30:31], 0), (1, a[40:41], 1))
    step((0, b[31:32], 1), (1, a[41:42], 1))


@pytest.mark.parametrize("family", FAMILIES)
def test_reproducible_rows_have_their_bits_alone(family: str, pair_of: Callable[[str], Pair]) -> None:
    """Under `reproducible` the rows of a step have, bit for bit, what each gives in a step and a slot of its own."""
    ring = pair_of(family).alone
    a, b = tokens(19, 3), tokens(8, 4)
    ring.step([(0, a[:17], 0), (1, b[:5], 0)])
    together = [ring.step([(1, b[5:6], 1), (0, a[17:18], 1)]), ring.step([(0, a[18:19], 1), (1, b[6:8], 2)])]
    ring.clear()
    rows = {}
    for name, slot, ids, start in (("a", 1, a, 17), ("b", 0, b, 5)):
        ring.step([(slot, ids[:start], 0)])
        ends = [start, start + 1, len(ids)]
        rows[name] = [ring.step([(slot, ids[i:j], j - i)]) for i, j in pairwise(ends)]
    assert np.array_equal(together[0], np.concatenate([rows["b"][0], rows["a"][0]]))
    assert np.array_equal(together[1], np.concatenate([rows["a"][1], rows["b"][1]]))


def test_four_at_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Three, four and five rows, some joining and some leaving, in steps of width 4 and 1."""
    path = make_checkpoint("mistral", tmp_path_factory.getbasetemp(), num_hidden_layers=1)
    batched, alone = (Ring(path, ((0, 1),), slots=5, reproducible=r) for r in (False, True))
    ids = [tokens(40, seed) for seed in range(5)]
    rows = [[(slot, ids[slot][: 3 + 5 * slot], 1) for slot in range(5)]]
    for turn, slots in enumerate(((4, 0, 2), (0, 1, 2, 3), (3, 1, 4, 0, 2))):
        rows.append([(slot, ids[slot][30 + turn : 31 + turn], 1) for slot in slots])
    for step in rows:
        check_alike(batched.step(step), alone.step(step))


def test_one_slot(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A pool of one slot, heads that share one key, and heads that share none."""
    root = tmp_path_factory.getbasetemp()
    for heads in (1, 4):
        path = make_checkpoint("mistral", root, num_hidden_layers=1, num_key_value_heads=heads)
        ring = Ring(path, ((0, 1),), slots=1, reproducible=True)
        whole = ring.prefill(0, tokens(20))
        ring.truncate(0, 0)
        single = np.concatenate([ring.prefill(0, [token]) for token in tokens(20)])
        assert np.abs(single - whole).max() <= TOLERANCE * np.abs(whole).max()


def test_what_another_sequence_left_is_not_seen(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keys and values behind a short row's end cannot reach it, even if they are no numbers, beside a long row."""
    path = make_checkpoint("mistral", tmp_path_factory.getbasetemp(), num_hidden_layers=1, sliding_window=None)
    ring = Ring(path, ((0, 1),))
    ring.prefill(0, tokens(5))
    ring.prefill(1, tokens(40, seed=2))
    fresh = ring.step([(0, [7], 1), (1, [8], 1)])
    for slot, length in ((0, 0), (1, 40)):
        ring.truncate(slot, length)
    pool = ring.engines[0]._ready().decoder._kv[0].pool
    values = pool.numpy()
    values[0:2] = np.nan
    pool.uop.buffer.copyin(np.ascontiguousarray(values).data.cast("B"))
    ring.step([(0, [t], 1) for t in tokens(5)[:1]])
    for token in tokens(5)[1:]:
        ring.prefill(0, [token])
    assert np.allclose(ring.step([(0, [7], 1), (1, [8], 1)]), fresh, atol=1e-4)


def test_a_slot_that_comes_twice_runs_in_order(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Two rows of one slot in a step follow each other."""
    path = make_checkpoint("mistral", tmp_path_factory.getbasetemp(), num_hidden_layers=1)
    ring = Ring(path, ((0, 1),))
    got = ring.step([(0, [5], 1), (0, [6], 1), (1, [7], 1)])
    for slot in (0, 1):
        ring.truncate(slot, 0)
    wanted = np.concatenate([ring.prefill(0, [5, 6]), ring.prefill(1, [7])])
    assert np.abs(got - wanted).max() <= TOLERANCE * np.abs(wanted).max()


def test_a_layer_with_a_window_is_a_ring(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Long past what it keeps: transformers' logits of a prompt in chunks over the ring's end, of rows beside others
    that are not yet round, after rollbacks within the depth and of a copy; in no more memory than that."""
    path = two_layers("gemma3_text", tmp_path_factory.getbasetemp(), max_position_embeddings=1024)
    ring = Ring(path, slots=2, context=600, max_chunk=16)
    most, report = 11 + SLACK + 16, ring.reports[0]
    assert (report.rollback_depth, report.whole_tokens) == (SLACK, most)
    assert report.kv_bytes == ring.engines[0].kv_bytes() == 2 * 2 * (most + 600 + 2 * 16) * 2 * 16 * 4
    a, b = tokens(600, 1), tokens(600, 2)
    wanted_a, wanted_b = reference_logits(path, a), reference_logits(path, b)

    def near(got: npt.NDArray[np.float32], *wanted: npt.NDArray[np.float32]) -> None:
        assert np.abs(got - np.concatenate(wanted)).max() <= 5e-4

    at = 0
    for length in (270, 40, 1, 7, 250):
        near(ring.prefill(0, a[at : at + length]), wanted_a[at : at + length])
        at += length
    for i in range(4):
        rows = [(0, a[at + i : at + i + 1], 1), (1, b[i : i + 1], 1)]
        near(ring.step(rows), wanted_a[at + i : at + i + 1], wanted_b[i : i + 1])
    ring.truncate(1, 0)
    ring.copy(1, 0, 560)
    for slot, start in ((0, 572 - SLACK), (1, 560)):
        ring.truncate(slot, start)
        near(ring.prefill(slot, a[start : start + 20]), wanted_a[start : start + 20])
    rows = [(0, a[592 - SLACK : 593 - SLACK], 1), (1, a[580:581], 1)]
    near(ring.step(rows), wanted_a[592 - SLACK : 593 - SLACK], wanted_a[580:581])
