"""The composition root: builds a node's parts once, owns every task, drains on SIGTERM.

The order of starting is the order in which others may call: gRPC bound (its port is part of what we announce), HTTP
listening, then discovery. The order of leaving is the reverse.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import platform
import signal
import socket
import uuid
from collections.abc import Awaitable, Callable
from functools import partial

from aiohttp import web

import exo_node
from exo_node.api.app import ChatGPTAPI
from exo_node.api.ring_upstream import RingUpstream
from exo_node.api.server import Patience, ServerSite
from exo_node.cluster.discovery import Announcement
from exo_node.cluster.identity import ClusterKey, KeyStore, NodeSlot, NoRoom
from exo_node.cluster.membership import ClusterMembers
from exo_node.cluster.reservations import ReservationLedger
from exo_node.cluster.sources import discoveries
from exo_node.config import DEFAULT_API_PORT, Settings
from exo_node.ending import REST_S, Ending
from exo_node.errors import ConfigurationError, ExoError
from exo_node.http_tls import server_context
from exo_node.jobs import lasting
from exo_node.key_rotation import KeyRing
from exo_node.local_models import LocalModels
from exo_node.log_lines import configure_logging
from exo_node.machine import Machine, allow_files
from exo_node.memory_keeper import keep_memory
from exo_node.mirror_link import AnswerService, PeerLink
from exo_node.models.catalog import Catalog
from exo_node.models.download import ShardDownloader
from exo_node.ring.instances import InstanceManager, PoolDefaults
from exo_node.ring.library import ModelLibrary
from exo_node.ring.local_backend import BackendDefaults, LocalBackend
from exo_node.ring.node_service import NodeServicer
from exo_node.ring.shard_host import RunnerSettings, ShardHost
from exo_node.routing.front.surroundings import Surroundings
from exo_node.run_file import RunFile
from exo_node.signals import ChangeSignal
from exo_node.store_audit import AuditTable
from exo_node.transport.client import GRPCPeerHandle
from exo_node.transport.generated.exo.v1.node_pb2_grpc import add_NodeServiceServicer_to_server
from exo_node.transport.handshake import Party
from exo_node.transport.identity import NodeIdentity
from exo_node.transport.server import MAX_CONTROL, bind, create_server
from exo_node.transport.sessions import SessionInterceptor
from exo_node.transport.stuck import end_stuck, stop_server
from exo_node.types import GenerationRequest, NodeInfo, NodeState
from exo_node.view import NodeView, RoutingView

log = logging.getLogger("exo")

ASKER_PURPOSE = b"exo asker v1"  # whose response it is, in words that every node understands
API_SHUTDOWN_S = 1.0  # for the last words to clients whose answers were not complete in time
# Times --peer-timeout that a peer may say nothing while its transport answers pings: a machine with too much to do is
# late with its words, and one that is stopped or cut off answers no ping.
STUCK = 5
ANY_ADDRESS = "::"  # gRPC listens on every address of the machine: peers prove the cluster key
NO_IPV6_ADDRESS = "0.0.0.0"


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status. Raises `ConfigurationError` before anything is served."""
    configure_logging(settings.verbose, settings.debug)
    allow_files()
    key = cluster_key(settings)
    with NodeSlot(settings.home, settings.node_id) as slot:
        return asyncio.run(serve(settings, key, slot.node_id))


def cluster_key(settings: Settings) -> ClusterKey:
    """The key of `--cluster-key`, kept for the next start too, else the machine's own."""
    store = KeyStore(settings.home)
    key = None if settings.cluster_key is None else ClusterKey.from_phrase(settings.cluster_key)
    try:
        if key is None:
            return store.load_or_create()
        if store.load() != key:
            store.replace(key)
    except NoRoom as error:
        log.warning("%s; the key is kept for this run only", error.message)
    return key or ClusterKey.generate()


