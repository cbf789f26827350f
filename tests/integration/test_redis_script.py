"""The Lua script decides as the windows in memory do."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from exo_node.limits.rates import Limit, Windows
from exo_node.limits.redis import SharedRedis
from tests.integration.redis_server import PASSWORD, Server, needs_redis

pytestmark = needs_redis


async def test_the_script_decides_as_memory_does(tmp_path: Path) -> None:
    """Of a thousand random requests, settlements and releases the same pass in Redis and in memory."""
    server = Server(tmp_path)
    await server.start()
    rng = random.Random(5)
    windows, expected = Windows(), list[list[Any]]()
    operations: list[list[Any]] = []
    scopes = ["a", "b", "c", "d"]
    running: list[tuple[str, list[str]]] = []
    for index in range(1000):
        choice = rng.random()
        if choice < 0.5 or not running:
            limits = [
                Limit(scope, rng.choice([None, 0, 3, 20]), rng.choice([None, 50, 200]))
                for scope in rng.sample(scopes, 2)
            ]
            tokens = rng.choice([0, 1, 10, 60])
            ident = f"id{index}"
            rows = [[one.scope, _number(one.requests), _number(one.tokens)] for one in limits]
            operations.append(["take", ident, tokens, rows, []])
            refusal = windows.take(limits, ident, tokens, 0.0)
            expected.append([] if refusal is None else [refusal.limit.scope, refusal.what, refusal.wait_s is None])
            if refusal is None:
                running.append((ident, [one.scope for one in limits]))
        else:
            ident, held = running.pop(rng.randrange(len(running)))
            if choice < 0.7:
                tokens = rng.randrange(80)
                operations.append(["settle", ident, tokens, held, []])
                windows.settle(held, ident, tokens)
            else:
                operations.append(["release", ident, held, []])
                windows.release(held, ident)
            expected.append([])
    redis = SharedRedis("127.0.0.1", server.port, password=PASSWORD, timeout_s=20.0)
    answers = [await redis.call(operation) for operation in operations]
    for operation, answer, wanted in zip(operations, answers, expected, strict=True):
        assert answer is not None
        if wanted and wanted[2]:  # more than one limit may never have room: whichever is named
            assert answer[0] == "rate" and answer[3] == -1
        elif wanted:
            assert answer[0] == "rate" and answer[3] > 0, operation
        else:
            assert answer == [], operation
    assert sum(bool(wanted) for wanted in expected) > 100
    await redis.close()
    await server.kill()


def _number(limit: int | None) -> int:
    return -1 if limit is None else limit
