"""Files that are replaced whole."""

from __future__ import annotations

import random
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


def test_a_kill_leaves_a_whole_file(tmp_path: Path) -> None:
    """Whoever is killed while it writes leaves the file as it was or as it was to be, and never without one."""
    path = tmp_path / "f"
    code = (
        "import itertools, pathlib, sys\n"
        "from exo_node.whole_file import replace_file\n"
        "for n in itertools.count():\n"
        "    replace_file(pathlib.Path(sys.argv[1]), bytes([n % 256]) * 300_000)\n"
        "    print(n, flush=True)\n"
    )
    chosen = random.Random(20261121)
    for _ in range(4):
        child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        for _ in range(chosen.randrange(1, 6)):
            child.stdout.readline()
        child.kill()
        said = [int(line) for line in child.stdout.read().split(b"\n")[:-1]]
        child.wait()
        child.stdout.close()
        data = path.read_bytes()
        assert data == data[:1] * 300_000
        assert not said or data[0] in (said[-1] % 256, (said[-1] + 1) % 256)
