"""Where a response is: made here, stored here, or at another node; and what this node tells the others of its own.

Who may see a response is the same everywhere: the API key that made it, by its id on this machine or by its asker.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any

from exo_node.api.dialects.responses_background import Background
from exo_node.api.dialects.responses_kept import FOREIGN, GRACE_S, KeptResponses, Owner
from exo_node.api.dialects.responses_maker import Maker
from exo_node.api.dialects.responses_rows import head_of, packed, unpacked
from exo_node.api.dialects.responses_shapes import UNFINISHED
from exo_node.api.fields import bad
from exo_node.api.mirroring.choice import NOTHING, Has, best
from exo_node.api.mirroring.copies import SETTLE_S, Copies
from exo_node.api.mirroring.log import Copy, Part
from exo_node.api.mirroring.ports import Act, Answered, PeersPort, Question, met
from exo_node.api.mirroring.sender import Sender
from exo_node.errors import DeadlineExceeded, ExoError, InvalidRequest, NotFound, PeerUnavailable, StoreError
from exo_node.store_responses import ResponseRow

FIND_S = 2.0  # how long a node may think about whether it has a response
LOST_S = 30.0  # how long a client waits for the next maker of a response whose node is gone
PAUSE_S = 0.25  # at most, between two looks for it
_LOST = (PeerUnavailable, DeadlineExceeded)


class Places:
    """`api.mirroring.ports.ResponseHost`, and the finder of what this node does not have."""

    def __init__(
        self,
        peers: PeersPort,
        background: Background,
        kept: KeptResponses,
        sender: Sender,
        maker: Maker,
        timeout_s: float,
    ) -> None:
        self._peers = peers
        self._background = background
        self._kept = kept
        self._sender = sender
        self._maker = maker
        self._timeout_s = timeout_s
        lasts_s = timeout_s + GRACE_S
        self._copies = Copies(peers, background.term, maker.keep_copy, self._take_over, lasts_s=lasts_s)

    def jobs(self) -> list[Callable[[], Any]]:
        """What runs as long as the node does."""
        return [self._sender.run, self._copies.run, self.watch, self.tell_deleted]

    # -- for this node's clients; each raises `NotFound` where nobody has it for this owner

    async def row(self, ident: str, owner: Owner, act: Act = "get") -> ResponseRow:
        """The response as it is now; with the act "cancel" its making is ended."""
        clock = asyncio.get_running_loop().time
        patience = clock() + LOST_S
        while True:
            try:
                node = await self._place(ident, owner)
                if not node:
                    row = await self._here(ident, owner, act)
                else:
                    answer = await self._ask(node, ident, owner, act, SETTLE_S + FIND_S)
                    row = unpacked(json.loads(answer.body)) if answer.body else None
                if row is not None:
                    return row
                raise PeerUnavailable(f"the node that had {ident} is gone; try again")
            except _LOST:
                if clock() > patience:
                    raise
            await self._pause()

    async def delete(self, ident: str, owner: Owner) -> None:
        """Everywhere, at nodes that are away when they come back."""
        here = await self._delete_here(ident, owner)
        there = await self._ask_all(ident, owner, "delete")
        if not here and not any(one.has.state for one in there.values()):
            raise _unknown(ident)

    async def fetch(self, ident: str, owner: Owner) -> list[ResponseRow]:
        """`responses_kept.Fetch`."""
        answers = await self._ask_all(ident, owner, "chain")
        node = best({one: answer.has for one, answer in answers.items()})
        return [unpacked(one) for one in json.loads(answers[node].body)] if node else []

    async def events(self, ident: str, owner: Owner, after: int) -> AsyncGenerator[tuple[int, bytes], None]:
        """The response's events above `after`, to its end, whoever makes it meanwhile; each time with the last one's
        number."""
        clock = asyncio.get_running_loop().time
        patience = clock() + LOST_S
        while True:
            try:
                if node := await self._place(ident, owner):
                    source = self._peers.follow(node, ident, owner.asker, after, self._timeout_s)
                else:
                    source = self._events_here(ident, owner, after)
                async with aclosing(source) as events:
                    async for last, raw in events:
                        after, patience = last, clock() + LOST_S
                        yield last, raw
                return
            except _LOST:
                if clock() > patience:
                    raise
            await self._pause()

    # -- ResponseHost: what this node has, without asking others

    def take(self, parts: Sequence[Part]) -> Mapping[str, str]:
        refused: dict[str, str] = {}
        for part in parts:
            if why := self._copies.take(part):
                refused[part.id] = why
            else:
                self._maker.yield_to(part.id)  # the copy is of somebody newer
        return refused

    async def asked(self, question: Question) -> Answered:
        if not question.asker:
            return Answered()
        ident, owner = question.id, Owner(FOREIGN, question.asker)
        if question.act == "delete":
            return Answered(has=Has("ended") if await self._delete_here(ident, owner) else NOTHING)
        has = await self._has(ident, owner)
        if question.act == "find" or not has.state:
            return Answered(has=has)
        if question.act == "chain":
            rows = await self._kept.own_chain(ident, owner)
            if not rows or rows[-1].id != ident:
                return Answered()
            return Answered(has=has, body=_dumps([packed(replace(row, events=None)) for row in rows]))
        if has.state == "copy":
            await self._copies.settled(ident)
        row = await self._here(ident, owner, question.act)
        return Answered() if row is None else Answered(has=has, body=_dumps(packed(replace(row, events=None))))

    async def followed(self, ident: str, asker: str, after: int) -> AsyncGenerator[tuple[int, bytes], None]:
        owner = Owner(FOREIGN, asker)
        if self._copy(ident, owner) is not None:
            await self._copies.settled(ident)
            if (await self._has(ident, owner)).state not in ("made", "ended"):
                raise PeerUnavailable(f"{ident} is made by another node; try again")
        async with aclosing(self._events_here(ident, owner, after)) as events:
            async for one in events:
                yield one

    async def watch(self) -> None:
        """When nodes meet again: whoever has taken over one of our responses meanwhile is right."""
        async for fresh in met(self._peers):
            for ident, job in self._background.running():
                said = await self._ask_all(ident, job.owner, "find", fresh)
                if any(one.has.term > job.log.term for one in said.values()):
                    self._maker.yield_to(ident)

    async def tell_deleted(self) -> None:
        """The same for what was deleted meanwhile."""
        async for fresh in met(self._peers):
            with suppress(StoreError):
                for ident, owner in await self._kept.buried():
                    await self._ask_all(ident, owner, "delete", fresh)

    # -- parts

    async def _place(self, ident: str, owner: Owner) -> str:
        """The node to ask for it; "" for this one. Waits where its next maker is still to be found."""
        while True:
            row, copy = await self._kept.stored(ident, owner), self._copy(ident, owner)
            if self._background.get(ident, owner) is not None or (row is not None and not _unfinished(row)):
                return ""
            said = {node: one.has for node, one in (await self._ask_all(ident, owner, "find")).items()}
            if self._background.get(ident, owner) is not None:
                return ""  # begun while we asked
            if copy is not None:
                said[self._peers.node_id] = Has("copy", copy.term)
            node = best(said)
            if node == self._peers.node_id:
                await self._copies.settled(ident)
                if self._copy(ident, owner) is not None:
                    raise PeerUnavailable(f"the node that makes {ident} does not answer; try again")
                continue
            if row is not None and (not node or said[node].state == "stale"):
                return ""
            if not node:
                raise _unknown(ident)
            return node

    async def _here(self, ident: str, owner: Owner, act: Act) -> ResponseRow | None:
        job = self._background.get(ident, owner)
        if job is not None and act == "cancel":
            await self._background.cancel(ident, job)
        row = await self._kept.stored(ident, owner)
        if row is None:
            return None
        row = self._kept.judged(row) if job is None else replace(row, response=job.encoder.response())
        if act == "cancel":
            if not row.response["background"]:
                raise InvalidRequest(f"{ident} was not made in the background: hang up to end one that is not")
            if _unfinished(row):
                raise InvalidRequest(f"{ident} is made by node {row.node}, which cannot be reached", status=409)
        return row

    async def _events_here(self, ident: str, owner: Owner, after: int) -> AsyncGenerator[tuple[int, bytes], None]:
        job = self._background.get(ident, owner)
        if job is not None and job.encoder.streamed:
            async with aclosing(job.follow(after)) as events:
                async for one in events:
                    yield one
            if job.moved:
                raise PeerUnavailable(f"{ident} is made by another node now; try again")
            return
        row = await self._kept.stored(ident, owner)
        if row is None:
            raise _unknown(ident)
        if job is None and self._kept.judged(row).response["status"] in UNFINISHED:
            raise PeerUnavailable(f"{ident} is made by node {row.node}, which cannot be reached; try again")
        if row.events is None:
            problem = "only a response created with background: true and stream: true has a stream to fetch"
            raise bad("stream", problem, code="unsupported_parameter")
        if after + 1 < len(row.events):
            yield len(row.events) - 1, b"".join(row.events[after + 1 :])

    async def _has(self, ident: str, owner: Owner) -> Has:
        copy = self._copy(ident, owner)
        row = await self._kept.stored(ident, owner)
        if (job := self._background.get(ident, owner)) is not None:
            return Has("made", job.log.term)
        if row is not None and not _unfinished(row):
            return Has("ended", row.term)
        if copy is not None:  # or it was, a moment ago: it is more than a row by now
            return Has("copy", copy.term)
        return NOTHING if row is None else Has("stale", row.term)

    def _copy(self, ident: str, owner: Owner) -> Copy | None:
        copy = self._copies.get(ident)
        if copy is None or not copy.usable or not owner.asker:
            return None
        return copy if head_of(bytes(copy.head)).asker == owner.asker else None

    async def _take_over(self, copy: Copy) -> None:
        """Go on with it, unless another node has a better claim."""
        owner = Owner(FOREIGN, head_of(bytes(copy.head)).asker)
        said = {node: one.has for node, one in (await self._ask_all(copy.id, owner, "find")).items()}
        row = await self._kept.stored(copy.id, owner)
        if row is not None and not _unfinished(row):
            said[self._peers.node_id] = Has("ended", row.term)
        has = said.get(best(said), NOTHING)
        if self._copies.get(copy.id) is not copy:
            return  # deleted meanwhile
        if has.term < copy.term or (has.term == copy.term and has.state not in ("made", "ended")):
            self._maker.go_on(copy)

    async def _delete_here(self, ident: str, owner: Owner) -> bool:
        job, copy = self._background.get(ident, owner), self._copy(ident, owner)
        if copy is not None or self._copies.get(ident) is None:
            # At once: nobody begins to go on with it while we wait. And its first part may be under way to us.
            self._copies.delete(ident)
        if job is not None:
            self._sender.remove(ident)
            await self._background.cancel(ident, job)
        row = await self._kept.stored(ident, owner)
        found = await self._kept.remove(ident, owner) or job is not None or copy is not None
        if (row.term if row else found) and (asker := row.asker if row else owner.asker):
            self._kept.bury(ident, asker)
        if found:
            self._sender.remove(ident)
        return found

    async def _ask(self, node: str, ident: str, owner: Owner, act: Act, timeout: float) -> Answered:
        return await self._peers.ask(node, Question(id=ident, asker=owner.asker, act=act), timeout)

    async def _ask_all(
        self, ident: str, owner: Owner, act: Act, nodes: Sequence[str] | None = None
    ) -> dict[str, Answered]:
        """What all of them say that can be reached."""
        if not owner.asker:
            return {}
        asked = list(self._peers.live() if nodes is None else nodes)
        said = await asyncio.gather(
            *(self._ask(node, ident, owner, act, FIND_S) for node in asked), return_exceptions=True
        )
        found: dict[str, Answered] = {}
        for node, one in zip(asked, said, strict=True):
            if isinstance(one, Answered):
                found[node] = one
            elif not isinstance(one, ExoError):
                raise one
        return found

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(PAUSE_S):
                await self._peers.changed(self._peers.version())


def _dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _unfinished(row: ResponseRow) -> bool:
    return row.response["status"] in UNFINISHED


def _unknown(ident: str) -> NotFound:
    return NotFound(f"no response {ident[:80]!r}", param="response_id")
