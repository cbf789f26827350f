"""The quick draw from large vocabularies against the rules applied one after the other. Seeds are fixed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exo_node.ring.draw import draw_token, mass, nucleus, top_indices
from exo_node.ring.noise import GUMBEL_RANGE, gumbel
from exo_node.types import SamplingParams

Floats = npt.NDArray[np.float32]


def reference(logits: Floats, params: SamplingParams, position: int) -> int:
    """Every rule in float64 on every token, with a full sort."""
    best = int(np.argmax(logits))
    if not np.isfinite(logits[best]):
        return best
    ids = np.flatnonzero(logits >= float(logits[best]) - GUMBEL_RANGE * params.temperature)
    scaled = (logits[ids].astype(np.float64) - float(logits[best])) / params.temperature
    if params.top_k:
        kept = np.sort(np.argsort(-scaled, kind="stable")[: params.top_k])
        ids, scaled = ids[kept], scaled[kept]
    if params.top_p < 1.0:
        weights = np.exp(scaled)
        order = np.argsort(-scaled, kind="stable")
        count = int(np.searchsorted(np.cumsum(weights[order]), params.top_p * float(weights.sum()))) + 1
        kept = np.sort(order[:count])
        ids, scaled = ids[kept], scaled[kept]
    if params.min_p > 0.0:
        kept = np.flatnonzero(scaled >= np.log(params.min_p))
        ids, scaled = ids[kept], scaled[kept]
    return int(ids[np.argmax(scaled + gumbel(params.seed, position, ids))])


def logits_of(kind: str, size: int, seed: int) -> Floats:
    """Logits as engines give them, and worse."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 1, size).astype(np.float32)
    if kind == "peaked":
        values *= np.float32(2.5)
        values[rng.choice(size, 20)] += np.linspace(5, 15, 20, dtype=np.float32)
    elif kind == "spread":
        values *= np.float32(12)
    elif kind == "ties":
        values = np.round(values, 1)
    elif kind == "equal":
        values[:] = np.float32(-3.25)
    elif kind == "lone":  # nearly all the mass is far from the best
        values[:] = -13.0
        values[size // 3] = 0.0
    elif kind == "masked":
        values[rng.random(size) < 0.4] = -np.inf
    elif kind == "one left":
        values[:] = -np.inf
        values[size // 2] = 1.0
    elif kind == "tiny":  # float64 cannot tell them apart after subtraction of the largest
        values *= np.float32(1e-30)
        values[0] = 5.0
    return values


KINDS = ("flat", "peaked", "spread", "ties", "equal", "lone", "masked", "one left", "tiny")


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(KINDS),
    size=st.sampled_from([1, 7, 1000, 4097, 20_000, 33_333]),
    of=st.integers(0, 50),
    temperature=st.sampled_from([1e-40, 1e-30, 1e-3, 0.3, 0.7, 1.0, 2.0]),
    top_k=st.sampled_from([0, 0, 0, 1, 40, 5000, 15_000, 1_000_000]),
    top_p=st.one_of(st.just(1.0), st.sampled_from([1e-9, 0.1, 0.5, 0.9, 0.95, 0.9999, 1 - 1e-12]), st.floats(0.01, 1)),
    min_p=st.one_of(st.just(0.0), st.sampled_from([1e-20, 1e-3, 0.05, 0.5, 1.0]), st.floats(0.001, 1)),
    seed=st.integers(0, 2**64 - 1),
    position=st.integers(0, 200_000),
)
def test_the_quick_way_draws_what_the_rules_say(
    kind: str,
    size: int,
    of: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    seed: int,
    position: int,
) -> None:
    """Whatever the logits and the parameters."""
    logits = logits_of(kind, size, of)
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    for place in range(position, position + 3):
        assert draw_token(logits, params, place) == reference(logits, params, place)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cuts", [{}, {"top_p": 0.5}, {"top_p": 0.95}, {"min_p": 0.2}, {"top_p": 0.02, "min_p": 0.1}])
def test_large_vocabularies_draw_the_same_at_many_positions(kind: str, cuts: dict[str, Any]) -> None:
    """Tokens that only their noise brings forward, and those at the edge of a cut, too."""
    logits = logits_of(kind, 20_000, 1)
    for position in range(15):
        params = SamplingParams(seed=9, **cuts)
        assert draw_token(logits, params, position) == reference(logits, params, position)


def test_an_edge_that_rounding_could_move_is_settled_by_the_full_rules() -> None:
    """Half of an even number of equals, or all but one: sums come within rounding of what is wanted."""
    logits = np.zeros(10_000, np.float32)
    for top_p in (0.5, 0.9999, 0.0001):
        for position in range(40):
            params = SamplingParams(top_p=top_p, seed=position)
            assert draw_token(logits, params, position) == reference(logits, params, position)
    assert nucleus(np.zeros(10), 5.0, 1e-9) is None
    found = nucleus(np.zeros(10), 5.5, 1e-9)
    assert found is not None
    assert found.tolist() == [0, 1, 2, 3, 4, 5]


def test_cuts_of_large_vocabularies_equal_a_full_sort() -> None:
    """The partitions that save time change nothing."""
    rng = np.random.default_rng(0)
    for scale in (0.1, 3.0):
        scaled = np.round(rng.normal(0, scale, 20_000), 2)
        scaled -= scaled.max()
        order = np.argsort(-scaled, kind="stable")
        assert np.array_equal(top_indices(scaled, 40), np.sort(order[:40]))
        weights = np.exp(scaled[order])
        for top_p in (0.01, 0.3, 0.9, 0.9999):
            count = np.searchsorted(np.cumsum(weights), top_p * weights.sum()) + 1
            found = nucleus(scaled, top_p * weights.sum(), 0.0)
            assert found is not None
            assert np.array_equal(found, np.sort(order[:count]))


def test_mass_is_the_sum_of_all_weights() -> None:
    """Blocks change nothing; what is forbidden weighs nothing."""
    logits = np.append(np.linspace(-30, 2, 20_001, dtype=np.float32), np.float32(-np.inf))
    assert mass(logits, 2.0, 0.5) == pytest.approx(np.exp((logits.astype(np.float64) - 2.0) / 0.5).sum(), rel=1e-12)
