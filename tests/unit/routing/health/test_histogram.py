"""Streaming quantiles."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from exo_node.routing.health.histogram import RotatingHistogram


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_a_quantile_is_a_sample_within_one_bucket(values: list[float], q: float) -> None:
    """A quantile lies within a bucket's width (9 %) of the sample of that rank."""
    histogram = RotatingHistogram()
    for value in values:
        histogram.add(value, 1.0)
    found = histogram.quantile(q, 1.0)
    rank = next(i for i in range(len(values)) if i + 1 >= q * len(values))
    true = sorted(values)[rank]
    assert found is not None
    assert true / 1.1 <= found <= true * 1.1


def test_what_is_older_than_two_windows_is_forgotten() -> None:
    """Samples last one to two windows."""
    histogram = RotatingHistogram(window_s=60)
    histogram.add(1.0, 0.0)
    assert histogram.count(59) == 1
    assert histogram.count(61) == 1
    assert histogram.count(121) == 0
    assert histogram.quantile(0.5, 121) is None


def test_too_few_samples_give_no_quantile() -> None:
    """`at_least` keeps a p95 of three samples from being believed."""
    histogram = RotatingHistogram()
    histogram.add(1.0, 0.0)
    assert histogram.quantile(0.95, 0.0, at_least=2) is None
