"""Whether a provider answers and takes the key: asked for its models where that is free."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from exo_node.errors import NotFound
from exo_node.routing.call import UpstreamError
from exo_node.routing.plan import Candidate
from tests.standins import refused_url, standin
from tests.unit.routing.front_parts import front

CONFIG = """\
model_list:
  - model_name: m
    litellm_params: {model: openai/a, api_key: planted-key-0123456789, api_base: "@URL@/v1"}
    model_info: {id: direct}
"""


async def test_a_good_key_and_a_bad_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused key is remembered until a good check; nothing is spent on either."""
    async with (
        standin("openai", key="planted-key-0123456789") as provider,
        front(tmp_path, monkeypatch, CONFIG.replace("@URL@", provider.url)) as (made, _),
    ):
        for key, ok in (("planted-key-0123456789", True), ("another", False), ("planted-key-0123456789", True)):
            provider.key = key
            found = await made.check_provider("openai")
            assert (found["ok"], found["costs"], made.deployments()[0]["usable"]) == (ok, False, ok)
            assert "planted" not in str(found)
        assert {one.path for one in provider.requests} == {"/v1/models"}


async def test_one_without_a_list_of_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers, and that nothing is known of its key is said: a wrong address answers so, too."""
    async with (
        standin("openai", key="planted-key-0123456789") as provider,
        front(tmp_path, monkeypatch, CONFIG.replace("@URL@", f"{provider.url}/elsewhere")) as (made, _),
    ):
        one = Candidate(backend="direct", kind="deployment", provider="openai", model="a")
        made._made.breaker.failed(one, UpstreamError("no", "auth"), time.monotonic())
        found = await made.check_provider("openai")
        assert (found["ok"], "lists no models (404)" in found["detail"]) == (True, True)
        assert made._made.breaker.why("direct") == "auth"  # as before


async def test_nobody_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing listens nothing is learnt of the key; a provider without one is told; an unknown one is a 404."""
    async with front(tmp_path, monkeypatch, CONFIG.replace("@URL@", refused_url())) as (made, _):
        found = await made.check_provider("openai")
        assert (found["ok"], bool(found["detail"]), made.deployments()[0]["usable"]) == (False, True, True)
        assert "not configured" in (await made.check_provider("groq"))["detail"]
        with pytest.raises(NotFound):
            await made.check_provider("nobody")
