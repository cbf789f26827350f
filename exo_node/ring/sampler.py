"""Drawing a token from float32 logits. Stateless but for the counts of tokens, so that a replay draws the same.

Order: logit_bias, then repetition, frequency and presence penalty (as in vLLM's sampler), then temperature, top_k,
top_p, min_p (as transformers orders its warpers). A grammar's mask comes before temperature and wins over all of them.
frequency/presence count generated tokens (OpenAI's formula); repetition counts prompt and generated tokens (CTRL paper,
as transformers does). Ties go to the lowest id.

The draw is Gumbel-max: argmax(logit / T + g), g = -log(-log(u)), u = hash(seed, position, token id). As each token's
noise is its own, a mask or a reordering of the candidates changes nothing for the others.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from exo_node.errors import RingBroken
from exo_node.ring.sequences import TokenChoice
from exo_node.types import SamplingParams

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]

# splitmix64 (Steele, Lea, Flood 2014): increment and the two multipliers of its finalizer
_GOLDEN: Final = 0x9E3779B97F4A7C15
_MIX_1: Final = 0xBF58476D1CE4E5B9
_MIX_2: Final = 0x94D049BB133111EB
_MASK: Final = 2**64 - 1

# u lies in [2^-53, 1 - 2^-53], so g lies within [-3.61, 36.8]: a token whose scaled logit is further
# below the best one than the width of that range cannot win.
GUMBEL_RANGE: Final = 41.2
SMALL: Final = 4096  # below this many candidates a plain argmax is as quick
NEAR: Final = 12.0  # candidates less than e^-12 as likely as the best are looked at only if their noise is large


class Constraint(Protocol):
    """What may be drawn next (constraint.py). `ended`: nothing any more."""

    ended: bool

    def allowed(self) -> Bools:
        """[vocab], true for at least one token. Raises `ExoError`."""
        ...

    def advance(self, token: int) -> None: ...


class Sampler:
    """The sampling state of one sequence."""

    def __init__(
        self,
        params: SamplingParams,
        prompt: Sequence[int] = (),
        generated: Sequence[int] = (),
        constraint: Constraint | None = None,
    ) -> None:
        self._params = params
        self._constraint = constraint
        self._adjusts = bool(params.logit_bias) or params.repetition_penalty != 1.0
        self._adjusts = self._adjusts or params.frequency_penalty != 0.0 or params.presence_penalty != 0.0
        self._seen: set[int] = set()
        self._counts: Counter[int] = Counter()
        if self._adjusts:
            self._seen.update(prompt, generated)
            self._counts.update(generated)
        self._bias_ids: Ids = np.fromiter(params.logit_bias.keys(), np.int64)
        self._bias: Floats = np.fromiter(params.logit_bias.values(), np.float32)

    def draw(self, logits: Floats, position: int) -> TokenChoice:
        """The token at absolute `position` (prompt included) given `logits` [vocab]. Does not change `logits`.

        Raises `RingBroken` (code engine_failed) where the logits are not numbers, and what the constraint raises.
        """
        adjusted = self._adjust(logits) if self._adjusts else logits
        if self._constraint is not None:
            adjusted = np.where(self._constraint.allowed(), adjusted, np.float32(-np.inf))
        greedy = self._params.temperature == 0.0
        # argmax takes the first of equals: the lowest id
        token = int(np.argmax(adjusted)) if greedy else self._sample(adjusted, position)
        if not np.isfinite(adjusted[token]):
            raise RingBroken("the engine returned logits that are not numbers", code="engine_failed", status=500)
        if self._adjusts:
            self._seen.add(token)
            self._counts[token] += 1
        ended = False
        if self._constraint is not None:
            self._constraint.advance(token)
            ended = self._constraint.ended
        if self._params.top_logprobs is None:
            return TokenChoice(token, ended=ended)
        return _with_logprobs(logits, token, self._params.top_logprobs, ended)

    def _adjust(self, logits: Floats) -> Floats:
        params = self._params
        out = logits.copy()
        if self._bias_ids.size:
            out[self._bias_ids] += self._bias
        if params.repetition_penalty != 1.0 and self._seen:
            ids = np.fromiter(self._seen, np.int64, len(self._seen))
            penalty = np.float32(params.repetition_penalty)
            values = out[ids]
            out[ids] = np.where(values > 0, values / penalty, values * penalty)
        if self._counts and (params.frequency_penalty or params.presence_penalty):
            ids = np.fromiter(self._counts.keys(), np.int64, len(self._counts))
            counts = np.fromiter(self._counts.values(), np.float32, len(self._counts))
            out[ids] -= counts * np.float32(params.frequency_penalty) + np.float32(params.presence_penalty)
        return out

    def _sample(self, logits: Floats, position: int) -> int:
        params = self._params
        best = int(np.argmax(logits))
        if not np.isfinite(logits[best]):
            return best
        # float64 from here: a tiny temperature must not overflow, and sums over 128k tokens must not drift
        floor = float(logits[best]) - GUMBEL_RANGE * params.temperature
        ids: Ids = np.flatnonzero(logits >= floor)
        # top_p and min_p weigh probabilities of the whole distribution: what is cut off here weighs < e^-41 a token
        scaled: Doubles = (logits[ids].astype(np.float64) - float(logits[best])) / params.temperature
        if params.top_k and params.top_k < ids.size:
            kept = top_indices(scaled, params.top_k)
            ids, scaled = ids[kept], scaled[kept]
        if params.top_p < 1.0:
            kept = nucleus(scaled, params.top_p)
            ids, scaled = ids[kept], scaled[kept]
        if params.min_p > 0.0:
            kept = np.flatnonzero(scaled >= np.log(params.min_p))  # the most likely one has scaled 0
            ids, scaled = ids[kept], scaled[kept]
        return int(ids[noisy_argmax(scaled, hash_bits(params.seed, position, ids))])


def noisy_argmax(scaled: Doubles, bits: Bits) -> int:
    """Index of the largest `scaled + gumbel`; the largest of `scaled` is 0.

    Two logarithms for each of 128k tokens would be most of the cost: those far below the best first have to show enough
    noise to beat the best of the others, which is one comparison of integers.
    """
    if scaled.size < SMALL:
        return int(np.argmax(scaled + gumbel_of(bits)))
    near = np.flatnonzero(scaled >= -NEAR)
    values = scaled[near] + gumbel_of(bits[near])
    best = int(np.argmax(values))
    # scaled < -NEAR wins only with noise above values[best] + NEAR, that is with a uniform above exp(-exp(-that))
    uniform = math.exp(-math.exp(-(float(values[best]) + NEAR)))
    far = np.flatnonzero((scaled < -NEAR) & (bits >= np.uint64(max(0.0, uniform - 1e-12) * 2.0**52)))
    if not far.size:
        return int(near[best])
    both = np.sort(np.concatenate([near[best : best + 1], far]))
    return int(both[np.argmax(scaled[both] + gumbel_of(bits[both]))])


def gumbel(seed: int, position: int, ids: Ids) -> Doubles:
    """Gumbel noise for each token id, a pure function of (seed, position, id)."""
    return gumbel_of(hash_bits(seed, position, ids))


def gumbel_of(bits: Bits) -> Doubles:
    """Gumbel noise from 52 random bits."""
    uniform = (bits.astype(np.float64) + 0.5) * 2.0**-52  # exact, never 0 or 1
    return np.asarray(-np.log(-np.log(uniform)), np.float64)


def hash_bits(seed: int, position: int, ids: Ids) -> Bits:
    """52 random bits for each token id, a pure function of (seed, position, id)."""
    key = _mix_int((_mix_int((seed + _GOLDEN) & _MASK) + position * _GOLDEN) & _MASK)
    x = ids.astype(np.uint64)
    x += np.uint64(1)
    x *= np.uint64(_GOLDEN)  # arrays wrap around in silence, as is meant
    x ^= np.uint64(key)
    shifted = x >> np.uint64(30)
    x ^= shifted
    x *= np.uint64(_MIX_1)
    np.right_shift(x, np.uint64(27), out=shifted)
    x ^= shifted
    x *= np.uint64(_MIX_2)
    np.right_shift(x, np.uint64(31), out=shifted)
    x ^= shifted
    x >>= np.uint64(12)
    return x


def top_indices(values: Doubles, k: int) -> Ids:
    """Indices (ascending) of the k largest values; among equals the lowest indices."""
    threshold = np.partition(values, values.size - k)[values.size - k]
    above = np.flatnonzero(values > threshold)
    equal = np.flatnonzero(values == threshold)[: k - above.size]
    return np.asarray(np.sort(np.concatenate([above, equal])), np.int64)


def nucleus(scaled: Doubles, top_p: float) -> Ids:
    """Indices (ascending) of the smallest set of most likely tokens whose probability reaches `top_p` (never empty).

    Among equals the lowest ids come first.
    """
    weights = np.exp(scaled)
    wanted = top_p * float(weights.sum())
    # A sort of 128k takes 10 times a partition, and the nucleus is nearly always small: look at the largest first.
    for size in (512, 8192, scaled.size):
        if size > scaled.size:
            continue
        candidates = top_indices(scaled, size) if size < scaled.size else np.arange(scaled.size)
        order = candidates[np.argsort(-scaled[candidates], kind="stable")]
        reached = np.cumsum(weights[order])
        if reached[-1] >= wanted or size == scaled.size:
            count = int(np.searchsorted(reached, wanted)) + 1
            return np.asarray(np.sort(order[:count]), np.int64)
    raise AssertionError("the last size is the whole")


def _with_logprobs(logits: Floats, token: int, n_top: int, ended: bool) -> TokenChoice:
    """Log-probabilities of the raw distribution: before bias, penalties and temperature."""
    values = logits.astype(np.float64)
    highest = float(values.max())
    norm = highest + float(np.log(np.exp(values - highest).sum()))
    top: tuple[tuple[int, float], ...] = ()
    if n_top:
        ids = top_indices(values, min(n_top, values.size))
        ids = ids[np.argsort(-values[ids], kind="stable")]
        top = tuple((int(one), float(values[one]) - norm) for one in ids)
    return TokenChoice(token, float(values[token]) - norm, top, ended)


def _mix_int(x: int) -> int:
    """splitmix64's finalizer on one Python int."""
    x = ((x ^ (x >> 30)) * _MIX_1) & _MASK
    x = ((x ^ (x >> 27)) * _MIX_2) & _MASK
    return x ^ (x >> 31)
