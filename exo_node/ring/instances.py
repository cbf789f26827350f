"""Instances as this node knows them: finds one for a request, places one when there is none, watches over its own.

An instance is owned by the daemon of its head: that one publishes it to the peers, renews the leases of its shards and
takes it down when a shard is lost. Every other node knows it from its peers' states.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass

from exo_node.cluster.placement import PlacementPlan, rendezvous
from exo_node.errors import (
    DownloadError,
    ExoError,
    InvalidRequest,
    ModelNotFound,
    PeerUnavailable,
    error_from_code,
)
from exo_node.models.catalog import LocalModel
from exo_node.ring.caretaker import Caretaker
from exo_node.ring.dialling import dial
from exo_node.ring.draining import Drainer
from exo_node.ring.instance_checks import check_draft, check_id, check_precision
from exo_node.ring.library import (
    LoadedTokenizer,
    ModelLibrary,
    StageProgress,
    spec_from_json,
)
from exo_node.ring.members import DESCRIBE_TIMEOUT_S, UNLOAD_TIMEOUT_S, ClusterView, Member, RemoteMember
from exo_node.ring.placing import Placer
from exo_node.ring.recovering import Recovered, RecoveryClient
from exo_node.ring.recovery import Recovery
from exo_node.ring.registry import InstanceRegistry
from exo_node.ring.resuming import RecoveryRecord
from exo_node.ring.shard_host import ShardHost
from exo_node.ring.tokenizers import InstanceTokenizers
from exo_node.transport.client import SILENCE_S
from exo_node.transport.convert import instance_from_pb, instance_to_pb
from exo_node.transport.generated.exo.v1 import node_pb2, ring_pb2
from exo_node.transport.ring_client import RingClient
from exo_node.types import Instance, ModelCard, ModelSpec

log = logging.getLogger("exo.instances")

CLOSE_EVERY_S = 5.0
# A node appears to the others within some 50 ms, and tells its links with its next state.
SETTLE_S = 2.0
SETTLE_POLL_S = 0.05

RECOVERIES_KEPT = 1024
PLACE_TRIES = 4
PLACE_PAUSE_S = 0.25  # a node that is gone is known as gone after 0.2 s
FETCH_TIMEOUT_S = 24 * 3600.0  # of a model at a peer, which tells no progress

ProgressCallback = Callable[[node_pb2.PlaceProgress], None]


@dataclass(frozen=True, slots=True)
class PoolDefaults:
    """How much KV memory an instance that is asked for here is to have: `slots` sequences of `context` tokens, shrunk
    to fit."""

    slots: int
    context: int


class InstanceManager:
    """All that one node does with instances, apart from hosting shards (`ShardHost`)."""

    def __init__(
        self,
        *,
        cluster: ClusterView,
        host: ShardHost,
        library: ModelLibrary,
        pool: PoolDefaults,
        may_place: asyncio.Event,
        changed: Callable[[], None],
        silence_s: float = SILENCE_S,
    ) -> None:
        """`may_place` is set once this node has waited for the peers that the user wants (`--wait-for-peers`);
        `silence_s` is how long a peer may say nothing (`--peer-timeout`)."""
        self._silence_s = silence_s
        self._cluster = cluster
        self._pool = pool
        self._may_place = may_place
        self._host = host
        self._library = library
        self._changed = changed
        self._placer = Placer(cluster, self.member, changed=changed, silence_s=silence_s)
        self.recoveries: deque[RecoveryRecord] = deque(maxlen=RECOVERIES_KEPT)  # of this node's generations
        self._clients: dict[tuple[str, int], RingClient] = {}
        self._tokenizers = InstanceTokenizers(self.member, host, library)
        self._registry = InstanceRegistry(cluster, host, lambda: self._placer.loading.values())
        self.recovery = Recovery(
            cluster, host, self.member, self._registry, self._placer, silence_s=silence_s, changed=changed
        )
        self._recoveries = RecoveryClient(cluster, self._registry, self.recovery.recover)
        self.drainer = Drainer(
            cluster, self.all, lambda one, node_id: self._recoveries.recover(one, avoid=(node_id,)), changed
        )
        self._caretaker = Caretaker(
            cluster=cluster,
            host=host,
            registry=self._registry,
            member=self.member,
            recover=self._recoveries.recover,
            changed=changed,
        )

    # -- what there is -------------------------------------------------------------------------------------------

    def published(self) -> list[Instance]:
        """What this node tells its peers: its own instances and those that it is placing."""
        return self._registry.published()

    def all(self) -> list[Instance]:
        """Every instance of the cluster, loading ones too."""
        return self._registry.all()

    def removed(self) -> tuple[str, ...]:
        """Instances of this node that were taken down on purpose of late."""
        return tuple(self._registry.removed)

    def models(self) -> list[ModelCard]:
        """Rows of `/v1/models`: this node's disk, and what runs in the cluster."""
        loaded = {one.model_id for one in self.all() if one.state == "ready"}
        cards = self._library.cards(loaded)
        known = {card.id for card in cards}
        for one in self.all():
            if one.model_id not in known:
                known.add(one.model_id)
                cards.append(ModelCard(one.model_id, 0, "exo-node", one.context, one.state == "ready"))
        return cards

    def aliases(self) -> Mapping[str, str]:
        """Short names (lower case) and the repositories that they stand for."""
        return self._library.aliases()

    async def fetch(self, model: str, progress: StageProgress) -> str:
        """Have a model's files on this node, downloaded where need be; its name. Raises as `ModelLibrary.spec` does."""
        return (await self._library.spec(model, progress)).model_id

    async def copy(self, source: str, name: str) -> None:
        """Give a model of this machine one more name. Raises as `Catalog.copy` does."""
        await self._library.copy(source, name)

    async def delete_files(self, model: str) -> str:
        """Delete a fetched model's files on this node, then its instances here; its name. A copy's name goes alone.

        Raises `ModelNotFound`, `InvalidRequest`.
        """
        model_id = await self._library.remove(model)
        for one in self.all():
            if one.model_id == model_id and any(at.node_id == self._cluster.node_id for at in one.assignments):
                await self.remove(one.instance_id)
        return model_id

    def member(self, node_id: str) -> Member:
        """The shard host of a node, ours or a peer's."""
        return self._host if node_id == self._cluster.node_id else RemoteMember(self._cluster.peer(node_id))

    # -- for requests --------------------------------------------------------------------------------------------

    async def ready_instance(self, model: str) -> Instance:
        """A ready instance of the model; placed first where there is none. See `local_backend.Instances`."""
        found = self._find_ready(model)
        if found is not None:
            return found
        if (broken := self._registry.broken(self._names(model))) is not None:
            try:
                return (await self.recover(broken)).instance
            except ExoError as error:
                log.warning("%s is placed anew: %s", model, error.message)
        bits = self._registry.bits(self._names(model))
        for left in reversed(range(PLACE_TRIES)):
            request = node_pb2.PlaceModelRequest(
                model=model, reuse=True, exclude=self._registry.beyond_use(), quantize=bits
            )
            try:
                return await self.place(request, lambda progress: None)
            except PeerUnavailable as error:  # the coordinator, or a member, has gone just now: without it, then
                if not left:
                    raise
                log.info("placing %s once more: %s", model, error.message)
            await asyncio.sleep(PLACE_PAUSE_S)
        raise AssertionError("unreachable: the last try raises")

    async def tokenizer(self, instance: Instance) -> LoadedTokenizer:
        """See `InstanceTokenizers.of`."""
        return await self._tokenizers.of(instance)

    def client(self, instance: Instance) -> RingClient:
        """A connection to the instance's head, shared between requests."""
        key = (instance.instance_id, instance.epoch)
        client = self._clients.get(key)
        if client is None:
            client = dial(self._cluster, instance, 0, self._silence_s)
            self._clients[key] = client
        return client

    async def stats(self, instance_id: str) -> list[tuple[str, ring_pb2.RunnerStats]] | None:
        """(node id, what its runner reports) of each stage; None when there is no such ready instance."""
        instance = next((one for one in self.all() if one.instance_id == instance_id and one.addresses), None)
        if instance is None:
            return None

        async def ask(stage: int, node_id: str) -> tuple[str, ring_pb2.RunnerStats]:
            client = dial(self._cluster, instance, stage, self._silence_s)
            try:
                return node_id, await client.stats()
            finally:
                await client.close()

        return list(await asyncio.gather(*(ask(i, one.node_id) for i, one in enumerate(instance.assignments))))

    async def busy_here(self) -> bool:
        """Whether answers are being made by an instance that has a shard on this node."""

        async def busy(one: Instance) -> bool:
            try:
                stats = await self.client(one).stats()
            except ExoError:
                return False  # its head is gone: there is nothing to hand over
            return bool(stats.running or stats.waiting)

        here = self._cluster.node_id
        held = [one for one in self.all() if one.state == "ready" and any(at.node_id == here for at in one.assignments)]
        return any(await asyncio.gather(*map(busy, held)))

    async def recover(self, instance: Instance) -> Recovered:
        """The instance as it serves again after a loss. See `RecoveryClient.resume`."""
        try:
            return await self._recoveries.resume(instance)
        finally:
            self._caretaker.notice()

    def recovered(self, record: RecoveryRecord) -> None:
        """A generation of this node got over a loss."""
        log.info("request %s goes on after %.0f ms: %s", record.request_id, record.gap_ms, record.cause)
        self.recoveries.append(record)

    # -- placing and removing ------------------------------------------------------------------------------------

    async def place(self, request: node_pb2.PlaceModelRequest, on_progress: ProgressCallback) -> Instance:
        """Place a model through the node that coordinates it; answers with the ready instance."""
        check_id(request.instance_id, self.all())
        await self._may_place.wait()
        self._check_precision(request)
        found = self._reused(request)
        if found is not None:
            return found
        model_id = self._canonical(request.model)
        message = node_pb2.PlaceModelRequest()
        message.CopyFrom(request)
        message.model, message.slots, message.context = model_id, self._pool.slots, self._pool.context
        message.draft_model = self._canonical(request.draft_model) if request.draft_model else ""
        message.instance_id = request.instance_id or str(uuid.uuid4())
        message.seen.extend(sorted(self._cluster.nodes()))
        coordinator = rendezvous(model_id, sorted(self._cluster.nodes()))
        if coordinator == self._cluster.node_id:
            source: AsyncGenerator[node_pb2.PlaceProgress, None] = self.coordinate(message)
        else:
            source = self._coordinate_at(coordinator, message)
        instance = None
        try:
            async with contextlib.aclosing(source) as updates:
                async for update in updates:
                    on_progress(update)
                    if update.HasField("instance"):
                        instance = self._registry.remember(instance_from_pb(update.instance))
        except PeerUnavailable:
            raise  # not known: its coordinator may be at it still
        except ExoError:
            self._registry.refused(message.instance_id)
            raise
        if instance is None:
            raise PeerUnavailable(f"node {coordinator} ended the placement of {model_id} without an answer")
        return instance

    async def preview(self, model: str, min_nodes: int) -> tuple[ModelSpec, PlacementPlan]:
        """What `place` would do now, as far as this node sees. Nothing is fetched for it."""
        request = node_pb2.PlaceModelRequest(
            model=self._canonical(model), min_nodes=min_nodes, slots=self._pool.slots, context=self._pool.context
        )
        return await self._placer.preview(request)

    async def describe_at(self, node_id: str, model: str, *, fetch: bool) -> ModelSpec:
        """A model as a node holds it; with `fetch`, once it does. Raises `ModelNotFound`, `PeerUnavailable`, ..."""
        request = node_pb2.DescribeModelRequest(model=self._canonical(model), fetch=fetch)
        if node_id == self._cluster.node_id:
            answer = await self._host.describe_model(request)
        else:
            timeout = FETCH_TIMEOUT_S if fetch else DESCRIBE_TIMEOUT_S
            answer = await self._cluster.peer(node_id).call("DescribeModel", request, timeout=timeout)
        if not answer.spec_json:
            raise error_from_code(answer.code or "model_not_found", answer.detail or f"no model {model} on {node_id}")
        return spec_from_json(answer.spec_json)

    async def coordinate(self, request: node_pb2.PlaceModelRequest) -> AsyncGenerator[node_pb2.PlaceProgress, None]:
        """Place a model as its coordinator. Requests for one model wait for each other, and share with `reuse`."""
        async with self._placer.lock(request.model):
            self._check_precision(request)
            found = self._reused(request)
            if found is not None:
                yield node_pb2.PlaceProgress(stage="ready", instance=instance_to_pb(found))
                return
            await self._settle(request.seen)
            async with contextlib.aclosing(self._placer.place(request)) as updates:
                async for update in updates:
                    if update.HasField("instance"):
                        self._registry.remember(instance_from_pb(update.instance))
                    yield update

    async def _settle(self, seen: Sequence[str]) -> None:
        """Wait a moment for what the asker sees already: a node that has just come knows not everybody, nor the ways.

        Where it does not come to that (a node left, a link is cut) the placement goes on and says what is missing.
        """
        deadline = time.monotonic() + SETTLE_S
        # Polled, because a view of the cluster has no event of its own and this takes a moment at most.
        while time.monotonic() < deadline and not connected(self._cluster, seen):  # noqa: ASYNC110
            await asyncio.sleep(SETTLE_POLL_S)

    async def remove(self, name: str) -> bool:
        """Take an instance down, by id; False when there is none. Raises `InvalidRequest` for one that still loads."""
        instance = next((one for one in self.all() if one.instance_id == name), None)
        if instance is None:
            return False
        if instance.state != "ready":
            raise InvalidRequest(
                f"instance {name} of {instance.model_id} is still loading: wait until it is ready, or end the request "
                "that places it",
                code="instance_loading",
                status=409,
            )
        self._registry.forget(name)
        owner = instance.assignments[0].node_id
        if owner == self._cluster.node_id:
            return await self.remove_owned(name)
        request = node_pb2.RemoveInstanceRequest(instance_id=name)
        answer = await self._cluster.peer(owner).call("RemoveInstance", request, timeout=UNLOAD_TIMEOUT_S)
        return bool(answer.found)

    async def remove_owned(self, instance_id: str) -> bool:
        """Take down an instance whose head is here; False when there is none."""
        return await self._caretaker.remove(instance_id)

    # -- watching over our own -----------------------------------------------------------------------------------

    def notice(self) -> None:
        """A peer's state or our own shards have changed: look at our instances soon."""
        self._caretaker.notice()

    async def watch(self) -> None:
        """Runs for ever: looks after our instances, and closes connections to heads that are gone."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._caretaker.watch())
            group.create_task(self._close_unused())

    async def close(self) -> None:
        """Take down our instances and close connections."""
        await self.recovery.close()
        for instance in self._registry.owned():
            await self._caretaker.remove(instance.instance_id, for_good=False)
        for client in self._clients.values():
            await client.close()

    async def _close_unused(self) -> None:
        while True:
            await asyncio.sleep(CLOSE_EVERY_S)
            known = self._registry.tidy()
            for key in [key for key in self._clients if key not in known]:
                await self._clients.pop(key).close()
            self._tokenizers.tidy({instance_id for instance_id, _ in known})

    # -- names ---------------------------------------------------------------------------------------------------

    def _canonical(self, model: str) -> str:
        """The id under which a model is placed: aliases resolved; a name only peers know stays as it is."""
        try:
            where = self._library.resolve(model)
        except (ModelNotFound, DownloadError):  # the latter: a short name, and we are offline; a peer may have it
            return model
        return where.model_id if isinstance(where, LocalModel) else where.repo_id

    def _check_precision(self, request: node_pb2.PlaceModelRequest) -> None:
        check_precision(request, [one for one in self.all() if one.model_id in self._names(request.model)])

    def _names(self, model: str) -> set[str]:
        return {model, self._canonical(model), self._library.repository(model)}

    def _find_ready(self, model: str, exclude: Sequence[str] = ()) -> Instance | None:
        """A ready instance of the model, one whose head is here first."""
        return self._registry.find_ready(self._names(model), exclude)

    def _reused(self, request: node_pb2.PlaceModelRequest) -> Instance | None:
        """What is there already, where that will do. Raises `InvalidRequest` where it has another draft model."""
        found = self._find_ready(request.model, request.exclude) if request.reuse else None
        if found is not None and request.draft_model:
            check_draft(found, self._names(request.draft_model))
        return found

    async def _coordinate_at(
        self, node_id: str, request: node_pb2.PlaceModelRequest
    ) -> AsyncGenerator[node_pb2.PlaceProgress, None]:
        stream = self._cluster.peer(node_id).stream("PlaceModel", request, None)
        async with contextlib.aclosing(stream) as updates:
            async for update in updates:
                yield update


def connected(cluster: ClusterView, node_ids: Sequence[str]) -> bool:
    """Whether all of these nodes are live here, and each has told how it reaches each other."""
    if not set(node_ids) <= set(cluster.nodes()):
        return False
    try:
        for one, other in itertools.permutations(node_ids, 2):
            cluster.address(one, other)
    except PeerUnavailable:
        return False
    return True
