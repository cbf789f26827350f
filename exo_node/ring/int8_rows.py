"""Hidden states of prompts as int8 for slow links: a float32 scale for each vector, and its numbers in 127ths of that.

Only rows that prefill are packed: more than one token, and at most one output. What a decoding row sends decides the
next token at once and takes no time on any link; a row of drafts is decoding too, and a row all of whose outputs are
wanted (log-probabilities of a prompt, embeddings) is asked for its numbers. The error of a number is at most half a
scale, that is 1/254 of the largest in its vector. Pure; numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from exo_node.engine.base import Hidden
from exo_node.ring.messages import Row
from exo_node.transport.codec import SCALE_BYTES, Buffer, Payload
from exo_node.types import DTYPE_BYTES, Dtype

STEPS = 127  # largest int8; -128 is not used, so that the range is even
_STORED = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}


def pack(hidden: Hidden, rows: Sequence[Row]) -> tuple[tuple[int, ...], list[Buffer]]:
    """The indexes of the rows that travel packed, and the pieces of the payload as ring.proto lays it out.

    A row with an infinity or a NaN is left as it is: no scale would do.
    """
    vectors = np.frombuffer(hidden.data, _STORED[hidden.dtype]).reshape(hidden.shape)
    packed: list[int] = []
    scales: list[Buffer] = []
    whole: list[Buffer] = []
    small: list[Buffer] = []
    ends = [*accumulate(row.length for row in rows)]
    for index, (row, end) in enumerate(zip(rows, ends, strict=True)):
        own = vectors[end - row.length : end]
        if row.length > 1 and row.n_outputs <= 1:
            scale, steps = _quantized(_floats(own, hidden.dtype))
            if np.isfinite(scale).all():
                packed.append(index)
                scales.append(_bytes(scale))
                small.append(_bytes(steps))
                continue
        whole.append(_bytes(own))
    return tuple(packed), [*scales, *whole, *small]


def recast(data: Buffer, old: Dtype, new: Dtype) -> bytes:
    """Numbers of one dtype in another, rounded to nearest even; finite ones."""
    out = np.empty(len(data) // DTYPE_BYTES[old], _STORED[new])
    out[:] = _stored(_floats(np.frombuffer(data, _STORED[old]), old), new)
    return out.tobytes()


def unpack(payload: Payload, rows: Sequence[Row]) -> Hidden:
    """The payload with all its rows in its dtype, in order, in memory of its own. Its sizes were checked before."""
    (tokens, width), dtype = payload.shape, payload.dtype
    lengths = [row.length for row in rows]
    packed = {*payload.int8_rows}
    n_packed = sum(lengths[index] for index in packed)
    out = np.empty((tokens, width), _STORED[dtype])
    data = np.frombuffer(payload.data, np.uint8)
    scales, rest = data[: n_packed * SCALE_BYTES].view("<f4"), data[n_packed * SCALE_BYTES :]
    small = n_packed * width
    whole = rest[: rest.size - small].view(out.dtype).reshape(tokens - n_packed, width)
    steps = rest[rest.size - small :].view(np.int8).reshape(n_packed, width)
    at = taken = given = 0
    for index, length in enumerate(lengths):
        own = out[at : at + length]
        if index in packed:
            chosen = slice(taken, taken + length)
            own[:] = _stored(steps[chosen] * scales[chosen, None], dtype)
            taken += length
        else:
            own[:] = whole[given : given + length]
            given += length
        at += length
    return Hidden(dtype, payload.shape, _bytes(out))


def _quantized(values: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int8]]:
    """(scale of each vector, its numbers in steps of that). A vector of zeros, or as good as, has scale 0."""
    # Not abs(): that would write all values once more.
    scale = (np.maximum(values.max(axis=1), -values.min(axis=1)) / np.float32(STEPS)).astype("<f4")
    scale[scale < np.finfo(np.float32).tiny] = 0  # its quotients would be off, or over 127
    with np.errstate(invalid="ignore"):  # of what is not finite, which the caller sees by its scale
        steps = values / np.where(scale > 0, scale, np.float32(np.inf))[:, None]
        return scale, np.rint(steps, out=steps).astype(np.int8)


def _floats(stored: npt.NDArray[Any], dtype: Dtype) -> npt.NDArray[np.float32]:
    if dtype == "bfloat16":
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return stored.astype(np.float32, copy=False)


def _stored(values: npt.NDArray[np.float32], dtype: Dtype) -> npt.NDArray[Any]:
    """Finite float32 in the form in which `dtype` travels, rounded to nearest even."""
    if dtype != "bfloat16":
        return values
    bits = values.view(np.uint32)
    return (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)


def _bytes(array: npt.NDArray[Any]) -> Buffer:
    return array.data.cast("B") if array.size else b""  # an array without elements has no such view
