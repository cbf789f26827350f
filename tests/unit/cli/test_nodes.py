"""Finding a node, or starting one for a call."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from exo_node.cli.nodes import find_node, node_for_call, run_files, temporary_node
from exo_node.cli.parser import Parsed, Parser
from exo_node.cli.run import START_FLAGS
from exo_node.config import Settings
from exo_node.errors import ExoError, PeerUnavailable
from tests.unit.api.scripted import END, ScriptedBackend
from tests.unit.cli.conftest import StartNode, write_run_file


def parsed(*argv: str) -> Parsed:
    parser = Parser("exo status", "test")
    parser.add_node()
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


def test_the_host_that_was_said(start_node: StartNode) -> None:
    """--host alone means exo's port there, not a node of this machine."""
    start_node(ScriptedBackend([END]))
    with pytest.raises(PeerUnavailable, match=r"http://127.9.9.9:52415"):
        find("--host", "127.9.9.9")


def test_a_started_node_gets_the_same_flags(exo_home: Path) -> None:
    """Switches that are off, and repeated flags, reach the node that a call starts as they were said."""
    parser = Parser("exo run", "test")
    parser.add_node()
    parser.add_settings(START_FLAGS)
    line = parser.parse(["--no-prefix-cache", "--no-enable-litellm", "--peer=a:1", "--peer=b:2", "--models-dir", "/?"])
    with (
        pytest.raises(ExoError, match=r"did not start: --models-dir /\? is not a folder"),
        node_for_call(line, line.settings(), START_FLAGS),
    ):
        pass


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
