"""Quantize a shard's matrices while they are read: engines see what they would find in a quantized folder.

The arithmetic is MLX's `mx.quantize`, to the bit (tests compare), in numpy: so every node of a ring holds the same
weights whatever its engine and device, and none of them ever holds the model in full precision.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt

from exo_node.models.quantization import FIELD, is_matrix
from exo_node.models.weights import Checkpoint, ShardSource
from exo_node.packing import PACKED, Packing, scales_of
from exo_node.types import ModelSpec, Shard, TensorInfo

_BLOCK = 1 << 18  # elements at a time: 1 MiB of float32 stays in a CPU's cache, which is 2 times as fast as whole rows
Floats = npt.NDArray[np.float32]


def quantize(values: Floats, packing: Packing) -> tuple[npt.NDArray[np.uint8], Floats, Floats]:
    """Groups [n, group_size] -> packed bytes [n * group_size * bits / 8], scales [n], biases [n].

    The end of a group's range that is farther from zero is met exactly, and so is zero if it lies within the range.
    """
    bins = np.float32((1 << packing.bits) - 1)
    low, high = values.min(axis=1), values.max(axis=1)
    below = np.abs(low) > np.abs(high)
    scales = np.maximum((high - low) / bins, np.float32(1e-7))
    scales = np.where(below, scales, -scales)
    edges = np.where(below, low, high)
    steps = np.rint(edges / scales)
    flat = steps == 0
    scales = np.where(flat, scales, edges / np.where(flat, np.float32(1), steps))
    biases = np.where(flat, np.float32(0), edges)
    scaled = values - biases[:, None]
    scaled /= scales[:, None]
    np.rint(scaled, out=scaled)
    np.clip(scaled, 0, bins, out=scaled)
    integers = scaled.astype(np.uint8).reshape(-1)
    if packing.bits == 4:
        integers = np.bitwise_or(integers[0::2], np.left_shift(integers[1::2], np.uint8(4)))
    return integers, scales, biases


class QuantizingSource:
    """Of `source`, every matrix as packed tensor, scales and biases (a `TensorSource`); the rest as it is.

    Holds what it made of a matrix until each of its three tensors was released: the scales of several may be read
    before their integers (engine/mlx/rearranged.py).
    """

    def __init__(self, source: ShardSource, packing: Packing) -> None:
        self._source, self._packing = source, packing
        self._matrices: dict[str, tuple[str, TensorInfo]] = {}  # name -> matrix, what is presented under the name
        for name in source.names():
            info = source.info(name)
            if is_matrix(name, info.shape):
                packed, scales = packing.shapes(*info.shape)
                self._matrices[name] = (name, TensorInfo(PACKED, packed, 4 * math.prod(packed)))
                element = info.nbytes // math.prod(info.shape)
                shown = TensorInfo(info.dtype, scales, element * math.prod(scales))
                self._matrices |= {one: (name, shown) for one in scales_of(name)}
        self._names = tuple(dict.fromkeys([*source.names(), *self._matrices]))
        self._made: dict[str, memoryview] = {}

    def names(self) -> Collection[str]:
        return self._names

    def info(self, name: str) -> TensorInfo:
        return self._matrices[name][1] if name in self._matrices else self._source.info(name)

    def read(self, name: str) -> memoryview:
        if name not in self._matrices:
            return self._source.read(name)
        if name not in self._made:
            self._made |= self._quantize(self._matrices[name][0])
        return self._made[name]

    def release(self, name: str) -> None:
        if name in self._matrices:
            self._made.pop(name, None)
        else:
            self._source.release(name)

    def _quantize(self, matrix: str) -> dict[str, memoryview]:
        info, group = self._source.info(matrix), self._packing.group_size
        raw = np.frombuffer(self._source.read(matrix), dtype=_STORED[info.dtype])
        packed = np.empty(raw.size * self._packing.bits // 8, np.uint8)
        scales, biases = (np.empty(raw.size // group, _STORED[info.dtype]) for _ in range(2))
        for start in range(0, raw.size, _BLOCK):
            values = _widened(raw[start : start + _BLOCK], info.dtype).reshape(-1, group)
            integers, some_scales, some_biases = quantize(values, self._packing)
            at = start * self._packing.bits // 8
            packed[at : at + integers.size] = integers
            groups = slice(start // group, start // group + len(values))
            scales[groups] = _narrowed(some_scales, info.dtype)
            biases[groups] = _narrowed(some_biases, info.dtype)
        self._source.release(matrix)
        return {
            name: made.data.cast("B").toreadonly()
            for name, made in zip((matrix, *scales_of(matrix)), (packed, scales, biases), strict=True)
        }


def shard_source(spec: ModelSpec, shard: Shard, is_head: bool, *, quantize: int) -> ShardSource | QuantizingSource:
    """The tensors of a shard of the model that `read_spec(..., quantize)` described."""
    source = ShardSource(Checkpoint(Path(spec.path)), spec, shard, is_head)
    if not quantize:
        return source
    return QuantizingSource(source, Packing(quantize, spec.config[FIELD]["group_size"]))


_STORED = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def _widened(values: npt.NDArray[np.generic], dtype: str) -> Floats:
    if dtype == "BF16":
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values.astype(np.float32, copy=False)


def _narrowed(values: Floats, dtype: str) -> npt.NDArray[np.generic]:
    """Rounded to nearest even."""
    if dtype != "BF16":
        return values.astype(_STORED[dtype])
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
