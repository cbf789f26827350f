"""Who may see which stored response, and what a request takes from them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from exo_node.api.dialects.responses_encoder import ResponsesEncoder
from exo_node.api.dialects.responses_items import Item, references, response_of
from exo_node.api.dialects.responses_request import Given
from exo_node.api.dialects.responses_shapes import UNFINISHED
from exo_node.api.fields import Fields, bad
from exo_node.errors import ExoError, StoreError
from exo_node.store_responses import ResponseRow, ResponseTable

FOREIGN = "@peer"  # no API key of this machine's has that id
GRACE_S = 60.0  # beyond a response's own time, until one on another node counts as lost


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose response it is: an API key's id on this machine, and its asker (mirroring/asker.py; "": no other node may
    be asked)."""

    key_id: str
    asker: str = ""

    def shares(self, other: Owner) -> bool:
        return self.key_id == other.key_id or (self.asker != "" and self.asker == other.asker)


# Rows of a response and those before it, at another node; [] where nobody has it.
Fetch = Callable[[str, Owner], Awaitable[list[ResponseRow]]]


async def nowhere(ident: str, owner: Owner) -> list[ResponseRow]:
    return []


class KeptResponses:
    """Over the table. `node` is this node's id, `timeout_s` the longest that a response takes; `fetch` gives what other
    nodes have."""

    def __init__(self, table: ResponseTable, node: str, timeout_s: float, fetch: Fetch = nowhere) -> None:
        self._table = table
        self._node = node
        self._timeout_s = timeout_s
        self._fetch = fetch

    async def given(self, body: Mapping[str, Any], ident: str, owner: Owner) -> Given:
        """What `body` needs of earlier responses. Raises `InvalidRequest`."""
        previous = Fields(body).text("previous_response_id")
        history = await self._history(previous, owner) if previous else []
        stored: dict[str, Item] = {}
        wanted = references(body.get("input"))
        for one in dict.fromkeys(map(response_of, wanted)):
            own = await self.stored(one, owner)
            for row in await self._fetch(one, owner) if own is None else [own]:
                stored |= {item["id"]: item for item in (*row.input, *row.response["output"])}
        return Given(id=ident, created=int(time.time()), history=history, stored=stored)

    async def stored(self, ident: str, owner: Owner) -> ResponseRow | None:
        """What is in this node's database, as it is there."""
        return await self._table.get(ident, owner.key_id, owner.asker)

    def judged(self, row: ResponseRow) -> ResponseRow:
        """A row that no live node makes: it has failed, unless its mirror may go on with it."""
        lost = (row.node == self._node and not row.mirror) or time.time() > row.created + self._timeout_s + GRACE_S
        if row.response["status"] in UNFINISHED and lost:
            error = {"code": "server_error", "message": "the node that made the response ended before it was complete"}
            row = replace(row, response={**row.response, "status": "failed", "error": error})
        return row

    async def own_chain(self, ident: str, owner: Owner) -> list[ResponseRow]:
        """The response and those before it, the oldest first, as far as this node has them."""
        return await self._table.chain(ident, owner.key_id, owner.asker)

    async def chain(self, ident: str, owner: Owner) -> list[ResponseRow]:
        """The same with what other nodes have."""
        found: list[ResponseRow] = []
        before: str | None = ident
        while before is not None:
            rows = await self.own_chain(before, owner)
            if not rows or rows[-1].id != before:
                rows = await self._fetch(before, owner)
            if not rows or rows[-1].id != before:
                break
            found = [*rows, *found]
            before = rows[0].previous
        return found

    async def context(self, row: ResponseRow, owner: Owner) -> list[Item]:
        """All items that the response was made from, the oldest first, as far as they are still there."""
        chain = [] if row.previous is None else await self.chain(row.previous, owner)
        return [*_items(chain), *row.input]

    async def remove(self, ident: str, owner: Owner) -> bool:
        """False where there was none."""
        return await self._table.remove(ident, owner.key_id, owner.asker)

    def bury(self, ident: str, asker: str) -> None:
        """It is deleted, and nodes that are away may have it."""
        self._table.bury(ident, asker)

    async def buried(self) -> list[tuple[str, Owner]]:
        """What nodes that come back are to delete, and for whom."""
        return [(ident, Owner(FOREIGN, asker)) for ident, asker in await self._table.buried()]

    def put(self, given: Given, items: list[Item], owner: Owner, response: dict[str, Any], **more: Any) -> ResponseRow:
        """Store the state of a response that `given` and its own `items` lead to."""
        previous = response["previous_response_id"]
        row = ResponseRow(
            id=given.id, owner=owner.key_id, asker=owner.asker, node=self._node, created=given.created,
            previous=previous, input=items, response=response, **more,
        )  # fmt: skip
        self._table.put(row)
        return row

    def put_row(self, row: ResponseRow) -> None:
        """Store what another node has made."""
        self._table.put(row)

    async def _history(self, previous: str, owner: Owner) -> list[Item]:
        chain = await self.chain(previous, owner)
        code = "previous_response_not_found"
        if not chain or chain[-1].id != previous:
            raise bad("previous_response_id", f"no response {previous[:80]!r} is stored", code=code)
        if chain[0].previous is not None:
            problem = f"the conversation's earlier response {chain[0].previous!r} is no longer stored"
            raise bad("previous_response_id", problem, code=code)
        if chain[-1].response["status"] in UNFINISHED:
            raise bad("previous_response_id", f"{previous!r} is not complete yet")
        return _items(chain)

    async def as_it_can_be(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The request, but `store` is false where the disk takes nothing and the client did not ask to have it stored.

        Raises `StoreError` (507) where it did: `store: true`, or `background`, whose answer is fetched later.
        """
        if body.get("store") is False:
            return body
        asked = bool(body.get("store") or body.get("background"))
        try:
            await self._table.check_room(thoroughly=asked)
        except StoreError:
            if asked:
                raise
            return {**body, "store": False}
        return body


def _items(chain: list[ResponseRow]) -> list[Item]:
    return [item for row in chain for item in (*row.input, *row.response["output"])]


class KeepingEncoder:
    """`base.Encoder` of one response that is told to `keep` when it is complete or has failed."""

    def __init__(self, encoder: ResponsesEncoder, keep: Callable[[dict[str, Any]], None]) -> None:
        self._encoder = encoder
        self._keep = keep
        self.feed = encoder.feed

    def whole(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        response = self._encoder.whole(answer)
        self._keep(response)
        return response

    def end(self) -> bytes:
        raw = self._encoder.end()
        self._keep(self._encoder.response())
        return raw

    def fail(self, error: ExoError) -> bytes:
        raw = self._encoder.fail(error)
        self._keep(self._encoder.response())
        return raw
