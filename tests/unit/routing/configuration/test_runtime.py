"""What is changed while the node runs: document 002's defaults, and records that come over the API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exo_node.errors import InvalidRequest
from exo_node.routing.configuration.runtime import NAMES, RuntimeSettings, read_record
from exo_node.routing.deployment import CacheConfig, RoutingConfig
from tests.unit.routing.cache_samples import make_call


def test_defaults_fill_in_what_a_request_leaves_open() -> None:
    """What the request says stays; None takes a default back."""
    runtime = RuntimeSettings()
    assert runtime.applied(make_call()) == make_call()
    now = runtime.change({"temperature": 0.3, "max_tokens": 9, "default_model": "m"})
    assert (set(now), now["temperature"], runtime.default_model) == (set(NAMES), 0.3, "m")
    call = runtime.applied(make_call())
    assert (call.body["temperature"], call.max_tokens, call.body["max_tokens"]) == (0.3, 9, 9)
    assert runtime.applied(make_call(temperature=1)).body["temperature"] == 1
    assert runtime.applied(make_call(kind="embedding")) == make_call(kind="embedding")
    runtime.change({"temperature": None, "max_tokens": None})
    assert runtime.applied(make_call()) == make_call()


def test_over_the_configuration() -> None:
    """Providers' addresses and the default provider lie over what the files say, which stays as it was."""
    runtime, config = RuntimeSettings(), RoutingConfig(environment={"A": "1"}, default_provider="openai")
    assert runtime.over(config) is config
    runtime.change({"ollama_base_url": "http://o:1", "default_provider": "groq"})
    found = runtime.over(config)
    assert found.environment == {"A": "1", "OLLAMA_BASE_URL": "http://o:1", "OLLAMA_API_BASE": "http://o:1"}
    assert (found.default_provider, config.environment) == ("groq", {"A": "1"})
    runtime.change({"ollama_base_url": None, "default_provider": None})
    assert runtime.over(config) is config


def test_the_caches_switch() -> None:
    """On where nothing is configured: in memory; off whatever is configured; costs are tracked unless switched off."""
    runtime, kept = RuntimeSettings(), CacheConfig(kind="sqlite", everywhere=False)
    assert runtime.cache(kept) is kept
    runtime.change({"enable_caching": True, "enable_cost_tracking": False})
    assert (runtime.cache(CacheConfig()).kind, runtime.cache(kept).kind, runtime.cache(kept).everywhere) == (
        "memory", "sqlite", True,
    )  # fmt: skip
    assert not runtime.tracks_cost
    runtime.change({"enable_caching": False})
    assert runtime.cache(kept).kind == "off"


def test_a_record_over_the_api(tmp_path: Path) -> None:
    """A `model_list` entry with an id of its own; every mistake in it is named, and no secret of it."""
    record = {"id": "mine", "model_name": "m", "litellm_params": {"model": "openai/x", "api_key": "os.environ/K"}}
    made = read_record(record, RoutingConfig(environment={"K": "planted-secret"}), tmp_path)
    assert (made.id, made.model_name, made.params["api_key"]) == ("mine", "m", "planted-secret")
    assert "planted" not in repr(made)
    wrong = {"model_name": "m", "modle": 1, "litellm_params": {"model": "openai/x", "rpm": "many"}}
    with pytest.raises(InvalidRequest) as error:
        read_record(wrong, RoutingConfig(), tmp_path)
    assert "rpm" in error.value.message and "modle" in error.value.message
    with pytest.raises(InvalidRequest):
        read_record({**record, "id": ""}, RoutingConfig(), tmp_path)


@pytest.mark.parametrize(
    ("model_name", "params", "named"),
    [
        ("m", {"api_base": "http://[bad"}, "litellm_params.api_base"),
        ("m", {"base_url": "ftp://x"}, "litellm_params.base_url"),
        ("m", {"api_base": 5}, "litellm_params.api_base"),
        ("m", {"model": "openai/"}, "litellm_params.model"),
        ("\ud800", {}, "model_name"),
    ],
)
def test_what_no_call_could_use(tmp_path: Path, model_name: str, params: dict[str, Any], named: str) -> None:
    """No address, no model, no character: refused when it comes, not found out by every list and every call."""
    record = {"model_name": model_name, "litellm_params": {"model": "openai/x", "api_key": "planted", **params}}
    with pytest.raises(InvalidRequest) as error:
        read_record(record, RoutingConfig(), tmp_path)
    assert error.value.message.startswith(f"{named}: ")
    assert "planted" not in error.value.message
