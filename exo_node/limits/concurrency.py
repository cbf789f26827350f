"""How many calls of an API key run at once on this node. Pure; seconds.

Each node counts its own: a call that is lost with its node would hold its place in a shared count for ever.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from exo_node.errors import RateLimited
from exo_node.limits.api_keys import KeyInfo

KEPT: Final = 16  # of a key's latest calls: what one usually takes
UNKNOWN_S: Final = 1.0  # until a call ends, while none has


@dataclass(slots=True)
class _Key:
    running: dict[str, float] = field(default_factory=dict)  # call -> when it began
    took: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))


class Running:
    """The calls of keys that have such a limit. `call` names a call; what leaves twice, or never came, is ignored."""

    def __init__(self) -> None:
        self._keys: dict[str, _Key] = {}
        self._key_of: dict[str, str] = {}

    def enter(self, key: KeyInfo, call: str, now: float) -> None:
        """Raises `RateLimited` where as many run as may."""
        if key.concurrency is None:
            return
        found = self._keys.setdefault(key.id, _Key())
        if len(found.running) >= key.concurrency:
            raise RateLimited(
                f"{key.label} may have {key.concurrency} request{'s' if key.concurrency > 1 else ''} at once: wait for "
                "one of them to end",
                code="concurrency_limit_exceeded",
                retry_after=_first_end(found, now),
            )
        found.running[call] = now
        self._key_of[call] = key.id

    def leave(self, call: str, now: float) -> None:
        """The call is over, however it ended."""
        key_id = self._key_of.pop(call, None)
        if key_id is not None:
            found = self._keys[key_id]
            found.took.append(now - found.running.pop(call))

    def count(self, key_id: str) -> int:
        return len(self._keys[key_id].running) if key_id in self._keys else 0


def _first_end(found: _Key, now: float) -> float:
    """Until the first of those that run has probably ended."""
    if not found.took:
        return UNKNOWN_S
    usual = sum(found.took) / len(found.took)
    ran = [now - began for began in found.running.values()]
    # One that runs longer than usual already will probably take as long again.
    return max(0.001, min(usual - one if one < usual else one for one in ran))
