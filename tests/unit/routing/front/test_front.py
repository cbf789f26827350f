"""Everything behind the API put together; `integration/external` drives it in a daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from exo_node.errors import ModelNotFound
from exo_node.routing.call import Wishes
from tests.unit.routing.cache_samples import make_call
from tests.unit.routing.front_parts import front


async def test_the_ring_serves_without_any_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole and streamed; a name that nobody knows is a 404; the statistics count them."""
    async with front(tmp_path, monkeypatch) as (made, ring):
        reply = await made.serve(make_call(model="demo"))
        assert (reply.headers["x-exo-backend"], reply.whole is not None) == ("ring:demo", True)
        streamed = await made.serve(make_call(model="demo", stream=True))
        assert streamed.frames is not None
        assert b'"ring"' in b"".join([raw async for raw in streamed.frames])
        with pytest.raises(ModelNotFound):
            await made.serve(make_call(model="nobody"))
        assert len(ring.attempts) == 2
        assert made.stats()["requests"]["in_flight"] == 0
        assert b"ring:demo" in made.render_metrics((), {})[0]
        assert made.verify("any") is None


CONFIGURED = """\
model_list:
  - {model_name: Prod, litellm_params: {model: openai/gpt-4o-mini, api_key: sk-x}}
  - {model_name: keyless, litellm_params: {model: openai/gpt-4o-mini, api_key: os.environ/NOT_SET}}
  - {model_name: wild-*, litellm_params: {model: openai/*, api_key: sk-x}}
  - {model_name: "*", litellm_params: {model: openai/*, api_key: sk-x}}
router_settings: {model_group_alias: {Group: Prod}}
"""


async def test_names_that_go_to_providers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Configured ones in any case, those of a wildcard but the one for everything, and those with a prefix."""
    async with front(tmp_path, monkeypatch, CONFIGURED) as (made, _):
        theirs = ("Prod", "prod", "keyless", "wild-x", "group", "openai/any", "OpenAI/any", "google/any")
        assert [name for name in theirs if not made.is_external(name)] == []
        assert [name for name in ("demo", "mine", "me/mine", "gpt-4o", "openai") if made.is_external(name)] == []


async def test_a_provider_by_any_of_its_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The field `provider` may name it as a model's prefix does, or say "litellm" for any, or the ring by its words."""
    text = (
        "model_list:\n"
        "  - {model_name: Prod, litellm_params: {model: openai/gpt-4o-mini, api_key: sk-x}}\n"
        "  - {model_name: Gem, litellm_params: {model: google/gemini-2.0-flash, api_key: sk-x}}\n"
    )
    async with front(tmp_path, monkeypatch, text) as (made, ring):
        for model, provider in (("Gem", "google"), ("Gem", "gemini"), ("Prod", "openai"), ("Prod", "litellm")):
            said = await made.explain(make_call(model=model, wishes=Wishes(provider=provider)))
            assert len(said["steps"]) == 1, (provider, said["rejected"])
        for provider in ("ring", "local", "exo-ring"):
            await made.serve(make_call(model="demo", wishes=Wishes(provider=provider)))
        assert len(ring.attempts) == 3
