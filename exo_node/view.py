"""The rest of the node as the API and the ring see it: the cluster, and what decides who answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol

from exo_node.api.ports import Principal, any_model
from exo_node.api.views import instance_view, shard_view, spend_view, topology_view
from exo_node.cluster.discovery import PeerSeen
from exo_node.cluster.keys import ClusterKey
from exo_node.errors import ExoError, NotFound, PeerUnavailable, StoreError
from exo_node.key_rotation import KeyRing
from exo_node.limits.api_keys import ADMIN_ID, digest
from exo_node.ring.instances import InstanceManager
from exo_node.ring.members import Peer
from exo_node.routing.front.front import Front
from exo_node.store_spend import NOTHING, GroupBy, SpendQuery
from exo_node.transport.convert import TopologyView
from exo_node.transport.generated.exo.v1 import node_pb2, ring_pb2
from exo_node.transport.tls import TlsIdentity
from exo_node.types import Instance, NodeInfo, NodeState, PeerLink

LOOPBACK = "127.0.0.1"


class Members(Protocol):
    """What is needed of cluster/membership.py."""

    def states(self) -> Mapping[str, NodeState]: ...

    def peer(self, node_id: str) -> Any: ...

    def links(self) -> tuple[PeerLink, ...]: ...

    def foreign(self) -> Sequence[PeerSeen]: ...

    def problems(self) -> Mapping[str, str]: ...


class NodeView:
    """Implements `ring.members.ClusterView` and `api.ports.ClusterPort`."""

    def __init__(self, node_id: str, members: Members, describe: Callable[[], NodeInfo], keys: KeyRing) -> None:
        self.node_id = node_id
        self._keys = keys
        self._members = members
        self._describe = describe
        self._instances: InstanceManager | None = None

    def attach(self, instances: InstanceManager) -> None:
        """The instance manager needs this view to be built; it is joined here, before anything is served."""
        self._instances = instances

    # -- ring.members.ClusterView --------------------------------------------------------------------------------

    @property
    def tls(self) -> TlsIdentity:
        return self._keys.tls

    def nodes(self) -> Mapping[str, NodeInfo]:
        return {self.node_id: self._describe(), **{one: state.node for one, state in self.states().items()}}

    def states(self) -> Mapping[str, NodeState]:
        return self._members.states()

    def draining(self) -> Collection[str]:
        found = {one for one, state in self.states().items() if state.draining}
        if self._instances is not None and self._instances.drainer.draining:
            found.add(self.node_id)
        return found

    def peer(self, node_id: str) -> Peer:
        peer: Peer = self._members.peer(node_id)
        return peer

    def address(self, seen_from: str, node_id: str) -> str:
        if seen_from == node_id:
            return LOOPBACK
        found = self._link(seen_from, node_id)
        if found is None:
            raise PeerUnavailable(f"node {seen_from} has no connection to node {node_id}: try again")
        return found.address

    def bytes_per_s(self, seen_from: str, node_id: str) -> int:
        found = self._link(seen_from, node_id)
        return 0 if found is None else found.bytes_per_s

    # -- api.ports.ClusterPort -----------------------------------------------------------------------------------

    def topology(self) -> dict[str, Any]:
        nodes, links = self.nodes(), self._all_links()
        described = {
            node_id: [(link.to_id, link.description or link.address) for link in found]
            for node_id, found in links.items()
        }
        assert self._instances is not None
        strangers = [
            (one.node_id, one.fingerprint[:8], ", ".join(map(str, one.endpoints[:2])))
            for one in self._members.foreign()
        ]
        return topology_view(
            nodes.values(), described, self.node_id, self._instances.all(), strangers, self._members.problems()
        )

    def topology_view(self) -> TopologyView:
        """For peers that ask (CollectTopology)."""
        return TopologyView(self.nodes(), self._all_links())

    def health(self) -> dict[str, Any]:
        return {"status": "ok", "node_id": self.node_id, "nodes": len(self.nodes()), "instances": len(self.instances())}

    def instances(self) -> list[dict[str, Any]]:
        assert self._instances is not None
        return [instance_view(one) for one in self._instances.all()]

    async def rotate_key(self, phrase: str | None, without: Sequence[str], patience_s: float) -> dict[str, Any]:
        key = None if phrase is None else await asyncio.to_thread(ClusterKey.from_phrase, phrase, "phrase")
        return await self._keys.rotate(key, without=without, patience_s=patience_s)

    async def instance_stats(self, instance_id: str) -> list[dict[str, Any]] | None:
        assert self._instances is not None
        found = await self._instances.stats(instance_id)
        return None if found is None else [stats_json(node_id, one) for node_id, one in found]

    def recoveries(self) -> list[dict[str, Any]]:
        assert self._instances is not None
        return [asdict(one) for one in self._instances.recoveries]

    async def drain(self, node_id: str, *, undo: bool) -> dict[str, Any]:
        assert self._instances is not None
        answer = await self._instances.drainer.drain_at(node_id, not undo)
        return {"moved": list(answer.moved), "failed": dict(answer.failed)}

    async def head_stats(self) -> list[dict[str, Any]]:
        assert self._instances is not None
        manager = self._instances

        async def ask(one: Instance) -> dict[str, Any] | None:
            try:
                stats = await manager.client(one).stats()
            except ExoError:
                return None  # it is going away just now
            return {"instance": one.instance_id, "model": one.model_id, **stats_json(self.node_id, stats)}

        here = [one for one in manager.all() if one.state == "ready" and one.assignments[0].node_id == self.node_id]
        return [row for row in await asyncio.gather(*map(ask, here)) if row is not None]

    async def place(
        self,
        model: str,
        *,
        min_nodes: int,
        nodes: tuple[str, ...],
        engines: tuple[str, ...],
        reuse: bool = False,
        instance_id: str = "",
        quantize: int = 0,
        draft_model: str = "",
        spares: bool = False,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        assert self._instances is not None

        def report(progress: node_pb2.PlaceProgress) -> None:
            if on_progress is not None:
                on_progress(
                    {
                        "stage": progress.stage,
                        "detail": progress.detail,
                        "done": progress.done,
                        "total": progress.total,
                    }
                )

        request = node_pb2.PlaceModelRequest(
            model=model,
            min_nodes=min_nodes,
            nodes=nodes,
            engines=engines,
            reuse=reuse,
            instance_id=instance_id,
            quantize=quantize,
            draft_model=draft_model,
            spares=spares,
        )
        return instance_view(await self._instances.place(request, report))

    async def preview(self, model: str, *, min_nodes: int) -> dict[str, Any]:
        assert self._instances is not None
        spec, plan = await self._instances.preview(model, min_nodes)
        shards = [shard_view(one) for one in plan.assignments]
        return {"model": spec.model_id, "context": plan.context, "slots": plan.slots, "shards": shards,
                "stage_bytes": list(plan.stage_bytes)}  # fmt: skip

    async def describe_at(self, node_id: str, model: str, *, fetch: bool) -> dict[str, Any]:
        assert self._instances is not None
        spec = await self._instances.describe_at(node_id, model, fetch=fetch)
        return {"model": spec.model_id, "bytes": spec.total_bytes, "n_layers": spec.n_layers}

    def quit(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)  # as the user would: the daemon's own handler ends it in order

    async def remove(self, instance_id: str) -> bool:
        assert self._instances is not None
        return await self._instances.remove(instance_id)

    def aliases(self) -> Mapping[str, str]:
        assert self._instances is not None
        return self._instances.aliases()

    async def fetch_model(self, model: str, on_progress: Callable[[str, int, int], None]) -> str:
        assert self._instances is not None
        return await self._instances.fetch(model, on_progress)

    async def copy_model(self, source: str, name: str) -> None:
        assert self._instances is not None
        await self._instances.copy(source, name)

    async def delete_model(self, model: str) -> str:
        assert self._instances is not None
        return await self._instances.delete_files(model)

    def _link(self, seen_from: str, node_id: str) -> PeerLink | None:
        links = self._all_links().get(seen_from, ())
        return next((link for link in links if link.to_id == node_id and link.address), None)

    def _all_links(self) -> dict[str, tuple[PeerLink, ...]]:
        return {self.node_id: self._members.links(), **{one: state.links for one, state in self.states().items()}}


def stats_json(node_id: str, stats: ring_pb2.RunnerStats) -> dict[str, Any]:
    """A runner's report; on the head `scheduling` is what its scheduler holds, and has done since the ring was last set
    up, and `hops` are its last steps, in microseconds."""
    return {
        "node_id": node_id,
        "stage": stats.stage,
        "slots": stats.slots,
        "slots_used": stats.slots_used,
        "cached_tokens": stats.cached_tokens,
        "steps": stats.steps,
        "tokens": stats.tokens,
        "weight_bytes": stats.weight_bytes,
        "kv_bytes": stats.kv_bytes,
        "kv_bytes_used": stats.kv_bytes_used,
        "rss_bytes": stats.rss_bytes,
        "waiting": stats.waiting,
        "running": stats.running,
        **({"scheduling": _scheduling(stats.scheduling)} if stats.HasField("scheduling") else {}),
        "info": dict(stats.info),
        "hops": [
            {
                "step": hop.step,
                "total_us": hop.total_us,
                "stages": [
                    {
                        "stage": one.stage,
                        "queue_us": one.queue_us,
                        "engine_us": one.engine_us,
                        "codec_us": one.codec_us,
                    }
                    for one in hop.reports
                ],
            }
            for hop in stats.hops
        ],
    }


def _scheduling(found: ring_pb2.Scheduling) -> dict[str, int]:
    return {
        "kv_tokens": found.kv_tokens,
        "kv_tokens_used": found.kv_tokens_used,
        "prompt_tokens": found.prompt_tokens,
        "prefix_hit_tokens": found.prefix_hit_tokens,
        "evictions": found.evictions,
        "preemptions": found.preemptions,
        "drafted_tokens": found.drafted_tokens,
        "accepted_tokens": found.accepted_tokens,
        "micro_batches": found.micro_batches,
    }


class RoutingView(Front):
    """Implements `api.ports.RoutingPort`."""

    def authenticate(self, token: str) -> Principal | None:
        info = self.verify(token)
        if info is None:
            return None
        return Principal(
            info.id,
            info.admin,
            info.allows if info.models else any_model,
            frozenset(info.scopes),
            info.name,
            digest(token),
        )

    async def look_for_keys(self) -> None:
        with contextlib.suppress(StoreError):  # the watch says it
            await self.keys.refresh()

    async def spend(self, query: SpendQuery, by: GroupBy | None) -> dict[str, Any]:
        names = {info.id: info.name for info in self.keys.list()}
        ids = {name: key_id for key_id, name in names.items() if name}
        query = replace(query, key_id=ids.get(query.key_id or "", query.key_id))
        total = await self.store.spend_sums(query, None)
        if query.key_id not in (None, "", ADMIN_ID, *names) and not (total and total[0]["requests"]):
            there = ", ".join(name or key_id for key_id, name in names.items()) or "none"
            raise NotFound(
                f"no API key {str(query.key_id)[:80]!r} with any call; there are: {there}; one that was revoked goes "
                "by its id",
                param="key",
            )
        if by is None:
            data = [spend_view(row) for row in await self.store.spend_rows(query)]
        else:
            data = await self.store.spend_sums(query, by)
        for row in data:
            key_id = row.get("key", row.get("key_id"))
            if key_id is not None:
                row["key_name"] = names.get(key_id, "")
        return {"data": data, "total": total[0] if total else dict(NOTHING)}

    def metrics(self, rings: Sequence[Mapping[str, Any]], node: Mapping[str, float]) -> tuple[bytes, str]:
        return self.render_metrics(rings, node)
