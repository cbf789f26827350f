"""`exo secrets`."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from exo_node.cli.main import dispatch
from exo_node.routing.configuration.secrets import SecretStore

PLANTED = "sk-planted-42"


def test_set_list_remove(exo_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A value comes from standard input or a variable, is kept encrypted, and is never printed."""
    monkeypatch.setattr("sys.stdin", io.StringIO(PLANTED + "\n"))
    assert dispatch(["secrets", "set", "azure_key"]) == 0
    monkeypatch.setenv("SOME_VARIABLE", PLANTED + "2")
    assert dispatch(["secrets", "set", "other", "--from-env", "SOME_VARIABLE"]) == 0
    capsys.readouterr()
    assert dispatch(["secrets", "list"]) == 0
    assert capsys.readouterr().out == "azure_key\nother\n"
    assert SecretStore(exo_home, {}).get("azure_key") == PLANTED
    assert dispatch(["secrets", "remove", "other"]) == 0
    assert SecretStore(exo_home, {}).names() == ["azure_key"]
    captured = capsys.readouterr()
    assert PLANTED not in captured.out + captured.err
    assert PLANTED not in "".join(path.read_text("latin-1") for path in exo_home.iterdir() if path.is_file())


def test_none(exo_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a secret the list is empty, and it is said how to keep one."""
    assert dispatch(["secrets", "list"]) == 0
    said = capsys.readouterr()
    assert said.out == "" and "exo secrets set NAME" in said.err


def test_import(exo_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The plain secrets of a file are encrypted where they stand."""
    path = tmp_path / "record.json"
    path.write_text(f'{{"system_name": "a", "secrets_encrypted": {{"k": "{PLANTED}"}}}}')
    assert dispatch(["secrets", "import", str(path)]) == 0
    assert dispatch(["secrets", "import", str(path)]) == 0
    assert PLANTED not in path.read_text()
    out = capsys.readouterr().out
    assert "1 secrets encrypted" in out and "nothing to encrypt" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["set"], "exo secrets set takes one NAME"),
        ([], "required: set|list|remove|import (see"),
        (["import", "a", "b"], "exo secrets import takes one FILE"),
        (["list", "a"], "exo secrets list takes no name"),
        (["set", "1x"], "'1x' is no name of a secret"),
        (["set", "x", "--from-env", "NOT_SET_ANYWHERE"], "the variable NOT_SET_ANYWHERE is not set"),
        (["remove", "x"], "no secret 'x'; there are: none"),
        (["list", "--from-env", "A"], "--from-env is for exo secrets set"),
        (["import", "/nowhere.json"], "/nowhere.json: no such file"),
        (["show", "x"], "invalid choice: 'show'"),
    ],
)
def test_mistakes(
    exo_home: Path,
    argv: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each mistake is one line and exit status 2."""
    monkeypatch.setattr("sys.stdin", io.StringIO("value"))
    assert dispatch(["secrets", *argv]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1


def test_every_mistake_of_a_file_has_its_line(
    exo_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error with several lines is printed as several lines, each with the program's name."""
    from exo_node.cli.main import _complain
    from exo_node.routing.configuration.located import FileProblems

    assert _complain(FileProblems(["f:1: a", "f:2: b"]), 2) == 2
    assert capsys.readouterr().err == "exo: f:1: a\nexo: f:2: b\n"
