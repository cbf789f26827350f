"""Gumbel-max over what top_k, top_p and min_p leave (in transformers' order of warpers): argmax(logit / T + noise).

Doing all of it in float64 for each of 128k tokens would take half a decode step. Large sets are cut roughly, never too
much, and the exact rules judge the few tokens that could be drawn: the outcome is that of the exact rules alone.
Passes over the vocabulary are made in blocks, as the memory for arrays of a megabyte costs more than the arithmetic.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from exo_node.ring.noise import GUMBEL_RANGE, Bools, Doubles, Floats, Ids, gumbel, ids_with_noise
from exo_node.types import SamplingParams

SMALL: Final = 4096  # up to this many candidates are all looked at
NEAR: Final = 1024  # of more than that, so many of the most likely are
ROUNDING: Final = 1e-9  # sums of a million float64 weights agree far better than this, in whatever order
ROUNDING_32: Final = 1e-5  # and of float32 weights
_BLOCK: Final = 16_384


def draw_token(logits: Floats, params: SamplingParams, position: int) -> int:
    """A token of `logits` [vocab] by `params` (temperature above 0, top_k, top_p, min_p, seed) at `position`.

    One whose logit is not finite where the largest logit is not.
    """
    highest = float(logits.max())
    if not math.isfinite(highest):
        return int(np.argmax(logits))
    temperature = params.temperature
    floor = highest - GUMBEL_RANGE * temperature
    least = math.log(params.min_p) if params.min_p > 0.0 else -math.inf  # the most likely token has 0
    total: float | None = None  # weight of all tokens, as good as the way to sum it up
    if 0 < params.top_k < logits.size:
        ids = _top_k(logits, params.top_k, floor, highest, temperature)
    else:
        cut = floor
        min_cut = max(floor, highest + (1.0 + ROUNDING) * temperature * least)
        if params.top_p < 1.0:
            total = mass(logits, highest, temperature, np.float32)
            # tokens that are each less likely than that are together less than what top_p leaves out
            share = (1.0 - params.top_p - ROUNDING_32) * total / logits.size
            cut = max(floor, highest + (1.0 + ROUNDING) * temperature * math.log(share)) if share > 0.0 else floor
        else:
            cut = min_cut
        above = logits >= cut
        if np.count_nonzero(above) > SMALL:
            reach = logits >= min_cut if min_cut > cut else above
            drawn = _draw_from_many(logits, highest, params, position, reach, least, total)
            if drawn is not None:
                return drawn
        ids = np.flatnonzero(above)
    scaled = scale(logits, ids, highest, temperature)
    if params.top_p < 1.0:
        # top_p and min_p weigh the whole distribution: what `floor` cuts off weighs < e^-41 a token
        kept = nucleus(scaled, params.top_p * total, ROUNDING_32) if total is not None else None
        if kept is None and total is not None:
            kept = nucleus(scaled, params.top_p * mass(logits, highest, temperature), ROUNDING)
        if kept is None:
            if total is not None:  # the edge is too close to tell by a sum in another order
                ids = np.flatnonzero(logits >= floor)
                scaled = scale(logits, ids, highest, temperature)
            kept = nucleus(scaled, params.top_p * float(np.exp(scaled).sum()), 0.0)
        ids, scaled = ids[kept], scaled[kept]
    kept = np.flatnonzero(scaled >= least)
    ids, scaled = ids[kept], scaled[kept]
    return int(ids[np.argmax(scaled + gumbel(params.seed, position, ids))])


def scale(logits: Floats, ids: Ids, highest: float, temperature: float) -> Doubles:
    """Logits of `ids` after temperature; the highest is 0."""
    # float64: a tiny temperature must not overflow, and sums over 128k tokens must not drift
    scaled = logits[ids].astype(np.float64)
    scaled -= highest
    scaled /= temperature
    return scaled


def top_indices(values: Floats | Doubles, k: int) -> Ids:
    """Indices (ascending) of the k largest values; among equals the lowest indices."""
    threshold = np.partition(values, values.size - k)[values.size - k]
    above = np.flatnonzero(values > threshold)
    equal = np.flatnonzero(values == threshold)[: k - above.size]
    return np.asarray(np.sort(np.concatenate([above, equal])), np.int64)


def nucleus(scaled: Doubles, wanted: float, rounding: float) -> Ids | None:
    """Indices (ascending) of the smallest set of most likely tokens whose weight exp(scaled) reaches `wanted`.

    Never empty; among equals the lowest ids come first. None where a `wanted` that differs by `rounding` (relative)
    could mean another set.
    """
    weights = np.exp(scaled)
    # A sort of 128k takes 10 times a partition, and the nucleus is nearly always small: look at the largest first.
    for size in (512, 8192, scaled.size):
        if size > scaled.size:
            continue
        candidates = top_indices(scaled, size) if size < scaled.size else np.arange(scaled.size)
        order = candidates[np.argsort(-scaled[candidates], kind="stable")]
        reached = np.cumsum(weights[order])
        if reached[-1] >= wanted * (1.0 + rounding) or size == scaled.size:
            count = int(np.searchsorted(reached, wanted * (1.0 - rounding))) + 1
            if rounding and count != int(np.searchsorted(reached, wanted * (1.0 + rounding))) + 1:
                return None
            return np.asarray(np.sort(order[:count]), np.int64)
    raise AssertionError("the last size is the whole")


def contenders(logits: Floats, highest: float, temperature: float, seed: int, position: int) -> Ids:
    """Ids (ascending) of all tokens whose scaled logit plus noise reaches the best such sum of the `NEAR` most likely,
    and perhaps others. `logits` has more than `NEAR`.

    Two logarithms for each of 128k tokens would be most of the cost. The others first have to show enough noise to
    reach that sum, which is one comparison of integers.
    """
    some = logits[:: max(1, logits.size // SMALL)]
    limit = np.partition(some, some.size - some.size * NEAR // logits.size)[some.size - some.size * NEAR // logits.size]
    above, equal = np.flatnonzero(logits > limit), np.flatnonzero(logits == limit)[:NEAR]
    near = np.concatenate([above, equal]) if above.size <= SMALL else top_indices(logits, NEAR)
    scaled = scale(logits, near, highest, temperature)
    sums = scaled + gumbel(seed, position, near)
    enough = ids_with_noise(seed, position, logits.size, float(sums.max() - scaled.min()))
    return np.union1d(near[np.argmax(sums)], enough)


def _top_k(logits: Floats, k: int, floor: float, highest: float, temperature: float) -> Ids:
    """Ids (ascending) of the k largest scaled logits that reach `floor`."""
    kept = top_indices(logits, k)
    kth = float(logits[kept].min())
    # logits that differ may be equal once scaled; then again the lowest ids count
    near = logits >= max(floor, kth - ROUNDING * (highest - kth))
    if np.count_nonzero(near) <= k or np.count_nonzero(near) == np.count_nonzero(logits >= kth):
        return kept[logits[kept] >= floor]
    ids = np.flatnonzero(near)
    return ids[top_indices(scale(logits, ids, highest, temperature), k)]


def _draw_from_many(
    logits: Floats,
    highest: float,
    params: SamplingParams,
    position: int,
    reach: Bools,
    least: float,
    total: float | None,
) -> int | None:
    """The token drawn among those of `reach` [vocab] that reach `least` (scaled) and, with a `total`, are in the
    nucleus; None where it takes all the exact rules to tell."""
    if np.count_nonzero(reach) > SMALL:
        ids = contenders(logits, highest, params.temperature, params.seed, position)
        ids = ids[reach[ids]]
    else:
        ids = np.flatnonzero(reach)
    scaled = scale(logits, ids, highest, params.temperature)
    kept = scaled >= least
    ids, scaled = ids[kept], scaled[kept]
    order = np.argsort(-(scaled + gumbel(params.seed, position, ids)), kind="stable")
    ids, scaled = ids[order], scaled[order]
    while ids.size:
        token = int(ids[0])
        if total is None:
            return token
        beyond = _mass_before(logits, token, highest, params.temperature) / total - params.top_p
        if math.isnan(beyond):
            return None
        if beyond < -ROUNDING_32:
            return token
        if beyond <= ROUNDING_32:
            return None
        likelier = (scaled > scaled[0]) | ((scaled == scaled[0]) & (ids < token))  # less likely ones are out as well
        ids, scaled = ids[likelier], scaled[likelier]
    return None


def mass(
    logits: Floats,
    highest: float,
    temperature: float,
    dtype: type[np.float32 | np.float64] = np.float64,
    above: float = -math.inf,
) -> float:
    """Sum of the weights exp(scaled) of logits `above`. float32 is twice as quick and good to `ROUNDING_32`."""
    if temperature < 1e-30:
        dtype = np.float64
    total = 0.0
    spare = np.empty(_BLOCK, dtype)
    top, divisor = dtype(highest), dtype(temperature)
    for start in range(0, logits.size, _BLOCK):
        block = logits[start : start + _BLOCK]
        weights = spare[: block.size]
        np.subtract(block, top, out=weights)
        weights /= divisor
        np.exp(weights, out=weights)
        if above > -math.inf:
            weights *= block > above
        total += float(weights.sum())
    return total


def _mass_before(logits: Floats, token: int, highest: float, temperature: float) -> float:
    """Sum of the weights of all that are more likely than `token` or equal with a lower id, but for `ROUNDING_32`.

    Not a number where the order is not that of the logits: some that differ may be equal once scaled.
    """
    logit = float(logits[token])
    apart = ROUNDING * (highest - logit)
    if abs(logit) < 1000 * apart:  # others are at least 6e-8 times the logit away
        around = np.count_nonzero(logits >= logit - apart) - np.count_nonzero(logits > logit + apart)
        if around != np.count_nonzero(logits == logit):
            return math.nan
    before = mass(logits, highest, temperature, np.float32, logit)
    return before + math.exp((logit - highest) / temperature) * np.count_nonzero(logits[:token] == logit)
