"""`exo list`."""

from __future__ import annotations

import json

import pytest

from exo_node.cli.main import dispatch
from tests.unit.api.scripted import END, ScriptedBackend
from tests.unit.api.scripted_routing import ScriptedRouting
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


def test_models_of_own_servers(start_node: StartNode, capsys: pytest.CaptureFixture[str]) -> None:
    """What only the server itself knows is listed too; one that lists nothing is named."""
    routing = ScriptedRouting()
    routing.rows = [{"id": "openai/gpt-4o", "owned_by": "openai"}, {"id": "ollama/qwen3", "owned_by": "ollama"}]
    routing.servers = ["ollama", "vllm"]
    start_node(ScriptedBackend([END]), routing=routing)
    assert dispatch(["list"]) == 0
    told = capsys.readouterr()
    assert [line.split()[0] for line in told.out.splitlines()[3:]] == ["openai/gpt-4o", "ollama/qwen3"]
    assert told.err == "exo: vllm lists no models: does it run?\n"
