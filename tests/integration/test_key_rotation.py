"""The cluster's key changes while its nodes run: in one process over real sockets, and on daemons with a ring."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import openai
import pytest

from exo_node.cli.main import dispatch
from exo_node.cluster.certificates import fingerprint
from exo_node.cluster.discovery import Discovery
from exo_node.cluster.identity import ClusterKey, KeyStore
from exo_node.cluster.manual import StaticPeers
from exo_node.cluster.membership import ClusterMembers
from exo_node.errors import ClusterMismatch, ExoError, InvalidRequest, PeerUnavailable, Unauthorized
from exo_node.transport.client import GRPCPeerHandle
from exo_node.transport.generated.exo.v1 import node_pb2 as pb
from tests.integration.control_plane import ControlNode, node_info, party
from tests.integration.harness import NodeProcess, nodes, wait_until
from tests.integration.test_discovery import until
from tests.papers import KEY, OTHER, identity

OLD, NEW = fingerprint(KEY), fingerprint(OTHER)


class Node:
    """A node's control plane with its members and its key; `lost` are peers that it had and has no more."""

    def __init__(self, name: str, peers: tuple[str, ...] = ()) -> None:
        self.control = ControlNode(party(name))
        self.keys = self.control.keys
        sources: tuple[Discovery, ...] = (StaticPeers(peers),) if peers else ()
        self.members = ClusterMembers(
            me=self.control.identity, dial=self.control.handle, changed=self._changed, discoveries=sources
        )
        self.control.on_peer = self.members.greet
        self.control.own_links = self.members.links
        self.lost: set[str] = set()
        self._seen: set[str] = set()
        self.keys.attach(self.members, self._renew_runners)

    async def _renew_runners(self) -> None:
        """None here."""

    def _changed(self) -> None:
        now = set(self.members.states())
        self.lost |= self._seen - now
        self._seen |= now
        self.control.changes.notify()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[Node, None]:
        async with self.control.serving():
            await self.keys.start()
            task = asyncio.create_task(self.members.run())
            try:
                yield self
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                assert self.control.servicer is not None
                await self.control.servicer.leave()
                await self.members.close()
                await self.keys.close()

    def trusts(self) -> set[str]:
        return set(self.control.identity.tls.papers.roots)


@contextlib.asynccontextmanager
async def cluster(*names: str) -> AsyncGenerator[list[Node], None]:
    """Nodes that all see each other; the first one's address is all that the others are told."""
    async with contextlib.AsyncExitStack() as stack:
        made = [await stack.enter_async_context(Node(names[0]).running())]
        address = f"127.0.0.1:{made[0].control.port}"
        for name in names[1:]:
            made.append(await stack.enter_async_context(Node(name, (address,)).running()))
        await until(lambda: all(len(one.members.states()) == len(names) - 1 for one in made), 30, "everybody")
        yield made


async def thief(node: Node) -> GRPCPeerHandle:
    """Somebody with a certificate of the old key and an open connection, whom nobody calls a member."""
    me = party("mallory")
    made = GRPCPeerHandle("127.0.0.1", node.control.port, identity=identity(me), describe=lambda: node_info(me))
    await made.connect()
    return made


async def test_every_member_changes_and_nobody_is_lost() -> None:
    """Three nodes take another key, keep it on disk and each other in sight; then the old one opens nothing, and what
    it had opened is closed."""
    async with cluster("ann", "bob", "eve") as made:
        mallory = await thief(made[1])
        watch = mallory.watch(silence=60)
        await anext(watch)
        # What Mallory says of itself is a member's word: the others dial it in vain, which is no part of this test.
        done = await made[0].keys.rotate(OTHER, without=(), patience_s=0.5)
        assert (done["fingerprint"], done["nodes"], done["failed"]) == (NEW, ["ann", "bob", "eve"], {})
        for node in made:
            assert node.control.identity.fingerprint == NEW
            assert KeyStore(node.keys._store.path.parent.parent).load() == OTHER
        await until(lambda: all(one.trusts() == {NEW} for one in made), 30, "the old key's end")
        with pytest.raises(ExoError):
            async for _ in watch:
                pass
        with pytest.raises(Unauthorized, match="trusted no more"):
            await mallory.call("ProbeLink", pb.ProbeLinkRequest(), 20)
        await mallory.close()
        with pytest.raises(ClusterMismatch):
            await thief(made[2])
        assert [one.lost for one in made] == [set(), set(), set()]
        assert all(len(one.members.states()) == 2 for one in made)
        for one in made:  # and their connections work
            assert all([await one.members.peer(peer).health_check(20) for peer in one.members.states()])


