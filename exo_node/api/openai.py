"""OpenAI's routes: chat completions, completions, models."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from aiohttp import web

from exo_node.api import sse
from exo_node.api.fanout import Fanout
from exo_node.api.fields import parse_object
from exo_node.api.openai_request import ParsedRequest, parse_chat, parse_completion
from exo_node.api.openai_response import Answer
from exo_node.api.views import model_view
from exo_node.config import Settings
from exo_node.errors import InvalidRequest, ModelNotFound
from exo_node.types import Backend

Parse = Callable[[Mapping[str, Any], str, Settings], ParsedRequest]


async def read_object(request: web.Request) -> dict[str, Any]:
    """The JSON object in the request's body, decompressed if need be."""
    try:
        raw = await request.read()
    except web.RequestPayloadError as e:
        raise InvalidRequest(f"the request body cannot be read: {' '.join(str(e).split())}", code="invalid_body") from e
    return parse_object(raw)


class OpenAIRoutes:
    """Handlers over one backend."""

    def __init__(self, settings: Settings, backend: Backend) -> None:
        self._settings = settings
        self._backend = backend

    def routes(self) -> list[tuple[str, str, Any]]:
        """(method, path without /v1, handler)."""
        return [
            ("POST", "/chat/completions", self.chat),
            ("POST", "/completions", self.completions),
            ("GET", "/models", self.models),
            ("GET", "/models/{id:.+}", self.model),
        ]

    async def chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, parse_chat, "chatcmpl")

    async def completions(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, parse_completion, "cmpl")

    async def models(self, request: web.Request) -> web.Response:
        cards = await self._backend.models()
        return web.json_response({"object": "list", "data": [model_view(card) for card in cards]})

    async def model(self, request: web.Request) -> web.Response:
        wanted = request.match_info["id"]
        cards = await self._backend.models()
        for card in cards:
            if wanted == card.id or wanted in card.aliases:
                return web.json_response(model_view(card))
        there = ", ".join(card.id for card in cards) or "none"
        raise ModelNotFound(f"no model {wanted!r}; there are: {there}", param="model")

    async def _generate(self, request: web.Request, parse: Parse, prefix: str) -> web.StreamResponse:
        body = await read_object(request)
        parsed = parse(body, f"{prefix}-{uuid.uuid4().hex}", self._settings)
        answer = Answer(parsed, int(time.time()))
        timeout_s = self._settings.response_timeout
        if parsed.stream:
            return await sse.respond(request, self._stream(parsed, answer), timeout_s)
        try:
            async with asyncio.timeout(timeout_s), Fanout(self._backend, parsed.requests) as fanout:
                while fanout.running:
                    for index, delta in await fanout.take():
                        answer.add(index, delta)
        except TimeoutError as e:
            raise sse.late(timeout_s) from e
        return web.json_response(answer.whole())

    async def _stream(self, parsed: ParsedRequest, answer: Answer) -> AsyncGenerator[bytes, None]:
        opened = False
        async with Fanout(self._backend, parsed.requests) as fanout:
            while fanout.running:
                items = await fanout.take(sse.SILENCE_S)
                if not items:
                    yield sse.KEEP_ALIVE
                    continue
                events = [] if opened else answer.opening()
                opened = True
                for index, delta in items:
                    events.extend(answer.chunks(index, delta))
                if events:
                    yield b"".join(map(sse.frame, events))  # one write for what came meanwhile
        if parsed.include_usage:
            yield sse.frame(answer.usage_chunk())
