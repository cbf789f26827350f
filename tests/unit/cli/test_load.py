"""`exo load` and `exo unload`."""

from __future__ import annotations

import io
import json

import pytest

from exo_node.cli.load import ProgressLine
from exo_node.cli.main import dispatch
from exo_node.errors import NoCapacity
from exo_node.types import ModelCard
from tests.unit.api.scripted import END, ScriptedBackend, ScriptedCluster
from tests.unit.cli.conftest import StartNode


def test_load(start_node: StartNode, capsys: pytest.CaptureFixture[str]) -> None:
    """The wishes reach the cluster, progress goes to standard error, the instance to standard output."""
    cluster = ScriptedCluster()
    cluster.progress = [{"stage": "fetching", "detail": "demo", "done": n, "total": 2**20} for n in (0, 2**19)]
    cluster.progress.append({"stage": "loading"})
    start_node(ScriptedBackend([END]), cluster)
    line = ["load", "demo", "--min-nodes", "2", "--node", "b", "--node", "a", "--engine", "mlx", "--engine", "tinygrad"]
    assert dispatch(line) == 0
    assert cluster.calls == [{"model": "demo", "min_nodes": 2, "nodes": ("b", "a"), "engines": ("mlx", "tinygrad")}]
    captured = capsys.readouterr()
    assert captured.err == "fetching demo   0% of 1.0 MiB\nloading\n"
    assert captured.out.startswith("demo  ready, context 512")
    assert dispatch(["load", "demo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == "inst-1"


def test_load_fails(start_node: StartNode, capsys: pytest.CaptureFixture[str]) -> None:
    """The cluster's reason is the error, also after progress."""
    cluster = ScriptedCluster()
    cluster.progress = [{"stage": "loading"}]
    cluster.error = NoCapacity("needs 9 GiB, 6 GiB are free")
    start_node(ScriptedBackend([END]), cluster)
    assert dispatch(["load", "demo"]) == 1
    assert capsys.readouterr().err == "loading\nexo: needs 9 GiB, 6 GiB are free\n"


def test_quantize(start_node: StartNode, capsys: pytest.CaptureFixture[str]) -> None:
    """The bits reach the cluster; others than 4 and 8 are refused here."""
    cluster = ScriptedCluster()
    start_node(ScriptedBackend([END]), cluster)
    assert dispatch(["load", "demo", "--quantize", "8"]) == 0
    assert cluster.calls[0]["quantize"] == 8
    capsys.readouterr()
    for bits in ("5", "", "four"):
        assert dispatch(["load", "demo", "--quantize", bits]) == 2
        assert capsys.readouterr().err == f"exo: --quantize: wants 4 or 8 (bits), got {bits!r}\n"


def test_spares(start_node: StartNode) -> None:
    """The wish reaches the cluster."""
    cluster = ScriptedCluster()
    start_node(ScriptedBackend([END]), cluster)
    assert dispatch(["load", "demo", "--spares"]) == 0
    assert cluster.calls[0]["spares"] is True


def test_draft_model(start_node: StartNode, capsys: pytest.CaptureFixture[str]) -> None:
    """Its name reaches the cluster; an empty one is refused here."""
    cluster = ScriptedCluster()
    start_node(ScriptedBackend([END]), cluster)
    assert dispatch(["load", "demo", "--draft-model", "small"]) == 0
    assert cluster.calls[0]["draft_model"] == "small"
    capsys.readouterr()
    assert dispatch(["load", "demo", "--draft-model", ""]) == 2
    assert capsys.readouterr().err == "exo: --draft-model: wants a model's name\n"


def test_unload(start_node: StartNode, capsys: pytest.CaptureFixture[str]) -> None:
    """By instance, or all of a model; what is not loaded is an error that lists what is."""
    cluster = ScriptedCluster()
    start_node(ScriptedBackend([END]), cluster)
    for _ in range(3):
        assert dispatch(["load", "demo"]) == 0
    assert dispatch(["unload", "inst-1"]) == 0
    assert [one["id"] for one in cluster.placed] == ["inst-0", "inst-2"]
    capsys.readouterr()
    assert dispatch(["unload", "nope"]) == 1
    assert capsys.readouterr().err == "exo: 'nope' is not loaded; there is: demo (inst-0), demo (inst-2)\n"
    assert dispatch(["unload", "demo"]) == 0
    assert cluster.placed == []


def test_unload_by_another_name(start_node: StartNode, capsys: pytest.CaptureFixture[str]) -> None:
    """A short name or a copy's, in any case, unloads the model that it stands for."""
    backend, cluster = ScriptedBackend([END]), ScriptedCluster()
    backend.cards = [ModelCard("org/Model", 0, "org", 512, True, aliases=("short",), copies=("Mine:1",))]
    start_node(backend, cluster)
    for name in ("short", "mine:1", "Mine:1"):
        assert dispatch(["load", "org/Model"]) == 0
        capsys.readouterr()
        assert dispatch(["unload", name]) == 0
        assert capsys.readouterr().out == "unloaded org/Model (inst-0)\n"
    assert cluster.placed == []


def test_progress_on_a_terminal() -> None:
    """A terminal sees one line that is written over, and taken away at the end."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    line = ProgressLine(out)
    line.show({"stage": "loading", "done": 1, "total": 2})
    line.show({"stage": "loading", "done": 2, "total": 2})
    line.end()
    assert out.getvalue() == "\r\x1b[Kloading  50% of 2 B\r\x1b[Kloading 100% of 2 B\r\x1b[K"