class Endless:
    """An `AnswerHost` whose answers do not come to their end."""

    def take(self, request: pb.MirrorResponsesRequest) -> pb.MirrorResponsesResponse:
        raise AssertionError

    async def asked(self, request: pb.AskResponseRequest) -> pb.AskResponseResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async def followed(self, request: pb.FollowResponseRequest) -> AsyncGenerator[pb.ResponseEvents, None]:
        yield pb.ResponseEvents()
        await asyncio.Event().wait()


async def test_what_outlives_the_patience_is_as_cut_off_as_by_any_break() -> None:
    """Long calls between nodes (a load, a relayed or a followed answer): who asked may ask again over the connection
    that is there by then, and is not told that it has no right to."""
    async with cluster("ann", "bob") as (ann, bob):
        assert bob.control.servicer is not None
        bob.control.servicer._answers = Endless()
        peer = ann.members.peer("bob")
        events = peer.stream("FollowResponse", pb.FollowResponseRequest(), None)
        await anext(events)
        asking = asyncio.create_task(peer.call("AskResponse", pb.AskResponseRequest(), 60))
        await asyncio.sleep(0)
        await ann.keys.rotate(OTHER, patience_s=0.2)
        for one in (asking, anext(events)):
            with pytest.raises(PeerUnavailable, match="the connection to node bob was the old key's"):
                await asyncio.wait_for(one, 30)
        assert (ann.lost, bob.lost) == (set(), set())
        assert await peer.health_check(20)


async def test_a_member_can_be_left_out() -> None:
    """Who is not told the new key is out, though its node runs on with the old one; unknown names are refused."""
    async with cluster("ann", "bob", "eve") as (ann, bob, eve):
        with pytest.raises(InvalidRequest, match="'joe'"):
            await ann.keys.rotate(OTHER, without=("joe",))
        done = await ann.keys.rotate(OTHER, without=("eve",), patience_s=0.1)
        assert done["nodes"] == ["ann", "bob"]
        await until(lambda: [*ann.members.states()] == ["bob"] and [*bob.members.states()] == ["ann"], 30, "eve's end")
        await until(lambda: not eve.members.states(), 30, "the end in eve's eyes")
        await until(lambda: any(NEW[:8] in why for why in eve.members.problems().values()), 30, "the reason")


async def test_who_is_shut_out_cannot_come_back_by_a_rotation_of_his_own() -> None:
    """While calls that run have their patience the old key is still let in: it begins no other change of the key."""
    third = ClusterKey(bytes(range(32)))
    async with cluster("ann", "bob") as (ann, bob):
        eve = await thief(bob)
        await ann.keys.rotate(OTHER, patience_s=60)
        assert await eve.health_check(20)
        with pytest.raises(Unauthorized, match="only from who shows the present one"):
            await eve.call("RotateKey", pb.RotateKeyRequest(key=third.secret), 20)
        assert bob.trusts() == {OLD, NEW}
        await eve.close()
        await until(lambda: all(len(one.members.states()) == 1 for one in (ann, bob)), 30, "each other")
        assert (await bob.keys.rotate(third, patience_s=0.1))["nodes"] == ["ann", "bob"]  # members still may


