"""The contracts of the cluster and of routing, and the fakes that stand in for them."""

from __future__ import annotations

import inspect

import pytest

from exo_node.api.ports import ClusterPort, RoutingPort
from tests.unit.api.scripted import ScriptedCluster
from tests.unit.api.scripted_routing import ScriptedRouting


@pytest.mark.parametrize(("contract", "fake"), [(ClusterPort, ScriptedCluster), (RoutingPort, ScriptedRouting)])
def test_the_fake_has_the_contracts_signatures(contract: type, fake: type) -> None:
    """What tests use in place of the daemon's parts has the same methods with the same parameters."""
    for name, method in inspect.getmembers(contract, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.signature(getattr(fake, name)) == inspect.signature(method), name
