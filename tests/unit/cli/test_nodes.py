"""Finding a node, or starting one for a call."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from exo_node.cli.nodes import find_node, run_files, temporary_node
from exo_node.cli.parser import CLIENT, Parsed, Parser
from exo_node.config import Settings
from exo_node.errors import ExoError, PeerUnavailable
from tests.unit.api.scripted import END, ScriptedBackend
from tests.unit.cli.conftest import StartNode, write_run_file


def parsed(*argv: str) -> Parsed:
    parser = Parser("exo status", "test")
    parser.add_settings(CLIENT)
    return parser.parse(argv)


def find(*argv: str) -> str | None:
    line = parsed(*argv)
    client = find_node(line, line.settings())
    if client is None:
        return None
    client.close()
    return client.url


def test_newest_living_first(start_node: StartNode, exo_home: Path) -> None:
    """Files of dead processes, broken files and ports where nobody listens are passed over."""
    assert find() is None
    url = start_node(ScriptedBackend([END]))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    write_run_file(exo_home, "http://127.0.0.1:2", started=5.0, pid=gone.pid)
    write_run_file(exo_home, "http://127.0.0.1:1", started=4.0)
    (exo_home / "run" / "half.json").write_text('{"pid": 1')
    assert [one.started for one in run_files(exo_home)] == [4.0, 1.0]
    assert find() == url


def test_the_port_that_was_said(start_node: StartNode) -> None:
    """--api-port means that node and no other."""
    url = start_node(ScriptedBackend([END]))
    assert find("--api-port", url.rpartition(":")[2]) == url
    with pytest.raises(PeerUnavailable, match=r"127.0.0.1:1"):
        find("--api-port", "1")


def test_a_node_that_does_not_start_says_why(exo_home: Path) -> None:
    """The last words of the child are the error, and nothing of it is left behind."""
    with (
        pytest.raises(ExoError, match=r"did not start: --host 0.0.0.0 would let"),
        temporary_node(Settings(home=exo_home), ["--host=0.0.0.0"]),
    ):
        pass
    assert list((exo_home / "run").iterdir()) == []


def test_debug_shows_what_the_started_node_says(exo_home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """DEBUG=n, like -v, lets the child's log through to the terminal."""
    with (
        pytest.raises(ExoError, match=r"did not start"),
        temporary_node(Settings(home=exo_home, debug=2), ["--host=0.0.0.0"]),
    ):
        pass
    assert "would let anyone" in capfd.readouterr().err
