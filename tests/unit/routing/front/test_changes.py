"""What changes while a front runs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from exo_node.errors import ConfigurationError, InvalidRequest
from exo_node.routing.call import UpstreamError
from exo_node.routing.configuration.located import FileProblems
from exo_node.routing.plan import Candidate
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


WRONG_NAMES = """\
litellm_settings:
  success_callback: [datadogg, langfuse, prometheus]
  failure_callback: [langfuse]
cascade_check: no_such_module.check
budgets: [{subject: "provider:opnai", limit: 1}]
"""


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


async def test_a_changed_deployment_gets_a_new_chance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a reload with another key it is asked again at once; what is as it was stays ejected; what went is gone."""
    async with front(tmp_path, monkeypatch, ONE) as (made, _):

        def ejected() -> set[str]:
            return {row["backend"] for row in made.stats()["breakers"] if row["state"] == "open"}

        breaker, now = made._made.breaker, time.monotonic()
        for name in ("paid-1", "other-1", "ring:demo"):
            one = Candidate(backend=name, kind="deployment", provider="openai", model="m")
            breaker.failed(one, UpstreamError("no", "auth"), now)
            made.gate.mark_open(name, 60.0)
        assert ejected() == {"paid-1", "other-1", "ring:demo"} == made.gate.opened().keys()
        (tmp_path / "config.yaml").write_text(ONE.replace("planted-key-0123456789", "planted-key-new", 1))
        await made.reload()
        assert ejected() == {"other-1", "ring:demo"} == made.gate.opened().keys()
        assert await made.remove_deployment("other-1")
        assert {row["backend"] for row in made.stats()["breakers"]} == {"ring:demo"} == made.gate.opened().keys()


async def test_what_a_wildcard_made_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known against the deployments that it stood for, too."""
    async with front(tmp_path, monkeypatch) as (made, _):
        params = {"model": "openai/*", "api_key": "planted-1"}
        await made.add_deployment({"id": "all", "model_name": "openai/*", "litellm_params": params})
        one = Candidate(backend="all:gpt-4o", kind="deployment", provider="openai", model="gpt-4o")
        made._made.breaker.failed(one, UpstreamError("no", "auth"), time.monotonic())
        assert await made.remove_deployment("all")
        assert made.stats()["breakers"] == []


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


async def test_what_the_configuration_names_is_told_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Callbacks, the cascade's check and providers that there are not: each with its file and line, all at once."""
    async with front(tmp_path, monkeypatch) as (made, _):
        (tmp_path / "config.yaml").write_text(WRONG_NAMES)
        with pytest.raises(FileProblems) as caught:
            await made.reload()
    lines = [line.removeprefix(f"{tmp_path}/") for line in caught.value.lines]
    expected = (
        "config.yaml:2: litellm_settings.success_callback: callback 'datadogg' is unknown (did you mean datadog?)",
        "config.yaml:2: litellm_settings.success_callback: callback langfuse needs LANGFUSE_PUBLIC_KEY",
        "config.yaml:3: litellm_settings.failure_callback: callback langfuse needs LANGFUSE_PUBLIC_KEY",
        "config.yaml:4: cascade_check: cascade_check 'no_such_module:check' cannot be imported",
        "config.yaml:5: budgets[0].subject: no provider 'opnai'",
    )
    assert len(lines) == len(expected)
    assert all(line.startswith(start) for line, start in zip(lines, expected, strict=True)), lines
