"""What a node knows of a model without loading it: `read_spec`, from config.json and the safetensors headers alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exo_node.errors import CheckpointError, UnsupportedModel
from exo_node.models.config import DEFAULTS, normalise
from exo_node.models.headers import TensorEntry, read_entries, read_json
from exo_node.models.layout import layer_tensors, outer_tensors, role_of
from exo_node.models.links import check_links
from exo_node.models.quantization import FIELD, is_packed, parameters, quantized, stored_shapes
from exo_node.types import Dtype, ModelSpec

_DTYPES: Mapping[str, Dtype] = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def read_spec(path: Path, model_id: str, quantize: int = 0) -> ModelSpec:
    """The spec of the model folder `path` under the name `model_id` (digest left empty). Blocking, headers only.

    `quantize`: as if a full-precision folder had been quantized to so many bits; 0 = as stored.

    Raises `CheckpointError` (files missing, broken, truncated or contradicting config.json) or `UnsupportedModel`
    (weights quantized in a way that is not run), each one line that names the file or field.
    """
    config = normalise(read_json(path / "config.json"))
    _require_tokenizer(path)
    check_links(path)
    entries = read_entries(path)
    _settle_tie(config, entries)
    if config["model_type"] in DEFAULTS:
        _check_tensors(path, config, entries)
    if quantize:
        config, entries = quantized(model_id, config, entries, quantize)
    return _build(path, model_id, config, entries)


def _require_tokenizer(path: Path) -> None:
    tokenizer = path / "tokenizer.json"
    if not tokenizer.is_file() or tokenizer.stat().st_size == 0:
        raise CheckpointError(
            f"{tokenizer} is missing; save the model's fast tokenizer there (AutoTokenizer(...).save_pretrained)"
        )


def _settle_tie(config: dict[str, Any], entries: Mapping[str, TensorEntry]) -> None:
    # A family whose default is not in our table: the files tell whether there is a head of its own.
    config.setdefault("tie_word_embeddings", "lm_head.weight" not in entries)


def _check_tensors(path: Path, config: Mapping[str, Any], entries: Mapping[str, TensorEntry]) -> None:
    expected = outer_tensors(config)
    layer = layer_tensors(config)
    for i in range(config["num_hidden_layers"]):
        expected |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    if config.get(FIELD):
        expected = stored_shapes(expected, entries)
    for name, shape in expected.items():
        entry = entries.get(name)
        if entry is None:
            raise CheckpointError(f"{path}: tensor {name!r} is in none of the files; fetch the model again")
        if entry.info.shape != shape:
            raise CheckpointError(
                f"{entry.file}: tensor {name!r} has shape {list(entry.info.shape)}, config.json asks for {list(shape)}"
            )
    for name, entry in entries.items():
        if name not in expected and role_of(name, tied=config["tie_word_embeddings"])[0] != "unused":
            raise CheckpointError(f"{entry.file}: tensor {name!r} has no place in the {config['model_type']} model")


def _build(path: Path, model_id: str, config: dict[str, Any], entries: Mapping[str, TensorEntry]) -> ModelSpec:
    n_layers: int = config["num_hidden_layers"]
    tied: bool = config["tie_word_embeddings"]
    layer_bytes = [0] * n_layers
    outer = {"embed": 0, "head": 0}
    by_dtype: Counter[str] = Counter()
    layer_packed, outer_packed = [0] * n_layers, 0
    n_params = 0
    for name, entry in entries.items():
        role, layer = role_of(name, tied=tied)
        if role == "unused":
            continue
        if role == "layer":
            if layer >= n_layers:
                raise CheckpointError(f"{entry.file}: tensor {name!r} is beyond the {n_layers} layers of config.json")
            layer_bytes[layer] += entry.info.nbytes
        else:
            outer[role] += entry.info.nbytes
        if config.get(FIELD) and is_packed(name, entries):
            if role == "layer":
                layer_packed[layer] += entry.info.nbytes
            else:
                outer_packed += entry.info.nbytes
            n_params += parameters(config, name, entries)
            continue
        by_dtype[entry.info.dtype] += entry.info.nbytes
        if not (config.get(FIELD) and name.endswith((".scales", ".biases"))):
            n_params += math.prod(entry.info.shape)
    for dtype in by_dtype:
        if dtype not in _DTYPES:
            raise UnsupportedModel(
                f"{model_id} holds {dtype} weights; only float32, float16, bfloat16 and MLX's 4 and 8 bit are run"
            )
    if 0 in layer_bytes:
        raise CheckpointError(f"{path}: no tensors of layer {layer_bytes.index(0)}; fetch the model again")
    if not outer["embed"]:
        raise CheckpointError(f"{path}: tensor 'model.embed_tokens.weight' is in none of the files")
    if config.get("max_position_embeddings") is None:
        raise CheckpointError(f"{path / 'config.json'}: field 'max_position_embeddings' is missing")
    architectures = config.get("architectures")
    return ModelSpec(
        model_id=model_id,
        path=str(path),
        architecture=str(architectures[0])
        if isinstance(architectures, list) and architectures
        else config["model_type"],
        config=config,
        n_layers=n_layers,
        hidden_size=config["hidden_size"],
        vocab_size=config["vocab_size"],
        max_context=config["max_position_embeddings"],
        dtype=_DTYPES[by_dtype.most_common(1)[0][0]],
        layer_bytes=tuple(layer_bytes),
        embed_bytes=outer["embed"],
        head_bytes=outer["head"],
        n_params=n_params,
        layer_packed=tuple(layer_packed),
        outer_packed=outer_packed,
        kv_width=2 * config["num_key_value_heads"] * config["head_dim"],
    )
