"""What is kept, under which key, for how long, and where."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exo_node.errors import ConfigurationError
from exo_node.routing.cache.response_cache import (
    MAX_ANSWER,
    MemoryKeeper,
    ResponseCache,
    SqliteKeeper,
    cache_key,
    keeper_for,
)
from exo_node.routing.call import Call, FormFile, Whole, Wishes
from exo_node.routing.deployment import CacheConfig
from exo_node.store import Store
from tests.unit.routing.cache_samples import USAGE, chat, completion, make_call, make_whole


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "s.db")
    yield store
    store.close()


def cache(**config: Any) -> ResponseCache:
    made = CacheConfig(**{"kind": "memory", **config})
    return ResponseCache(made, MemoryKeeper(made.max_bytes))


async def get(kept: ResponseCache, call: Call) -> Whole | None:
    return await kept.get(kept.key(call)) if kept.serves(call) else None


async def put(kept: ResponseCache, call: Call, whole: Whole, **said: Any) -> bool:
    return await kept.put(kept.key(call), call, whole, **said)


def test_the_key_is_what_changes_the_answer() -> None:
    """Stream, user and metadata change no answer; every other field, the wishes, the key and the model do."""
    key = cache_key(make_call())
    same = [
        make_call(stream=True, stream_options={"include_usage": True}),
        make_call(user="bob", metadata={"a": 1}),
        make_call(wishes=Wishes(cache_ttl_s=5)),
    ]
    assert {cache_key(call) for call in same} == {key}
    others = [
        make_call(model="gpt-2"),
        make_call(kind="completion"),
        make_call(temperature=0),
        make_call(seed=1),
        make_call(seed=2),
        make_call(n=2),
        make_call(tools=[]),
        make_call(extra={"deep": [1, {"b": 2}]}),
        make_call(big=2**70),
        make_call(odd="\ud800"),
        make_call(key="key-1"),
        make_call(wishes=Wishes(provider="openai")),
        make_call(wishes=Wishes(strategy="cost")),
        make_call(response_format=_schema("name", "age")),
        make_call(response_format=_schema("age", "name")),  # answers have their properties in the schema's order
    ]
    assert len({cache_key(call) for call in others} | {key}) == len(others) + 1
    assert cache_key(make_call(a=1, b=2)) == cache_key(make_call(b=2, a=1))
    assert cache_key(make_call(key="key-1"), share=True) == key


def _schema(*names: str) -> dict[str, Any]:
    properties = {name: {"type": "string"} for name in names}
    return {"type": "json_schema", "json_schema": {"name": "s", "schema": {"properties": properties}}}


def test_files_are_in_the_key() -> None:
    """Two transcriptions of different sounds are different questions."""
    import dataclasses

    call = make_call(kind="transcription")
    sounds = [dataclasses.replace(call, files=(FormFile("file", "a.wav", "audio/wav", data),)) for data in (b"1", b"2")]
    assert cache_key(sounds[0]) != cache_key(sounds[1])


async def test_a_kept_answer_comes_back() -> None:
    """The same question gets the same bytes; another key's request does not; our own notes are not kept."""
    kept = cache()
    assert await get(kept, make_call()) is None
    assert await put(kept, make_call(), make_whole({**chat(), "exo": {"cost": 1}}))
    found = await get(kept, make_call(stream=True))
    assert found is not None and found.data == chat()
    assert await get(kept, make_call(key="other")) is None
    assert (kept.hits, kept.misses) == (1, 2)


@pytest.mark.parametrize(
    "answer",
    [
        {"error": {"message": "no"}},
        {**chat(), "error": {"message": "no"}},
        {**chat(), "choices": []},
        {**chat(), "choices": [{"index": 0, "message": {}, "finish_reason": None}]},
        {name: value for name, value in chat().items() if name != "usage"},
        chat(content="x" * MAX_ANSWER),
    ],
)
async def test_what_is_no_complete_answer_is_not_kept(answer: dict[str, Any]) -> None:
    """Errors, answers without their end or usage, and those over the limit are not kept."""
    kept = cache()
    assert not await put(kept, make_call(), make_whole(answer))
    assert await get(kept, make_call()) is None


async def test_no_cache_neither_reads_nor_writes() -> None:
    """A request that says no-cache leaves the cache alone; so does a cache that is off; pictures are not kept."""
    kept, refuses = cache(), make_call(wishes=Wishes(no_cache=True))
    assert not await put(kept, refuses, make_whole(chat()))
    await put(kept, make_call(), make_whole(chat()))
    assert await get(kept, refuses) is None
    off = ResponseCache(CacheConfig(), None)
    assert not await put(off, make_call(), make_whole(chat()))
    assert await get(off, make_call()) is None
    assert not await put(kept, make_call(kind="image"), make_whole({"data": []}))


