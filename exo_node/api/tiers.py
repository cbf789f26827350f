"""How urgent a request is for a local model: OpenAI's `service_tier` as a priority of the ring, and back. Pure.

https://platform.openai.com/docs/api-reference/chat/create : an answer tells the tier that it really had.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, get_args

from exo_node.types import Priority

_ASKED: Final[Mapping[Any, Priority]] = {"flex": "low", "priority": "high"}  # every other one is normal
TIER_OF: Final[Mapping[Priority, str]] = {"high": "priority", "normal": "default", "low": "flex"}
_URGENT_FIRST: Final[tuple[Priority, ...]] = get_args(Priority)


def priority_of(service_tier: Any, at_most: Priority) -> Priority:
    """What a request with this tier gets whose caller may have no more than `at_most`.

    >>> priority_of("priority", "high"), priority_of("priority", "normal"), priority_of(None, "low")
    ('high', 'normal', 'low')
    """
    asked = _ASKED.get(service_tier, "normal") if isinstance(service_tier, str) else "normal"
    return max(asked, at_most, key=_URGENT_FIRST.index)
