"""One token each of several slots in one pass: against the same rows one by one, for every family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints import FAMILIES, make_checkpoint
from tests.unit.engine.tinygrad.harness import Ring, tokens

pytestmark = pytest.mark.engine_tinygrad
TOLERANCE = 2e-5  # of the largest logit, float32
CUTS = ((0, 3), (3, 7))


class Twins:
    """The same steps on a ring that batches and on one whose rows run alone."""

    def __init__(self, path: Path, cuts: Sequence[tuple[int, int]], context: int = 64) -> None:
        self.batched, self.alone = (Ring(path, cuts, slots=5, context=context, reproducible=r) for r in (False, True))

    def step(self, *rows: tuple[int, Sequence[int], int]) -> None:
        got, wanted = self.batched.step(rows), self.alone.step(rows)
        assert got.shape == wanted.shape
        bound = TOLERANCE * np.abs(wanted).max()
        assert np.abs(got - wanted).max() <= bound
        second, first = np.sort(wanted, axis=1)[:, -2:].T
        clear = first - second > 2 * bound
        assert np.array_equal(got.argmax(axis=1)[clear], wanted.argmax(axis=1)[clear])


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_together_equal_rows_alone(family: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Ragged rows over two shards, slots out of order, joining and leaving, beside a chunk, after rollback and copy."""
    root = tmp_path_factory.getbasetemp()
    context = 160 if family == "phi3_longrope" else 64  # past its original context the long factors hold
    twins = Twins(make_checkpoint(family, root), CUTS, context)
    a, b, c, d = (tokens(60, seed) for seed in range(4))
    twins.step((3, a[:31], 1), (0, b[:5], 1), (4, d[:1], 1))
    twins.step((3, a[31:32], 1), (0, b[5:6], 1))  # one past the windows of these checkpoints, one within
    twins.step((0, b[6:7], 1), (2, c[:20], 0), (3, a[32:33], 1), (4, d[1:2], 1))
    twins.step((2, c[20:21], 1), (1, d[:1], 1), (0, b[7:8], 0), (3, a[33:34], 1), (4, d[2:3], 1))
    for ring in (twins.batched, twins.alone):
        ring.truncate(2, 17)
        ring.copy(1, 3, 29)
    twins.step((1, c[30:31], 1), (2, c[40:41], 1), (3, a[34:35], 1), (0, b[9:11], 2))


def test_one_slot(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A pool of one slot, heads that share one key, and heads that share none."""
    root = tmp_path_factory.getbasetemp()
    for heads in (1, 4):
        path = make_checkpoint("mistral", root, num_hidden_layers=1, num_key_value_heads=heads)
        ring = Ring(path, ((0, 1),), slots=1)
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
    pool = ring.engines[0]._ready().decoder._kv[0]
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
