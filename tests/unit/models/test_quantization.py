"""What config.json says of quantized weights; what a folder becomes under `--quantize`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from exo_node.errors import CheckpointError, UnsupportedModel
from exo_node.models.quantization import normalise_quantization, quantized_digest
from exo_node.models.spec import read_spec
from tests.tiny_models import CONFIG, safetensors, tensors_of, write_model

EVEN = {**CONFIG, "hidden_size": 64, "intermediate_size": 96}
MLX: dict[str, Any] = {"group_size": 64, "bits": 4}


@pytest.mark.parametrize(
    "given",
    [
        {"quantization": MLX},
        {"quantization_config": MLX},
        {"quantization": {**MLX, "mode": "affine"}, "quantization_config": {**MLX, "mode": "affine"}},
    ],
)
def test_one_spelling(given: dict[str, Any]) -> None:
    """Under either name, with the mode or from before there were modes; twice is as once."""
    normalise_quantization(given)
    once = json.loads(json.dumps(given))
    normalise_quantization(given)
    assert given == once == {"quantization": {**MLX, "mode": "affine"}}


def test_entries_by_layer() -> None:
    """Layers with bits of their own, and layers that were left as they are."""
    own = {"model.layers.0.mlp.down_proj": {"bits": 8, "group_size": 32}, "lm_head": False}
    config: dict[str, Any] = {"quantization": {**MLX, **own}}
    normalise_quantization(config)
    assert config["quantization"] == {**MLX, "mode": "affine", **own}


@pytest.mark.parametrize("empty", [None, {}])
def test_nothing_is_quantized(empty: Any) -> None:
    """Empty fields are gone."""
    config = {"quantization": empty, "quantization_config": empty}
    normalise_quantization(config)
    assert config == {}


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, UnsupportedModel, "'gptq'"),
        ({"quantization": {**MLX, "mode": "mxfp4"}}, UnsupportedModel, "'mxfp4'"),
        ({"quantization": {**MLX, "bits": 3}}, UnsupportedModel, "bits 3"),
        ({"quantization": {**MLX, "group_size": 16}}, UnsupportedModel, "group_size 16"),
        ({"quantization": {**MLX, "lm_head": {"bits": 6, "group_size": 64}}}, UnsupportedModel, "lm_head"),
        ({"quantization": {**MLX, "linear_class": "x"}}, UnsupportedModel, "linear_class"),
        ({"quantization": MLX, "quantize_activations": True}, UnsupportedModel, "quantize_activations"),
        ({"quantization": {"bits": 4}}, CheckpointError, "group_size"),
        ({"quantization": {**MLX, "bits": True}}, CheckpointError, "bits"),
        ({"quantization": "4bit"}, CheckpointError, "object"),
    ],
)
def test_what_is_not_run_is_named(given: dict[str, Any], error: type[Exception], words: str) -> None:
    """Other tools' formats, modes and bits; entries that nobody knows; nonsense."""
    with pytest.raises(error, match=words):
        normalise_quantization(given)


def test_a_folder_quantized_on_load(tmp_path: Path) -> None:
    """Sizes are those of the packed tensors; parameters stay as many; groups are the largest that fit all matrices."""
    folder = write_model(tmp_path / "m", config=EVEN)
    plain = read_spec(folder, "m")
    for bits in (4, 8):
        spec = read_spec(folder, "m", bits)
        assert spec.config["quantization"] == {"bits": bits, "group_size": 32, "mode": "affine"}
        assert (spec.n_params, spec.dtype, spec.kv_width) == (plain.n_params, "float32", plain.kv_width)
        vectors = 2 * 64  # the norms of a layer
        elements = plain.layer_bytes[0] // 4 - vectors
        assert spec.layer_packed == (elements * bits // 8,) * 4
        assert spec.layer_bytes[0] == elements * bits // 8 + 2 * elements // 32 * 4 + vectors * 4
        assert spec.outer_packed == 2 * 24 * 64 * bits // 8  # embedding and LM head
    wide = write_model(tmp_path / "wide", config={**EVEN, "intermediate_size": 128})
    assert read_spec(wide, "m", 4).config["quantization"]["group_size"] == 64


def test_a_folder_that_is_quantized_already(tmp_path: Path) -> None:
    """mlx-lm's folder reads as what `--quantize` makes of the full one, some matrices left out or not; it is not
    quantized a second time."""
    folder = write_model(tmp_path / "m", config=EVEN)
    wanted = read_spec(folder, "m", 8)
    stored: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    for name, (dtype, shape, data) in tensors_of(EVEN).items():
        if len(shape) == 1:
            stored[name] = (dtype, shape, data)
            continue
        base = name.removesuffix(".weight")
        groups = (shape[0], shape[1] // 32)
        stored[name] = ("U32", (shape[0], shape[1] // 4), bytes(shape[0] * shape[1]))
        stored |= {f"{base}.{one}": ("F32", groups, bytes(4 * groups[0] * groups[1])) for one in ("scales", "biases")}
    (folder / "model.safetensors").write_bytes(safetensors(stored))
    (folder / "config.json").write_text(json.dumps({**EVEN, "quantization": {"group_size": 32, "bits": 8}}))
    assert read_spec(folder, "m") == wanted
    with pytest.raises(UnsupportedModel, match="already"):
        read_spec(folder, "m", 4)
    head = tensors_of(EVEN)["lm_head.weight"]
    rest = {name: tensor for name, tensor in stored.items() if not name.startswith("lm_head")}
    (folder / "model.safetensors").write_bytes(safetensors({**rest, "lm_head.weight": head}))
    assert read_spec(folder, "m").n_params == wanted.n_params
    del rest["model.layers.0.mlp.up_proj.biases"]
    (folder / "model.safetensors").write_bytes(safetensors({**rest, "lm_head.weight": head}))
    with pytest.raises(CheckpointError, match=re.escape("model.layers.0.mlp.up_proj.biases")):
        read_spec(folder, "m")


def test_rows_that_cannot_be_cut_into_groups(tmp_path: Path) -> None:
    """A matrix whose rows are no multiple of 32 long is named."""
    folder = write_model(tmp_path / "m", config={**EVEN, "intermediate_size": 100})
    with pytest.raises(UnsupportedModel, match=r"model\.layers\.0\.mlp\.down_proj\.weight has 100 columns"):
        read_spec(folder, "m", 4)
    with pytest.raises(UnsupportedModel, match="--quantize 5"):
        read_spec(folder, "m", 5)


def test_identity() -> None:
    """Bits and files make the identity; none means the files' own."""
    made = {quantized_digest(digest, bits) for digest in ("a", "b") for bits in (0, 4, 8)}
    assert len(made) == 6
    assert quantized_digest("a", 0) == "a"
