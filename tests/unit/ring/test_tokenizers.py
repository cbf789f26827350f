"""An instance's tokenizer: from files here, from the head's node, or the one that was read before."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import exo_node.models
from exo_node.cluster.reservations import ReservationLedger
from exo_node.errors import DigestMismatch
from exo_node.models.catalog import Catalog
from exo_node.models.download import ShardDownloader
from exo_node.models.quantization import quantized_digest
from exo_node.ring.library import ModelLibrary
from exo_node.ring.shard_host import RunnerSettings, ShardHost
from exo_node.ring.tokenizers import InstanceTokenizers
from exo_node.types import Assignment, Instance, Shard
from tests.papers import Issuer

DEMO = Path(exo_node.models.__file__).parent / "demo"
INSTANCE = Instance(
    instance_id="i", model_id="m", digest="", addresses=("",), coordinator="a", epoch=1, context=8, slots=1,
    state="ready", assignments=(Assignment("head", Shard("m", 0, 8, 8), "mlx", "CPU"),),
)  # fmt: skip


class World:
    """The head's node, which has the model `m`, and ours, which has not."""

    def __init__(self, root: Path) -> None:
        self.head, self.here = root / "head", root / "here"
        shutil.copytree(DEMO, self.head / "m")
        self.here.mkdir()
        (_, self.host), (library, own) = self._node(self.head), self._node(self.here)
        self.asked = 0
        self.tokenizers = InstanceTokenizers(self._member, own, library)

    @staticmethod
    def _node(models: Path) -> tuple[ModelLibrary, ShardHost]:
        library = ModelLibrary(
            Catalog([models], models.parent / f"{models.name}-home", True),
            ShardDownloader(offline=True),
            cache=models.parent / f"{models.name}-cache",
        )
        settings = RunnerSettings(host="127.0.0.1", node_name="n", log_level="WARNING", reproducible=False)
        host = ShardHost(
            ledger=ReservationLedger(),
            library=library,
            runner_settings=settings,
            issuer=Issuer(),
            free_memory=lambda: 0,
            changed=lambda: None,
            freed=lambda device, size: None,
        )
        return library, host

    def _member(self, node_id: str) -> ShardHost:
        assert node_id == "head"
        self.asked += 1
        return self.host

    async def instance(self, quantize: int = 0) -> Instance:
        digest = (await self.host._library.spec("m")).digest
        return replace(INSTANCE, quantize=quantize, digest=quantized_digest(digest, quantize))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_files_that_are_here_are_used(world: World) -> None:
    """Nobody is asked, also where the instance's weights were packed on load."""
    shutil.copytree(DEMO, world.here / "m")
    for quantize in (0, 4):
        loaded = await world.tokenizers.of(await world.instance(quantize))
        assert loaded.tokenizer.vocab_size == 1280
    assert world.asked == 0


async def test_else_the_heads_node_sends_its_own_once(world: World) -> None:
    """As long as the instance is there; other files of that name here are not its."""
    instance = await world.instance()
    shutil.copytree(DEMO, world.here / "m")
    (world.here / "m" / "config.json").write_text((DEMO / "config.json").read_text().replace("1024", "512"))
    first = await world.tokenizers.of(instance)
    world.tokenizers.tidy({"i"})
    assert (await world.tokenizers.of(instance), world.asked) == (first, 1)
    world.tokenizers.tidy(set())
    assert (await world.tokenizers.of(instance), world.asked) == (first, 2)


async def test_files_that_changed_since_the_load_are_not_taken(world: World) -> None:
    """What was read before goes on; where nothing was, the user is told what to do."""
    instance = await world.instance()
    first = await world.tokenizers.of(instance)
    config = world.head / "m" / "config.json"
    config.write_text(config.read_text().replace("1024", "512"))
    world.tokenizers.tidy(set())
    assert await world.tokenizers.of(instance) is first
    with pytest.raises(DigestMismatch, match="exo unload m"):
        await world.tokenizers.of(replace(instance, digest="other"))
