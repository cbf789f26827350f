"""What the pipe carries."""

from __future__ import annotations

from typing import Any

import pytest

from exo_node.routing.call import Capability
from exo_node.routing.deployment import Deployment
from exo_node.routing.sidecar.protocol import (
    Configuration,
    Target,
    decode,
    encode,
    process_environment,
    provider_environment,
    target_of,
    targets_of,
)


def deployment(capabilities: frozenset[Capability] | None = None, node_id: str = "", **params: Any) -> Deployment:
    return Deployment(
        id="d", model_name="m", litellm_model="openai/m", provider="openai", upstream_model="m", params=params,
        capabilities=capabilities, node_id=node_id,
    )  # fmt: skip


def test_round_trip() -> None:
    """A configuration is one line, and comes out as it went in."""
    configuration = Configuration(3, 42, (Target("d", "openai/m", {"api_key": "k"}, False),), {"A": "1"})
    line = encode(configuration)
    assert line.count(b"\n") == 1
    assert decode(line) == configuration


@pytest.mark.parametrize(
    ("made", "tools"),
    [
        (deployment(), None),
        (deployment(frozenset({"tools"})), True),
        (deployment(frozenset()), False),
        (deployment(frozenset({"tools"}), exo_tools="prompt"), False),
        (deployment(frozenset(), exo_tools="native"), True),
    ],
)
def test_tools(made: Deployment, tools: bool | None) -> None:
    """`exo_tools` decides, then the capabilities, then LiteLLM's table; it is no parameter of LiteLLM's."""
    assert target_of(made).tools == tools
    assert "exo_tools" not in target_of(made).params


def test_peers_deployments_stay_out() -> None:
    """A worker hears of this node's own deployments only, and secrets are not in its repr."""
    assert targets_of([deployment(api_key="planted"), deployment(node_id="other")]) == (
        Target("d", "openai/m", {"api_key": "planted"}, None),
    )
    assert "planted" not in repr(targets_of([deployment(api_key="planted")]))


def test_environments() -> None:
    """Keys go by the pipe and never stand in the process's own block; LiteLLM's switches go nowhere."""
    environment = {
        "PATH": "/bin", "OPENAI_API_KEY": "k", "HTTPS_PROXY": "http://u:p@h", "LITELLM_DROP_PARAMS": "1",
        "LITELLM_PROXY_API_KEY": "p", "LITELLM_LOG": "DEBUG", "PYTHONSTARTUP": "x", "EXO_HOME": "h", "DEBUG": "2",
    }  # fmt: skip
    assert process_environment(environment) == {"PATH": "/bin"}
    assert set(provider_environment(environment)) == {"OPENAI_API_KEY", "HTTPS_PROXY", "LITELLM_PROXY_API_KEY"}
