"""Serves a dialect's requests: decoded chat in, the adapter's answer through the dialect's encoder out."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from aiohttp import web

from exo_node.api import sse
from exo_node.api.dialects.base import Decoded, Encoder, Wire
from exo_node.api.serving import CallServer, whole_of
from exo_node.errors import ExoError
from exo_node.routing.call import CHARACTERS_PER_TOKEN, Call, CallKind, Reply
from exo_node.routing.frames import events_in, usage_object
from exo_node.routing.upstream.transcript import length_of, read_usage
from exo_node.types import Usage


class DialectServer:
    """One for all dialects."""

    def __init__(self, serving: CallServer) -> None:
        self.serving = serving

    async def answer(
        self, request: web.Request, decoded: Decoded, wire: Wire, kind: CallKind = "chat"
    ) -> web.StreamResponse:
        """Serve the chat (or what `kind` says) and send what comes, in the dialect.

        Raises `ExoError` until the first frame is out.
        """
        call = self.serving.call(request, kind, decoded.body)
        encoder = decoded.encoder
        if decoded.asked is not None:
            decoded.asked(call)
        if not call.stream:
            reply = await self.serving.reply(call)
            return web.json_response(
                encoder.whole(answer_of(reply, call)), headers={**reply.headers, **decoded.headers}
            )
        opening = sse.Opening()
        style = sse.Style(
            headers={**sse.HEADERS, **decoded.headers, "Content-Type": wire.content_type},
            keep_alive=wire.keep_alive,
            done=b"",
            failure=encoder.fail,
        )
        frames = self.frames(call, encoder, opening)
        return await sse.respond(request, frames, self.serving.timeout_s, opening, style)

    async def frames(self, call: Call, encoder: Encoder, opening: sse.Opening) -> AsyncGenerator[bytes, None]:
        """The answer's frames in the dialect, to its very end."""
        reply = await self.serving.routing.serve(call)
        if reply.frames is None:
            raise ExoError("the answer to a streamed call is no stream")
        opening.headers = reply.headers
        async with aclosing(reply.frames) as frames:
            async for raw in frames:
                piece = b"".join(map(encoder.feed, events_in(raw)))
                if piece:
                    yield piece
        yield encoder.end()


def answer_of(reply: Reply, call: Call) -> Mapping[str, Any]:
    """The `chat.completion` object that a plain chat was answered with.

    The other dialects always count tokens: where the backend has not, they are estimated, as at a stream's end.
    """
    data = whole_of(reply).data
    if data is None:
        raise ExoError("the answer to a chat is no JSON object")
    if read_usage(data.get("usage")) is not None:
        return data
    said = math.ceil(length_of(data) / CHARACTERS_PER_TOKEN)
    return {**data, "usage": usage_object(Usage(call.prompt_tokens, said))}
