"""How many tokens a chat's prompt has."""

from __future__ import annotations

import time

from exo_node.api.ring_upstream import parse_call
from exo_node.api.serving import CallServer
from exo_node.config import Settings
from exo_node.routing.adapter.watch import Within
from exo_node.routing.call import Attempt, Call
from exo_node.types import Backend

ESTIMATED = "x-exo-estimated"  # header of an answer that is not exact


async def count_prompt(serving: CallServer, backend: Backend, settings: Settings, call: Call) -> tuple[int, bool]:
    """The tokens, and whether they are exact: where a local model would answer, with its own chat template; else they
    are the estimate that routing uses. Raises `ExoError`."""
    steps = (await serving.routing.explain(call))["steps"]
    if not steps or steps[0]["kind"] != "ring":
        return call.prompt_tokens, False
    left = max(0.001, call.deadline - time.monotonic())
    parsed = parse_call(Attempt(call=call, timeout_s=left), settings)
    with Within(left):
        return await backend.count_tokens(parsed.requests[0]), True
