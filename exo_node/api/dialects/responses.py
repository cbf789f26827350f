"""OpenAI's Responses API: /v1/responses, its stored responses, and those that are made in the background.

A response is stored for 30 days unless the request says `store: false`, and only its own API key sees it.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from multidict import MultiMapping

from exo_node.api import sse
from exo_node.api.dialects.base import Decoded, Encoder, Wire
from exo_node.api.dialects.counting import ESTIMATED, count_prompt
from exo_node.api.dialects.origins import name_origin
from exo_node.api.dialects.responses_background import Background
from exo_node.api.dialects.responses_encoder import ResponsesEncoder
from exo_node.api.dialects.responses_kept import KeepingEncoder, KeptResponses, Owner
from exo_node.api.dialects.responses_maker import Maker, fresh_seed
from exo_node.api.dialects.responses_places import Places
from exo_node.api.dialects.responses_request import ORIGINS, Asked, Given, decode, includes
from exo_node.api.dialects.responses_rows import Head
from exo_node.api.dialects.responses_shapes import error_frame
from exo_node.api.dialects.serving import DialectServer, answer_of
from exo_node.api.fields import bad
from exo_node.api.guard import principal
from exo_node.api.mirroring.ports import PeersPort
from exo_node.api.mirroring.sender import Sender
from exo_node.api.operations import JSON, SSE, operation
from exo_node.api.pages import boolean, whole_number
from exo_node.api.schemas import answers as listed
from exo_node.api.schemas import responses as schemas
from exo_node.api.serving import CallServer, read_object
from exo_node.config import Settings
from exo_node.errors import ExoError, InvalidRequest
from exo_node.routing.call import UpstreamError
from exo_node.store import Store
from exo_node.store_responses import ResponseRow, ResponseTable
from exo_node.types import Backend

WIRE = Wire()
LIMIT, MAX_LIMIT = 20, 100  # items of a page, OpenAI's


@dataclass(frozen=True, slots=True)
class _Begun:
    """A request that is read: what it was given, what it asks for, and who asks."""

    given: Given
    asked: Asked
    encoder: ResponsesEncoder
    owner: Owner
    body: Mapping[str, Any]


class ResponsesRoutes:
    """Handlers over the adapter; `store` keeps the responses, `peers` are the other nodes, `backend` counts tokens.

    `close` is to be called when nothing is served any more and the store is still there.
    """

    def __init__(
        self, serving: CallServer, backend: Backend, settings: Settings, store: Store, peers: PeersPort
    ) -> None:
        self._server = DialectServer(serving)
        self._serving = serving
        self._backend = backend
        self._settings = settings
        self._peers = peers
        self._background = Background(serving.timeout_s)
        self._kept = KeptResponses(ResponseTable(store), peers.node_id, serving.timeout_s, self._fetch)
        sender = Sender(peers)
        self._maker = Maker(serving, self._background, self._kept, sender)
        self.places = Places(peers, self._background, self._kept, sender, self._maker, serving.timeout_s)

    def routes(self) -> list[tuple[str, str, Any]]:
        """(method, path without /v1, handler)."""
        return [
            ("POST", "/responses", self.create),
            ("POST", "/responses/input_tokens", self.input_tokens),
            ("GET", "/responses/{id}", self.retrieve),
            ("DELETE", "/responses/{id}", self.delete),
            ("POST", "/responses/{id}/cancel", self.cancel),
            ("GET", "/responses/{id}/input_items", self.input_items),
        ]

    async def drain(self, seconds: float) -> None:
        """Wait so long for what is made in the background."""
        await self._background.drain(seconds)

    async def close(self, app: web.Application) -> None:
        """Ends what is made in the background, or hands it over; aiohttp's `on_cleanup`."""
        await self._maker.close()

    @operation("Responses", scope="use", body=schemas.ResponseRequest, answer=schemas.Response, answers=(JSON, SSE))
    async def create(self, request: web.Request) -> web.StreamResponse:
        """A response, whole or as its events, stored unless `store` is false."""
        begun = await self._begin(await read_object(request), self._owner())
        if begun.asked.background:
            return await self._in_background(request, begun)
        with _naming_origins(begun.asked):
            return await self._server.answer(request, Decoded(begun.asked.chat, self._encoder(begun)), WIRE)

    async def respond(self, owner: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The response to a request of `owner`'s that is not streamed. Raises `ExoError`."""
        begun = await self._begin(body, Owner(owner))
        if begun.asked.chat["stream"]:
            raise bad("background" if begun.asked.background else "stream", "is not done here")
        with _naming_origins(begun.asked):
            call = self._serving.call_of(owner, "chat", begun.asked.chat)
            reply = await self._serving.reply(call)
        response: dict[str, Any] = self._encoder(begun).whole(answer_of(reply, call))
        return response

    @operation("Responses", scope="use", body=schemas.ResponseInput, answer=schemas.InputTokens)
    async def input_tokens(self, request: web.Request) -> web.Response:
        """Tokens of what `create` would send; a header says where that is an estimate."""
        begun = await self._begin(await read_object(request), self._owner())
        with _naming_origins(begun.asked):
            call = self._serving.call(request, "chat", begun.asked.chat)
            tokens, exact = await count_prompt(self._serving, self._backend, self._settings, call)
        answer = {"object": "response.input_tokens", "input_tokens": tokens}
        return web.json_response(answer, headers={} if exact else {ESTIMATED: "true"})

    @operation("Responses", scope="use", query=schemas.RetrieveQuery, answer=schemas.Response, answers=(JSON, SSE))
    async def retrieve(self, request: web.Request) -> web.StreamResponse:
        """The response as it is now, or with `stream=true` its events, those after `starting_after`."""
        query = request.query
        _check_include(query)
        ident, owner = request.match_info["id"], self._owner()
        if not boolean(query, "stream"):
            return web.json_response((await self.places.row(ident, owner)).response)
        if boolean(query, "include_obfuscation"):
            raise bad("include_obfuscation", "is settled when the response is created", code="unsupported_parameter")
        return await self._follow(request, ident, owner, whole_number(query, "starting_after", -1, 2**53, low=0))

    @operation("Responses", scope="use", answer=schemas.Deleted)
    async def delete(self, request: web.Request) -> web.Response:
        """Forget the response, on every node; one in the making ends."""
        ident = request.match_info["id"]
        await self.places.delete(ident, self._owner())
        return web.json_response({"id": ident, "object": "response", "deleted": True})

    @operation("Responses", scope="use", answer=schemas.Response)
    async def cancel(self, request: web.Request) -> web.Response:
        """End a response in the background; one that has ended is as it is."""
        row = await self.places.row(request.match_info["id"], self._owner(), "cancel")
        return web.json_response(row.response)

    @operation("Responses", scope="use", answer=listed.Listing)
    async def input_items(self, request: web.Request) -> web.Response:
        """All that the response was made from, earlier responses' items too; the newest first unless `order=asc`."""
        query = request.query
        _check_include(query)
        owner = self._owner()
        items = await self._kept.context(await self.places.row(request.match_info["id"], owner), owner)
        order = query.get("order", "desc")
        if order not in ("asc", "desc"):
            raise bad("order", "must be asc or desc")
        if order == "desc":
            items.reverse()
        if after := query.get("after"):
            places = [i for i, item in enumerate(items) if item["id"] == after]
            if not places:
                raise bad("after", f"no item {after[:80]!r} is in this list")
            items = items[places[0] + 1 :]
        limit = whole_number(query, "limit", LIMIT, MAX_LIMIT)
        page = items[:limit]
        first, last = (page[0]["id"], page[-1]["id"]) if page else ("", "")
        more = len(items) > limit
        return web.json_response({"object": "list", "data": page, "first_id": first, "last_id": last, "has_more": more})

    # -- parts

    def _owner(self) -> Owner:
        caller = principal()
        return Owner("") if caller is None else Owner(caller.key_id, self._peers.sign(caller.proof))

    async def _fetch(self, ident: str, owner: Owner) -> list[ResponseRow]:
        return await self.places.fetch(ident, owner)

    async def _begin(self, body: Mapping[str, Any], owner: Owner) -> _Begun:
        given = await self._kept.given(body, f"resp_{random.getrandbits(128):032x}", owner)
        asked = decode(await self._kept.as_it_can_be(body), given)
        return _Begun(given, asked, ResponsesEncoder(asked), owner, body)

    def _encoder(self, begun: _Begun) -> Encoder:
        if not begun.asked.store:
            return begun.encoder
        return KeepingEncoder(begun.encoder, lambda response: self._keep(begun, response))

    def _keep(self, begun: _Begun, response: dict[str, Any]) -> None:
        self._kept.put(begun.given, begun.asked.items, begun.owner, response)

    async def _in_background(self, request: web.Request, begun: _Begun) -> web.StreamResponse:
        asked, given, owner = begun.asked, begun.given, begun.owner
        self._background.check_room()
        with _naming_origins(asked):
            call = self._serving.call(request, "chat", asked.chat)
        head = Head(
            body=begun.body, id=given.id, created=given.created, history=list(given.history), stored=given.stored,
            model=call.model, seed=fresh_seed(), key_id=owner.key_id, asker=owner.asker, priority=call.priority,
            no_cache=call.wishes.no_cache,
        )  # fmt: skip
        self._maker.begin(head, asked, begun.encoder, owner, call)
        queued = web.json_response(begun.encoder.response())
        await self._kept.stored(given.id, owner)  # it is known wherever it is asked for when we say so
        return await self._follow(request, given.id, owner, -1) if asked.stream else queued

    async def _follow(self, request: web.Request, ident: str, owner: Owner, after: int) -> web.StreamResponse:
        last = after

        async def frames() -> AsyncGenerator[bytes, None]:
            nonlocal last
            async with aclosing(self.places.events(ident, owner, after)) as events:
                async for number, raw in events:
                    last = number
                    yield raw

        # Only the wait can fail, not the response: whoever goes on after this number misses nothing.
        style = sse.Style(done=b"", failure=lambda error: error_frame(error, max(0, last)))
        return await sse.respond(request, frames(), self._serving.timeout_s, style=style)


@contextmanager
def _naming_origins(asked: Asked) -> Iterator[None]:
    """What is wrong with the chat, said of the request that became it."""
    try:
        yield
    except ExoError as error:
        name_origin(error, ORIGINS)
        if asked.echo["truncation"] == "auto" and _is_too_long(error):
            problem = f"{error.message}; truncation: auto drops nothing here, leave out older items"
            raise InvalidRequest(problem, param="truncation", code="context_length_exceeded") from error
        raise


def _is_too_long(error: ExoError) -> bool:
    return error.code == "context_length_exceeded" or (isinstance(error, UpstreamError) and error.cause == "context")


def _check_include(query: MultiMapping[str]) -> None:
    """`include` (the SDKs write `include[]`): all that can be asked for is there."""
    includes([*query.getall("include", ()), *query.getall("include[]", ())])
