"""What stands before the adapter: the response cache, then keys, rates and budgets; and what is settled after it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing

import orjson

from exo_node.limits.gate import Admission, Gate
from exo_node.routing.call import Call, CallRecord, CallSink, Reply, Whole
from exo_node.routing.deployment import Deployment
from exo_node.routing.frames import header_value
from exo_node.routing.replay import replay
from exo_node.routing.response_cache import ResponseCache
from exo_node.routing.stream_collector import StreamCollector
from exo_node.routing.transcript import read_usage
from exo_node.types import Usage

BACKEND = "cache"  # what answered, for headers and records, when no backend did


class Entrance:
    """`serve` is the adapter's; `finished` must be one of the adapter's sinks. `sinks` hear of cached answers.

    `deployment` finds this node's deployment by a backend's name; `predict` estimates a call's USD before it is
    routed (None: not known). `cache` may be replaced at any time.
    """

    def __init__(
        self,
        serve: Callable[[Call], Awaitable[Reply]],
        gate: Gate,
        cache: ResponseCache,
        *,
        sinks: Sequence[CallSink] = (),
        deployment: Callable[[str], Deployment | None] = lambda backend: None,
        predict: Callable[[Call], float | None] = lambda call: None,
        asked_cache: Callable[[bool], None] = lambda hit: None,
    ) -> None:
        self._serve, self._gate, self.cache = serve, gate, cache
        self._sinks, self._deployment, self._predict = sinks, deployment, predict
        self._asked_cache = asked_cache
        self._running: dict[str, Admission] = {}
        self._collecting: dict[str, Usage | None] = {}  # calls whose stream is being kept -> what it used

    async def serve(self, call: Call) -> Reply:
        """The answer. Raises `RateLimited`, `BudgetExceeded`, `ModelNotAllowed`, and what the adapter raises."""
        self._gate.check_model(call.caller.key_id, call.model)
        cacheable = self.cache.serves(call)
        if cacheable:
            kept = await self.cache.get(call)
            self._asked_cache(kept is not None)
            if kept is not None:
                return self._again(call, kept)
        caller = call.caller
        self._running[call.id] = await self._gate.admit(
            caller.key_id, caller.user, call.model, call.prompt_tokens, self._predict(call), call.max_tokens
        )
        try:
            reply = await self._serve(call)
        except BaseException:
            self._settle(call.id, 0, 0.0)  # no effect where a record has come
            raise
        if not cacheable:
            return reply
        if reply.frames is not None:
            reply.frames = self._keeping(call, reply.frames, reply.headers)
        elif reply.whole is not None:
            await self._keep(call, reply.whole, reply.headers)
        return reply

    def finished(self, record: CallRecord) -> None:
        """The adapter's record of a call: its reservation becomes what it used."""
        if record.id in self._collecting:
            self._collecting[record.id] = record.usage
        self._settle(record.id, record.usage.prompt_tokens + record.usage.completion_tokens, record.cost)

    def _settle(self, call_id: str, tokens: int, cost: float) -> None:
        admission = self._running.pop(call_id, None)
        if admission is not None:
            self._gate.settle(admission, tokens, cost)

    async def _keep(self, call: Call, whole: Whole, headers: dict[str, str]) -> None:
        found = self._deployment(headers.get("x-exo-backend", ""))
        wanted, ttl_s = (None, None) if found is None else (found.cache, found.cache_ttl_s)
        await self.cache.put(call, whole, wanted=wanted, ttl_s=ttl_s)

    async def _keeping(
        self, call: Call, frames: AsyncGenerator[bytes, None], headers: dict[str, str]
    ) -> AsyncGenerator[bytes, None]:
        """The frames as they come; once they have all come, their answer is kept."""
        collector = StreamCollector()
        self._collecting[call.id] = None
        try:
            async with aclosing(frames):
                async for piece in frames:
                    collector.add(orjson.loads(line[5:]) for line in piece.split(b"\n") if line.startswith(b"data: {"))
                    yield piece
            whole = collector.whole(self._collecting[call.id])
            if whole is not None:
                await self._keep(call, whole, headers)
        finally:
            del self._collecting[call.id]

    def _again(self, call: Call, whole: Whole) -> Reply:
        data = whole.data or {}
        served = data.get("model")
        record = CallRecord(
            id=call.id,
            kind=call.kind,
            model=call.model,
            served_model=served if isinstance(served, str) else call.model,
            backend=BACKEND,
            provider=BACKEND,
            stream=call.stream,
            caller=call.caller,
            started=time.time(),
            ttft_s=0.0 if call.stream else None,
            usage=read_usage(data.get("usage")) or Usage(0, 0),
            cached=True,
            body=call.body,
        )
        headers = {
            "x-exo-backend": BACKEND,
            "x-exo-model": header_value(record.served_model),
            "x-exo-cached": "true",
            "x-exo-attempts": "",
            "x-exo-cost": "0",
        }
        for sink in self._sinks:
            sink(record)
        if call.stream and call.kind in ("chat", "completion"):
            return Reply(headers=headers, frames=replay(whole, call))
        return Reply(headers=headers, whole=whole)
