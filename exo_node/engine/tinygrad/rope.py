"""Cosine and sine tables of rotary embeddings, in float32 as transformers rounds them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from exo_node.engine.tinygrad.spec import RopeSpec

Floats = npt.NDArray[np.float32]


def rope_tables(rope: RopeSpec, positions: int, context: int) -> tuple[Floats, Floats]:
    """Cosine and sine, each [positions, dims / 2], for positions 0, 1, ...

    longrope has two sets of frequencies. transformers picks by the length of the sequence so far, so that keys cached
    before the border no longer fit those after it; like vLLM we pick once per pool, by `context` (the longest sequence
    that it may hold), and a sequence never changes its set.
    """
    frequencies = inverse_frequencies(rope, context)
    angles = np.arange(positions, dtype=np.float32)[:, None] * frequencies[None, :]
    amplitude = np.float32(_amplitude(rope))
    return np.cos(angles) * amplitude, np.sin(angles) * amplitude


def inverse_frequencies(rope: RopeSpec, context: int) -> Floats:
    """Radians per position, [dims / 2], float32."""
    exponents = np.arange(0, rope.dims, 2, dtype=np.float32) / np.float32(rope.dims)
    periods = np.power(np.float32(rope.theta), exponents)
    if rope.kind == "longrope":
        divisors = rope.long_divisors if context > rope.original_context else rope.short_divisors
        return (1.0 / (np.asarray(divisors, dtype=np.float32) * periods)).astype(np.float32)
    plain = (np.float32(1.0) / periods).astype(np.float32)
    if rope.kind == "linear":
        return (plain / np.float32(rope.factor)).astype(np.float32)
    if rope.kind == "llama3":
        return _llama3(rope, plain)
    return plain


def _llama3(rope: RopeSpec, plain: Floats) -> Floats:
    """Long wavelengths divided by `factor`, short ones kept, those between blended (Llama 3.1)."""
    wavelengths = 2 * math.pi / plain
    low, high = rope.original_context / rope.low_freq_factor, rope.original_context / rope.high_freq_factor
    smooth = (rope.original_context / wavelengths - rope.low_freq_factor) / (
        rope.high_freq_factor - rope.low_freq_factor
    )
    blended = (1 - smooth) * plain / rope.factor + smooth * plain
    scaled = np.where(wavelengths > low, plain / rope.factor, plain)
    return np.where((wavelengths <= low) & (wavelengths >= high), blended, scaled).astype(np.float32)


def _amplitude(rope: RopeSpec) -> float:
    if rope.kind != "longrope":
        return 1.0
    if rope.amplitude is not None:
        return rope.amplitude
    return 1.0 if rope.factor <= 1.0 else math.sqrt(1.0 + math.log(rope.factor) / math.log(rope.original_context))
