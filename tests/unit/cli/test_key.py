"""`exo key` and `exo join`."""

from __future__ import annotations

from pathlib import Path

import pytest

from exo_node.cli.main import dispatch
from exo_node.cluster.certificates import fingerprint
from exo_node.cluster.keys import ClusterKey
from tests.unit.cli.conftest import write_run_file


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
