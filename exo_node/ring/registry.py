"""The instances that this node knows of: its own, those it is placing, what its peers tell. No calls are made here."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable

from exo_node.ring.members import ClusterView
from exo_node.ring.shard_host import ShardHost
from exo_node.types import Instance

REMOVED_KEPT = 64
STATE_LAG_S = 5.0  # a member's state may reach us later than the instance itself


class InstanceRegistry:
    """What there is. An instance is owned by the daemon of its head; the other nodes know it from that one's state."""

    def __init__(self, cluster: ClusterView, host: ShardHost, loading: Callable[[], Iterable[Instance]]) -> None:
        """`loading()` lists the instances that this node is placing now."""
        self._cluster = cluster
        self._host = host
        self._loading = loading
        self.lost: dict[str, int] = {}  # ids of instances that are broken, and the epoch that is
        self.removed: deque[str] = deque(maxlen=REMOVED_KEPT)  # ids of our own that were taken down on purpose
        self._lost_bits: dict[str, int] = {}  # of models whose instance was lost, while no new one was placed
        self._fresh: dict[str, tuple[float, Instance]] = {}  # placed a moment ago, and not yet told of by their owner
        self._refused: dict[str, float] = {}  # ids whose load its coordinator gave up, and when it told us

    def owned(self) -> list[Instance]:
        """Ready instances whose head is on this node."""
        here = self._cluster.node_id
        return [
            one
            for one in self._host.committed.values()
            if one.assignments[0].node_id == here and one.epoch >= self._told_epoch(one.instance_id)
        ]

    def published(self) -> list[Instance]:
        """What this node tells its peers: its own instances and those that it is placing."""
        return [*self.owned(), *self._loading()]

    def all(self) -> list[Instance]:
        """Every instance of the cluster, loading ones too."""
        return [one for one in self._newest().values() if not self.is_lost(one)]

    def newest(self, instance: Instance) -> Instance:
        """The instance of its latest epoch that is known, broken or not."""
        found = self._newest().get(instance.instance_id)
        return found if found is not None and found.epoch > instance.epoch else instance

    def broken(self, names: Collection[str]) -> Instance | None:
        """A broken instance of the model, which may be brought back."""
        return next((one for one in self._newest().values() if one.model_id in names and self.is_lost(one)), None)

    def broken_ones(self) -> list[Instance]:
        """Those that somebody still calls ready, and that are not."""
        return [one for one in self._newest().values() if one.state == "ready" and self.is_lost(one)]

    def was_removed(self, instance_id: str) -> bool:
        """Whether its owner has taken it down on purpose."""
        return instance_id in self.removed or any(
            instance_id in state.removed for state in self._cluster.states().values()
        )

    def is_lost(self, instance: Instance) -> bool:
        """Whether this epoch of the instance is broken."""
        return self.lost.get(instance.instance_id, -1) >= instance.epoch

    def beyond_use(self) -> list[str]:
        """Ids of what is broken, as far as is known: one that is on its way back is of use again soon."""
        newest = self._newest()
        return sorted(one for one, epoch in self.lost.items() if one not in newest or newest[one].epoch <= epoch)

    def orphans(self) -> list[Instance]:
        """Instances whose head's node is gone, where this node holds the first shard, or spare, that is left: nobody
        else need be asking for them."""
        here, live = self._cluster.node_id, self._cluster.states().keys()
        newest, found = self._newest(), []
        for one in self._host.committed.values():
            places = (*one.assignments, *(spare.assignment for spare in one.spares))
            left = [at.node_id for at in places if at.node_id == here or at.node_id in live]
            known = newest.get(one.instance_id)
            if (
                one.assignments[0].node_id not in (here, *live)
                and left[:1] == [here]
                and (known is None or known.epoch <= one.epoch)
                and not self.was_removed(one.instance_id)
            ):
                found.append(one)
        return found

    def superseded(self) -> list[Instance]:
        """Instances of which a shard is here, but in whose latest epoch, as others tell, this node has no part."""
        here, newest = self._cluster.node_id, self._newest()
        found = []
        for one in self._host.committed.values():
            latest = newest.get(one.instance_id, one)
            members = {at.node_id for at in (*latest.assignments, *(spare.assignment for spare in latest.spares))}
            if latest.epoch > one.epoch and latest.state == "ready" and here not in members:
                found.append(one)
        return found

    def _newest(self) -> dict[str, Instance]:
        told = self._told()
        if not self._fresh and not told:
            return {}  # asked at every call, also where there is no ring
        now = time.monotonic()
        found: dict[str, Instance] = {}
        for one in (*told, *(one for since, one in self._fresh.values() if now - since < STATE_LAG_S)):
            if one.state != "ready" and now - self._refused.get(one.instance_id, -math.inf) < STATE_LAG_S:
                continue
            other = found.get(one.instance_id)
            # Its coordinator may still call it loading when its head calls it ready.
            if other is None or (one.epoch, one.state == "ready") > (other.epoch, other.state == "ready"):
                found[one.instance_id] = one
        return found

    def _told_epoch(self, instance_id: str) -> int:
        """The latest epoch of an instance that others call ready."""
        states = self._cluster.states().values()
        return max(
            (
                one.epoch
                for state in states
                for one in state.instances
                if one.instance_id == instance_id and one.state == "ready"
            ),
            default=0,
        )

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
        """It is broken: this epoch is offered to nobody, and the next of its model will be packed as it is."""
        self.lost[instance.instance_id] = max(instance.epoch, self.lost.get(instance.instance_id, 0))
        if all(one.model_id != instance.model_id for one in self.all()):  # else the next one is there already
            self._lost_bits[instance.model_id] = instance.quantize

    def bits(self, names: Collection[str]) -> int:
        """Into how many bits a model's next instance is to be packed: as many as the one that was lost, if any was."""
        return next((self._lost_bits[name] for name in names if name in self._lost_bits), 0)

    def remember(self, instance: Instance) -> Instance:
        """Know a placed instance until its owner's state tells of it, so that nobody places it a second time."""
        self._lost_bits.pop(instance.model_id, None)
        if self._known_ready().get(instance.instance_id, -1) < instance.epoch:
            self._fresh[instance.instance_id] = (time.monotonic(), instance)
        return instance

    def refused(self, instance_id: str) -> None:
        """Its coordinator has given its load up: the state in which it still tells of it is overtaken by its answer."""
        self._refused[instance_id] = time.monotonic()

    def forget(self, instance_id: str) -> None:
        """It was taken down: what was only remembered is gone."""
        self._fresh.pop(instance_id, None)

    def tidy(self) -> set[tuple[str, int]]:
        """Drop what is old or told of by now; returns (id, epoch) of all that is known."""
        told = self._known_ready()
        now = time.monotonic()
        self._fresh = {
            one: entry
            for one, entry in self._fresh.items()
            if told.get(one, -1) < entry[1].epoch and now - entry[0] < STATE_LAG_S
        }
        self._refused = {one: since for one, since in self._refused.items() if now - since < STATE_LAG_S}
        every = [*self._told(), *(one for _, one in self._fresh.values())]
        ids = {one.instance_id for one in every}
        self.lost = {one: epoch for one, epoch in self.lost.items() if one in ids}
        return {(one.instance_id, one.epoch) for one in every}

    def _known_ready(self) -> dict[str, int]:
        """The epochs of instances that their owners call ready."""
        found: dict[str, int] = {}
        for one in self._told():
            if one.state == "ready":
                found[one.instance_id] = max(one.epoch, found.get(one.instance_id, 0))
        return found

    def _told(self) -> list[Instance]:
        told = [self.published(), *(state.instances for state in self._cluster.states().values())]
        return [one for instances in told for one in instances]
