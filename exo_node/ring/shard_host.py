"""A node as a member of instances: holds reservations, loads and unloads shards, lets leases run out.

Speaks the control plane's messages, so that the node that coordinates calls itself exactly as it calls its peers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from exo_node.cluster.reservations import ReservationLedger
from exo_node.cluster.stage_memory import draft_pool
from exo_node.engine.select import check_supported
from exo_node.errors import DigestMismatch, InvalidRequest, ModelNotFound, NoCapacity, RingBroken
from exo_node.models.catalog import LocalModel, RemoteModel
from exo_node.models.vocabulary import check_same_vocabulary
from exo_node.ring.connecting import SPARE_STAGE
from exo_node.ring.library import ModelLibrary, spec_to_json, tokenizer_files
from exo_node.ring.reporting import reported
from exo_node.ring.runner_config import papers_fields
from exo_node.ring.supervisor import RunnerReady, RunnerSupervisor, ShardKey
from exo_node.transport.client import SILENCE_S
from exo_node.transport.convert import instance_from_pb, shard_from_pb
from exo_node.transport.generated.exo.v1 import node_pb2
from exo_node.transport.tls import runner_name
from exo_node.types import Instance, ModelSpec, Papers

log = logging.getLogger("exo.shards")

EXPIRY_CHECK_S = 1.0


class Issuer(Protocol):
    """What this node's key is needed for (key_rotation.py). Runners get certificates, and never the key."""

    async def issue(self, lists: Sequence[Sequence[str]]) -> list[Papers]:
        """Papers for processes of these names: who signs and who is trusted as of now. Raises `ExoError`."""
        ...

    @property
    def version(self) -> int:
        """Grows whenever what `issue` gives would be other papers."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerSettings:
    """What every runner of this node is told. `host` is the address that its port binds to."""

    host: str
    node_name: str
    log_level: str
    reproducible: bool
    prefix_cache: bool = True
    speculation: bool = True
    max_waiting: int = 256
    min_free_memory: int = 0
    wire_int8: Literal["off", "auto", "on"] = "off"


class ShardHost:
    """The shards of one node."""

    def __init__(
        self,
        *,
        ledger: ReservationLedger,
        library: ModelLibrary,
        runner_settings: RunnerSettings,
        issuer: Issuer,
        free_memory: Callable[[], int],
        changed: Callable[[], None],
        freed: Callable[[str, int], None],
        silence_s: float = SILENCE_S,
    ) -> None:
        """`free_memory()`: bytes this machine could give now; `changed()` is called when shards come or go, `freed`
        before with a device and what a runner held there, which has ended (0: not known); `silence_s`: see
        `RunnerSupervisor`."""
        self._ledger = ledger
        self._library = library
        self._runner_settings = runner_settings
        self._issuer = issuer
        self._free_memory = free_memory
        self._changed = changed
        self._freed = freed
        self._supervisor = RunnerSupervisor(on_exit=self._runner_ended, silence_s=silence_s)
        self._loaded: dict[ShardKey, node_pb2.LoadShardRequest] = {}
        self.committed: dict[str, Instance] = {}  # instances of which this node holds a shard
        self._ended: list[Instance] = []

    def shards(self) -> list[ShardKey]:
        """Runners alive and ready."""
        return self._supervisor.keys()

    def take_ended(self) -> list[Instance]:
        """Instances whose last runner here has ended by itself since this was asked last."""
        ended, self._ended = self._ended, []
        return ended

    def memory_free(self) -> int:
        """Bytes that a placement may use."""
        return self._ledger.available(self._free_memory(), time.monotonic())

    async def renew_papers(self) -> None:
        """Give every runner a certificate of the present key."""
        await self._give_papers(self._supervisor.all())

    async def _give_papers(self, keys: Sequence[ShardKey]) -> None:
        if not keys:
            return
        made = await self._issuer.issue([[runner_name(instance_id)] for instance_id, _ in keys])
        for key, papers in zip(keys, made, strict=True):
            await self._supervisor.tell(key, {"papers": papers_fields(papers)})

    async def describe_model(self, request: node_pb2.DescribeModelRequest) -> node_pb2.DescribeModelResponse:
        """Whether the model is here, and which files it is."""
        found = await self._library.describe(request.model, fetch=request.fetch, quantize=request.quantize)
        if found.spec is None:
            return node_pb2.DescribeModelResponse(availability=found.availability, detail=found.detail, code=found.code)
        files = await asyncio.to_thread(tokenizer_files, Path(found.spec.path)) if request.want_tokenizer else {}
        return node_pb2.DescribeModelResponse(
            availability="local", spec_json=spec_to_json(found.spec), tokenizer_files=files
        )

    async def reserve_shard(self, request: node_pb2.ReserveShardRequest) -> node_pb2.ReserveShardResponse:
        """Set memory aside. Raises `NoCapacity`."""
        now = time.monotonic()
        self._ledger.reserve(
            request.instance_id,
            request.stage,
            request.device,
            request.bytes,
            free=self._free_memory(),
            now=now,
            until=now + request.lease_ms / 1000,
        )
        return node_pb2.ReserveShardResponse(memory_free=self.memory_free())

    async def load_shard(self, request: node_pb2.LoadShardRequest) -> AsyncGenerator[node_pb2.LoadProgress, None]:
        """Load one shard into a runner of its own; the last message holds `ready`. Closing the generator undoes it.

        One that is here already, also as a spare, answers at once.
        """
        key = (request.instance_id, request.stage)
        if (found := self._found(key, request)) is not None:
            yield self._ready(found)
            return
        ready: RunnerReady | None = None

        async def load(report: Callable[[node_pb2.LoadProgress], None]) -> None:
            nonlocal ready
            ready = await self._load(
                key,
                request,
                lambda stage, done, total: report(node_pb2.LoadProgress(stage=stage, done=done, total=total)),
            )

        # While this call runs, the coordinator is there: the reservation needs no lease.
        self._ledger.hold(*key)
        try:
            async with contextlib.aclosing(reported(load)) as updates:
                async for update in updates:
                    yield update
        except BaseException:
            await self._drop(key)
            raise
        assert ready is not None
        # Outside the try: a caller that has got this needs no more and may close the generator.
        yield self._ready(ready)

    def _ready(self, ready: RunnerReady) -> node_pb2.LoadProgress:
        return node_pb2.LoadProgress(
            stage="ready",
            ready=node_pb2.ShardReady(
                port=ready.port,
                weight_bytes=ready.weight_bytes,
                kv_bytes=ready.kv_bytes,
                rollback_depth=-1 if ready.rollback_depth is None else ready.rollback_depth,
                whole_tokens=ready.whole_tokens,
                seconds=ready.seconds,
                info=ready.info,
                # One that promises the same bits always takes no part, whatever the other nodes of its ring want.
                wire_int8="off" if self._runner_settings.reproducible else self._runner_settings.wire_int8,
            ),
        )

    def _found(self, key: ShardKey, request: node_pb2.LoadShardRequest) -> RunnerReady | None:
        """The runner that holds what is asked for, if there is one; a spare becomes that stage's."""
        for other in (key, (key[0], SPARE_STAGE + key[1])):
            ready, held = self._supervisor.ready(other), self._loaded.get(other)
            if ready is None or held is None:
                continue
            wanted = node_pb2.LoadShardRequest()
            wanted.CopyFrom(request)
            wanted.stage, wanted.lease_ms = held.stage, held.lease_ms
            if held.HasField("draft") and not request.HasField("draft"):
                wanted.draft.CopyFrom(held.draft)  # its files are gone: what is loaded may guess on
            if wanted != held:
                continue
            if other != key:
                self._supervisor.rename(other, key)
                self._ledger.rename(key[0], other[1], key[1])
                self._loaded[key] = self._loaded.pop(other)
                self._changed()
            return ready
        return None

    async def _load(
        self, key: ShardKey, request: node_pb2.LoadShardRequest, progress: Callable[[str, int, int], None]
    ) -> RunnerReady:
        shard = shard_from_pb(request.shard)
        settings = self._runner_settings
        if request.HasField("draft") and (settings.reproducible or not settings.speculation):
            flag = "--reproducible" if settings.reproducible else "--no-speculation"
            raise InvalidRequest(
                f"node {settings.node_name}, which holds the head, runs with {flag}: nothing is guessed ahead there; "
                "start it without, or load without a draft model",
                param="draft_model",
            )
        spec = await self._spec(shard.model_id, request.digest, progress, request.quantize)
        check_supported(request.engine, spec.config, shard)
        draft = await self._draft(request, spec, progress) if request.HasField("draft") else None
        progress("starting", 0, 0)
        version = self._issuer.version
        (papers,) = await self._issuer.issue([[runner_name(request.instance_id)]])
        config: Mapping[str, Any] = {
            "instance_id": request.instance_id,
            "papers": papers_fields(papers),
            "token": request.token.hex(),
            "model_id": shard.model_id,
            "model_path": spec.path,
            "shard": {"start_layer": shard.start_layer, "end_layer": shard.end_layer, "n_layers": shard.n_layers},
            "stage": request.stage,
            "is_head": request.is_head,
            "engine": request.engine,
            # `--devices CPU:0,CPU:1` makes two places of one CPU; engines know only the CPU.
            "device": "CPU" if request.device.startswith("CPU:") else request.device,
            "compute_dtype": request.compute_dtype,
            "slots": request.slots,
            "context": request.context,
            "kv_tokens": request.kv_tokens or request.slots * request.context,
            "max_chunk": request.max_chunk,
            "quantize": request.quantize,
            "draft": draft,
            "reproducible": self._runner_settings.reproducible,
            "prefix_cache": self._runner_settings.prefix_cache,
            "speculation": self._runner_settings.speculation,
            "max_waiting": self._runner_settings.max_waiting,
            "min_free_memory": self._runner_settings.min_free_memory,
            "host": self._runner_settings.host,
            "node_name": self._runner_settings.node_name,
            "log_level": self._runner_settings.log_level,
        }
        ready = await self._supervisor.load(key, config, {}, progress)
        if version != self._issuer.version:
            await self._give_papers([key])
        now = time.monotonic()
        self._ledger.commit(*key, until=now + request.lease_ms / 1000)
        self._loaded[key] = request
        self._changed()
        return ready

    async def _spec(
        self, model: str, digest: str, progress: Callable[[str, int, int], None], quantize: int = 0
    ) -> ModelSpec:
        """The model here, fetched where need be. Raises `DigestMismatch` where it is not what the coordinator means."""
        spec = await self._library.spec(model, progress, quantize)
        if spec.digest != digest:
            raise DigestMismatch(
                f"this node's files of {model} differ from the coordinator's "
                f"({spec.digest[:12]} here, {digest[:12]} there): give both nodes the same files"
            )
        return spec

    async def _draft(
        self, request: node_pb2.LoadShardRequest, target: ModelSpec, progress: Callable[[str, int, int], None]
    ) -> Mapping[str, Any]:
        """The runner's `draft` (runner_config.py). Raises `InvalidRequest` where it cannot guess for `target`."""
        spec = await self._spec(request.draft.model_id, request.draft.digest, progress)
        check_supported(request.engine, spec.config, spec.whole)
        await asyncio.to_thread(
            check_same_vocabulary, target.model_id, Path(target.path), spec.model_id, Path(spec.path)
        )
        slots, context = draft_pool(spec, request.slots, request.context)
        return {
            "model_id": spec.model_id,
            "path": spec.path,
            "n_layers": spec.n_layers,
            "compute_dtype": request.draft.compute_dtype,
            "slots": slots,
            "context": context,
        }

    async def unload_shard(self, request: node_pb2.UnloadShardRequest) -> node_pb2.UnloadShardResponse:
        """End the shard's runner and give its memory back; also undoes a mere reservation."""
        key = (request.instance_id, request.stage)
        return node_pb2.UnloadShardResponse(found=await self._drop(key, at_once=request.at_once))

    async def commit_instance(self, request: node_pb2.CommitInstanceRequest) -> node_pb2.CommitInstanceResponse:
        """Remember the instance; its head's daemon renews the lease from now on."""
        instance = instance_from_pb(request.instance)
        old = self.committed.get(instance.instance_id)
        if old is not None and old.epoch > instance.epoch:
            raise RingBroken(
                f"instance {instance.instance_id} is at epoch {old.epoch} here, not {instance.epoch}",
                code="stale_epoch",
                status=409,
            )
        if not any(instance_id == instance.instance_id for instance_id, _ in self.shards()):
            raise NoCapacity(f"no shard of instance {instance.instance_id} is on this node any more: load it again")
        self.committed[instance.instance_id] = instance
        self._ledger.renew(instance.instance_id, until=time.monotonic() + request.lease_ms / 1000)
        self._changed()
        return node_pb2.CommitInstanceResponse()

    async def renew_lease(self, request: node_pb2.RenewLeaseRequest) -> node_pb2.RenewLeaseResponse:
        """Keep these instances for another lease; answers which of them are not here."""
        until = time.monotonic() + request.lease_ms / 1000
        unknown = [one for one in request.instance_ids if not self._ledger.renew(one, until=until)]
        return node_pb2.RenewLeaseResponse(unknown=unknown)

    async def expire_leases(self) -> None:
        """Runs for ever: unloads what nobody renews, as when coordinator or head died."""
        while True:
            await asyncio.sleep(EXPIRY_CHECK_S)
            for instance_id in self._ledger.expire(time.monotonic()):
                log.warning("lease of instance %s ran out: unloading", instance_id[:8])
                await self.drop_instance(instance_id)

    async def drop_instance(self, instance_id: str) -> None:
        """Unload every shard of an instance that is on this node."""
        for key in [key for key in self.shards() if key[0] == instance_id]:
            await self._drop(key)
        self._forget(instance_id)

    async def close(self) -> None:
        """End all runners."""
        await self._supervisor.close()

    def runner(self, key: ShardKey) -> RunnerReady | None:
        """What the runner of a shard said when it was ready."""
        return self._supervisor.ready(key)

    def blas(self) -> str:
        """The BLAS that a loaded runner computes with; empty while none has said."""
        known = (self._supervisor.ready(key) for key in self.shards())
        return next((ready.info["blas"] for ready in known if ready and ready.info.get("blas")), "")

    def local_folder(self, model: str) -> Path | None:
        """The model's folder on this node, if it has one."""
        try:
            where = self._library.resolve(model)
        except ModelNotFound:
            return None
        return None if isinstance(where, RemoteModel) else _path(where)

    async def _drop(self, key: ShardKey, *, at_once: bool = False) -> bool:
        found = await self._supervisor.unload(key, at_once=at_once)
        found = self._give_back(key) or found
        self._changed()
        return found

    def _give_back(self, key: ShardKey) -> bool:
        """The memory of a shard that is gone; with the last one of its instance here, all that is known of that."""
        self._loaded.pop(key, None)
        held = self._ledger.release(*key)
        for one in held:  # who breaks off in the middle of a load has taken nobody knows how much of it
            self._freed(one.device, one.bytes if one.state == "committed" else 0)
        if not self._ledger.holds(key[0]):
            self._forget(key[0])
        return bool(held)

    def _forget(self, instance_id: str) -> None:
        self.committed.pop(instance_id, None)
        self._ledger.release(instance_id)

    def _runner_ended(self, key: ShardKey, code: int) -> None:
        instance = self.committed.get(key[0])
        self._give_back(key)
        if instance is not None and key[0] not in self.committed:
            self._ended.append(instance)
        self._changed()


def _path(where: LocalModel) -> Path:
    return where.path