class Daemon:
    """One node. `start` in order, `stop` in reverse; the tasks in between belong to `run`'s task group."""

    def __init__(self, settings: Settings, key: ClusterKey, node_id: str) -> None:
        self.settings = settings
        self.node_id = node_id
        self.changes = ChangeSignal()
        self._boot_id = uuid.uuid4().hex
        self._identity = NodeIdentity(Party(node_id, self._boot_id, "", exo_node.__version__))
        self.keys = KeyRing(key, self._identity, KeyStore(settings.home), configured=settings.cluster_key is not None)
        self._machine = Machine(settings)
        self._grpc_port = 0
        self._api_port = 0
        certificate, private = settings.tls_cert, settings.tls_key
        self._tls = None if certificate is None or private is None else server_context(certificate, private)
        self._run_file = RunFile(settings.home)
        self._may_place = asyncio.Event()
        self._told_to_reload = asyncio.Event()
        cache = settings.home / "cache"
        catalog = Catalog(settings.models_dirs, settings.home, settings.offline)
        self._library = ModelLibrary(
            catalog,
            ShardDownloader(offline=settings.offline, max_parallel_downloads=settings.max_parallel_downloads),
            cache=cache,
        )
        self._listen = settings.node_host or (ANY_ADDRESS if socket.has_dualstack_ipv6() else NO_IPV6_ADDRESS)
        self.host = ShardHost(
            ledger=ReservationLedger(settings.memory_limit),
            library=self._library,
            runner_settings=RunnerSettings(
                host=self._listen,
                node_name=node_id,
                log_level=logging.getLevelName(logging.getLogger().getEffectiveLevel()),
                reproducible=settings.reproducible,
                prefix_cache=settings.prefix_cache,
                speculation=settings.speculation,
                max_waiting=settings.max_waiting,
                min_free_memory=self._machine.watch.floor,
                wire_int8=settings.wire_int8,
            ),
            issuer=self.keys,
            free_memory=lambda: self._machine.memory()[1],
            changed=self._changed,
            freed=self._machine.freed,
            silence_s=settings.peer_timeout,
        )
        self.members = ClusterMembers(
            me=self._identity,
            dial=lambda address, port, peer: GRPCPeerHandle(
                address, port, peer, identity=self._identity, describe=self.describe, silence_s=settings.peer_timeout
            ),
            changed=self._changed,
            discoveries=discoveries(
                settings.discovery_module,
                node_id=node_id,
                announce=self._announcement,
                peers=settings.peers,
                config_path=settings.discovery_config_path,
                listen=self._listen,
            ),
            listen=self._listen,
            silence_s=settings.peer_timeout * STUCK,
        )
        self.keys.attach(self.members, self.host.renew_papers)
        self.view = NodeView(node_id, self.members, self.describe, self.keys)
        self.instances = InstanceManager(
            cluster=self.view,
            host=self.host,
            library=self._library,
            pool=PoolDefaults(settings.max_sequences, settings.max_context),
            may_place=self._may_place,
            changed=self._changed,
            silence_s=settings.peer_timeout,
        )
        self.view.attach(self.instances)
        self._backend = LocalBackend(
            self.instances,
            BackendDefaults(settings.max_generate_tokens, settings.default_temp, settings.system_prompt),
            self.instances.recovered,
        )
        local = LocalModels(self.instances, catalog, settings.max_context, lambda: bool(self.view.states()))
        self.routing = RoutingView(
            settings,
            Surroundings(
                node_id=node_id,
                ring=RingUpstream(self._backend, settings),
                local_models=local,
                fetchable=local.fetchable,
                peers=lambda: {one: state.deployments for one, state in self.view.states().items()},
                peer=self.view.peer,
            ),
        )
        self._servicer = NodeServicer(
            host=self.host,
            instances=self.instances,
            rotate=self.keys.take,
            identity=self._identity,
            describe=self.describe,
            state=self.state,
            topology=self.view.topology_view,
            changes=self.changes,
            on_peer=self.members.greet,
            relays=self.routing.relays if settings.enable_litellm else None,
            answers=AnswerService(lambda: self._api.responses),
        )
        guards = [self.keys.gate, SessionInterceptor(self._servicer.sessions)]
        self._grpc = create_server(guards, max_receive=MAX_CONTROL)
        acts = AuditTable(self.routing.key_store)
        peers = PeerLink(node_id, self._boot_id, self.view, self.changes, lambda: self.keys.subkey(ASKER_PURPOSE))
        self._api = ChatGPTAPI(
            settings, self._backend, self.view, self.routing, self.routing.store, acts, self._machine.watch, peers
        )
        self._runner = web.AppRunner(
            self._api.app,
            handler_cancellation=True,
            shutdown_timeout=API_SHUTDOWN_S,
            access_log=None,
        )

    def _announcement(self) -> Announcement:
        me = self._identity.party
        return Announcement(
            node_id=me.node_id,
            boot_id=me.boot_id,
            fingerprint=me.fingerprint,
            version=me.version,
            protocol_min=me.protocol_min,
            protocol_max=me.protocol_max,
            grpc_port=self._grpc_port,
            api_port=self._api_port,
        )

    def describe(self) -> NodeInfo:
        """This node as its peers see it."""
        total, _ = self._machine.memory()
        return NodeInfo(
            node_id=self.node_id,
            boot_id=self._boot_id,
            name=platform.node(),
            version=exo_node.__version__,
            addresses=self.members.addresses(),
            grpc_port=self._grpc_port,
            api_port=self._api_port,
            engines=self._machine.engines,
            devices=self._machine.devices(),
            memory_total=total,
            memory_free=self.host.memory_free(),
            chip=self._machine.chip,
            blas=self.host.blas(),
        )

    def state(self) -> NodeState:
        """What the control stream tells."""
        return NodeState(
            node=self.describe(),
            instances=tuple(self.instances.published()),
            links=self.members.links(),
            shards=tuple(self.host.shards()),
            deployments=self.routing.shared(),
            draining=self.instances.drainer.draining,
            removed=self.instances.removed(),
        )

    async def start(self) -> str:
        """Bind and listen; returns the API's URL. Raises `ConfigurationError` when a port is taken."""
        certificate = asyncio.create_task(self.keys.start(), name="certificate")  # a child makes it meanwhile
        try:
            await self.routing.start()
            await self._runner.setup()
        finally:
            await certificate
        credentials = self._identity.tls.server_credentials()
        self._grpc_port = bind(self._grpc, self._listen, self.settings.node_port or 0, credentials)
        add_NodeServiceServicer_to_server(self._servicer, self._grpc)  # type: ignore[no-untyped-call]
        self._api_port = await self._listen_http()
        await self._grpc.start()
        host = self.settings.api_host
        shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
        return f"{'http' if self._tls is None else 'https'}://{shown}:{self._api_port}"

    async def _listen_http(self) -> int:
        """Bind the API's port: the given one, else 52415, else (only when none was asked for) a free one."""
        wanted = self.settings.api_port
        for port in (DEFAULT_API_PORT, 0) if wanted is None else (wanted,):
            patience = Patience(send_s=self.settings.send_timeout)
            site = ServerSite(self._runner, self.settings.api_host, port, patience=patience, ssl_context=self._tls)
            try:
                await site.start()
            except OSError as error:
                if wanted is None and port:
                    continue
                why = os.strerror(error.errno or 0)
                raise ConfigurationError(
                    f"--api-port {port}: cannot listen on {self.settings.api_host}:{port} ({why}); "
                    "stop what uses it or choose another port"
                ) from error
            server = site._server
            assert isinstance(server, asyncio.Server)
            return int(server.sockets[0].getsockname()[1])
        raise AssertionError("unreachable: port 0 either binds or raises")

    async def run(self, stop: asyncio.Event) -> None:
        """Everything between the start and the stop signal."""
        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(lasting(job)) for job in self._api.askers()]
            jobs: list[Callable[[], Awaitable[None]]] = [
                self.host.expire_leases,
                self.instances.watch,
                self._machine.refresh,
                partial(keep_memory, self._machine, self.routing.give_up_memory, self._changed),
                self._reload_when_told,
                end_stuck,
                *self.routing.jobs(),
                *self._api.jobs(),
            ]
            tasks = [
                group.create_task(self.members.run()),
                group.create_task(self._open_for_placement()),
                *(group.create_task(lasting(job)) for job in jobs),
            ]
            await stop.wait()
            for task in asking:
                task.cancel()  # what they have asked for is asked again by the next start
            await self._finish()
            for task in tasks:
                task.cancel()

    async def _finish(self) -> None:
        """Take nothing new, and let what runs be completed: leases are renewed and peers answered meanwhile."""
        self._run_file.remove()
        for site in list(self._runner.sites):
            await site.stop()
        seconds = self.settings.shutdown_timeout
        if len(self._api.leaving):
            log.info("stopping; answers that may run for %g s more: %d", seconds, len(self._api.leaving))
        cut, _, _ = await asyncio.gather(
            self._api.drain(seconds), self.routing.relays.drain(seconds), self._hand_over(seconds)
        )
        if cut:
            log.warning("answers ended before they were complete: %d (--shutdown-timeout %g)", cut, seconds)

    async def _hand_over(self, seconds: float) -> None:
        """Where answers are being made with shards of this node, other nodes take them over."""
        if not self.view.states():
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                if not await self.instances.busy_here():
                    return
                answer = await self.instances.drainer.drain(True)
                for instance_id, why in answer.failed.items():
                    log.warning("instance %s cannot be handed over: %s", instance_id[:8], why)

    async def stop(self) -> None:
        """Leave: first no new requests of clients or peers, then our instances, then a goodbye to the peers."""
        self._run_file.remove()
        await asyncio.gather(self._runner.cleanup(), self.routing.relays.drain(API_SHUTDOWN_S))
        await self.routing.stop()
        await self.instances.close()
        await self.keys.close()
        await self._servicer.leave()
        await self.members.close()
        await stop_server(self._grpc, 0.2)
        await self.host.close()

    def announce(self, url: str) -> None:
        """Say where we are, to the person and to other commands on this machine."""
        self._run_file.write(node_id=self.node_id, api_url=url, certificate=self.settings.tls_cert)
        print(f"exo node {self.node_id} ready: API and status on {url} ({self._machine.engines[0]})", flush=True)

    async def _open_for_placement(self) -> None:
        """Hold placements back until `--wait-for-peers` peers are there, or `--discovery-timeout` has passed."""
        wanted = self.settings.wait_for_peers
        if not await self.members.wait_for(wanted, self.settings.discovery_timeout):
            log.warning("only %d of %d peers found: going on without", len(self.members.states()), wanted)
        self._may_place.set()
        if self.settings.run_model:
            await self._run_model(self.settings.run_model)

    def reload(self) -> None:
        """SIGHUP: read the configuration of external models again."""
        self._told_to_reload.set()

    async def _reload_when_told(self) -> None:
        while True:
            await self._told_to_reload.wait()
            self._told_to_reload.clear()
            try:
                await self.routing.reload()
            except ExoError as error:
                log.error("the configuration stays as it was: %s", error.message)
            self.changes.notify()

    async def _run_model(self, model: str) -> None:
        """`--run-model M [--prompt P]`: load it at start, and answer the prompt on standard output."""
        try:
            await self.instances.ready_instance(model)
            if self.settings.prompt is not None:
                request = GenerationRequest(
                    request_id=uuid.uuid4().hex,
                    model=model,
                    messages=({"role": "user", "content": self.settings.prompt},),
                )
                async with contextlib.aclosing(self._backend.generate(request)) as deltas:
                    async for delta in deltas:
                        print(delta.text, end="", flush=True)
                print(flush=True)
        except ExoError as error:
            log.error("--run-model %s: %s", model, error.message)

    def _changed(self) -> None:
        self.changes.notify()
        self.instances.notice()


def spare_collector() -> None:
    """Let the garbage collector look at what is new only, and seldom: a call's objects go by counting references.

    Measured: 166 collections in 5000 calls, which took 23 us of each call's 300, are none.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5000, 20, 100)


async def serve(settings: Settings, key: ClusterKey, node_id: str) -> int:
    """Run a node until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    ending = Ending(stop, settings.shutdown_timeout + REST_S)
    ending.listen()
    daemon = Daemon(settings, key, node_id)
    loop.add_signal_handler(signal.SIGHUP, daemon.reload)
    try:
        url = await daemon.start()
        daemon.announce(url)
        spare_collector()
        await daemon.run(stop)
    finally:
        await daemon.stop()
    return 0
