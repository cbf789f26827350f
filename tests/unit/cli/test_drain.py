"""`exo drain`."""

from __future__ import annotations

import pytest

from exo_node.cli.main import dispatch
from tests.unit.api.scripted import END, ScriptedBackend, ScriptedCluster
from tests.unit.cli.conftest import StartNode


def test_drain_and_undo(start_node: StartNode, capsys: pytest.CaptureFixture[str]) -> None:
    """What has left is counted; what could not is an error with its reasons."""
    cluster = ScriptedCluster()
    start_node(ScriptedBackend([END]), cluster)
    assert dispatch(["drain", "node-b"]) == 0
    assert capsys.readouterr().out == "node-b takes no more shards; 1 instance(s) have left it\n"
    assert dispatch(["drain", "node-b", "--undo"]) == 0
    assert capsys.readouterr().out == "node-b takes shards again\n"
    assert cluster.drained == [("node-b", False), ("node-b", True)]
    cluster.stuck = {"inst-2": "no room"}
    assert dispatch(["drain", "node-b"]) == 1
    assert capsys.readouterr().err == "exo: 1 could not leave and run there still: inst-2: no room\n"
