"""Quantized modules: which there are, and how they multiply.

On Apple Silicon MLX's own kernel is right for any number of rows. On a CPU it takes rows one after the other (12.9 ms
each for 4 bits of [8192, 2048] on two cores, against 7.2 in float32), so that a prompt is 6 times as fast when a matrix
is widened first and multiplied by BLAS: 64 rows take 260 ms instead of 1,530. Widened pieces live for one product.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from exo_node.engine.base import TensorSource
from exo_node.packing import packing_of, scales_of

# Rows from which widening pays on a CPU: 8 rows take 143 ms packed and 159 widened.
WIDEN_ROWS = 12
# Of a matrix at a time: MLX begins several products at once, and whole matrices of [8192, 2048] took 480 MB for it.
WIDEN_ELEMENTS = 1 << 21


def quantize_modules(model: Any, source: TensorSource) -> None:
    """Make the modules of `model` whose matrices are packed in `source` quantized ones, as mlx-lm does when it loads.

    Nothing is evaluated: their parameters are placeholders as before. Raises `CheckpointError`.
    """
    names = set(source.names())

    def packing(path: str, module: Any) -> bool | dict[str, Any]:
        name = f"{path}.weight"
        if scales_of(name)[0] not in names or name not in names or not hasattr(module, "to_quantized"):
            return False
        found = packing_of(name, module.weight.shape[-1], source.info)
        return {"bits": found.bits, "group_size": found.group_size, "mode": "affine"}

    nn.quantize(model, class_predicate=packing)
    if mx.default_device() == mx.Device(mx.cpu):
        for module in model.modules():
            if type(module) in _WIDENING:
                module.__class__ = _WIDENING[type(module)]


class _WideningLinear(nn.QuantizedLinear):
    def __call__(self, x: Any) -> Any:
        if x.size // x.shape[-1] < WIDEN_ROWS:
            return super().__call__(x)
        y = _product(self, x)
        return y + self["bias"] if "bias" in self else y


class _WideningEmbedding(nn.QuantizedEmbedding):
    def as_linear(self, x: Any) -> Any:
        return super().as_linear(x) if x.size // x.shape[-1] < WIDEN_ROWS else _product(self, x)


_WIDENING = {nn.QuantizedLinear: _WideningLinear, nn.QuantizedEmbedding: _WideningEmbedding}


def _product(module: Any, x: Any) -> Any:
    """x [..., columns] @ the module's matrix.T, a few of its rows after the other."""
    integers, scales, biases = module["weight"], module["scales"], module["biases"]
    size, bits = module.group_size, module.bits
    step = max(1, WIDEN_ELEMENTS // x.shape[-1])
    pieces = []
    for start in range(0, integers.shape[0], step):
        w, s, b = (part[start : start + step] for part in (integers, scales, biases))
        pieces.append(x @ mx.dequantize(w, s, b, size, bits).T)
    return pieces[0] if len(pieces) == 1 else mx.concatenate(pieces, axis=-1)
