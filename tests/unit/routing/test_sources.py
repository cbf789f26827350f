"""The adapter's sources: candidates with what is known of them now, and the upstream of each kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from exo_node.routing.call import Attempt, UpstreamError
from exo_node.routing.plan import Candidate
from exo_node.routing.sources import PromptedTools, RingDefaults
from exo_node.routing.upstream.passthrough import PassThrough
from exo_node.routing.upstream.sidecar_upstream import SidecarUpstream
from tests.limited import Place
from tests.unit.routing.cache_samples import make_call
from tests.unit.routing.front_parts import Ring, front

TWO = """\
model_list:
  - model_name: m
    litellm_params: {model: openai/a, api_key: planted, api_base: "http://127.0.0.1:9/v1", rpm: 1}
    model_info: {id: direct}
  - model_name: m
    litellm_params: {model: anthropic/b, api_key: planted, api_base: "http://127.0.0.1:9"}
    model_info: {id: through}
equivalents: "off"
"""


async def test_candidates_and_their_upstreams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room where the rpm is used up; what failed elsewhere is left alone; one upstream per deployment is kept."""
    async with front(tmp_path, monkeypatch, TWO) as (made, _):
        call = make_call(model="m")
        both = {one.backend: one for one in await made.sources.candidates(call)}
        assert {name: one.room for name, one in both.items()} == {"direct": True, "through": True}
        direct = made.sources.upstream(both["direct"])
        assert isinstance(direct, PassThrough)
        assert made.sources.upstream(both["direct"]) is direct
        assert isinstance(made.sources.upstream(both["through"]), SidecarUpstream)
        assert await made.gate.acquire(Place("direct", 1), 1) is not None
        made.gate.mark_open("through", 30.0)
        later = {one.backend: one for one in await made.sources.candidates(call)}
        assert not later["direct"].room
        assert later["through"].rejected == "it failed here lately and is left alone for 30 s more"
        gone = Candidate(backend="x@far", kind="peer", provider="openai", model="m", node_id="far")
        with pytest.raises(UpstreamError) as error:
            made.sources.upstream(gone)
        assert error.value.cause == "unavailable"
        with pytest.raises(UpstreamError):
            made.sources.upstream(Candidate(backend="nobody", kind="deployment", provider="openai", model="m"))


async def test_without_money_only_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call whose caller has no money left finds no room at what costs, or may cost, and all at the ring."""
    text = """\
model_list:
  - model_name: m
    litellm_params: {model: openai/a, api_key: planted, input_cost_per_token: 0}
    model_info: {id: free}
  - {model_name: m, litellm_params: {model: openai/gpt-4o, api_key: planted}, model_info: {id: paid}}
  - {model_name: m, litellm_params: {model: openai/b, api_key: planted}, model_info: {id: unknown}}
router_settings: {model_group_alias: {m: [m, demo]}}
equivalents: "off"
"""
    async with front(tmp_path, monkeypatch, text) as (made, _):
        call = replace(make_call(model="m"), broke_for_s=7.0)
        found = {one.backend: (one.room, one.room_in_s) for one in await made.sources.candidates(call)}
        nothing, all_there_is = (False, 7.0), (True, None)
        assert {"free": all_there_is, "paid": nothing, "unknown": nothing}.items() <= found.items()


async def test_tools_that_nobody_may_call() -> None:
    """A backend without tools gets such a call without them; where they may be called they are asked for by prompt."""
    direct, prompting = Ring(), Ring()
    upstream = PromptedTools(direct, cast(Any, prompting))
    offered = make_call(model="m", tools=[{"type": "function"}], tool_choice="none")
    await upstream.whole(Attempt(call=offered, timeout_s=1.0))
    assert (set(direct.attempts[0].call.body), len(prompting.attempts)) == ({"model", "messages", "stream"}, 0)
    needed = replace(offered, needs=frozenset({"tools"}))
    await upstream.whole(Attempt(call=needed, timeout_s=1.0))
    assert (len(direct.attempts), prompting.attempts[0].call) == (1, needed)


async def test_the_rings_defaults() -> None:
    """The configuration's request defaults fill in a chat's open fields, but for what the model's own settings say."""
    ring = Ring()
    upstream = RingDefaults(ring, {"temperature": 0.1, "max_tokens": 7, "model": "x"})
    await upstream.whole(Attempt(call=make_call(model="demo"), timeout_s=1.0))
    await upstream.whole(Attempt(call=make_call(model="demo", max_tokens=3), timeout_s=1.0))
    async for _ in upstream.stream(Attempt(call=make_call(kind="completion", model="demo"), timeout_s=1.0)):
        pass
    bodies = [one.call.body for one in ring.attempts]
    assert [body.get("max_tokens") for body in bodies] == [7, 3, None]
    assert all("temperature" not in body and body["model"] == "demo" for body in bodies)
