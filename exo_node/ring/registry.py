"""The instances that this node knows of: its own, those it is placing, what its peers tell. No calls are made here."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable

from exo_node.ring.members import ClusterView
from exo_node.ring.shard_host import ShardHost
from exo_node.types import Instance

STATE_LAG_S = 5.0  # a member's state may reach us later than the instance itself


class InstanceRegistry:
    """What there is. An instance is owned by the daemon of its head; the other nodes know it from that one's state."""

    def __init__(self, cluster: ClusterView, host: ShardHost, loading: Callable[[], Iterable[Instance]]) -> None:
        """`loading()` lists the instances that this node is placing now."""
        self._cluster = cluster
        self._host = host
        self._loading = loading
        self.lost: set[str] = set()  # ids of instances that are broken
        self._lost_bits: dict[str, int] = {}  # of models whose instance was lost, while no new one was placed
        self._fresh: dict[str, tuple[float, Instance]] = {}  # placed a moment ago, and not yet told of by their owner

    def owned(self) -> list[Instance]:
        """Ready instances whose head is on this node."""
        here = self._cluster.node_id
        return [one for one in self._host.committed.values() if one.assignments[0].node_id == here]

    def published(self) -> list[Instance]:
        """What this node tells its peers: its own instances and those that it is placing."""
        return [*self.owned(), *self._loading()]

    def all(self) -> list[Instance]:
        """Every instance of the cluster, loading ones too."""
        told = [self.published(), *(state.instances for state in self._cluster.states().values())]
        if not self._fresh and not any(told):
            return []  # asked at every call, also where there is no ring
        told.append([one for since, one in self._fresh.values() if time.monotonic() - since < STATE_LAG_S])
        found: dict[str, Instance] = {}
        for one in (one for instances in told for one in instances):
            # Its coordinator may still call it loading when its head calls it ready.
            if one.instance_id not in found or one.state == "ready":
                found[one.instance_id] = one
        return [one for one in found.values() if one.instance_id not in self.lost]

    def find_ready(self, names: Collection[str], exclude: Collection[str] = ()) -> Instance | None:
        """A ready instance of a model by any of its names, one whose head is here first."""
        ready = [
            one
            for one in self.all()
            if one.state == "ready" and one.model_id in names and one.instance_id not in exclude
        ]
        here = self._cluster.node_id
        return min(ready, key=lambda one: (one.assignments[0].node_id != here, one.instance_id), default=None)

    def lose(self, instance: Instance) -> None:
        """It is broken: it is offered to nobody, and the next of its model will be packed as it is."""
        self.lost.add(instance.instance_id)
        if all(one.model_id != instance.model_id for one in self.all()):  # else the next one is there already
            self._lost_bits[instance.model_id] = instance.quantize

    def bits(self, names: Collection[str]) -> int:
        """Into how many bits a model's next instance is to be packed: as many as the one that was lost, if any was."""
        return next((self._lost_bits[name] for name in names if name in self._lost_bits), 0)

    def remember(self, instance: Instance) -> Instance:
        """Know a placed instance until its owner's state tells of it, so that nobody places it a second time."""
        self._lost_bits.pop(instance.model_id, None)
        if instance.instance_id not in self.published_ids(ready=True):
            self._fresh[instance.instance_id] = (time.monotonic(), instance)
        return instance

    def forget(self, instance_id: str) -> None:
        """It was taken down: what was only remembered is gone."""
        self._fresh.pop(instance_id, None)

    def tidy(self) -> set[str]:
        """Drop what is old or told of by now; returns the ids of all that is known."""
        told = self.published_ids(ready=True)
        now = time.monotonic()
        self._fresh = {
            one: entry for one, entry in self._fresh.items() if one not in told and now - entry[0] < STATE_LAG_S
        }
        known = self.published_ids() | self._fresh.keys()
        self.lost &= known
        return known

    def published_ids(self, *, ready: bool = False) -> set[str]:
        told = [self.published(), *(state.instances for state in self._cluster.states().values())]
        return {one.instance_id for instances in told for one in instances if one.state == "ready" or not ready}
