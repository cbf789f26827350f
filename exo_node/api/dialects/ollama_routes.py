"""Ollama's routes that ask a model: chat, generate, embed, embeddings."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from exo_node.api.dialects.base import Decoded, Wire
from exo_node.api.dialects.ollama import (
    ORIGINS,
    Asked,
    addressed,
    decode_chat,
    decode_generate,
    model_name,
    unstreamed,
)
from exo_node.api.dialects.ollama_answer import OllamaEncoder
from exo_node.api.dialects.ollama_facts import FactsReader
from exo_node.api.dialects.ollama_idle import IdleUnloader
from exo_node.api.dialects.ollama_known import Found, KnownModels
from exo_node.api.dialects.ollama_options import keep_alive
from exo_node.api.dialects.origins import naming
from exo_node.api.dialects.serving import DialectServer, answer_of
from exo_node.api.embeddings import encoded
from exo_node.api.fields import Fields, bad
from exo_node.api.guard import check_allowed, may_ask
from exo_node.api.operations import JSON, NDJSON, operation
from exo_node.api.ports import ClusterPort
from exo_node.api.schemas import ollama as schemas
from exo_node.api.serving import object_of, read_object, whole_of
from exo_node.config import Settings
from exo_node.errors import ExoError
from exo_node.routing.frames import events_in

WIRE = Wire(content_type=NDJSON, keep_alive=b"")  # a line that is no answer would be taken for one


@dataclass(frozen=True, slots=True)
class _Embedded:
    """`tokens` of the texts (None: not told), nanoseconds for loading, and the reply's headers."""

    vectors: Sequence[Any] = ()
    tokens: int | None = 0
    load_ns: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)