async def test_a_key_that_was_not_prepared_is_not_taken() -> None:
    """A commit without its first step is refused; a rotation that a member cannot take part in changes nothing."""
    async with cluster("ann", "bob") as (ann, bob):
        with pytest.raises(ClusterMismatch, match="has not been told of key"):
            await bob.keys.commit(NEW, 0)
        with pytest.raises(InvalidRequest, match="the cluster's key already"):
            await ann.keys.rotate(KEY)
        with pytest.raises(InvalidRequest, match="32 bytes"):
            await ann.members.peer("bob").call("RotateKey", pb.RotateKeyRequest(key=b"short"), 20)

        async def broken(key: ClusterKey) -> str:
            raise InvalidRequest("no")

        bob.keys.prepare = broken  # type: ignore[method-assign]
        with pytest.raises(InvalidRequest, match="no"):
            await ann.keys.rotate(OTHER)
        assert (ann.control.identity.fingerprint, bob.trusts()) == (OLD, {OLD})


class Busy:
    """Runners that take their new papers when they are told to go on, from the `first` time on that they get some."""

    def __init__(self, node: Node, first: int) -> None:
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()
        self._left = first
        node.keys.attach(node.members, self._renew_runners)

    async def _renew_runners(self) -> None:
        self._left -= 1
        if self._left <= 0:
            self.asked.set()
            await self.go_on.wait()


async def until_changed(*made: Node) -> None:
    """None of them may have another key than the new one in the end."""
    await until(lambda: all(one.trusts() == {NEW} for one in made), 30, "the new key everywhere")
    assert [one.control.identity.fingerprint for one in made] == [NEW] * len(made)
    for one in made:
        assert NEW not in one.keys._later  # nobody waits to forget it, as one that was only prepared
        assert KeyStore(one.keys._store.path.parent.parent).load() == OTHER


async def test_a_change_that_has_begun_ends_though_its_user_goes_away() -> None:
    """Ctrl-C on `exo key rotate` when its node has the new key already: the others take it all the same, and no half of
    the cluster is left with either key."""
    async with cluster("ann", "bob") as (ann, bob):
        busy = Busy(ann, 2)  # the first time she prepares
        asking = asyncio.create_task(ann.keys.rotate(OTHER, patience_s=0.1))
        await busy.asked.wait()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        busy.go_on.set()
        await until_changed(ann, bob)


async def test_a_member_takes_the_key_though_who_tells_it_dies_meanwhile() -> None:
    """The node that leads a change is killed when a member has written the new key down and gives its runners theirs:
    the member has that key for good, and soon no other."""
    async with cluster("ann", "bob") as (ann, bob):
        await asyncio.gather(ann.keys.prepare(OTHER), bob.keys.prepare(OTHER))
        busy = Busy(bob, 1)
        telling = asyncio.create_task(bob.keys.take(pb.RotateKeyRequest(commit=NEW, patience_ms=100)))
        await busy.asked.wait()
        telling.cancel()  # as gRPC does when the caller's connection ends
        await asyncio.gather(telling, return_exceptions=True)
        busy.go_on.set()
        await ann.keys.commit(NEW, 0.1)
        await until_changed(ann, bob)


async def test_runners_that_get_no_certificate_hold_no_change_up() -> None:
    """Where a machine is too busy to make its runners new certificates they get them when the old key ends: its node
    and the others have the new key all the same."""
    async with cluster("ann", "bob") as (ann, bob):
        asked = 0

        async def too_busy() -> None:
            nonlocal asked
            asked += 1
            if asked == 2:  # the first is to prepare
                raise ExoError("no certificate within 30 s: this machine is too busy")

        ann.keys.attach(ann.members, too_busy)
        done = await ann.keys.rotate(OTHER, patience_s=0.1)
        assert (done["nodes"], done["failed"]) == (["ann", "bob"], {})
        await until_changed(ann, bob)
        await until(lambda: asked > 2, 30, "the runners' turn")


