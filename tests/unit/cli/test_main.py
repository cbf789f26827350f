"""Choice of the verb, and failures as one line and an exit status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from exo_node import __version__
from exo_node.cli.main import VERBS, dispatch

ROOT = Path(__file__).resolve().parents[3]


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--help lists every verb, --version says the version."""
    assert dispatch(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"exo {verb}" in out for verb in VERBS)
    assert dispatch(["--version"]) == 0
    assert capsys.readouterr().out == f"exo-node {__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """exo VERB --help, or exo help VERB, explains the verb's arguments."""
    for argv in ([verb, "--help"], ["help", verb]):
        with pytest.raises(SystemExit) as caught:
            dispatch(argv)
        assert caught.value.code == 0
        assert f"exo {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        (["bogus"], 2, "no verb 'bogus'; there are: serve, run"),
        (["train"], 2, "training is not part"),
        (["--listen-port", "5678"], 2, "--listen-port does nothing here"),
        (["--host", "0.0.0.0"], 2, "--api-key"),
        (["status", "extra"], 2, "see exo status --help"),
        (["run"], 2, "MODEL"),
        (["run", "demo", "--temperature", "9"], 2, "--temperature: wants a number from 0 to 2, got '9'"),
        (["load", "demo", "--min-nodes", "0"], 1, "no node is running"),
        (["status"], 1, "no node is running"),
        (["-v", "status"], 1, "no node is running"),
        (["ps", "--api-port", "1"], 1, "no node answers at http://127.0.0.1:1"),
        (["join", "not-a-code"], 2, "join code"),
    ],
)
def test_failures(argv: list[str], status: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each failure is one line on standard error; 2 for wrong arguments, 1 for the rest."""
    assert dispatch(argv) == status
    said = capsys.readouterr().err
    assert said.startswith("exo: ")
    assert said.count("\n") == 1
    assert words in said


def test_client_verbs_import_little() -> None:
    """A verb that talks to a node starts fast: no aiohttp, no asyncio, no grpc, no numpy."""
    code = (
        "import sys; from exo_node.__main__ import main; from exo_node.cli import load, models, run, status\n"
        "print(*sorted({'aiohttp', 'asyncio', 'grpc', 'numpy', 'exo_node.daemon'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_closed_pipe_is_no_error(exo_home: Path) -> None:
    """`exo --help | head -0` ends quietly."""
    command = f"{sys.executable} -m exo_node --help | true"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
