from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
import pytest

from exo_node.engine.base import TensorInfo
from exo_node.engine.tinygrad.spec import decoder_spec
from exo_node.engine.tinygrad.weights import (
    BLOCK_ELEMENTS,
    check_source,
    from_float32,
    held_tensors,
    read_blocks,
    to_float32,
)
from exo_node.errors import CheckpointError, UnsupportedModel
from exo_node.types import Shard
from tests.unit.engine.tinygrad.test_spec import LLAMA

SPEC = decoder_spec(LLAMA)


class MemorySource:
    """Tensors in memory, all of one dtype."""

    def __init__(self, arrays: Mapping[str, np.ndarray], dtype: str = "F32") -> None:
        self.arrays, self.dtype = dict(arrays), dtype

    def names(self) -> Collection[str]:
        return self.arrays.keys()

    def info(self, name: str) -> TensorInfo:
        return TensorInfo(self.dtype, self.arrays[name].shape, self.arrays[name].nbytes)

    def read(self, name: str) -> memoryview:
        return memoryview(self.arrays[name].tobytes())

    def release(self, name: str) -> None: ...


def _complete(shard: Shard, is_head: bool) -> MemorySource:
    parts = [part for held in held_tensors(SPEC, shard, is_head) for part in held.parts]
    return MemorySource({name: np.zeros(shape, dtype=np.float32) for name, shape in parts})


def test_holds_its_layers_and_the_head_its_ends() -> None:
    """A shard holds its own layers; only the head holds embedding, final norm and (when not tied) the LM head."""
    middle = held_tensors(SPEC, Shard("m", 1, 2, 4), False)
    assert {"1.attention_norm", "1.qkv", "1.out", "1.mlp_norm", "1.gate_up", "1.down"} == {t.key for t in middle}
    assert [t.key for t in held_tensors(SPEC, Shard("m", 0, 0, 4), True)] == ["embed", "norm", "head"]
    tied = replace(SPEC, tied=True)
    assert [t.key for t in held_tensors(tied, Shard("m", 0, 0, 4), True)] == ["embed", "norm"]


def test_stacks_projections() -> None:
    """Query, key and value are held as one matrix, stacked in that order."""
    qkv = next(t for t in held_tensors(SPEC, Shard("m", 0, 1, 4), False) if t.key == "0.qkv")
    assert qkv.shape == (192, 64)
    assert [name.split(".")[4][0] for name, _ in qkv.parts] == ["q", "k", "v"]


def test_source_is_checked_by_name() -> None:
    """Missing, unknown, misshapen tensors and unknown dtypes are named before anything is read."""
    shard = Shard("m", 0, 1, 4)
    held = held_tensors(SPEC, shard, False)
    name = "model.layers.0.self_attn.q_proj"
    check_source(held, _complete(shard, False), False, {})
    source = _complete(shard, False)
    del source.arrays[f"{name}.weight"]
    with pytest.raises(CheckpointError, match=r"lacks .*q_proj\.weight"):
        check_source(held, source, False, {})
    source = _complete(shard, False)
    source.arrays[f"{name}.bias"] = np.zeros(64, dtype=np.float32)
    with pytest.raises(CheckpointError, match=r"holds .*q_proj\.bias"):
        check_source(held, source, False, {})
    source = _complete(shard, False)
    source.arrays[f"{name}.weight"] = np.zeros((64, 32), dtype=np.float32)
    with pytest.raises(CheckpointError, match=r"\[64, 32\].*\[64, 64\]"):
        check_source(held, source, False, {})
    source = _complete(shard, False)
    source.dtype = "F8_E4M3"
    with pytest.raises(UnsupportedModel, match="F8_E4M3"):
        check_source(held, source, False, {})


def test_reads_in_blocks_with_offset() -> None:
    """A tensor longer than a block arrives whole, in order, offset added."""
    values = np.arange(BLOCK_ELEMENTS + 5, dtype=np.float32)
    blocks = list(read_blocks(MemorySource({"x": values}), "x", "float32", 1.0))
    assert len(blocks) == 2
    assert np.array_equal(values + 1.0, np.frombuffer(b"".join(blocks), dtype=np.float32))


def test_bfloat16_rounds_to_nearest_even() -> None:
    """float32 -> bfloat16 bits as torch rounds; back is exact; infinities and NaN survive."""
    values = np.array([1.0, 1.00390625, 1.01171875, -3.1415927, np.inf, -np.inf, 3.4e38], dtype=np.float32)
    expected = [0x3F80, 0x3F80, 0x3F82, 0xC049, 0x7F80, 0xFF80, 0x7F80]
    bits = from_float32(values, "bfloat16")
    assert expected == bits.tolist()
    assert np.array_equal(bits, from_float32(to_float32(bits, "bfloat16"), "bfloat16"))
    assert np.isnan(to_float32(from_float32(np.array([np.nan], dtype=np.float32), "bfloat16"), "bfloat16")).all()
