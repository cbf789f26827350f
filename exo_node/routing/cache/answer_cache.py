"""The response cache around the adapter: a kept answer in place of a call, and the keeping of new ones.

An answer from the cache is a call like any other for the spend log, the metrics and the callbacks; it costs nothing and
takes nothing from the limits.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from typing import Any

from exo_node.metrics import Metrics
from exo_node.routing.cache.replay import replay
from exo_node.routing.cache.response_cache import ResponseCache
from exo_node.routing.cache.stream_collector import StreamCollector
from exo_node.routing.call import Call, CallRecord, CallSink, Reply, Whole
from exo_node.routing.deployment import Deployment
from exo_node.routing.frames import events_in, header_value


class AnswerCache:
    """`cache` may be replaced at any time. `deployment` finds this node's deployment behind a backend; `meaning` tells
    what a call's name stands for now, as far as it changes the answer, and `stands_in` whether a backend has another
    model than the asked one: its answers are not kept, or they would be given after the asked one is well again. (A
    cascade's are: it has refused what the asked one said.)

    `settled` must hear of every finished call before the stream that it ends does: the cache keeps what was used.
    """

    def __init__(
        self,
        cache: ResponseCache,
        meter: Metrics,
        deployment: Callable[[str], Deployment | None],
        meaning: Callable[[Call], Sequence[Any]],
        stands_in: Callable[[Call, str], bool],
        sinks: Sequence[CallSink],
    ) -> None:
        self.cache = cache
        self._meter, self._deployment, self._meaning, self._sinks = meter, deployment, meaning, sinks
        self._stands_in = stands_in
        self._told: dict[str, CallRecord | None] = {}  # calls whose stream is being kept

    def key(self, call: Call) -> str | None:
        """For `get`, and for `keep` when the answer has come, whatever the name means by then. None: not to be kept."""
        return self.cache.key(call, self._meaning(call)) if self.cache.serves(call) else None

    async def get(self, key: str, call: Call) -> Reply | None:
        """The answer that the same request had before."""
        whole = await self.cache.get(key)
        self._meter.cache(whole is not None)
        return None if whole is None else self._reply(call, whole)

    async def keep(self, key: str, call: Call, reply: Reply) -> Reply:
        """`reply`, kept when it is complete: a stream at its end."""
        backend = reply.headers.get("x-exo-backend", "")
        if ":escalated" not in reply.headers.get("x-exo-attempts", "") and self._stands_in(call, backend):
            return reply
        found = self._deployment(backend)
        wanted, ttl_s = (None, None) if found is None else (found.cache, found.cache_ttl_s)
        if reply.whole is not None:
            await self.cache.put(key, call, reply.whole, wanted=wanted, ttl_s=ttl_s)
        if reply.frames is None:
            return reply
        frames = self._collected(key, call, reply.frames, wanted, ttl_s)
        await anext(frames)  # from here on, closing it closes the adapter's
        return replace(reply, frames=frames, outlet=None)  # past which nothing would be collected

    def settled(self, record: CallRecord) -> None:
        if record.id in self._told:
            self._told[record.id] = record

    async def _collected(
        self, key: str, call: Call, frames: AsyncGenerator[bytes, None], wanted: bool | None, ttl_s: float | None
    ) -> AsyncGenerator[bytes, None]:
        """`frames`. The first piece is empty: a generator that has not begun is closed without a trace."""
        cache, collector = self.cache, StreamCollector()
        self._told[call.id] = None
        try:
            async with contextlib.aclosing(frames):
                yield b""
                async for raw in frames:
                    collector.add(events_in(raw))
                    yield raw
        finally:
            record = self._told.pop(call.id, None)
        whole = collector.whole(None if record is None else record.usage)
        if whole is not None and not self._was_continued_by_others(call, record):
            await cache.put(key, call, whole, wanted=wanted, ttl_s=ttl_s)

    def _was_continued_by_others(self, call: Call, record: CallRecord | None) -> bool:
        if record is None or not record.continued:
            return False
        return any(self._stands_in(call, one.backend) for one in record.attempts if one.ttft_s is not None)

    def _reply(self, call: Call, whole: Whole) -> Reply:
        model = str((whole.data or {}).get("model") or call.model)
        record = CallRecord(
            id=call.id,
            kind=call.kind,
            model=call.model,
            served_model=model,
            backend="cache",
            provider="exo",
            stream=call.stream,
            caller=call.caller,
            started=time.time(),
            ttft_s=0.0,
            cached=True,
            body=call.body,
        )
        for sink in self._sinks:
            sink(record)
        headers = {
            "x-exo-backend": "cache",
            "x-exo-provider": "exo",
            "x-exo-model": header_value(model),
            "x-exo-reason": "the same request was answered before",
            "x-exo-cached": "true",
            "x-exo-cost": "0",
        }
        if call.stream and call.kind in ("chat", "completion"):
            return Reply(headers=headers, frames=replay(whole, call))
        return Reply(headers=headers, whole=whole)
