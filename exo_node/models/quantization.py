"""Quantized weights: what config.json says of them, and what a folder becomes under `--quantize`. Pure."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from typing import Any

from exo_node.errors import CheckpointError, UnsupportedModel
from exo_node.models.headers import TensorEntry
from exo_node.models.layout import role_of
from exo_node.packing import BITS, GROUP_SIZES, PACKED, Packing, packing_of, scales_of
from exo_node.types import TensorInfo

FIELD = "quantization"
ON_LOAD_GROUP_SIZES = (64, 32)  # mlx-lm's default, and what smaller models can be cut into
_DEFAULTS = ("bits", "group_size", "mode", "quant_method")
FLOAT_BYTES: Mapping[str, int] = {"F32": 4, "F16": 2, "BF16": 2}


def normalise_quantization(out: dict[str, Any]) -> None:
    """Give a config one spelling: `quantization` with `bits`, `group_size`, `mode` and mlx-lm's entries by layer.

    mlx-lm writes `quantization`, and the same again as `quantization_config`, where other tools write theirs. Both are
    gone where nothing is quantized. Raises `UnsupportedModel` for what is not MLX's affine packing in 4 or 8 bits,
    `CheckpointError` for nonsense.
    """
    given = out.pop("quantization_config", None)
    field = FIELD if out.get(FIELD) else "quantization_config"
    given = out.pop(FIELD, None) or given
    if not given:
        return
    if not isinstance(given, Mapping):
        raise CheckpointError(f"config.json: field '{field}' must be an object; fetch the model again")
    if out.get("quantize_activations"):
        raise UnsupportedModel("a model with quantized activations is not run (quantize_activations in config.json)")
    if given.get("quant_method") is not None:
        raise UnsupportedModel(
            f"weights quantized by {given['quant_method']!r} are not run ({field} in config.json); MLX's affine 4 and "
            "8 bit folders are (mlx_lm.convert -q), and full-precision ones with --quantize"
        )
    default = _packing(field, given)
    layers = {name: value for name, value in given.items() if name not in _DEFAULTS}
    for name, value in layers.items():
        if isinstance(value, Mapping):
            _packing(f"{field}.{name}", {**default, **value})
        elif not isinstance(value, bool):
            raise UnsupportedModel(f"config.json: {field}.{name} is {value!r}, want bits and group_size, or false")
    out[FIELD] = {**default, **layers}


def _packing(field: str, value: Mapping[str, Any]) -> dict[str, Any]:
    mode = value.get("mode", "affine")
    if mode != "affine":
        raise UnsupportedModel(f"weights in mode {mode!r} are not run ({field} in config.json), only 'affine'")
    for name, known in (("bits", BITS), ("group_size", GROUP_SIZES)):
        if type(value.get(name)) is not int:
            raise CheckpointError(f"config.json: {field}.{name} is {value.get(name)!r}, want an integer")
        if value[name] not in known:
            shown = ", ".join(map(str, known))
            raise UnsupportedModel(f"weights with {name} {value[name]} are not run ({field} in config.json): {shown}")
    return {"bits": value["bits"], "group_size": value["group_size"], "mode": mode}


def stored_shapes(
    shapes: Mapping[str, tuple[int, ...]], entries: Mapping[str, TensorEntry]
) -> dict[str, tuple[int, ...]]:
    """Of a quantized folder's tensors, where `shapes` are those of its model in full precision.

    A matrix that has scales is packed; any may be left as it was. Raises `CheckpointError`.
    """
    out: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        scales, biases = scales_of(name)
        if len(shape) != 2 or scales not in entries or name not in entries:
            out[name] = shape
            continue
        packing = packing_of(name, shape[1], lambda one: entries[one].info)
        out[name], out[scales] = packing.shapes(*shape)
        out[biases] = out[scales]
    return out


def is_packed(name: str, entries: Mapping[str, TensorEntry]) -> bool:
    """Whether the tensor is a quantized matrix's integers, which no engine ever widens."""
    return name.endswith(".weight") and entries[name].info.dtype == PACKED and scales_of(name)[0] in entries


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Whether `--quantize` packs the tensor: matrices, and experts' matrices in one tensor.

    Routers stay as they are: next to nothing in size, and a small error sends a token to another expert.
    """
    if not name.endswith(".weight") or name.endswith(".mlp.gate.weight"):
        return False
    return len(shape) == 2 or (len(shape) == 3 and ".switch_mlp." in name)


def parameters(config: Mapping[str, Any], name: str, entries: Mapping[str, TensorEntry]) -> int:
    """How many parameters a packed matrix holds, by what the config says of its bits."""
    own = config[FIELD].get(name.removesuffix(".weight"))
    bits: int = own.get("bits", config[FIELD]["bits"]) if isinstance(own, Mapping) else config[FIELD]["bits"]
    return entries[name].info.nbytes * 8 // bits


def quantized(
    model_id: str, config: Mapping[str, Any], entries: Mapping[str, TensorEntry], bits: int
) -> tuple[dict[str, Any], dict[str, TensorEntry]]:
    """Config and tensors of a full-precision model as if its folder had been quantized. Every matrix is (`is_matrix`),
    embedding and LM head too; scales and biases have the matrix's own type, as mlx-lm makes them.

    Raises `UnsupportedModel` for a model that is quantized already or whose matrices cannot be cut into groups.
    """
    if bits not in BITS:
        raise UnsupportedModel(f"--quantize {bits}: weights are packed into {' or '.join(map(str, BITS))} bits")
    if config.get(FIELD):
        raise UnsupportedModel(
            f"{model_id} is quantized already ({config[FIELD]['bits']} bits): load it without --quantize"
        )
    tied = bool(config["tie_word_embeddings"])
    matrices = {
        name: entry
        for name, entry in entries.items()
        if is_matrix(name, entry.info.shape) and role_of(name, tied=tied)[0] != "unused"
    }
    packing = Packing(bits, _group_size(model_id, matrices))
    out = dict(entries)
    for name, entry in matrices.items():
        packed, scales = packing.shapes(*entry.info.shape)
        out[name] = dataclasses.replace(entry, info=TensorInfo(PACKED, packed, 4 * math.prod(packed)))
        element = FLOAT_BYTES.get(entry.info.dtype, 0)
        for one in scales_of(name):
            info = TensorInfo(entry.info.dtype, scales, element * math.prod(scales))
            out[one] = dataclasses.replace(entry, info=info)
    return {**config, FIELD: {"bits": bits, "group_size": packing.group_size, "mode": "affine"}}, out


def _group_size(model_id: str, matrices: Mapping[str, TensorEntry]) -> int:
    """The largest group into which every matrix's rows can be cut."""
    for group_size in ON_LOAD_GROUP_SIZES:
        odd = sorted(name for name, entry in matrices.items() if entry.info.shape[-1] % group_size)
        if not odd:
            return group_size
    columns = matrices[odd[0]].info.shape[-1]
    raise UnsupportedModel(
        f"{model_id} cannot be quantized on load: {odd[0]} has {columns} columns, which are no multiple of "
        f"{ON_LOAD_GROUP_SIZES[-1]}; load it without --quantize"
    )


def quantized_digest(digest: str, bits: int) -> str:
    """The identity of a model quantized on load, given its files' (ARCHITECTURE 3.13); 0 bits: as stored.

    How a matrix is quantized is fixed (models/quantizing.py), so bits and files say all.
    """
    if not bits or not digest:
        return digest
    return hashlib.sha256(f"exo-node quantized on load 1, affine {bits} bits\n{digest}".encode()).hexdigest()
