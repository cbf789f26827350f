"""Everything behind the API put together; `integration/test_external.py` drives it in a daemon."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from exo_node.errors import ConfigurationError, InvalidRequest, ModelNotFound
from exo_node.routing.deployment import RedisConfig, RoutingConfig
from exo_node.routing.front import rules_of, shared_redis
from tests.unit.routing.cache_samples import make_call
from tests.unit.routing.front_parts import front

ONE = """\
model_list:
  - model_name: paid
    litellm_params: {model: openai/gpt-4o, api_key: planted-key-0123456789, api_base: "http://127.0.0.1:9/v1"}
    model_info: {id: paid-1}
  - model_name: other
    litellm_params: {model: openai/gpt-4o-mini, api_key: planted-key-0123456789, api_base: "http://127.0.0.1:9/v1"}
    model_info: {id: other-1}
equivalents: "off"
"""


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
        assert b"ring:demo" in made.render_metrics()[0]
        assert made.verify("any") is None


async def test_what_is_set_at_run_time_outlives_a_reload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set back it is the files' again, and a deployment that was taken away does not come back with it."""
    async with front(tmp_path, monkeypatch, ONE) as (made, _):
        assert await made.remove_deployment("other-1")
        await made.update_config({"default_provider": "groq", "ollama_base_url": "http://127.0.0.1:9"})
        assert [row["id"] for row in made.deployments()] == ["paid-1"]
        await made.reload()
        assert [row["id"] for row in made.deployments()] == ["paid-1", "other-1"]
        assert (made.config.default_provider, made.config.environment["OLLAMA_API_BASE"]) == (
            "groq",
            "http://127.0.0.1:9",
        )
        await made.update_config({"default_provider": None, "ollama_base_url": None})
        assert made.config.default_provider is None
        assert "OLLAMA_API_BASE" not in made.config.environment


async def test_a_wrong_configuration_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong files, and a cache in a Redis that was not there at the start."""
    async with front(tmp_path, monkeypatch, ONE) as (made, _):
        before = made.deployments()
        for text in ("model_list: 1", ONE + "redis_host: x\n", "cache: {type: redis, host: 127.0.0.1}\n"):
            (tmp_path / "config.yaml").write_text(text)
            with pytest.raises(ConfigurationError):
                await made.reload()
            assert made.deployments() == before


async def test_the_cache_switched_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time the ring is not asked."""
    async with front(tmp_path, monkeypatch) as (made, ring):
        await made.update_config({"enable_caching": True})
        replies = [await made.serve(make_call(model="demo")) for _ in range(2)]
        assert [one.headers["x-exo-cached"] for one in replies] == ["false", "true"]
        assert len(ring.attempts) == 1


async def test_a_taken_id_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no row shows a key."""
    async with front(tmp_path, monkeypatch, ONE) as (made, _):
        record = {"id": "paid-1", "model_name": "x", "litellm_params": {"model": "openai/x", "api_key": "planted-2"}}
        with pytest.raises(InvalidRequest):
            await made.add_deployment(record)
        assert (await made.add_deployment({**record, "id": "x-1"}))["id"] == "x-1"
        assert "planted" not in str((made.deployments(), made.stats(), made.shared(), made.config))


async def test_set_verbose_logs_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the start and after a reload; without it the node's own level holds."""
    async with front(tmp_path, monkeypatch, "litellm_settings: {set_verbose: true}\n") as (made, _):
        assert logging.getLogger("exo.routing").isEnabledFor(logging.DEBUG)
        (tmp_path / "config.yaml").write_text("{}")
        await made.reload()
        assert logging.getLogger("exo").level == logging.NOTSET


async def test_names_that_nothing_carries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They are among the notes of stats and reload, and in the log; a budget of an unknown provider is refused."""
    text = "limits: {models: {demo: {rpm: 9}, demmo: {rpm: 9}}}\n"
    note = f"{tmp_path}/config.yaml:1: limits.models.demmo: no model 'demmo' is known here (did you mean demo?)"
    async with front(tmp_path, monkeypatch, text) as (made, _):
        assert made.stats()["notes"] == [note]
        assert note in caplog.messages
        assert (await made.reload())["notes"] == [note]
        (tmp_path / "config.yaml").write_text(text + "budgets: [{subject: 'provider:opnai', limit: 1}]\n")
        with pytest.raises(ConfigurationError, match=r"config.yaml:2: budgets.*did you mean openai"):
            await made.reload()


def test_the_shared_redis() -> None:
    """Every part of its configuration counts."""
    redis = RedisConfig("h", 1, "pw", 2, username="u", tls=True, ca_file="/ca.pem")
    made = shared_redis(RoutingConfig(redis=redis))
    assert made is not None and made.address == "rediss://h:1/2"
    assert shared_redis(RoutingConfig()) is None


def test_rules() -> None:
    """The router's own rates and the budgets go to the gate."""
    found = rules_of(RoutingConfig(rpm=7, tpm=8))
    assert (found.router.rpm, found.router.tpm, found.budgets) == (7, 8, ())
