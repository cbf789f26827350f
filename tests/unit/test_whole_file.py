"""Files that are replaced whole."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from exo_node.whole_file import create_file, replace_file


def test_replaced_whole_with_its_mode(tmp_path: Path) -> None:
    """The new bytes are there with the mode that was asked for, and nothing else is in the folder."""
    path = tmp_path / "f"
    replace_file(path, b"one")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    replace_file(path, b"two", 0o644)
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_made_once(tmp_path: Path) -> None:
    """A file that is there stays, and the second maker hears of it."""
    path = tmp_path / "f"
    create_file(path, b"one")
    with pytest.raises(FileExistsError):
        create_file(path, b"two")
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_no_room_leaves_the_old_file(tmp_path: Path) -> None:
    """Where the bytes do not fit, the old file is as it was and no half of a new one is left."""
    path = tmp_path / "f"
    replace_file(path, b"old")
    code = (
        "import sys, pathlib, resource, signal\n"
        "from exo_node.whole_file import replace_file\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: replace_file(pathlib.Path(sys.argv[1]), bytes(5000))\n"
        "except OSError: sys.exit(7)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 7
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
