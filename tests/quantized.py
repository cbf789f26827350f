"""Quantized checkpoints as mlx-lm writes them, and mlx-lm's own logits of them (tests only; needs MLX)."""

from __future__ import annotations

import importlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exo_node.engine.mlx.families import FAMILIES
from exo_node.engine.mlx.modules import import_model_file
from exo_node.models.config import normalise
from tests.checkpoints import EXPERTS, HYBRIDS


def _mlx() -> tuple[Any, Any]:
    return importlib.import_module("mlx.core"), importlib.import_module("mlx.nn")


def _model(config: Mapping[str, Any]) -> Any:
    """mlx-lm's, without its weights."""
    family = FAMILIES[config["model_type"]]
    module = import_model_file(family.module)
    return module.Model(module.ModelArgs.from_dict(family.adapt(config, 96)))


def quantize_checkpoint(
    path: Path,
    *,
    bits: int,
    group_size: int = 32,
    layers: Mapping[str, dict[str, int]] | None = None,
    keep: Collection[str] = (),
) -> Path:
    """A folder beside `path` with every matrix packed, in the format of `mlx_lm.convert -q`; made once.

    `layers`: other bits and group sizes for modules whose path ends so; `keep`: endings of those that stay as they are.
    """
    mx, _ = _mlx()
    tail = "".join(f"-{name}" for name in sorted([*(layers or ()), *(f"not-{name}" for name in keep)]))
    folder = path.with_name(f"{path.name}-q{bits}-g{group_size}{tail}")
    if (folder / "config.json").exists():
        return folder
    folder.mkdir()
    config = json.loads((path / "config.json").read_text())
    chosen: dict[str, Any] = {"group_size": group_size, "bits": bits, "mode": "affine"}
    tensors: dict[str, Any] = {}
    stored = mx.load(str(path / "model.safetensors"))
    if config["model_type"] in HYBRIDS + EXPERTS:
        stored = _model(normalise(config)).sanitize(stored)  # of these it renames some, cuts some in two, joins some
    for name, array in stored.items():
        module = name.removesuffix(".weight")
        matrix = array.ndim == 2 or ".switch_mlp." in name
        if not matrix or any(module.endswith(one) for one in keep):
            tensors[name] = array
            if matrix:
                chosen[module] = False
            continue
        own = next((value for one, value in (layers or {}).items() if module.endswith(one)), None)
        if own is not None:
            chosen[module] = own
        packed = mx.quantize(array, **(own or {"group_size": group_size, "bits": bits}))
        tensors |= dict(zip((name, f"{module}.scales", f"{module}.biases"), packed, strict=True))
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "mlx"})
    config |= {"quantization": chosen, "quantization_config": chosen}
    (folder / "config.json").write_text(json.dumps(config))
    if (path / "tokenizer.json").exists():
        (folder / "tokenizer.json").write_bytes((path / "tokenizer.json").read_bytes())
    return folder


def mlx_lm_logits(path: Path, ids: Sequence[int]) -> npt.NDArray[np.float32]:
    """Logits [len(ids), vocab] of mlx-lm's model, loaded as its `load_model` does."""
    mx, nn = _mlx()
    config = normalise(json.loads((path / "config.json").read_text()))
    model = _model(config)
    weights = mx.load(str(path / "model.safetensors"))
    if hasattr(model, "sanitize"):
        weights = model.sanitize(weights)
    quantization = config["quantization"]

    def packing(name: str, module: Any) -> Any:
        return quantization.get(name, f"{name}.scales" in weights)

    default = {name: quantization[name] for name in ("group_size", "bits", "mode")}
    nn.quantize(model, **default, class_predicate=packing)
    model.load_weights(list(weights.items()))
    return np.array(model(mx.array([list(ids)]))[0].astype(mx.float32))


def widened_checkpoint(path: Path) -> Path:
    """The full-precision folder (float32) of exactly the weights that a quantized one stands for; made once."""
    mx, _ = _mlx()
    folder = path.with_name(f"{path.name}-widened")
    if (folder / "config.json").exists():
        return folder
    folder.mkdir()
    config = json.loads((path / "config.json").read_text())
    quantization = config.pop("quantization")
    del config["quantization_config"]
    stored = {
        k: v if v.dtype == mx.uint32 else v.astype(mx.float32)
        for k, v in mx.load(str(path / "model.safetensors")).items()
    }
    for name in [one for one in stored if one.endswith(".scales")]:
        module = name.removesuffix(".scales")
        own = quantization.get(module, quantization)
        parts = [stored.pop(f"{module}.{part}") for part in ("weight", "scales", "biases")]
        stored[f"{module}.weight"] = mx.dequantize(*parts, own["group_size"], own["bits"])
    mx.save_safetensors(str(folder / "model.safetensors"), stored, metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder
