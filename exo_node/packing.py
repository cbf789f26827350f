"""How quantized weights lie in memory: MLX's affine packing, which mlx-lm writes and every engine here reads. Pure.

A matrix [rows, columns] that was `X.weight` is three tensors: `X.weight`, uint32 [rows, columns * bits / 32], the first
element in the lowest bits; `X.scales` and `X.biases`, of floating point, [rows, columns / group_size]. An element is
its `bits` times its group's scale plus its group's bias. (`X.bias`, of a linear layer, is another thing.) Of a
tensor with a matrix for each expert, all three have the experts in front.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from exo_node.errors import CheckpointError
from exo_node.types import TensorInfo

BITS = (4, 8)
GROUP_SIZES = (32, 64, 128)
PACKED = "U32"  # safetensors' name of the packed tensor's type


@dataclass(frozen=True, slots=True)
class Packing:
    """`bits` an element, one scale and one bias for `group_size` consecutive elements of a row."""

    bits: int
    group_size: int

    def shapes(self, *shape: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of the packed tensor, and of scales and biases: of a matrix [rows, columns], or of several in one tensor."""
        *rows, columns = shape
        return (*rows, columns * self.bits // 32), (*rows, columns // self.group_size)


def scales_of(name: str) -> tuple[str, str]:
    """Names of scales and biases of the matrix `name`."""
    base = name.removesuffix(".weight")
    return f"{base}.scales", f"{base}.biases"


def packing_of(name: str, columns: int, info: Callable[[str], TensorInfo]) -> Packing:
    """How the matrix `name` of `columns` columns is packed, by the shapes of its tensors.

    The shapes decide, as in mlx-lm: a config's default does not hold for every layer. `info(name)` must know the matrix
    and its scales. Raises `CheckpointError` where they are no packing of so many columns that is known here.
    """
    weight, scales = info(name), info(scales_of(name)[0])
    for bits in BITS:
        for group_size in GROUP_SIZES:
            packing = Packing(bits, group_size)
            wanted = packing.shapes(*weight.shape[:-1], columns)
            if columns % group_size == 0 and wanted == (weight.shape, scales.shape) and weight.dtype == PACKED:
                return packing
    raise CheckpointError(
        f"tensor {name} ({weight.dtype} {list(weight.shape)}) with scales {list(scales.shape)} is no packing of "
        f"{columns} columns into {' or '.join(map(str, BITS))} bits in groups of "
        f"{', '.join(map(str, GROUP_SIZES))}; fetch the model again"
    )
