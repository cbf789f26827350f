"""The file by which commands find a node."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from exo_node.run_file import RunFile


def test_it_is_there_while_the_node_is(tmp_path: Path) -> None:
    """It says how to reach the node, and is gone after it; twice gone is no error."""
    file = RunFile(tmp_path)
    file.write(node_id="a", api_url="http://127.0.0.1:1", certificate=None)
    (path,) = (tmp_path / "run").iterdir()
    told = json.loads(path.read_bytes())
    assert (told["pid"], told["node_id"], told["api_url"]) == (os.getpid(), "a", "http://127.0.0.1:1")
    assert "certificate" not in told
    file.remove()
    file.remove()
    assert not path.exists()


def test_without_room_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A node that cannot write it serves all the same."""
    (tmp_path / "run").write_text("no folder")
    RunFile(tmp_path).write(node_id="a", api_url="http://127.0.0.1:1", certificate=None)
    assert "commands will not find this node" in caplog.text
