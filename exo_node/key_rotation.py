"""This node's cluster key, the certificates made by it, and its change while the cluster runs.

A rotation has two steps, each of which every member takes before any takes the next:

1. *prepare*: trust the new key too.
2. *commit*: keep it, show certificates of it, dial anew. After the patience that calls in progress are given, forget
   the old key: what still runs on connections that it opened is ended, and no call on them is answered any more.

Between the two everybody trusts both, so nothing breaks. A member that hears of the first step only forgets it again.
The second one ends once it has begun, whether or not who asked for it is there still: half a cluster with another key
would be two clusters.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from exo_node.cluster.identity import ClusterKey, KeyStore
from exo_node.cluster.issuing import issue
from exo_node.errors import ClusterMismatch, ExoError, InvalidRequest
from exo_node.transport.gate import Gate
from exo_node.transport.generated.exo.v1 import node_pb2 as pb
from exo_node.transport.identity import NodeIdentity
from exo_node.transport.tls import ANY_NODE, TlsIdentity, node_name
from exo_node.types import Papers

log = logging.getLogger("exo.key")
T = TypeVar("T")

HANDSHAKE_PURPOSE = b"exo handshake v1"
PATIENCE_S = 30.0  # for calls that run when the key changes
COMMIT_WITHIN_S = 120.0
CALL_TIMEOUT_S = 30.0  # a member makes a certificate for itself and each of its runners


class Peers(Protocol):
    """What is needed of cluster/membership.py."""

    def states(self) -> Mapping[str, Any]: ...

    def peer(self, node_id: str) -> Any: ...

    async def renew(self) -> None: ...


class KeyRing:
    """The key of this node. `start` before anything is served, `close` at the end."""

    def __init__(self, key: ClusterKey, identity: NodeIdentity, store: KeyStore, *, configured: bool = False) -> None:
        """`configured`: the key is that of `--cluster-key`, which will be the node's again when it starts anew."""
        self.gate = Gate(identity.tls)
        self._key = key
        self._identity = identity
        self._store = store
        self._configured = configured
        self._known: dict[str, ClusterKey] = {}  # every key that is trusted, by fingerprint
        self._next: tuple[ClusterKey, Papers] | None = None
        self._peers: Peers | None = None
        self._renew_runners: Callable[[], Awaitable[None]] | None = None
        self._lock = asyncio.Lock()
        self._later: dict[str, asyncio.Task[None]] = {}  # what forgets a key, by its fingerprint
        self._acts: set[asyncio.Task[Any]] = set()  # second steps under way

    def attach(self, peers: Peers, renew_runners: Callable[[], Awaitable[None]]) -> None:
        """Who has to learn of a new key; they need this node's identity to be built."""
        self._peers, self._renew_runners = peers, renew_runners

    async def start(self) -> None:
        """Have a certificate made. Raises `ExoError`."""
        papers = await self._papers(self._key)
        self._known = {papers.fingerprint: self._key}
        self._show(papers)

    async def close(self) -> None:
        """Take a step that is under way to its end, and stop waiting to forget a key; the process ends."""
        await asyncio.gather(*self._acts, return_exceptions=True)
        for task in self._later.values():
            task.cancel()
        await asyncio.gather(*self._later.values(), return_exceptions=True)

    # -- certificates for runners (ring/shard_host.py) -----------------------------------------------------------

    def subkey(self, purpose: bytes) -> bytes:
        """Of the key as it is now."""
        return self._key.subkey(purpose)

    @property
    def tls(self) -> TlsIdentity:
        return self._identity.tls

    @property
    def version(self) -> int:
        return self._identity.tls.version

    async def issue(self, lists: Sequence[Sequence[str]]) -> list[Papers]:
        made = await issue(self._key, lists)
        return [dataclasses.replace(one, roots=self._identity.tls.papers.roots) for one in made]

    # -- a rotation as every member sees it ----------------------------------------------------------------------

    async def take(self, request: pb.RotateKeyRequest) -> pb.RotateKeyResponse:
        """A member's step of a rotation."""
        if request.key:
            try:
                key = ClusterKey(request.key)
            except ValueError as error:
                raise InvalidRequest(f"the new cluster key: {error}", param="key") from error
            fingerprint = await self.prepare(key)
        else:
            fingerprint = request.commit
            await self._to_its_end(self.commit(fingerprint, request.patience_ms / 1000))
        return pb.RotateKeyResponse(fingerprint=fingerprint, configured=self._configured)

    async def prepare(self, key: ClusterKey) -> str:
        """Trust `key` beside our own; forgotten again unless it is committed soon. Returns its fingerprint.

        Raises `InvalidRequest` where it is ours already.
        """
        async with self._lock:
            if key == self._key:
                raise InvalidRequest("this is the cluster's key already", param="key")
            papers = await self._papers(key)
            self._next = (key, papers)
            self._known[papers.fingerprint] = key
            self._forget_later(papers.fingerprint, COMMIT_WITHIN_S)
            own = self._identity.tls.papers
            await self._trust(own, {**own.roots, **papers.roots})
        return papers.fingerprint

    async def commit(self, fingerprint: str, patience_s: float) -> None:
        """Make the prepared key ours. Raises `ClusterMismatch` when another or none was prepared."""
        async with self._lock:
            old = self._identity.fingerprint
            if old == fingerprint:
                return
            if self._next is None or self._next[1].fingerprint != fingerprint:
                raise ClusterMismatch(f"node {self._identity.node_id!r} has not been told of key {fingerprint[:8]}")
            key, papers = self._next
            await asyncio.to_thread(self._store.replace, key)
            self._key, self._next = key, None
            self._keep(fingerprint)
            self._forget_later(old, patience_s)
            try:
                await self._trust(papers, {**self._identity.tls.papers.roots, **papers.roots})
            except ExoError as error:  # they get theirs when the old key ends
                log.error("runners here have no certificate of key %s yet: %s", fingerprint[:8], error.message)
            assert self._peers is not None
            await self._peers.renew()
        log.warning("this cluster's key is %s now, it was %s", fingerprint[:8], old[:8])

    async def _to_its_end(self, act: Coroutine[Any, Any, T]) -> T:
        """What `act` returns. It goes on when who waits for it is cancelled."""
        task = asyncio.create_task(act)
        self._acts.add(task)
        task.add_done_callback(self._acts.discard)
        return await asyncio.shield(task)

    async def _forget(self, fingerprint: str) -> None:
        """Trust that key no more, and end what it began."""
        async with self._lock:
            self._known.pop(fingerprint, None)
            if self._next is not None and self._next[1].fingerprint == fingerprint:
                self._next = None
            papers = self._identity.tls.papers
            roots = {name: root for name, root in papers.roots.items() if name != fingerprint}
            self._show(dataclasses.replace(papers, roots=roots))
            ended = self.gate.sweep()
            log.info("key %s is trusted no more: %d calls ended", fingerprint[:8], ended)
            assert self._peers is not None
            await self._peers.renew()  # the connections would believe the old key, if it answered
            await self._tell_runners()

    def _forget_later(self, fingerprint: str, seconds: float) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            try:
                await self._forget(fingerprint)
            except ExoError as error:
                log.error("runners here still trust key %s: %s", fingerprint[:8], error.message)
            del self._later[fingerprint]

        self._keep(fingerprint)
        self._later[fingerprint] = asyncio.create_task(wait(), name=f"forget key {fingerprint[:8]}")

    def _keep(self, fingerprint: str) -> None:
        waiting = self._later.pop(fingerprint, None)
        if waiting is not None:
            waiting.cancel()

    async def _trust(self, papers: Papers, roots: Mapping[str, str]) -> None:
        self._show(dataclasses.replace(papers, roots=dict(roots)))
        await self._tell_runners()

    async def _tell_runners(self) -> None:
        assert self._renew_runners is not None
        await self._renew_runners()

    def _show(self, papers: Papers) -> None:
        secrets = {name: self._known[name].subkey(HANDSHAKE_PURPOSE) for name in papers.roots}
        self._identity.replace(papers, secrets)

    async def _papers(self, key: ClusterKey) -> Papers:
        (papers,) = await issue(key, [[node_name(self._identity.node_id), ANY_NODE]])
        return papers

    # -- a rotation as its user's node leads it ------------------------------------------------------------------

    async def rotate(
        self, key: ClusterKey | None = None, *, without: Collection[str] = (), patience_s: float = PATIENCE_S
    ) -> dict[str, Any]:
        """Give every live member a new key (None: a random one), but those in `without`, which are shut out by it.

        Returns `fingerprint`, `nodes`, `configured` (nodes whose `--cluster-key` is to be changed by hand), `failed`
        (nodes that need `exo join`, and why), and `patience_s`. Raises `ExoError` when a member cannot prepare; then
        every key stays as it was.
        """
        assert self._peers is not None
        new = ClusterKey.generate() if key is None else key
        unknown = set(without) - set(self._peers.states())
        if unknown:
            raise InvalidRequest(f"no member {sorted(unknown)[0]!r} is here; see `exo status`", param="without")
        fingerprint = await self.prepare(new)
        prepared: dict[str, bool] = {}
        # Who came while the others prepared is told too.
        while waiting := self._peers.states().keys() - prepared.keys() - set(without):
            request = pb.RotateKeyRequest(key=new.secret)
            prepared |= dict(
                zip(waiting, await asyncio.gather(*(self._ask(one, request) for one in waiting)), strict=True)
            )
        failed = await self._to_its_end(self._commit_everywhere(fingerprint, prepared, patience_s))
        configured = [one for one, fixed in prepared.items() if fixed]
        return {
            "fingerprint": fingerprint,
            "nodes": sorted([self._identity.node_id, *prepared.keys() - failed.keys()]),
            "configured": sorted([*configured, *([self._identity.node_id] if self._configured else [])]),
            "failed": failed,
            "patience_s": patience_s,
        }

    async def _commit_everywhere(self, fingerprint: str, nodes: Collection[str], patience_s: float) -> dict[str, str]:
        """The second step, here and on other nodes. Returns those that have not taken it, and why."""
        failed: dict[str, str] = {}

        async def commit(node_id: str) -> None:
            try:
                await self._ask(node_id, pb.RotateKeyRequest(commit=fingerprint, patience_ms=round(patience_s * 1000)))
            except ExoError as error:
                failed[node_id] = error.message

        old = self._identity.fingerprint
        await self.commit(fingerprint, COMMIT_WITHIN_S)  # if our disk is full it changes nowhere
        await asyncio.gather(*map(commit, nodes))
        self._forget_later(old, patience_s)  # not while we speak with members who show it
        return failed

    async def _ask(self, node_id: str, request: pb.RotateKeyRequest) -> bool:
        assert self._peers is not None
        answer = await self._peers.peer(node_id).call("RotateKey", request, CALL_TIMEOUT_S)
        return bool(answer.configured)
