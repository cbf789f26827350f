"""Makes responses in the background: those that are asked for here, and those whose maker on another node is gone."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from exo_node.api.dialects.responses_background import Background, Job, Source
from exo_node.api.dialects.responses_encoder import ResponsesEncoder
from exo_node.api.dialects.responses_kept import KeptResponses, Owner
from exo_node.api.dialects.responses_request import Asked, decode
from exo_node.api.dialects.responses_rows import Head, head_of, packed, unpacked
from exo_node.api.mirroring.log import Copy, ResponseLog, next_maker
from exo_node.api.mirroring.sender import Outgoing, Sender
from exo_node.api.serving import CallServer
from exo_node.errors import ExoError
from exo_node.routing.call import Call
from exo_node.routing.frames import events_in
from exo_node.store_responses import MIRRORED

log = logging.getLogger("exo.mirror")

SEED_BITS = 63


def fresh_seed() -> int:
    return random.getrandbits(SEED_BITS)


class Maker:
    """`close` when nothing is asked for any more."""

    def __init__(self, serving: CallServer, background: Background, kept: KeptResponses, sender: Sender) -> None:
        self._serving = serving
        self._background = background
        self._kept = kept
        self._sender = sender
        self._leaving: set[asyncio.Task[None]] = set()

    def begin(self, head: Head, asked: Asked, encoder: ResponsesEncoder, owner: Owner, call: Call) -> Job:
        """Start a response."""
        record = ResponseLog(head.id, head.dumped())
        return self._start(head, asked, encoder, owner, record, lambda: replace(call, seed=head.seed))

    def go_on(self, copy: Copy) -> None:
        """Start where the maker that is gone stopped."""
        head, begun = head_of(bytes(copy.head)), copy.begun()
        asked = decode(head.body, head.given)
        asked.chat["model"] = head.model
        record = ResponseLog(
            head.id, bytes(copy.head), next_maker(copy.term), bytearray(begun.raw), list(begun.ids), begun.ids_model,
            begun.model_id,
        )  # fmt: skip

        def call() -> Call:
            made = self._serving.call_of(head.key_id, "chat", asked.chat, no_cache=head.no_cache, at_most=head.priority)
            return replace(made, seed=head.seed, begun=begun, priority=head.priority)

        self._start(head, asked, ResponsesEncoder(asked), Owner(MIRRORED, head.asker), record, call)

    def keep_copy(self, copy: Copy) -> None:
        """What another node has made to its end."""
        self._background.remember(copy.id, copy.term)
        self._kept.put_row(unpacked(json.loads(bytes(copy.row))))

    async def close(self) -> None:
        """Of what has ended too, each mirror gets the rest: it would make that again."""
        await self._background.close(self._sender.flush)
        await asyncio.gather(*self._leaving, return_exceptions=True)

    # -- parts

    def _start(
        self,
        head: Head,
        asked: Asked,
        encoder: ResponsesEncoder,
        owner: Owner,
        record: ResponseLog,
        call: Callable[[], Call],
    ) -> Job:
        def keep(job: Job, **more: Any) -> None:
            row = self._kept.put(
                head.given, asked.items, owner, encoder.response(), term=record.term, mirror=out.mirror, **more
            )
            if job.ended:
                record.end(json.dumps(packed(row), separators=(",", ":")).encode())

        def ended(job: Job) -> None:
            keep(job, events=job.frames if asked.stream else None)

        job = Job(encoder, owner, ended, record, lambda _: self._sender.told(out))
        out = Outgoing(record, job.show, lambda: self._superseded(head.id, job))
        job.add(encoder.queue())
        job.add(b"".join(map(encoder.feed, events_in(bytes(record.said)))))
        self._sender.add(out)
        keep(job)  # so that it is known wherever it is asked for
        job.tell()
        if record.said:
            job.show(record.version)  # the mirror that is gone had all of it
        self._background.start(head.id, job, self._source(call))
        return job

    async def _source(self, call: Callable[[], Call]) -> Source:
        reply = await self._serving.routing.serve(call())
        if reply.frames is None:
            raise ExoError("the answer to a streamed call is no stream")
        async with aclosing(reply.frames) as frames:
            async for raw in frames:
                yield raw, None if reply.said is None else reply.said()

    def yield_to(self, ident: str) -> None:
        """Another node makes a response of ours: its readers go there."""
        job = self._background.made(ident)
        if job is not None:
            self._superseded(ident, job)

    def _superseded(self, ident: str, job: Job) -> None:
        log.info("%s is made by another node now", ident)
        self._sender.remove(ident)
        task = asyncio.create_task(self._leave(ident, job))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _leave(self, ident: str, job: Job) -> None:
        await self._background.leave(ident)
        job.move()
        if job.ended:  # at the same time as the other began
            await self._kept.remove(ident, job.owner)
