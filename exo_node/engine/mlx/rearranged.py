"""A shard's tensors in the arrangement of mlx-lm's model files, where that differs from transformers'. No copies.

mlx-lm's own functions for this (`sanitize`) want a whole model at once, and look at layer 0 to know about the others.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from exo_node.engine.base import TensorInfo, TensorSource
from exo_node.errors import CheckpointError, UnsupportedModel

_CONVOLUTIONS = (".conv.weight", ".conv1d.weight")
# A dense granitemoehybrid: two matrices in one, and other names. Also of scales and biases of packed ones.
_FUSED = re.compile(r"(model\.layers\.\d+)\.shared_mlp\.(input|output)_linear\.(\w+)")
# One expert's tensor, where mlx-lm has those of all experts of the layer in one.
_EXPERT = re.compile(r"(model\.layers\.\d+\.mlp)\.experts\.(\d+)\.(\w+\.\w+)")


class Rearranged:
    """Of `source` (a `TensorSource`): weights of convolutions by channel, [c, 1, k], as mlx-lm has them, [c, k, 1]; the
    upper and the lower half of the rows of fused matrices by themselves; those of a layer's experts as one tensor,
    [experts, ...], which is read expert by expert (`pieces`).

    Raises `CheckpointError` where an expert is missing or unlike the others, `UnsupportedModel` for experts as
    transformers 5 holds them in memory: nobody publishes those (it saves them one by one unless told not to).
    """

    def __init__(self, source: TensorSource) -> None:
        self._source = source
        experts: dict[str, dict[int, str]] = {}
        self._parts: dict[str, tuple[str, int, int]] = {}  # name -> stored name, which part, of how many
        for stored in source.names():
            if stored.endswith(".mlp.experts.gate_up_proj"):
                raise UnsupportedModel(f"tensor {stored} is not read: save the model with save_original_format=True")
            if found := _EXPERT.fullmatch(stored):
                experts.setdefault(f"{found[1]}.switch_mlp.{found[3]}", {})[int(found[2])] = stored
            else:
                self._parts |= _parts(stored)
        self._stacks: Mapping[str, Sequence[str]] = {name: _stack(source, one) for name, one in experts.items()}

    def names(self) -> Collection[str]:
        return [*self._parts, *self._stacks]

    def pieces(self, name: str) -> Sequence[str]:
        """The names to `read` one after the other for the tensor's bytes, and to `release`."""
        return self._stacks.get(name, (name,))

    def info(self, name: str) -> TensorInfo:
        if name in self._stacks:
            stack = self._stacks[name]
            one = self._source.info(stack[0])
            return TensorInfo(one.dtype, (len(stack), *one.shape), len(stack) * one.nbytes)
        stored, _, n = self._part(name)
        info = self._source.info(stored)
        shape = info.shape
        if name.endswith(_CONVOLUTIONS) and len(shape) == 3 and shape[1] == 1:
            shape = (shape[0], shape[2], 1)
        return TensorInfo(info.dtype, (shape[0] // n, *shape[1:]), info.nbytes // n) if shape else info

    def read(self, name: str) -> memoryview:
        stored, part, n = self._part(name)
        size = self._source.info(stored).nbytes // n
        return self._source.read(stored)[part * size : (part + 1) * size]

    def release(self, name: str) -> None:
        """Pages that the other part still wants are fetched again."""
        self._source.release(self._part(name)[0])

    def _part(self, name: str) -> tuple[str, int, int]:
        return self._parts.get(name, (name, 0, 1))  # one expert's goes by its stored name


def _parts(stored: str) -> dict[str, tuple[str, int, int]]:
    found = _FUSED.fullmatch(stored)
    if found is None:
        return {stored: (stored, 0, 1)}
    layer, side, kind = found.groups()
    if side == "output":
        return {f"{layer}.mlp.down_proj.{kind}": (stored, 0, 1)}
    return {f"{layer}.mlp.{one}_proj.{kind}": (stored, i, 2) for i, one in enumerate(("gate", "up"))}


def _stack(source: TensorSource, experts: Mapping[int, str]) -> Sequence[str]:
    """Stored names by the number of the expert."""
    first = experts[min(experts)]
    for i in range(len(experts)):
        if i not in experts:
            missing = _EXPERT.sub(rf"\1.experts.{i}.\3", first)
            raise CheckpointError(f"tensor {missing} is missing; fetch the model again")
        if source.info(experts[i]) != source.info(first):
            raise CheckpointError(f"tensor {experts[i]} is not of the type and shape of {first}; fetch the model again")
    return [experts[i] for i in range(len(experts))]
