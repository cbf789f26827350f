"""The noise of draws. Seeds are fixed, so every figure here is always the same."""

from __future__ import annotations

import numpy as np
import pytest

from exo_node.ring.noise import GUMBEL_RANGE, gumbel, hash_bits, ids_with_noise


def test_noise_is_stateless_and_spread_like_gumbel() -> None:
    """A token's noise does not depend on the other candidates; mean and variance are Gumbel's; any seed works."""
    ids = np.arange(200_000)
    noise = gumbel(2**64 - 1, 12, ids)
    assert np.array_equal(noise[[5, 77]], gumbel(2**64 - 1, 12, np.array([5, 77])))
    assert abs(noise.mean() - np.euler_gamma) < 0.01
    assert abs(noise.var() - np.pi**2 / 6) < 0.02
    assert noise.max() - noise.min() < GUMBEL_RANGE
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.01
    assert abs(np.corrcoef(noise, gumbel(2**64 - 1, 13, ids))[0, 1]) < 0.01


def test_hash_bits_are_splitmix64() -> None:
    """They never change: a replay on a newer version must draw the same tokens."""
    assert hash_bits(3, 7, np.array([0, 1, 128_000])).tolist() == [862442139423578, 4465286470836835, 3247971939711618]


@pytest.mark.parametrize("noise", [-5.0, 0.0, 3.0, 9.0, 20.0, 60.0])
@pytest.mark.parametrize("size", [1, 16_384, 40_001])
def test_ids_with_noise_misses_none(noise: float, size: int) -> None:
    """All ids with at least that noise come, ascending, and next to none with less."""
    have = gumbel(5, 9, np.arange(size))
    found = ids_with_noise(5, 9, size, noise)
    assert np.array_equal(found, np.unique(found))
    assert set(np.flatnonzero(have >= noise)) <= set(found)
    assert np.all(have[found] >= min(noise, 20.0) - 0.01)
