from __future__ import annotations

import numpy as np

from exo_node.engine.tinygrad.rope import inverse_frequencies, rope_tables
from exo_node.engine.tinygrad.spec import RopeSpec


def test_default() -> None:
    """theta^(-2i/d), and tables of cos and sin of position times frequency."""
    rope = RopeSpec(dims=8, theta=10000.0)
    expected = 10000.0 ** (-np.arange(0, 8, 2) / 8)
    assert np.allclose(expected, inverse_frequencies(rope, 64), rtol=1e-6)
    cos, sin = rope_tables(rope, 10, 64)
    assert (10, 4) == cos.shape == sin.shape
    assert np.allclose(np.cos(7 * expected), cos[7], atol=1e-6)


def test_llama3_keeps_short_waves_and_stretches_long_ones() -> None:
    """Wavelengths under original/high stay, those over original/low are divided by the factor, between lies between."""
    plain = inverse_frequencies(RopeSpec(dims=64, theta=500000.0), 64)
    scaled = inverse_frequencies(
        RopeSpec(
            dims=64,
            theta=500000.0,
            kind="llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_context=8192,
        ),
        64,
    )
    waves = 2 * np.pi / plain
    ratio = plain / scaled
    assert np.allclose(1.0, ratio[waves < 8192 / 4])
    assert np.allclose(8.0, ratio[waves > 8192])
    middle = ratio[(waves >= 8192 / 4) & (waves <= 8192)]
    assert len(middle) and ((middle >= 1.0) & (middle <= 8.0)).all()


def test_longrope_picks_once_by_the_context() -> None:
    """Short factors up to the original context, long ones beyond; both tables are scaled by the amplitude."""
    rope = RopeSpec(
        dims=4,
        theta=100.0,
        kind="longrope",
        factor=4.0,
        original_context=32,
        short_divisors=(1.0, 1.0),
        long_divisors=(2.0, 4.0),
    )
    short, long = inverse_frequencies(rope, 32), inverse_frequencies(rope, 33)
    assert np.allclose([2.0, 4.0], short / long)
    cos, _ = rope_tables(rope, 1, 32)
    assert np.allclose(np.sqrt(1 + np.log(4.0) / np.log(32)), cos[0])
