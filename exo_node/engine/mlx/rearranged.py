"""A shard's tensors in the arrangement of mlx-lm's model files, where that differs from transformers'. No copies.

mlx-lm's own functions for this (`sanitize`) want a whole model at once, and look at layer 0 to know about the others.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from exo_node.engine.base import TensorInfo, TensorSource

_CONVOLUTIONS = (".conv.weight", ".conv1d.weight")
# A dense granitemoehybrid: two matrices in one, and other names. Also of scales and biases of packed ones.
_FUSED = re.compile(r"(model\.layers\.\d+)\.shared_mlp\.(input|output)_linear\.(\w+)")


class Rearranged:
    """Of `source` (a `TensorSource`): weights of convolutions by channel, [c, 1, k], as mlx-lm has them, [c, k, 1]; the
    upper and the lower half of the rows of fused matrices by themselves."""

    def __init__(self, source: TensorSource) -> None:
        self._source = source
        self._parts: Mapping[str, tuple[str, int, int]] = {  # name -> stored name, which part, of how many
            name: part for stored in source.names() for name, part in _parts(stored).items()
        }

    def names(self) -> Collection[str]:
        return self._parts.keys()

    def info(self, name: str) -> TensorInfo:
        stored, _, n = self._parts[name]
        info = self._source.info(stored)
        shape = info.shape
        if name.endswith(_CONVOLUTIONS) and len(shape) == 3 and shape[1] == 1:
            shape = (shape[0], shape[2], 1)
        return TensorInfo(info.dtype, (shape[0] // n, *shape[1:]), info.nbytes // n) if shape else info

    def read(self, name: str) -> memoryview:
        stored, part, n = self._parts[name]
        size = self._source.info(stored).nbytes // n
        return self._source.read(stored)[part * size : (part + 1) * size]

    def release(self, name: str) -> None:
        """Pages that the other part still wants are fetched again."""
        self._source.release(self._parts[name][0])


def _parts(stored: str) -> dict[str, tuple[str, int, int]]:
    found = _FUSED.fullmatch(stored)
    if found is None:
        return {stored: (stored, 0, 1)}
    layer, side, kind = found.groups()
    if side == "output":
        return {f"{layer}.mlp.down_proj.{kind}": (stored, 0, 1)}
    return {f"{layer}.mlp.{one}_proj.{kind}": (stored, i, 2) for i, one in enumerate(("gate", "up"))}
