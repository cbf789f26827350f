"""The response cache: whole answers by everything that changes them, in memory, SQLite or Redis.

A stream is kept as the whole answer that it adds up to (`StreamCollector`), and a whole answer is sent as a stream
where one is asked for (`replay`). Errors, streams that were cut and answers that are too large are never kept.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import orjson

from exo_node.errors import ConfigurationError, StoreError
from exo_node.routing.call import Call, Whole
from exo_node.routing.deployment import CacheConfig
from exo_node.store import Store

log = logging.getLogger("exo.routing")

MAX_ANSWER = 1024 * 1024  # bytes; a longer one would push out hundreds of others
# Pictures come as links that soon lead nowhere.
KINDS = frozenset({"chat", "completion", "embedding", "rerank", "moderation", "speech", "transcription"})
_NOT_IN_KEY = ("stream", "stream_options", "user", "metadata")  # of the body: the answer is the same without
_NOT_IN_WISHES = ("no_cache", "cache_ttl_s")


class Keeper(Protocol):
    """Keeps bytes for a while; Redis itself is one (`limits.redis.SharedRedis`)."""

    async def get(self, key: str) -> bytes | None: ...

    async def put(self, key: str, value: bytes, ttl_s: float) -> None: ...


class MemoryKeeper:
    """The least lately used go when all together are larger than `max_bytes`."""

    def __init__(self, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes, self._clock = max_bytes, clock
        self._entries: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self.size = 0

    async def get(self, key: str) -> bytes | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry[0] <= self._clock():
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry[1]

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        if key in self._entries:
            self._drop(key)
        if len(value) > self._max_bytes:  # it would push out all others, and then go itself
            return
        self._entries[key] = (self._clock() + ttl_s, value)
        self.size += len(value)
        while self.size > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def give_up(self) -> None:
        """Keep nothing: the memory is wanted elsewhere."""
        self._entries.clear()
        self.size = 0

    def _drop(self, key: str) -> None:
        self.size -= len(self._entries.pop(key)[1])


class SqliteKeeper:
    """In the node's database: survives a restart, shared by the machine's nodes."""

    def __init__(self, store: Store, max_bytes: int) -> None:
        self._store, self._max_bytes = store, max_bytes

    async def get(self, key: str) -> bytes | None:
        return await self._store.cache_get(key)

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        self._store.cache_put(key, value, ttl_s, self._max_bytes)


def keeper_for(config: CacheConfig, store: Store, redis: Keeper | None) -> Keeper | None:
    """Where answers are kept; None for a cache that is off."""
    if config.kind == "memory":
        return MemoryKeeper(config.max_bytes)
    if config.kind == "sqlite":
        return SqliteKeeper(store, config.max_bytes)
    if config.kind == "redis" and redis is None:
        raise ConfigurationError(
            "a cache in Redis needs redis_host (or REDIS_HOST) from the start on: start the node again"
        )
    return redis if config.kind == "redis" else None


class ResponseCache:
    """`share`: answers made for one API key may be given to another's requests."""

    def __init__(self, config: CacheConfig, keeper: Keeper | None, *, share: bool = False) -> None:
        self._config, self._keeper, self._share = config, keeper, share
        self.hits = 0
        self.misses = 0
        self._complained = False

    def give_up(self) -> None:
        """Give the memory back that answers are kept in."""
        if isinstance(self._keeper, MemoryKeeper):
            self._keeper.give_up()

    def serves(self, call: Call) -> bool:
        """Whether this call's answer may come from the cache or be kept in it."""
        return self._keeper is not None and call.kind in KINDS and not call.wishes.no_cache

    def key(self, call: Call, meaning: Sequence[Any] = ()) -> str:
        """Names the question; `meaning`: what its model's name stands for."""
        return cache_key(call, meaning, share=self._share)

    async def get(self, key: str) -> Whole | None:
        """A kept answer to the same question."""
        if self._keeper is None:
            return None
        try:
            kept = await self._keeper.get(key)
        except StoreError as e:
            self._complain(e)
            kept = None
        whole = None if kept is None else unpack(kept)
        if whole is None:
            self.misses += 1
        else:
            self.hits += 1
        return whole

    async def put(
        self, key: str, call: Call, whole: Whole, *, wanted: bool | None = None, ttl_s: float | None = None
    ) -> bool:
        """Keep a complete answer; False where it is none to keep.

        `wanted` and `ttl_s` are the deployment's `cache` and `cache_ttl_s`; the request's own time to live wins.
        """
        keep = wanted is True or (wanted is None and self._config.everywhere)
        if self._keeper is None or not keep or not self.serves(call) or not is_complete(call, whole):
            return False
        value = pack(whole)
        lives = next(one for one in (call.wishes.cache_ttl_s, ttl_s, self._config.ttl_s) if one is not None)
        if len(value) > MAX_ANSWER or lives <= 0:
            return False
        try:
            await self._keeper.put(key, value, lives)
        except StoreError as e:
            self._complain(e)
            return False
        return True

    def _complain(self, error: StoreError) -> None:
        if not self._complained:
            self._complained = True
            log.warning("the response cache is not working: %s", error.message)


def cache_key(call: Call, meaning: Sequence[Any] = (), *, share: bool = False) -> str:
    """SHA-256 over everything that changes the answer."""
    wishes = {name: value for name, value in dataclasses.asdict(call.wishes).items() if name not in _NOT_IN_WISHES}
    question = {
        "kind": call.kind,
        "model": call.model,
        "means": meaning,
        "body": {name: value for name, value in sorted(call.body.items()) if name not in _NOT_IN_KEY},
        "wishes": wishes,
        "key": "" if share else call.caller.key_id,
        "files": [[one.field, one.filename, hashlib.sha256(one.data).hexdigest()] for one in call.files],
    }
    # Not orjson: it refuses numbers above 64 bits and lone surrogates, which a client may send. What is inside the
    # fields keeps its order: an answer has its properties in that of its schema.
    return hashlib.sha256(json.dumps(question, separators=(",", ":")).encode()).hexdigest()


def is_complete(call: Call, whole: Whole) -> bool:
    """Whether the answer is one, and whole: no error, and every choice has come to its end."""
    data = whole.data
    if data is None:
        return call.kind in ("speech", "transcription") and bool(whole.raw)
    if data.get("error"):
        return False
    if call.kind not in ("chat", "completion"):
        return True
    choices = data.get("choices")
    return (
        isinstance(choices, list)
        and bool(choices)
        and all(isinstance(one, Mapping) and one.get("finish_reason") for one in choices)
        and isinstance(data.get("usage"), Mapping)  # without it a later request could not be told what it used
    )


def pack(whole: Whole) -> bytes:
    """One line of JSON with the content type, then the answer without what we said of its making."""
    raw = whole.raw
    if whole.data is not None and "exo" in whole.data:
        raw = orjson.dumps({name: value for name, value in whole.data.items() if name != "exo"})
    return orjson.dumps({"type": whole.content_type, "json": whole.data is not None}) + b"\n" + raw


def unpack(value: bytes) -> Whole | None:
    """None for what `pack` has not made: somebody else's under our name in Redis, a damaged row."""
    head, _, raw = value.partition(b"\n")
    try:
        about: dict[str, Any] = orjson.loads(head)
        return Whole(raw=raw, data=orjson.loads(raw) if about["json"] else None, content_type=about["type"])
    except (ValueError, KeyError, TypeError):
        return None
