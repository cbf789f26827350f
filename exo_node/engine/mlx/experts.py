"""A mixture of experts on a CPU: which types MLX multiplies there, and long prompts expert by expert.

MLX's product with gathered matrices takes rows one after the other there, each with the whole of its expert's matrix.
Of 32 experts of [768, 2048], 8 a token, 64 tokens take 1.61 s of one core that way, and 0.25 s expert by expert, in
float32 with OpenBLAS. On a GPU its kernels are right for any number of rows.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import mlx.core as mx
import numpy as np

from exo_node.engine.mlx.modules import import_model_file
from exo_node.engine.mlx.quantized import WIDEN_ROWS
from exo_node.errors import UnsupportedModel

# Rows for each expert, on average, from which they are taken together: 2 take 0.9 of the time so, 4 half, 16 a sixth.
# Packed in 4 bits 4 take as long, 12 half.
ROWS = 4


def prepare_experts(model: Any, names: Collection[str], dtype: Any) -> None:
    """Make the experts of `model`, of which `names` are loaded, fit for a CPU if that is where it runs.

    Raises `UnsupportedModel` for experts that are not packed in another type than float32: MLX multiplies no other
    gathered matrices there (placement asks for none).
    """
    if mx.default_device() != mx.Device(mx.cpu):
        return
    kinds = {path: type(module).__name__ for path, module in model.named_modules()}
    if dtype != mx.float32 and any(kinds[one] == "SwitchLinear" and f"{one}.weight" in names for one in kinds):
        raise UnsupportedModel(
            "a mixture of experts whose experts are not quantized is run in float32 on a CPU, "
            f"not in {str(dtype).rpartition('.')[2]}"
        )
    if "SwitchGLU" in kinds.values():
        by_expert = _by_expert()
        for path, module in model.named_modules():
            if kinds[path] == "SwitchGLU":
                module.__class__ = by_expert


def _by_expert() -> type:
    """mlx-lm's `SwitchGLU`, which is imported only for a model that has one, taking long prompts expert by expert."""
    plain: Any = import_model_file("switch_layers").SwitchGLU

    class ByExpert(plain):
        def __call__(self, x: Any, indices: Any) -> Any:
            """x [..., hidden_size], indices [..., k]: [..., k, hidden_size]."""
            if indices.size < ROWS * self.gate_proj.num_experts:
                return super().__call__(x, indices)
            chosen = np.array(indices).reshape(-1)  # evaluates all that is built so far, which a prompt makes up for
            order = np.argsort(chosen, kind="stable")
            rows = x.reshape(-1, x.shape[-1])[mx.array(order // indices.shape[-1])]
            pieces, start = [], 0
            for expert, n in zip(*np.unique(chosen, return_counts=True), strict=True):
                some, e = rows[start : start + int(n)], int(expert)
                inner = self.activation(_product(self.up_proj, e, some), _product(self.gate_proj, e, some))
                pieces.append(_product(self.down_proj, e, inner))
                mx.eval(pieces[-1])  # or the widened matrices of several would lie in memory at once
                start += int(n)
            back = np.argsort(order)
            return mx.concatenate(pieces)[mx.array(back)].reshape(*indices.shape, -1)

    return ByExpert


def _product(module: Any, expert: int, x: Any) -> Any:
    """x [rows, columns] @ the expert's matrix.T."""
    if "scales" not in module:
        return x @ module["weight"][expert].T
    w, s, b = (module[name][expert] for name in ("weight", "scales", "biases"))
    if len(x) < WIDEN_ROWS:
        return mx.quantized_matmul(x, w, s, b, True, module.group_size, module.bits)
    return x @ mx.dequantize(w, s, b, module.group_size, module.bits).T
