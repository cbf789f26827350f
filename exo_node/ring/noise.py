"""Gumbel noise for Gumbel-max draws: argmax(scaled logit + g), g = -log(-log(u)), u = hash(seed, position, token id).

As each token's noise is its own, a mask or a reordering of the candidates changes nothing for the others.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Bits = npt.NDArray[np.uint64]

# splitmix64 (Steele, Lea, Flood 2014): increment and the two multipliers of its finalizer
_GOLDEN: Final = 0x9E3779B97F4A7C15
_MIX_1: Final = 0xBF58476D1CE4E5B9
_MIX_2: Final = 0x94D049BB133111EB
_MASK: Final = 2**64 - 1

# u lies in [2^-53, 1 - 2^-53], so g lies within [-3.61, 36.8]: a token whose scaled logit is further
# below the best one than the width of that range cannot win.
GUMBEL_RANGE: Final = 41.2

_BLOCK: Final = 16_384  # 128 kB an array: a whole pass over a block stays in a core's own cache


def gumbel(seed: int, position: int, ids: Ids) -> Doubles:
    """Gumbel noise for each token id, a pure function of (seed, position, id)."""
    uniform = (hash_bits(seed, position, ids).astype(np.float64) + 0.5) * 2.0**-52  # exact, never 0 or 1
    return np.asarray(-np.log(-np.log(uniform)), np.float64)


def hash_bits(seed: int, position: int, ids: Ids) -> Bits:
    """52 random bits for each token id, a pure function of (seed, position, id)."""
    x = _steps(ids)
    x ^= np.uint64(_key(seed, position))
    _mix(x, np.empty_like(x))
    x ^= x >> np.uint64(31)
    x >>= np.uint64(12)
    return x


def ids_with_noise(seed: int, position: int, size: int, noise: float) -> Ids:
    """The ids below `size` (ascending) whose `gumbel` is at least `noise`, and perhaps a few with a little less."""
    # g >= noise means u >= exp(-exp(-noise)); its first 31 bits are those of the hash before the last step of mixing
    uniform = max(0.0, math.exp(-math.exp(-noise)) - 1e-12)
    least = np.uint64(int(uniform * 2.0**31) << 33)
    key = _key(seed, position)
    steps = _steps(np.arange(min(size, _BLOCK)))
    x, spare = np.empty_like(steps), np.empty_like(steps)
    found = []
    for start in range(0, size, _BLOCK):
        if size - start < x.size:
            steps, x, spare = steps[: size - start], x[: size - start], spare[: size - start]
        np.add(steps, np.uint64((start * _GOLDEN) & _MASK), out=x)
        x ^= np.uint64(key)
        _mix(x, spare)
        found.append(np.flatnonzero(x >= least) + start)
    return np.concatenate(found)


def _steps(ids: Ids) -> Bits:
    x = ids.astype(np.uint64)
    x += np.uint64(1)
    x *= np.uint64(_GOLDEN)  # arrays wrap around in silence, as is meant
    return x


def _mix(x: Bits, spare: Bits) -> None:
    """splitmix64's finalizer in place, but for its last step `x ^= x >> 31`."""
    np.right_shift(x, np.uint64(30), out=spare)
    x ^= spare
    x *= np.uint64(_MIX_1)
    np.right_shift(x, np.uint64(27), out=spare)
    x ^= spare
    x *= np.uint64(_MIX_2)


def _key(seed: int, position: int) -> int:
    return _mix_int((_mix_int((seed + _GOLDEN) & _MASK) + position * _GOLDEN) & _MASK)


def _mix_int(x: int) -> int:
    """splitmix64's finalizer on one Python int."""
    x = ((x ^ (x >> 30)) * _MIX_1) & _MASK
    x = ((x ^ (x >> 27)) * _MIX_2) & _MASK
    return x ^ (x >> 31)
