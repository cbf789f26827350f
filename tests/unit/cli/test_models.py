"""`exo list`."""

from __future__ import annotations

import json

import pytest

from exo_node.cli.main import dispatch
from tests.unit.api.scripted import END, ScriptedBackend
from tests.unit.cli.conftest import StartNode


def test_list(start_node: StartNode, capsys: pytest.CaptureFixture[str]) -> None:
    """One line a model; --json has what the API says."""
    start_node(ScriptedBackend([END]))
    assert dispatch(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["MODEL", "CONTEXT", "STATE", "FROM", "ALSO"],
        ["demo", "512", "loaded", "exo", "exo-demo"],
        ["org/name", "?", "hub"],
    ]
    assert dispatch(["ls", "--json"]) == 0
    assert [model["id"] for model in json.loads(capsys.readouterr().out)] == ["demo", "org/name"]
