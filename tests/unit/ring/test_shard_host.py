"""ring/shard_host.py: reservations, refusals and leases of a member; real loads are integration tests."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from exo_node.cluster.reservations import ReservationLedger
from exo_node.errors import DigestMismatch, NoCapacity, UnsupportedModel
from exo_node.models.catalog import Catalog
from exo_node.models.download import ShardDownloader
from exo_node.ring.library import ModelLibrary
from exo_node.ring.shard_host import RunnerSettings, ShardHost
from exo_node.ring.supervisor import RunnerReady, ShardKey
from exo_node.transport.convert import instance_to_pb, shard_to_pb
from exo_node.transport.generated.exo.v1 import node_pb2
from exo_node.types import Instance, Shard
from tests.papers import Issuer
from tests.tiny_models import CONFIG, write_model

FREE = 1000
READY = RunnerReady(port=1, weight_bytes=0, kv_bytes=0, rollback_depth=None, whole_tokens=0, seconds=0.0, info={})


@pytest.fixture
def host(tmp_path: Path) -> ShardHost:
    write_model(tmp_path / "models" / "tiny")
    library = ModelLibrary(
        Catalog([tmp_path / "models"], tmp_path, True), ShardDownloader(offline=True), cache=tmp_path / "cache"
    )
    changes: list[int] = []
    return ShardHost(
        ledger=ReservationLedger(),
        library=library,
        runner_settings=RunnerSettings(host="127.0.0.1", node_name="n", log_level="WARNING", reproducible=False),
        issuer=Issuer(),
        free_memory=lambda: FREE,
        changed=lambda: changes.append(1),
        freed=lambda device, size: None,
    )


def reserve(size: int, instance: str = "i") -> node_pb2.ReserveShardRequest:
    return node_pb2.ReserveShardRequest(instance_id=instance, bytes=size, device="CPU", lease_ms=10_000)


def load(**fields: Any) -> node_pb2.LoadShardRequest:
    layers = int(CONFIG["num_hidden_layers"])
    values: dict[str, Any] = {
        "instance_id": "i",
        "shard": shard_to_pb(Shard("tiny", 0, layers, layers)),
        "device": "CPU",
        "engine": "mlx",
        **fields,
    }
    return node_pb2.LoadShardRequest(**values)


async def test_reservations_add_up_and_are_given_back(host: ShardHost) -> None:
    """Memory that is promised is not offered again, until the shard is unloaded."""
    answer = await host.reserve_shard(reserve(600))
    assert answer.memory_free == host.memory_free() == 400
    with pytest.raises(NoCapacity, match="401"):
        await host.reserve_shard(reserve(401, "other"))
    gone = await host.unload_shard(node_pb2.UnloadShardRequest(instance_id="i", stage=0))
    assert gone.found
    assert host.memory_free() == FREE


async def test_different_files_are_refused_before_anything_starts(host: ShardHost) -> None:
    """A digest other than the coordinator's: refused with both, and the memory is free again."""
    await host.reserve_shard(reserve(10))
    with pytest.raises(DigestMismatch, match="differ"):
        async for _ in host.load_shard(load(digest="0" * 64)):
            pass
    assert host.memory_free() == FREE
    assert host.shards() == []


async def test_a_wrong_cut_is_refused_before_anything_starts(host: ShardHost, tmp_path: Path) -> None:
    """A shard of another depth than the model's is refused by the engine's own check."""
    digest = (await host.describe_model(node_pb2.DescribeModelRequest(model="tiny"))).spec_json
    from exo_node.ring.library import spec_from_json

    await host.reserve_shard(reserve(10))
    with pytest.raises(UnsupportedModel):
        async for _ in host.load_shard(
            load(digest=spec_from_json(digest).digest, shard=shard_to_pb(Shard("tiny", 0, 3, 99)))
        ):
            pass


async def test_a_load_without_reservation_is_refused(host: ShardHost) -> None:
    """Memory is reserved first; a lease that ran out is told."""
    with pytest.raises(NoCapacity, match="reserved"):
        async for _ in host.load_shard(load()):
            pass


