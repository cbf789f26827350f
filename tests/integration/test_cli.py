"""The command against a real node: `exo run` starts one for the call and leaves nothing behind."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from exo_node.cli.nodes import run_files

ROOT = Path(__file__).resolve().parents[2]
QUIET = ("--discovery-module", "none")


def exo(*arguments: str) -> subprocess.Popen[bytes]:
    line = [sys.executable, "-m", "exo_node", *arguments]
    pipe = subprocess.PIPE  # for standard input too: a chat would end at once at the end of an empty one
    return subprocess.Popen(line, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe)


@pytest.mark.engine_mlx
def test_run_starts_a_node_for_the_call(stories260k: Path, exo_home: Path) -> None:
    """With no node running, `exo run` answers in words and ends the node that it started."""
    options = ("--prompt", "Once upon a time", "--max-tokens", "12", "--temperature", "0", *QUIET)
    command = exo("run", "stories260K", "--models-dir", str(stories260k.parent), *options)
    out, err = command.communicate(timeout=120)
    assert (command.returncode, err) == (0, b"")
    assert len(out.split()) > 5
    assert list((exo_home / "run").iterdir()) == []


def test_an_unknown_model_is_one_line(exo_home: Path) -> None:
    """The node's words reach the person, and the exit status is 1."""
    command = exo("run", "no-such-model", "--prompt", "hi", "--offline", *QUIET)
    out, err = command.communicate(timeout=120)
    assert (command.returncode, out) == (1, b"")
    assert err.startswith(b"exo: ")
    assert err.count(b"\n") == 1
    assert b"no-such-model" in err


def test_a_killed_command_takes_its_node_with_it(exo_home: Path) -> None:
    """The node that a call started ends even when the command is killed without a chance to stop it."""
    command = exo("run", "demo", *QUIET)
    while not run_files(exo_home):
        assert command.poll() is None
        time.sleep(0.02)
    (node,) = run_files(exo_home)
    command.kill()
    command.communicate()
    while run_files(exo_home):
        time.sleep(0.02)
    host, _, port = node.api_url.removeprefix("http://").rpartition(":")
    with pytest.raises(ConnectionRefusedError):
        while True:  # it takes its file away first, and then stops listening
            socket.create_connection((host, int(port))).close()
            time.sleep(0.02)
