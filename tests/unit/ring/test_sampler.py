"""Each sampling parameter's effect on the distribution. Seeds are fixed, so every figure here is always the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from exo_node.errors import EngineFailed
from exo_node.ring.sampler import Sampler, only
from exo_node.types import SamplingParams

LOGITS = np.log(np.array([0.4, 0.3, 0.15, 0.1, 0.05], np.float32))
DRAWS = 4000
# chi-square with 4 degrees of freedom exceeds this once in 10,000 (with fixed seeds: never or always)
CHI_SQUARE_LIMIT = 23.5


def frequencies(
    logits: npt.NDArray[np.float32], prompt: Sequence[int] = (), generated: Sequence[int] = (), **params: Any
) -> npt.NDArray[np.float64]:
    """How often each token is drawn at 4000 positions."""
    counts = np.zeros(logits.size)
    for position in range(DRAWS):
        sampler = Sampler(SamplingParams(seed=7, **params), prompt, generated)
        counts[sampler.draw(logits, position).token] += 1
    return counts / DRAWS


def assert_distribution(observed: npt.NDArray[np.float64], expected: Sequence[float]) -> None:
    """Pearson's chi-square test; impossible tokens must never come."""
    wanted = np.asarray(expected) / np.sum(expected)
    assert np.all(observed[wanted == 0] == 0)
    possible = wanted > 0
    statistic = DRAWS * np.sum((observed[possible] - wanted[possible]) ** 2 / wanted[possible])
    assert statistic < CHI_SQUARE_LIMIT, (observed, wanted)


def test_temperature_1_draws_the_model_distribution() -> None:
    """Gumbel-max is exact."""
    assert_distribution(frequencies(LOGITS), [0.4, 0.3, 0.15, 0.1, 0.05])


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_sharpens_and_flattens(temperature: float) -> None:
    """Probabilities to the power of 1/T."""
    expected = np.array([0.4, 0.3, 0.15, 0.1, 0.05]) ** (1 / temperature)
    assert_distribution(frequencies(LOGITS, temperature=temperature), expected.tolist())


def test_temperature_0_takes_the_most_likely_and_the_lowest_of_equals() -> None:
    """Greedy, without any noise."""
    assert Sampler(SamplingParams(temperature=0.0)).draw(LOGITS, 5).token == 0
    ties = np.array([0.0, 2.0, 1.0, 2.0], np.float32)
    assert Sampler(SamplingParams(temperature=0.0)).draw(ties, 5).token == 1


def test_a_tiny_temperature_is_nearly_greedy() -> None:
    """Nothing overflows."""
    assert frequencies(LOGITS, temperature=1e-30)[0] == 1.0


def test_top_k_keeps_the_k_most_likely() -> None:
    """The others never come; among equals the lowest ids are kept."""
    assert_distribution(frequencies(LOGITS, top_k=2), [0.4, 0.3, 0, 0, 0])
    assert_distribution(frequencies(np.zeros(5, np.float32), top_k=2), [0.5, 0.5, 0, 0, 0])


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [(0.39, [1, 0, 0, 0, 0]), (0.5, [0.4, 0.3, 0, 0, 0]), (0.8, [0.4, 0.3, 0.15, 0, 0]), (1e-9, [1, 0, 0, 0, 0])],
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(top_p: float, expected: list[float]) -> None:
    """The token that reaches p is kept; one token always is."""
    assert_distribution(frequencies(LOGITS, top_p=top_p), expected)


def test_min_p_cuts_relative_to_the_most_likely() -> None:
    """min_p 0.3 of 0.4 is 0.12."""
    assert_distribution(frequencies(LOGITS, min_p=0.3), [0.4, 0.3, 0.15, 0, 0])


def test_temperature_comes_before_the_cuts() -> None:
    """top_p measures the mass of the distribution as temperature has made it."""
    flat = np.array([0.4, 0.3, 0.15, 0.1, 0.05]) ** 0.5
    reach = np.searchsorted(np.cumsum(flat / flat.sum()), 0.6) + 1
    expected = [value if index < reach else 0.0 for index, value in enumerate(flat)]
    assert_distribution(frequencies(LOGITS, temperature=2.0, top_p=0.6), expected)


def test_logit_bias_adds_to_the_logits() -> None:
    """log(2) doubles the odds, -100 forbids, +100 forces (greedy too)."""
    biased = [0.4, 0.3, 0.30, 0.1, 0]
    assert_distribution(frequencies(LOGITS, logit_bias={2: float(np.log(2)), 4: -100.0}), biased)
    assert Sampler(SamplingParams(temperature=0.0, logit_bias={3: 100.0})).draw(LOGITS, 0).token == 3


def test_frequency_penalty_counts_generated_tokens_only() -> None:
    """Logits fall by penalty x count; the prompt does not count."""
    expected = np.array([0.4, 0.3, 0.15, 0.1, 0.05]) * np.exp([-1.0, -0.5, 0, 0, 0])
    observed = frequencies(LOGITS, prompt=[4, 4], generated=[0, 1, 0], frequency_penalty=0.5)
    assert_distribution(observed, expected.tolist())


def test_presence_penalty_counts_once() -> None:
    """Logits fall by the penalty for each token that has been generated, however often."""
    expected = np.array([0.4, 0.3, 0.15, 0.1, 0.05]) * np.exp([-0.5, -0.5, 0, 0, 0])
    observed = frequencies(LOGITS, prompt=[4, 4], generated=[0, 1, 0], presence_penalty=0.5)
    assert_distribution(observed, expected.tolist())


