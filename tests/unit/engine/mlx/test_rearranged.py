"""Tensors as mlx-lm's files have them, read from where transformers has put them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pytest

from exo_node.engine.base import TensorInfo
from exo_node.engine.mlx.rearranged import Rearranged
from exo_node.errors import CheckpointError, UnsupportedModel

MLP = "model.layers.11.shared_mlp"
STORED = {
    "model.layers.11.mamba.conv1d.weight": TensorInfo("F32", (6, 1, 4), 96),
    "model.layers.2.conv.conv.weight": TensorInfo("F32", (6, 4, 1), 96),
    f"{MLP}.input_linear.weight": TensorInfo("F32", (4, 2), 32),
    f"{MLP}.output_linear.weight": TensorInfo("F32", (2, 2), 16),
    f"{MLP}.input_linear.scales": TensorInfo("F32", (4, 1), 16),
}


EXPERTS = "model.layers.3.mlp.experts"
KINDS = ("weight", "scales", "biases")


class Stored:
    def __init__(self, infos: Mapping[str, TensorInfo] = STORED) -> None:
        self._infos = infos
        self.released: list[str] = []

    def names(self) -> Collection[str]:
        return self._infos.keys()

    def info(self, name: str) -> TensorInfo:
        return self._infos[name]

    def read(self, name: str) -> memoryview:
        return memoryview(bytes(range(self._infos[name].nbytes)))

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


def test_experts_come_together() -> None:
    """Tensors of eleven experts (the tenth stored before the second) are one, read and released expert by expert; the
    router stays by itself."""
    order = sorted(range(11), key=str)
    infos = {f"{EXPERTS}.{i}.up_proj.{kind}": TensorInfo("F32", (4, 2), 32) for kind in KINDS for i in order}
    router = "model.layers.3.mlp.gate.weight"
    stored = Stored({**infos, router: TensorInfo("F32", (11, 2), 88)})
    source = Rearranged(stored)
    together = [f"model.layers.3.mlp.switch_mlp.up_proj.{kind}" for kind in KINDS]
    assert set(source.names()) == {router, *together}
    assert source.pieces(router) == (router,)
    for name, kind in zip(together, KINDS, strict=True):
        assert source.info(name) == TensorInfo("F32", (11, 4, 2), 352)
        assert source.pieces(name) == [f"{EXPERTS}.{i}.up_proj.{kind}" for i in range(11)]
    piece = source.pieces(together[0])[10]
    assert (source.info(piece).shape, len(source.read(piece))) == ((4, 2), 32)
    source.release(piece)
    assert stored.released == [f"{EXPERTS}.10.up_proj.weight"]


@pytest.mark.parametrize(
    ("experts", "says"),
    (
        ({0: (4, 2), 2: (4, 2)}, r"experts\.1\.up_proj\.weight is missing"),
        ({0: (4, 2), 1: (2, 4)}, r"experts\.1\.up_proj\.weight is not of the type and shape"),
    ),
)
def test_experts_that_are_not_alike(experts: dict[int, tuple[int, ...]], says: str) -> None:
    """One that is missing, or of another shape, is named."""
    infos = {f"{EXPERTS}.{i}.up_proj.weight": TensorInfo("F32", shape, 32) for i, shape in experts.items()}
    with pytest.raises(CheckpointError, match=says):
        Rearranged(Stored(infos))


def test_experts_as_transformers_holds_them() -> None:
    """A tensor of two matrices of every expert is refused with what to do about it."""
    with pytest.raises(UnsupportedModel, match="save_original_format=True"):
        Rearranged(Stored({f"{EXPERTS}.gate_up_proj": TensorInfo("F32", (4, 2, 2), 64)}))