class OllamaRoutes:
    """`known`, `facts` and `idle` are shared with the routes about models (`ollama_manage`)."""

    def __init__(
        self,
        settings: Settings,
        server: DialectServer,
        cluster: ClusterPort,
        known: KnownModels,
        facts: FactsReader,
        idle: IdleUnloader,
    ) -> None:
        self._no_limit = settings.max_generate_tokens
        self._server, self._serving, self._cluster = server, server.serving, cluster
        self._known, self._facts, self._idle = known, facts, idle

    def routes(self) -> list[tuple[str, str, Any]]:
        """(method, path, handler)."""
        return [
            ("POST", "/api/chat", self.chat),
            ("POST", "/api/generate", self.generate),
            ("POST", "/api/embed", self.embed),
            ("POST", "/api/embeddings", self.embeddings),
        ]

    @operation("Ollama", scope="use", body=schemas.OllamaChatRequest, answer=schemas.OllamaChat, answers=(JSON, NDJSON))
    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Chat as Ollama does it."""
        asked = decode_chat(await read_object(request))
        with naming(ORIGINS):
            return await self._answer(request, asked, OllamaEncoder("chat", asked.model))

    @operation(
        "Ollama",
        scope="use",
        body=schemas.OllamaGenerateRequest,
        answer=schemas.OllamaGenerated,
        answers=(JSON, NDJSON),
    )
    async def generate(self, request: web.Request) -> web.StreamResponse:
        """Answer one prompt as Ollama does it."""
        asked = decode_generate(await read_object(request), self._no_limit)
        with naming(ORIGINS):
            return await self._answer(request, asked, OllamaEncoder("generate", asked.model))

    @operation("Ollama", scope="use", body=schemas.OllamaEmbedRequest, answer=schemas.OllamaEmbeddings)
    async def embed(self, request: web.Request) -> web.Response:
        """Vectors of a text or of several.

        What is too long is an error whatever `truncate` says: nothing is cut unseen.
        """
        began = time.perf_counter_ns()
        body = await read_object(request)
        given = body["input"]
        dimensions = {"dimensions": body["dimensions"]} if body.get("dimensions") is not None else {}
        found = await self._embedded(request, body, given, dimensions)
        durations = {"total_duration": time.perf_counter_ns() - began, "load_duration": found.load_ns}
        made = {"model": model_name(body), "embeddings": found.vectors, **durations}
        counted = {} if found.tokens is None else {"prompt_eval_count": found.tokens}
        return web.json_response({**made, **counted}, headers=found.headers)

    @operation("Ollama", scope="use", body=schemas.OllamaEmbeddingsRequest, answer=schemas.OllamaEmbedding)
    async def embeddings(self, request: web.Request) -> web.Response:
        """The older route: one `prompt`, one vector."""
        body = await read_object(request)
        found = await self._embedded(request, body, Fields(body).text("prompt") or "", {})
        return web.json_response({"embedding": found.vectors[0] if found.vectors else []}, headers=found.headers)

    async def _embedded(
        self, request: web.Request, body: dict[str, Any], given: Any, more: dict[str, Any]
    ) -> _Embedded:
        """No text loads the model."""
        found = await self._known.find(model_name(body))
        async with self._idle.use(found.placed_as, keep_alive(body.get("keep_alive"))):
            if given in ("", []):
                return _Embedded(load_ns=await self._load(found))
            sent = {"model": found.name, "input": given, "encoding_format": "float", **more}
            call = self._serving.call(request, "embedding", sent)
            load_ns = await self._load_quietly(found)
            reply = await self._serving.reply(call)
        data = object_of(encoded(whole_of(reply), "float"))
        rows = sorted(data["data"], key=lambda row: row.get("index") or 0)
        tokens = (data.get("usage") or {}).get("prompt_tokens")
        return _Embedded([row["embedding"] for row in rows], tokens, load_ns, reply.headers)

    async def _answer(self, request: web.Request, asked: Asked, encoder: OllamaEncoder) -> web.StreamResponse:
        found = await self._known.find(asked.model)
        if asked.kind is None:
            return await self._only_load(asked, found, encoder)
        await self._check_thinking(found, asked)
        async with self._idle.use(found.placed_as, asked.keep_alive_s):
            encoder.load_ns = await self._load_quietly(found)
            body = addressed(asked, found.name, local=found.card is not None)
            if asked.stream:
                return await self._server.answer(request, Decoded(body, encoder), WIRE, asked.kind)
            if found.card is None:
                # Not a stream of which the client would see nothing: of a whole answer nothing is lost when a backend
                # breaks off, another one may begin anew.
                call = self._serving.call(request, asked.kind, unstreamed(body))
                reply = await self._serving.reply(call)
                return web.json_response(encoder.whole(answer_of(reply, call)), headers=reply.headers)
            call = self._serving.call(request, asked.kind, body)
            try:
                with self._serving.leaving.within(self._serving.timeout_s):
                    reply = await self._serving.routing.serve(call)
                    if reply.frames is None:
                        raise ExoError("the answer to a streamed call is no stream")
                    async with aclosing(reply.frames) as frames:
                        async for raw in frames:
                            for event in events_in(raw):
                                encoder.take(event)
            except TimeoutError as e:
                raise self._serving.leaving.why(self._serving.timeout_s) from e
            return web.json_response(encoder.collected(), headers=reply.headers)

    async def _only_load(self, asked: Asked, found: Found, encoder: OllamaEncoder) -> web.Response:
        """Nothing to answer: the model is loaded, or with `keep_alive` 0 unloaded."""
        if asked.keep_alive_s == 0:
            there = await self._known.of_cluster(asked.model)
            await self._idle.unload(there.placed_as)
            return web.json_response(encoder.nothing("unload"))
        async with self._idle.use(found.placed_as, asked.keep_alive_s):
            encoder.load_ns = await self._load(found)
        return web.json_response(encoder.nothing("load"))

    async def _check_thinking(self, found: Found, asked: Asked) -> None:
        if asked.think and found.card is not None and not (await self._facts.of(found.card)).thinks:
            raise bad("think", f"{asked.model!r} does not support thinking", code="unsupported_parameter")

    async def _load_quietly(self, found: Found) -> int:
        """Load a model of this cluster before it is asked, to know how long it takes. The call itself tells why not,
        or goes elsewhere."""
        if found.card is None or not may_ask(found.name):
            return 0
        with contextlib.suppress(ExoError):
            return await self._load(found)
        return 0

    async def _load(self, found: Found) -> int:
        """Nanoseconds until the model is loaded: 0 where it is, and for a provider's. Raises `ExoError`."""
        check_allowed(found.name)
        if found.remote or self._known.is_loaded(found):
            return 0
        began = time.perf_counter_ns()
        try:
            with self._serving.leaving.within(self._serving.timeout_s):
                await self._cluster.place(found.placed_as, min_nodes=1, nodes=(), engines=(), reuse=True)
        except TimeoutError as e:
            raise self._serving.leaving.why(self._serving.timeout_s) from e
        return time.perf_counter_ns() - began
