"""`exo audit`."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from exo_node.cli.main import dispatch

VALUE = "planted-0123456789"


def test_acts_of_the_command_line(
    exo_home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys made and revoked and secrets set are in the log, the newest first, without the key and the secret."""
    assert dispatch(["audit"]) == 0
    assert "nothing was changed" in capsys.readouterr().out
    assert dispatch(["apikey", "add", "--name", "ci", "--scope", "read"]) == 0
    key = capsys.readouterr().out.strip()
    monkeypatch.setattr("sys.stdin", io.StringIO(VALUE))
    assert dispatch(["secrets", "set", "openai"]) == 0
    assert dispatch(["apikey", "revoke", "ci"]) == 0
    assert dispatch(["apikey", "revoke", "ci"]) == 1  # nothing was done
    capsys.readouterr()
    assert dispatch(["audit", "--json"]) == 0
    out = capsys.readouterr().out
    rows = json.loads(out)["data"]
    assert [row["act"] for row in rows] == ["exo apikey revoke", "exo secrets set", "exo apikey add"]
    assert rows[1]["what"] == "openai" and rows[2]["what"].endswith("ci (read)")
    assert key not in out and VALUE not in out
    assert dispatch(["audit", "--limit", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize("words", [["--since", "never"], ["--limit", "0"], ["--limit", "x"]])
def test_mistakes(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong word is named."""
    assert dispatch(["audit", *words]) == 2
    assert words[0] in capsys.readouterr().err