async def test_a_deployment_may_say_otherwise() -> None:
    """A switch of a deployment's own decides for its answers; without any, the configuration's does."""
    everywhere, somewhere = cache(), cache(everywhere=False)
    assert not await put(everywhere, make_call(), make_whole(chat()), wanted=False)
    assert not await put(somewhere, make_call(), make_whole(chat()))
    assert await put(somewhere, make_call(), make_whole(chat()), wanted=True)


async def test_the_most_specific_time_to_live_counts() -> None:
    """The request's own time, else the deployment's, else the configuration's; zero keeps nothing."""
    lives: list[float] = []

    class Keeper(MemoryKeeper):
        async def put(self, key: str, value: bytes, ttl_s: float) -> None:
            lives.append(ttl_s)

    kept = ResponseCache(CacheConfig(kind="memory", ttl_s=100), Keeper(10**6))
    own = make_call(wishes=Wishes(cache_ttl_s=5))
    await put(kept, own, make_whole(chat()), ttl_s=50)
    await put(kept, make_call(), make_whole(chat()), ttl_s=50)
    await put(kept, make_call(), make_whole(chat()))
    assert not await put(kept, make_call(wishes=Wishes(cache_ttl_s=0)), make_whole(chat()))
    assert lives == [5, 50, 100]


async def test_memory_expires_and_makes_room() -> None:
    """Entries end with their time; of too many the least lately used go; sizes add up."""
    now = [0.0]
    keeper = MemoryKeeper(250, lambda: now[0])
    for name in "abc":
        await keeper.put(name, bytes(80), 10.0)
    assert await keeper.get("a") is not None
    await keeper.put("d", bytes(80), 20.0)
    assert await keeper.get("b") is None and await keeper.get("a") is not None
    await keeper.put("d", bytes(10), 20.0)
    assert keeper.size == 170
    now[0] = 10.0
    assert await keeper.get("a") is None and await keeper.get("d") is not None
    size = keeper.size
    await keeper.put("huge", bytes(300), 10.0)  # it has no place, and takes none from others
    assert await keeper.get("huge") is None and await keeper.get("d") is not None
    assert keeper.size == size


async def test_sqlite_keeps_over_a_restart(store: Store) -> None:
    """An answer kept in the database is there for the next process, JSON or sound."""
    config = CacheConfig(kind="sqlite")
    first = ResponseCache(config, keeper_for(config, store, None))
    sound = Whole(raw=b"\x00\n\xff", content_type="audio/mpeg")
    assert await put(first, make_call(), make_whole(chat()))
    assert await put(first, make_call(kind="speech"), sound)
    await store.flush()
    other = Store(store.path)
    second = ResponseCache(config, SqliteKeeper(other, config.max_bytes))
    found = await get(second, make_call())
    assert found is not None and found.data == chat()
    assert await get(second, make_call(kind="speech")) == sound
    other.close()


async def test_a_broken_database_is_no_cache(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the database cannot be opened requests go on without a cache, and one warning says so."""
    (tmp_path / "s.db").write_bytes(b"no database" * 100)
    store = Store(tmp_path / "s.db")
    kept = ResponseCache(CacheConfig(kind="sqlite"), SqliteKeeper(store, 1000))
    assert await get(kept, make_call()) is None
    assert await get(kept, make_call()) is None
    assert len([one for one in caplog.records if "response cache" in one.message]) == 1
    store.close()


@pytest.mark.parametrize(
    "value", [b"", b"no JSON", b'{"type": "application/json"}\n{}', b"[1]\n{}", b'{"json": true}\n{']
)
async def test_what_cannot_be_read_is_no_answer(value: bytes) -> None:
    """A kept value that is none of ours, or damaged, is a miss, and the next answer takes its place."""
    kept = cache()
    assert kept._keeper is not None
    await kept._keeper.put(kept.key(make_call()), value, 60)
    assert await get(kept, make_call()) is None
    assert (kept.hits, kept.misses) == (0, 1)
    assert await put(kept, make_call(), make_whole(chat()))
    assert await get(kept, make_call()) is not None


def test_redis_needs_a_server(store: Store) -> None:
    """A cache in Redis without a server is a mistake in the configuration; off is no keeper."""
    with pytest.raises(ConfigurationError, match="redis_host"):
        keeper_for(CacheConfig(kind="redis"), store, None)
    keeper = MemoryKeeper(1)
    assert keeper_for(CacheConfig(kind="redis"), store, keeper) is keeper
    assert keeper_for(CacheConfig(), store, keeper) is None


async def test_other_kinds_are_kept() -> None:
    """Completions need their ends, embeddings only be answers."""
    kept = cache()
    assert await put(kept, make_call(kind="completion"), make_whole(completion()))
    assert await put(kept, make_call(kind="embedding"), make_whole({"data": [], "usage": USAGE}))