def test_repetition_penalty_counts_the_prompt_and_pushes_down_whatever_the_sign() -> None:
    """A positive logit is divided, a negative one multiplied."""
    logits = np.array([1.0, 1.0, -1.0, -1.0, 0.5], np.float32)
    expected = np.exp([1.0, 0.5, -1.0, -2.0, 0.25])
    observed = frequencies(logits, prompt=[1, 3], generated=[4], repetition_penalty=2.0)
    assert_distribution(observed, expected.tolist())


def test_drawn_tokens_count_from_then_on() -> None:
    """A strong penalty makes greedy text run through the vocabulary."""
    sampler = Sampler(SamplingParams(temperature=0.0, presence_penalty=2.5))
    assert [sampler.draw(LOGITS, position).token for position in range(5)] == [0, 1, 2, 3, 4]


def test_the_same_seed_draws_the_same_and_another_differs() -> None:
    """A replay, also one that resumes in the middle, draws the same tokens."""
    flat = np.zeros(1000, np.float32)
    params = SamplingParams(seed=3)
    first = [Sampler(params).draw(flat, position).token for position in range(30)]
    assert [Sampler(params).draw(flat, position).token for position in range(10, 30)] == first[10:]
    other = [Sampler(SamplingParams(seed=4)).draw(flat, position).token for position in range(30)]
    assert sum(a == b for a, b in zip(first, other, strict=True)) <= 1


def test_logprobs_are_of_the_raw_distribution() -> None:
    """Neither temperature nor bias nor penalties change them; most likely first; 0 means the chosen only."""
    params = SamplingParams(temperature=0.0, logit_bias={3: 100.0}, top_logprobs=3)
    choice = Sampler(params).draw(LOGITS, 0)
    assert choice.token == 3
    assert choice.logprob == pytest.approx(np.log(0.1), abs=1e-6)
    assert [token for token, _ in choice.top] == [0, 1, 2]
    assert [logprob for _, logprob in choice.top] == pytest.approx(np.log([0.4, 0.3, 0.15]), abs=1e-6)
    alone = Sampler(SamplingParams(top_logprobs=0)).draw(LOGITS, 0)
    assert (alone.logprob is not None, alone.top) == (True, ())
    ties = Sampler(SamplingParams(temperature=0.0, top_logprobs=2)).draw(np.zeros(4, np.float32), 0)
    assert [token for token, _ in ties.top] == [0, 1]


def test_drawing_leaves_the_logits_alone() -> None:
    """The engine's array may be a view of its own memory."""
    before = LOGITS.copy()
    Sampler(SamplingParams(logit_bias={0: 1.0}, top_p=0.5, presence_penalty=1.0), [1], [2]).draw(LOGITS, 0)
    assert np.array_equal(before, LOGITS)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_numbers_are_an_engine_failure(temperature: float) -> None:
    """Never a random token out of garbage."""
    bad = np.array([0.0, np.nan, 1.0], np.float32)
    with pytest.raises(EngineFailed, match="not numbers"):
        Sampler(SamplingParams(temperature=temperature)).draw(bad, 0)


class Only:
    """A constraint that allows some tokens, and ends with the one that it is told."""

    def __init__(self, allowed: Sequence[int], last: int = -1) -> None:
        self.ended = False
        self._mask = np.isin(np.arange(LOGITS.size), allowed)
        self._last = last

    def allowed(self) -> npt.NDArray[np.bool_]:
        return self._mask

    def advance(self, token: int) -> None:
        assert self._mask[token]
        self.ended = token == self._last


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.0},
        {"top_k": 1},
        {"top_p": 0.1},
        {"min_p": 0.9},
        {"logit_bias": {0: 100.0, 3: -100.0}},
        {"repetition_penalty": 1.9, "frequency_penalty": 2.0},
    ],
)
def test_a_constraint_wins_over_every_parameter(params: dict[str, Any]) -> None:
    """What it forbids is never drawn, and it leaves the filters something to choose from."""
    for position in range(50):
        choice = Sampler(SamplingParams(seed=7, **params), (3,), (3,), Only([3])).draw(LOGITS, position)
        assert choice.token == 3


def test_a_mask_leaves_what_is_allowed_as_it_is() -> None:
    """All else is -inf, garbage too."""
    logits = np.array([0.0, -0.0, 1.5, -2.5, -np.inf, 3.0, np.nan], np.float32)
    masked = only(logits, np.array([True, True, True, True, True, False, False]))
    assert np.array_equal(masked[:5], logits[:5])
    assert np.all(masked[5:] == -np.inf)


def test_a_constraint_changes_no_other_draw() -> None:
    """Noise is each token's own: where the token drawn without one is allowed, it is drawn with one too; logprobs stay
    the model's."""
    for position in range(200):
        params = SamplingParams(seed=7, top_logprobs=2)
        free = Sampler(params).draw(LOGITS, position)
        bound = Sampler(params, constraint=Only([1, 3], last=3)).draw(LOGITS, position)
        if free.token in (1, 3):
            assert (bound.token, bound.logprob, bound.top) == (free.token, free.logprob, free.top)
        assert bound.ended is (bound.token == 3)
        assert bound.top == free.top
