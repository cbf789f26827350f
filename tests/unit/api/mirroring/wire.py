"""Nodes of one process that mirror each other's responses over calls in memory, and a wire that can be cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web

from exo_node.api.app import ChatGPTAPI
from exo_node.api.mirroring.asker import AskerSigner
from exo_node.api.mirroring.log import Part
from exo_node.api.mirroring.ports import Answered, Question, ResponseHost
from exo_node.config import Settings
from exo_node.errors import PeerUnavailable
from exo_node.signals import ChangeSignal
from exo_node.store import Store, store_path
from exo_node.store_audit import AuditTable
from tests.unit.api.dialects.test_responses import Client
from tests.unit.api.scripted import ScriptedBackend, ScriptedCluster, Step
from tests.unit.api.scripted_routing import ScriptedRouting


@dataclass
class Wire:
    """Who can reach whom: everybody everybody, but for nodes that are `cut` off."""

    hosts: dict[str, ResponseHost] = field(default_factory=dict)
    boots: dict[str, str] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    signal: ChangeSignal = field(default_factory=ChangeSignal)
    sent: list[tuple[str, str, Part]] = field(default_factory=list)  # from, to

    def join(self, node: str, host: ResponseHost, boot: str = "1") -> None:
        self.hosts[node], self.boots[node] = host, boot
        self.signal.notify()

    def cut(self, node: str) -> None:
        self.lost.add(node)
        self.signal.notify()

    def mend(self, node: str) -> None:
        self.lost.discard(node)
        self.signal.notify()

    def reach(self, one: str, other: str) -> ResponseHost:
        if one in self.lost or other in self.lost or other not in self.hosts:
            raise PeerUnavailable(f"node {other} cannot be reached")
        return self.hosts[other]


class WirePeers:
    """`api.mirroring.ports.PeersPort` of one node."""

    def __init__(self, wire: Wire, node: str) -> None:
        self.wire, self.node_id, self.boot_id = wire, node, "1"

    def sign(self, proof: bytes) -> str:
        return AskerSigner(b"cluster").sign(proof)

    def live(self) -> Mapping[str, str]:
        lost = self.wire.lost
        if self.node_id in lost:
            return {}
        return {node: boot for node, boot in self.wire.boots.items() if node != self.node_id and node not in lost}

    def version(self) -> int:
        return self.wire.signal.version

    async def changed(self, seen: int) -> None:
        await self.wire.signal.wait(seen)

    async def send(self, node: str, parts: Sequence[Part], timeout: float) -> Mapping[str, str]:
        await asyncio.sleep(0)
        host = self.wire.reach(self.node_id, node)
        self.wire.sent += [(self.node_id, node, part) for part in parts]
        return host.take(parts)

    async def ask(self, node: str, question: Question, timeout: float) -> Answered:
        await asyncio.sleep(0)
        return await self.wire.reach(self.node_id, node).asked(question)

    async def follow(
        self, node: str, ident: str, asker: str, after: int, timeout: float
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        async for one in self.wire.reach(self.node_id, node).followed(ident, asker, after):
            self.wire.reach(self.node_id, node)
            yield one


@dataclass
class Node:
    ask: Client
    api: ChatGPTAPI
    backend: ScriptedBackend
    runner: web.AppRunner


@asynccontextmanager
async def cluster(
    folder: Path, *scripts: Sequence[Step], keys: ScriptedRouting | None = None
) -> AsyncIterator[tuple[Wire, list[Node]]]:
    """A node for each script, named a, b, c, ..., each with a database of its own."""
    wire, made, tasks, stores = Wire(), [], [], []
    async with aiohttp.ClientSession() as session:
        try:
            for number, script in enumerate(scripts):
                name = "abcdef"[number]
                settings = Settings(home=folder / name)
                store, backend = Store(store_path(settings.home)), ScriptedBackend(script)
                stores.append(store)
                routing = ScriptedRouting(backend, settings)
                routing.keys = {} if keys is None else keys.keys
                peers = WirePeers(wire, name)
                api = ChatGPTAPI(settings, backend, ScriptedCluster(), routing, store, AuditTable(store), peers=peers)
                runner = web.AppRunner(api.app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
                await runner.setup()
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                tasks += [asyncio.create_task(job()) for job in api.responses.jobs()]
                wire.join(name, api.responses)
                made.append(Node(Client(session, f"http://127.0.0.1:{runner.addresses[0][1]}"), api, backend, runner))
            yield wire, made
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for node in made:
                await node.runner.cleanup()
            for store in stores:
                store.close()
