"""Counting a prompt's tokens."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from exo_node.api.calls import Context, make_call
from exo_node.api.dialects.counting import count_prompt
from exo_node.api.serving import CallServer
from exo_node.config import Settings
from exo_node.routing.call import Call
from tests.unit.api.scripted import END, ScriptedBackend
from tests.unit.api.scripted_routing import ScriptedRouting


class RingFirst(ScriptedRouting):
    """Would ask the ring for every model but "far"."""

    async def explain(self, call: Call) -> dict[str, Any]:
        return {"steps": [{"kind": "deployment" if call.model == "far" else "ring"}]}


async def test_exact_where_the_ring_answers() -> None:
    """A local model counts with its own template; for a provider's there is routing's estimate, said to be one."""
    backend, settings = ScriptedBackend([END]), Settings(home=Path("unused"))
    serving = CallServer(settings, RingFirst(backend, settings))
    counted = {}
    for model in ("demo", "far"):
        body = {"model": model, "messages": [{"role": "user", "content": "one two three"}]}
        call = make_call("chat", body, Context(id="x", deadline=time.monotonic() + 9))
        counted[model] = await count_prompt(serving, backend, settings, call)
    assert counted == {"demo": (6, True), "far": (call.prompt_tokens, False)}
