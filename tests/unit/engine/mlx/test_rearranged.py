"""Tensors as mlx-lm's files have them, read from where transformers has put them."""

from __future__ import annotations

from collections.abc import Collection

from exo_node.engine.base import TensorInfo
from exo_node.engine.mlx.rearranged import Rearranged

MLP = "model.layers.11.shared_mlp"
STORED = {
    "model.layers.11.mamba.conv1d.weight": TensorInfo("F32", (6, 1, 4), 96),
    "model.layers.2.conv.conv.weight": TensorInfo("F32", (6, 4, 1), 96),
    f"{MLP}.input_linear.weight": TensorInfo("F32", (4, 2), 32),
    f"{MLP}.output_linear.weight": TensorInfo("F32", (2, 2), 16),
    f"{MLP}.input_linear.scales": TensorInfo("F32", (4, 1), 16),
}


class Stored:
    def __init__(self) -> None:
        self.released: list[str] = []

    def names(self) -> Collection[str]:
        return STORED.keys()

    def info(self, name: str) -> TensorInfo:
        return STORED[name]

    def read(self, name: str) -> memoryview:
        return memoryview(bytes(range(STORED[name].nbytes)))

    def release(self, name: str) -> None:
        self.released.append(name)


def test_convolutions_by_channel_have_their_axes_the_other_way() -> None:
    """[c, 1, k] is [c, k, 1], the same bytes; what is so already stays."""
    source = Rearranged(Stored())
    for name in ("model.layers.11.mamba.conv1d.weight", "model.layers.2.conv.conv.weight"):
        assert source.info(name) == TensorInfo("F32", (6, 4, 1), 96)
        assert bytes(source.read(name)) == bytes(range(96))


def test_fused_matrices_come_apart() -> None:
    """The upper half of the rows is the gate's, the lower the other's, of packed matrices' scales too."""
    stored = Stored()
    source = Rearranged(stored)
    mlp = "model.layers.11.mlp"
    assert {name for name in source.names() if ".mlp." in name} == {
        f"{mlp}.gate_proj.weight",
        f"{mlp}.up_proj.weight",
        f"{mlp}.down_proj.weight",
        f"{mlp}.gate_proj.scales",
        f"{mlp}.up_proj.scales",
    }
    assert source.info(f"{mlp}.up_proj.weight") == TensorInfo("F32", (2, 2), 16)
    assert bytes(source.read(f"{mlp}.gate_proj.weight")) == bytes(range(16))
    assert bytes(source.read(f"{mlp}.up_proj.weight")) == bytes(range(16, 32))
    assert bytes(source.read(f"{mlp}.up_proj.scales")) == bytes(range(8, 16))
    assert source.info(f"{mlp}.down_proj.weight").shape == (2, 2)
    source.release(f"{mlp}.up_proj.weight")
    assert stored.released == [f"{MLP}.input_linear.weight"]
