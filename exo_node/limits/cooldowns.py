"""Which backends are left alone after failures, here and at the nodes that share Redis."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from exo_node.limits import operations
from exo_node.limits.redis import Operation, SharedRedis

OWN_ECHO_S = 1.0  # what Redis says of a cooldown that this node has told it may be later by the way there and back


@dataclass(frozen=True, slots=True)
class Cooling:
    """How long a backend is left alone; `elsewhere`: because of another node's failures (or an earlier start's)."""

    left_s: float
    elsewhere: bool


class Cooldowns:
    """One per gate; `clock` is monotonic, in seconds."""

    def __init__(self, redis: SharedRedis | None, clock: Callable[[], float]) -> None:
        self._redis, self._clock = redis, clock
        self._open: dict[str, float] = {}  # of this node, by the clock

    def mark(self, backend: str, for_s: float) -> None:
        """Leave it alone for that long. Does not wait."""
        self._open[backend] = self._clock() + for_s
        if self._redis is not None:
            self._redis.tell(operations.cool(backend, for_s))

    def forget(self, backend: str) -> None:
        """It is gone, or another one than before: nobody leaves it alone any more, here and at the nodes that share
        Redis. Does not wait."""
        self._open.pop(backend, None)
        if self._redis is not None:
            self._redis.tell(operations.cool(backend, 0.0))

    def opened(self) -> dict[str, Cooling]:
        """Backends that are left alone, by this or another node."""
        if not self._open and self._redis is None:
            return {}
        now = self._clock()
        self._open = {name: until for name, until in self._open.items() if until > now}
        found = {name: Cooling(until - now, elsewhere=False) for name, until in self._open.items()}
        if self._redis is not None:
            shared_now = time.monotonic()
            for name, until in self._redis.opened().items():
                left, own = until - shared_now, found.get(name)
                if own is None or left > own.left_s + OWN_ECHO_S:
                    found[name] = Cooling(left, elsewhere=True)
        return found

    def missed(self) -> list[Operation]:
        """What a Redis that was away must be told."""
        now = self._clock()
        return [operations.cool(name, until - now) for name, until in self._open.items() if until > now]
