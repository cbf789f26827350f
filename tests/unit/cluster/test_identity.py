"""Keys and node ids on disk."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from exo_node.cluster.identity import ClusterKey, KeyStore, NodeSlot, check_node_id
from exo_node.errors import ConfigurationError


def test_key_is_made_once(tmp_path: Path) -> None:
    """The first daemon makes the key, later ones find it; nobody else can read it."""
    store = KeyStore(tmp_path / "home")
    assert store.load() is None
    key = store.load_or_create()
    assert key == KeyStore(tmp_path / "home").load_or_create()
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700


def test_racing_daemons_share_one_key(tmp_path: Path) -> None:
    """Daemons that start at the same moment on a fresh machine end up with the same key."""
    code = "import sys;from pathlib import Path;from exo_node.cluster.identity import KeyStore;"
    code += "print(KeyStore(Path(sys.argv[1])).load_or_create().join_code)"
    command = [sys.executable, "-c", code, str(tmp_path / "home")]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert len({child.communicate()[0] for child in children}) == 1
    assert all(child.returncode == 0 for child in children)


def test_replace(tmp_path: Path) -> None:
    """Joining another cluster replaces the key and leaves no other file with a secret."""
    store = KeyStore(tmp_path)
    store.load_or_create()
    key = ClusterKey.generate()
    store.replace(key)
    assert key == store.load()
    assert {"key", "lock"} == {path.name for path in store.path.parent.iterdir()}


def test_untrustworthy_key_file(tmp_path: Path) -> None:
    """A key that others can read, or that is damaged, is refused with the file's name and what to do."""
    store = KeyStore(tmp_path)
    store.load_or_create()
    store.path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        store.load()
    store.path.chmod(0o600)
    store.path.write_text("not a key")
    with pytest.raises(ConfigurationError, match="damaged"):
        store.load()


def test_slots(tmp_path: Path) -> None:
    """The first daemon has the machine's first id, a second its own; both come back after a restart."""
    with NodeSlot(tmp_path) as first:
        with NodeSlot(tmp_path) as second:
            ids = (first.node_id, second.node_id)
            assert ids[0] != ids[1]
        with NodeSlot(tmp_path) as again:
            assert ids[1] == again.node_id
    with NodeSlot(tmp_path) as again:
        assert ids[0] == again.node_id


def test_explicit_id(tmp_path: Path) -> None:
    """An explicit id wins and can run once at a time."""
    with NodeSlot(tmp_path, "alpha") as slot:
        assert slot.node_id == "alpha"
        with pytest.raises(ConfigurationError, match="already runs"):
            NodeSlot(tmp_path, "alpha").acquire()
    with NodeSlot(tmp_path, "alpha"), NodeSlot(tmp_path) as other:
        assert other.node_id != "alpha"


@pytest.mark.parametrize("node_id", ["", "a b", "-a", "a.b", "ü", "x" * 43])
def test_bad_id(node_id: str) -> None:
    """An id that cannot be a network name is refused."""
    with pytest.raises(ConfigurationError, match="--node-id"):
        check_node_id(node_id)
