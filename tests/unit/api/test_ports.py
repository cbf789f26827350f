"""The contract of the cluster, and the fake that stands in for it."""

from __future__ import annotations

import inspect

from exo_node.api.ports import ClusterPort
from tests.unit.api.scripted import ScriptedCluster


def test_the_fake_has_the_contracts_signatures() -> None:
    """What tests use in place of the daemon's cluster has the same methods with the same parameters."""
    for name, method in inspect.getmembers(ClusterPort, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.signature(getattr(ScriptedCluster, name)) == inspect.signature(method), name