async def test_the_old_key_is_good_until_every_member_has_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no patience at all, and a member whose disk is slow, the node that leads the change believes that member
    until it has written the new key down: nobody is reported as left behind."""
    async with cluster("ann", "bob") as (ann, bob):
        replace = bob.keys._store.replace

        def slowly(key: ClusterKey) -> None:
            time.sleep(1)
            replace(key)

        monkeypatch.setattr(bob.keys._store, "replace", slowly)
        done = await ann.keys.rotate(OTHER, patience_s=0)
        assert (done["nodes"], done["failed"]) == (["ann", "bob"], {})
        await until_changed(ann, bob)
        assert (ann.lost, bob.lost) == (set(), set())


async def test_a_first_step_whose_asker_goes_away_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is told to trust another key, and of nothing more, trusts it for a while only, however it was told."""
    monkeypatch.setattr("exo_node.key_rotation.COMMIT_WITHIN_S", 0.4)
    async with cluster("ann", "bob") as (_, bob):
        busy = Busy(bob, 1)
        telling = asyncio.create_task(bob.keys.take(pb.RotateKeyRequest(key=OTHER.secret)))
        await busy.asked.wait()
        assert bob.trusts() == {OLD, NEW}
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
        busy.go_on.set()
        await until(lambda: bob.trusts() == {OLD}, 30, "the end of a key that was never taken")


def test_a_guessable_phrase_is_named_as_it_was_given(node: NodeProcess) -> None:
    """Of a body the field is at fault, of a command its flag; the key is as it was."""
    before = KeyStore(node.home).load()
    status, answer = node.request("POST", "/v1/cluster/key", {"phrase": "password"})
    assert (status, answer["error"]["param"]) == (400, "phrase")
    assert answer["error"]["message"].startswith("phrase: the phrase can be guessed")
    assert KeyStore(node.home).load() == before
    with pytest.raises(ExoError, match=r"^--cluster-key: the phrase can be guessed"):
        ClusterKey.from_phrase("password")


@pytest.mark.soak
def test_streams_outlive_a_change_of_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring over two daemons answers on while `exo key rotate` runs: no word is lost, no node and no runner goes, and
    both keep the new key."""
    with nodes(tmp_path / "home", ["--node-id", "a", "-v"], ["--node-id", "b", "-v"]) as (a, b):
        status, placed = a.request("POST", "/v1/instances", {"model": "demo", "nodes": ["a", "b"]})
        assert status == 200, placed
        expected = [answer(one) for one in (a, b)]
        heard: list[str] = []
        rotated = threading.Event()

        def keep_asking(node: NodeProcess) -> None:
            while not rotated.is_set():
                try:
                    heard.append(answer(node))
                except openai.OpenAIError as error:
                    heard.append(f"lost: {error}")

        askers = [threading.Thread(target=keep_asking, args=(one,)) for one in (a, b)]
        for one in askers:
            one.start()
        try:
            wait_until(lambda: len(heard) > 2, 60)
            monkeypatch.setenv("EXO_HOME", str(a.home))
            before = KeyStore(a.home).load()
            assert dispatch(["key", "rotate", "--patience", "1"]) == 0  # less than an answer takes
            assert KeyStore(a.home).load() != before
            wait_until(lambda: all("is trusted no more" in one.log() for one in (a, b)), 60)
            sofar = len(heard)
            wait_until(lambda: len(heard) > sofar + 2, 60)
        finally:
            rotated.set()
            for one in askers:
                one.join()
        assert set(heard) == set(expected)
        assert [answer(one) for one in (a, b)] == expected
        assert [one["id"] for one in a.topology()["instances"]] == [placed["id"]]
        assert "is gone" not in a.log() + b.log()


def answer(node: NodeProcess) -> str:
    """What the demo streams to a question."""
    chunks = node.client().chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "What is exo?"}], stream=True, temperature=0,
        max_tokens=300, logit_bias={str(token): -100 for token in range(8)},  # no early end of text
    )  # fmt: skip
    return "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
