"""Which of a shard's matrices are packed, and how their bytes are read. No tinygrad import here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from exo_node.engine.base import TensorSource
from exo_node.engine.tinygrad.weights import BLOCK_ELEMENTS, Held, Packings
from exo_node.packing import Packing, packing_of, scales_of
from exo_node.types import DTYPE_BYTES, Dtype

Run = tuple[Held, Packing | None]  # what is held as one


def packings_of(held: Sequence[Held], source: TensorSource) -> Packings:
    """Raises `CheckpointError` for a matrix whose tensors are no packing of its columns."""
    names = set(source.names())
    return {
        name: packing_of(name, shape[1], source.info)
        for tensor in held
        for name, shape in tensor.parts
        if len(shape) == 2 and name in names and scales_of(name)[0] in names
    }


def runs_of(held: Sequence[Held], packings: Packings) -> list[Run]:
    """The tensors cut into what can be held as one: parts may be packed in different ways, or some not at all."""
    return [
        (Held(tensor.key, tuple(parts), tensor.offset), packing)
        for tensor in held
        for packing, parts in groupby(tensor.parts, lambda part: packings.get(part[0]))
    ]


def runs_bytes(runs: Sequence[Run], compute: Dtype) -> int:
    """What they take in memory: scales and biases are held in the compute dtype."""
    total = 0
    for tensor, packing in runs:
        elements = math.prod(tensor.shape)
        if packing is None:
            total += elements * DTYPE_BYTES[tensor.dtype(compute)]
        else:
            total += elements * packing.bits // 8 + 2 * elements // packing.group_size * DTYPE_BYTES[compute]
    return total


def integer_blocks(source: TensorSource, name: str, tile: int) -> Iterator[memoryview]:
    """The packed tensor's bytes, block after block: [rows, bytes of a row], or [rows / tile, bytes of a row, tile]."""
    rows = source.info(name).shape[0]
    packed = np.frombuffer(source.read(name), np.uint8).reshape(rows, -1)
    step = max(1, BLOCK_ELEMENTS // (tile * packed.shape[1])) * tile
    for start in range(0, rows, step):
        block = packed[start : start + step]
        if tile > 1:
            block = np.ascontiguousarray(block.reshape(-1, tile, packed.shape[1]).transpose(0, 2, 1))
        yield block.reshape(-1).data.cast("B")
