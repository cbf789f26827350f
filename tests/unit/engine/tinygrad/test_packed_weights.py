"""Which matrices are packed, what they take, and in which order their bytes are read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from exo_node.engine.base import TensorInfo
from exo_node.engine.tinygrad.packed_weights import integer_blocks, packings_of, runs_bytes, runs_of
from exo_node.engine.tinygrad.weights import BLOCK_ELEMENTS, Held
from exo_node.packing import Packing

QKV = Held("0.qkv", (("q.weight", (64, 128)), ("k.weight", (32, 128)), ("v.weight", (32, 128)), ("w.weight", (8, 128))))


class Arrays:
    """A source of arrays."""

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self.arrays = arrays

    def names(self) -> Collection[str]:
        return self.arrays.keys()

    def info(self, name: str) -> TensorInfo:
        array = self.arrays[name]
        return TensorInfo({"uint32": "U32", "float32": "F32"}[array.dtype.name], array.shape, array.nbytes)

    def read(self, name: str) -> memoryview:
        return self.arrays[name].data.cast("B")

    def release(self, name: str) -> None:
        pass


def test_parts_alike_are_held_together() -> None:
    """q and k share a packing, v has its own, w is not packed: three runs; scales are held in the compute dtype."""
    arrays: dict[str, npt.NDArray[Any]] = {"w.weight": np.zeros((8, 128), np.float32)}
    for name, rows, packing in (("q", 64, Packing(4, 64)), ("k", 32, Packing(4, 64)), ("v", 32, Packing(8, 32))):
        packed, scales = packing.shapes(rows, 128)
        arrays[f"{name}.weight"] = np.zeros(packed, np.uint32)
        arrays |= {f"{name}.{part}": np.zeros(scales, np.float32) for part in ("scales", "biases")}
    vector = Held("norm", (("norm.weight", (128,)),))
    packings = packings_of([vector, QKV], Arrays(arrays))
    runs = runs_of([vector, QKV], packings)
    assert [(held.key, held.shape, packing) for held, packing in runs] == [
        ("norm", (128,), None),
        ("0.qkv", (96, 128), Packing(4, 64)),
        ("0.qkv", (32, 128), Packing(8, 32)),
        ("0.qkv", (8, 128), None),
    ]
    sizes = [runs_bytes([run], "float16") for run in runs]
    assert sizes == [512, 96 * 128 // 2 + 2 * 96 * 2 * 2, 32 * 128 + 2 * 32 * 4 * 2, 8 * 128 * 2]
    assert runs_bytes(runs, "float16") == sum(sizes)


def test_integers_arrive_in_order() -> None:
    """Block after block, as stored or in tiles."""
    rows, words = 48, BLOCK_ELEMENTS // 128
    packed = np.random.default_rng(0).integers(0, 1 << 32, (rows, words), dtype=np.uint32)
    source = Arrays({"x.weight": packed})
    stored = packed.view(np.uint8)
    for tile, wanted in ((1, stored), (16, stored.reshape(3, 16, -1).transpose(0, 2, 1))):
        blocks = list(integer_blocks(source, "x.weight", tile))
        assert len(blocks) > 1
        assert b"".join(blocks) == wanted.tobytes()
