"""`exo key` and `exo join`."""

from __future__ import annotations

from pathlib import Path

import pytest

from exo_node.cli.main import dispatch
from exo_node.cluster.certificates import fingerprint
from exo_node.cluster.keys import ClusterKey
from tests.unit.api.scripted import ScriptedBackend, ScriptedCluster
from tests.unit.cli.conftest import StartNode, write_run_file


def test_a_code_carries_the_key_to_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `exo key` shows on one machine makes `exo key` show the same on another, dashes or not."""
    assert dispatch(["key"]) == 0
    code = capsys.readouterr().out.strip()
    assert dispatch(["key"]) == 0
    assert capsys.readouterr().out.strip() == code
    other = tmp_path / "other"
    monkeypatch.setenv("EXO_HOME", str(other))
    write_run_file(other, "http://127.0.0.1:1")
    assert dispatch(["join", *code.lower().split("-")]) == 0
    captured = capsys.readouterr()
    assert fingerprint(ClusterKey.from_join_code(code))[:8] in captured.out
    assert "restart the node node-a" in captured.err
    assert dispatch(["key"]) == 0
    assert capsys.readouterr().out.strip() == code


def test_key_of_a_phrase(capsys: pytest.CaptureFixture[str]) -> None:
    """With a phrase configured, the code is that phrase's; a guessable phrase is refused."""
    phrase = "gibus tolaf vodir kanub pesil mozat dirok lafun"
    assert dispatch(["key", "--cluster-key", phrase]) == 0
    assert capsys.readouterr().out.strip() == ClusterKey.from_phrase(phrase).join_code
    assert dispatch(["key", "--cluster-key", "secret"]) == 2


def test_rotate(start_node: StartNode, capsys: pytest.CaptureFixture[str]) -> None:
    """The running node is asked, with what was said and nothing else; what people have to do is told."""
    cluster = ScriptedCluster()
    start_node(ScriptedBackend([]), cluster)
    assert dispatch(["key", "rotate"]) == 0
    captured = capsys.readouterr()
    assert "the cluster's key is ffffffff now, on node-a" in captured.out
    assert "the old key ends in 30 s" in captured.err
    assert dispatch(["key", "rotate", "--without", "eve", "--patience", "5", "--cluster-key", "x"]) == 0
    assert cluster.calls == [
        {"phrase": None, "without": (), "patience_s": 30.0},
        {"phrase": "x", "without": ("eve",), "patience_s": 5.0},
    ]
    cluster.rotated |= {"configured": ["bob"], "failed": {"joe": "it is away"}}
    assert dispatch(["key", "rotate"]) == 1
    told = capsys.readouterr().err
    assert "node bob has a --cluster-key of its own" in told
    assert "node joe must be joined anew (exo join CODE): it is away" in told


def test_rotate_where_it_cannot(capsys: pytest.CaptureFixture[str]) -> None:
    """No node runs here, a patience that is none, flags without their action."""
    assert dispatch(["key", "rotate"]) == 1
    assert "no node is running here" in capsys.readouterr().err
    assert dispatch(["key", "rotate", "--patience", "soon"]) == 2
    assert dispatch(["key", "--without", "eve"]) == 2
    assert "belongs to exo key rotate" in capsys.readouterr().err
