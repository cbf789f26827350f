"""MLX's affine packing, read off the shapes of tensors."""

from __future__ import annotations

import pytest

from exo_node.errors import CheckpointError
from exo_node.packing import BITS, GROUP_SIZES, Packing, packing_of, scales_of
from exo_node.types import TensorInfo


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_the_shapes_tell(bits: int, group_size: int) -> None:
    """Bits and group size follow from the number of columns; 4 bits in groups of 64 and 8 in 32 are not confused."""
    packed, scales = Packing(bits, group_size).shapes(5, 256)
    infos = {"a.weight": TensorInfo("U32", packed, 0), "a.scales": TensorInfo("F16", scales, 0)}
    assert packing_of("a.weight", 256, infos.__getitem__) == Packing(bits, group_size)


@pytest.mark.parametrize(
    ("dtype", "packed", "scales"),
    [("U32", (5, 24), (5, 4)), ("U32", (5, 32), (4, 4)), ("U32", (5, 32), (5, 16)), ("I32", (5, 32), (5, 4))],
)
def test_what_is_no_packing(dtype: str, packed: tuple[int, ...], scales: tuple[int, ...]) -> None:
    """3 bits, rows that disagree, groups of 16, another type: an error that names the tensor."""
    infos = {"a.weight": TensorInfo(dtype, packed, 0), "a.scales": TensorInfo("F16", scales, 0)}
    with pytest.raises(CheckpointError, match=r"a\.weight"):
        packing_of("a.weight", 256, infos.__getitem__)


def test_names() -> None:
    """Scales and biases lie beside the matrix."""
    assert scales_of("model.layers.0.mlp.up_proj.weight") == (
        "model.layers.0.mlp.up_proj.scales",
        "model.layers.0.mlp.up_proj.biases",
    )