async def test_leases_run_out_and_are_renewed(host: ShardHost) -> None:
    """A reservation that nobody renews is dropped; one that is renewed stays; unknown ones are named."""
    await host.reserve_shard(node_pb2.ReserveShardRequest(instance_id="a", bytes=1, device="CPU", lease_ms=1))
    await host.reserve_shard(node_pb2.ReserveShardRequest(instance_id="b", bytes=1, device="CPU", lease_ms=1))
    answer = await host.renew_lease(node_pb2.RenewLeaseRequest(instance_ids=["b", "c"], lease_ms=60_000))
    assert list(answer.unknown) == ["c"]
    task = asyncio.create_task(host.expire_leases())
    async with asyncio.timeout(10):
        while host.memory_free() != FREE - 1:  # noqa: ASYNC110 - what ends is in the host, which tells nobody
            await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert host.memory_free() == FREE - 1


async def test_commit_needs_a_loaded_shard(host: ShardHost) -> None:
    """An instance of which no shard is here cannot be committed here."""
    instance = Instance(
        instance_id="x",
        model_id="tiny",
        digest="",
        assignments=(),
        addresses=(),
        coordinator="",
        epoch=1,
        context=1,
        slots=1,
        state="ready",
    )
    with pytest.raises(NoCapacity):
        await host.commit_instance(node_pb2.CommitInstanceRequest(instance=instance_to_pb(instance)))


async def test_an_instance_whose_runner_ended_by_itself_is_told_of_once(host: ShardHost) -> None:
    """Its shard is given up, and whoever looks after it learns which one it was."""
    instance = Instance(
        instance_id="x", model_id="tiny", digest="", assignments=(), addresses=(), coordinator="", epoch=1,
        context=1, slots=1, state="ready",
    )  # fmt: skip
    host.committed["x"] = instance
    host._runner_ended(("x", 0), -9)
    assert (host.committed, host.take_ended(), host.take_ended()) == ({}, [instance], [])


async def test_what_runners_held_is_told_as_given_back(host: ShardHost) -> None:
    """With its device, before anybody hears that they are gone; of one that was loading nobody knows how much it is."""
    told: list[tuple[str, int]] = []
    host._freed = lambda device, size: told.append((device, size))
    await host.reserve_shard(reserve(10, "loading"))
    await host.reserve_shard(reserve(20, "loaded"))
    host._ledger.hold("loading", 0)
    host._ledger.commit("loaded", 0, until=float("inf"))
    for instance in ("loading", "loaded", "loaded"):
        await host.unload_shard(node_pb2.UnloadShardRequest(instance_id=instance, stage=0))
    assert told == [("CPU", 0), ("CPU", 20)]


async def test_a_head_that_could_guess_ahead_is_kept_where_the_draft_model_is_gone(host: ShardHost) -> None:
    """The ring goes on without guesses when another stage is lost; nobody has to load the head anew for that. One that
    has no draft model is not what is asked for with one."""

    class Runners:
        def ready(self, key: ShardKey) -> RunnerReady | None:
            return READY if key == ("i", 0) else None

    host._supervisor = cast(Any, Runners())
    host._loaded["i", 0] = load(draft=node_pb2.DraftModel(model_id="small"))
    assert host._found(("i", 0), load()) is READY
    host._loaded["i", 0] = load()
    assert host._found(("i", 0), load(draft=node_pb2.DraftModel(model_id="small"))) is None


async def test_describe_tells_local_models_with_tokenizer_files(host: ShardHost) -> None:
    """A local model comes with its spec, and with its tokenizer files on request; others are unknown with a reason."""
    plain = await host.describe_model(node_pb2.DescribeModelRequest(model="tiny"))
    assert plain.availability == "local"
    assert not plain.tokenizer_files
    full = await host.describe_model(node_pb2.DescribeModelRequest(model="tiny", want_tokenizer=True))
    assert set(full.tokenizer_files) >= {"config.json", "tokenizer.json"}
    unknown = await host.describe_model(node_pb2.DescribeModelRequest(model="nothing"))
    assert (unknown.availability, unknown.code) == ("unknown", "model_not_found")
    assert host.local_folder("tiny") is not None
    assert host.local_folder("nothing") is None
