"""Quantizing while reading: to the bit what MLX makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exo_node.models.quantizing import QuantizingSource, quantize, shard_source
from exo_node.models.spec import read_spec
from exo_node.models.weights import Checkpoint, ShardSource
from exo_node.packing import BITS, GROUP_SIZES, Packing
from exo_node.types import Shard
from tests.tiny_models import CONFIG, safetensors, tensors_of, write_model

mx: Any = pytest.importorskip("mlx.core")
pytestmark = pytest.mark.engine_mlx

EVEN = {**CONFIG, "hidden_size": 64, "intermediate_size": 96}
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_equals_mlx(bits: int, group_size: int) -> None:
    """Integers, scales and biases, also of groups that are constant, zero, tiny, one-sided or huge."""
    values = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
    values[:8] *= np.array([0, 1e-9, 1e-3, 1e3, 1e30, 0, 0, 0], np.float32)[:, None]
    values[5:8] += np.array([1.5, -2.0, 1e-8], np.float32)[:, None]
    values[8], values[9] = np.abs(values[8]), -np.abs(values[9])
    integers, scales, biases = quantize(values.reshape(-1, group_size), Packing(bits, group_size))
    wanted = [np.array(one) for one in mx.quantize(mx.array(values), group_size, bits)]
    assert np.array_equal(integers.view(np.uint32), wanted[0].ravel())
    assert np.array_equal(scales, wanted[1].ravel())
    assert np.array_equal(biases, wanted[2].ravel())


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_source_of_quantized_tensors(dtype: str, tmp_path: Path) -> None:
    """Every matrix of the shard becomes three tensors, in the matrix's own type and MLX's bytes; vectors stay."""
    folder = write_model(tmp_path / "m", config=EVEN)
    stored = {}
    for name, (_, shape, data) in tensors_of(EVEN).items():
        array = mx.array(np.frombuffer(data, "<f4").reshape(shape)).astype(getattr(mx, DTYPES[dtype]))
        mx.eval(array)
        stored[name] = (dtype, shape, bytes(memoryview(array)))
    (folder / "model.safetensors").write_bytes(safetensors(stored))
    arrays = mx.load(str(folder / "model.safetensors"))
    spec = read_spec(folder, "m", 4)
    source = shard_source(spec, Shard("m", 1, 2, 4), False, quantize=4)
    assert isinstance(source, QuantizingSource)
    assert {name.removesuffix(".weight") + ".weight" for name in source.names() if "norm" in name} == {
        "model.layers.1.input_layernorm.weight",
        "model.layers.1.post_attention_layernorm.weight",
    }
    assert sum(source.info(name).nbytes for name in source.names()) == spec.layer_bytes[1]
    for name in source.names():
        read = bytes(source.read(name))
        assert len(read) == source.info(name).nbytes
        if "norm" in name:
            assert read == stored[name][2]
        elif name.endswith(".weight"):
            base = name.removesuffix(".weight")
            wanted = mx.quantize(arrays[name], 32, 4)
            for part, array in zip(("weight", "scales", "biases"), wanted, strict=True):
                mx.eval(array)
                assert tuple(array.shape) == source.info(f"{base}.{part}").shape
                assert bytes(source.read(f"{base}.{part}")) == bytes(memoryview(array))
    plain = shard_source(read_spec(folder, "m"), Shard("m", 1, 2, 4), False, quantize=0)
    assert isinstance(plain, ShardSource)


@pytest.mark.reference
def test_experts_one_by_one_and_together(tmp_path: Path) -> None:
    """Experts' matrices are packed to the same bytes stored each by itself or in one tensor, and the router not at all;
    the spec counts all of them, packed and not."""
    from tests.checkpoints import make_checkpoint

    apart = make_checkpoint("qwen3_moe", tmp_path, dtype="bfloat16")
    together = tmp_path / "together"
    together.mkdir()
    tensors, stack = mx.load(str(apart / "model.safetensors")), "model.layers.0.mlp.switch_mlp.down_proj"
    moved = [tensors.pop(f"model.layers.0.mlp.experts.{i}.down_proj.weight") for i in range(6)]
    mx.save_safetensors(str(together / "model.safetensors"), {**tensors, f"{stack}.weight": mx.stack(moved)})
    (together / "config.json").write_bytes((apart / "config.json").read_bytes())
    shard, read, specs = Shard("m", 0, 1, 7), {}, []
    for folder in (apart, together):
        (folder / "tokenizer.json").write_text("{}")
        spec = read_spec(folder, "m", 4)
        source = shard_source(spec, shard, False, quantize=4)
        read[folder] = {name: bytes(source.read(name)) for name in source.names()}
        assert sum(map(len, read[folder].values())) == spec.layer_bytes[0]
        specs.append(spec)
    for part in ("weight", "scales", "biases"):
        alone = [read[apart].pop(f"model.layers.0.mlp.experts.{i}.down_proj.{part}") for i in range(6)]
        assert read[together].pop(f"{stack}.{part}") == b"".join(alone)
    assert read[apart] == read[together]
    assert "model.layers.0.mlp.gate.scales" not in read[apart]
    assert (specs[0].layer_bytes, specs[0].layer_packed) == (specs[1].layer_bytes, specs[1].layer_packed)
    plain = read_spec(apart, "m")
    attention, experts = 64 * (64 + 32 + 32 + 64), 6 * 3 * 32 * 64
    assert plain.layer_bytes[0] == 2 * (attention + experts + 6 * 64 + 2 * 64 + 2 * 16)
    assert plain.layer_bytes[3] == 2 * (attention + 3 * 96 * 64 + 2 * 64 + 2 * 16)
    assert specs[0].layer_packed[0] == (attention + experts) // 2
    assert plain.n_params == specs[0].n_params == specs[1].n_params == plain.total_bytes // 2


def test_one_matrix_at_a_time(tmp_path: Path) -> None:
    """What was made is dropped with its release; a later read makes it again."""
    folder = write_model(tmp_path / "m", config=EVEN)
    spec = read_spec(folder, "m")
    source = QuantizingSource(ShardSource(Checkpoint(folder), spec, Shard("m", 0, 4, 4), True), Packing(8, 32))
    first = bytes(source.read("lm_head.biases"))
    source.release("lm_head.biases")
    source.read("lm_head.weight")
    source.release("lm_head.weight")
    assert bytes(source.read("lm_head.biases")) == first
    source.release("model.norm.weight")
