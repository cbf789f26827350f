"""ring/placing.py: what a stage and a draft model are told; the acts themselves run in the integration tests."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any, cast

import pytest

from exo_node.errors import InvalidRequest, ModelNotFound
from exo_node.models.catalog import Catalog
from exo_node.models.download import ShardDownloader
from exo_node.ring.library import ModelLibrary
from exo_node.ring.loading import compute_dtype, draft_message
from exo_node.ring.placing import Placer, check_sizes
from exo_node.types import Device, ModelSpec, NodeInfo
from tests.unit.ring.test_instances import Cluster

SPEC = ModelSpec("m", "", "llama", {}, 2, 8, 16, 64, "bfloat16", (1, 1), 1, 1, 4, 8)
NODE = NodeInfo(
    node_id="a",
    boot_id="b",
    name="",
    version="",
    addresses=(),
    grpc_port=0,
    api_port=0,
    engines=("mlx",),
    devices=(Device("CPU", "cpu", "", 1, 1), Device("CUDA:0", "cuda", "", 1, 1)),
    memory_total=1,
    memory_free=1,
)


def test_a_cpu_computes_in_float32_and_a_gpu_as_stored() -> None:
    """The compute dtype follows the device of the stage."""
    assert compute_dtype(SPEC, NODE, "CPU") == "float32"
    assert compute_dtype(SPEC, NODE, "CUDA:0") == "bfloat16"
    assert compute_dtype(dataclasses.replace(SPEC, dtype="float16"), NODE, "CUDA:0") == "float16"


def test_a_draft_model_computes_as_its_device_does() -> None:
    """What the head's node is told of it."""
    told = draft_message(dataclasses.replace(SPEC, model_id="d", digest="x"), NODE, "CUDA:0")
    assert (told.model_id, told.digest, told.compute_dtype) == ("d", "x", "bfloat16")


def test_vocabularies_of_other_sizes_are_refused_before_anything_is_loaded() -> None:
    """Some padding at the end is none of that."""
    sized = [dataclasses.replace(SPEC, config={"vocab_size": size}) for size in (151_936, 152_064, 32_000)]
    check_sizes(sized[0], sized[1])
    with pytest.raises(InvalidRequest, match="151936 and 32000 tokens"):
        check_sizes(sized[0], sized[2])


async def test_names_that_somebody_asked_for_are_not_kept(tmp_path: Path) -> None:
    """Whoever may ask makes up as many as he likes. While a model is placed, or read, all who ask for it wait for each
    other."""
    placer = Placer(cast(Any, Cluster()), cast(Any, None), changed=lambda: None)
    held = placer.lock("m")
    async with held:
        assert placer.lock("m") is held
        waiting = asyncio.create_task(placer.lock("m").acquire())
        await asyncio.sleep(0)
        assert not waiting.done()
    assert await waiting
    held.release()
    del held, waiting
    library = ModelLibrary(Catalog([], tmp_path, True), ShardDownloader(offline=True), cache=tmp_path)
    for number in range(9):
        async with placer.lock(f"m{number}"):
            pass
        with pytest.raises(ModelNotFound):
            await library.spec(f"m{number}")
    assert (len(placer._locks), len(library._locks)) == (0, 0)
