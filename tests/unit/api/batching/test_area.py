"""The folder of files' bytes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from exo_node.api.batching.area import ABANDONED_S, DiskError, FileArea


def test_a_file_arrives_whole_or_not_at_all(tmp_path: Path) -> None:
    """What is kept is there under its name, for this user only; what is not leaves nothing."""
    area = FileArea(tmp_path / "files")
    with area.receive("a") as arriving:
        arriving.write(b"one\n")
        arriving.write(b"two")
        arriving.keep()
    assert arriving.size == 7
    assert list(area.lines("a")) == [b"one", b"two"]
    assert area.path("a").stat().st_mode & 0o777 == 0o600
    assert area.path("a").parent.stat().st_mode & 0o777 == 0o700
    with pytest.raises(RuntimeError), area.receive("b") as arriving:
        arriving.write(b"half")
        raise RuntimeError
    assert [path.name for path in (tmp_path / "files").iterdir()] == ["a"]
    area.remove("a")
    area.remove("a")
    assert area.size("a") == 0
    assert list(area.lines("a")) == []


@pytest.mark.parametrize(
    ("there", "kept"),
    [(b"", b""), (b"half", b""), (b"a\n", b"a\n"), (b"a\nb\nhal", b"a\nb\n"), (b"a\n" + b"x" * 2_000_000, b"a\n")],
)
def test_mend(tmp_path: Path, there: bytes, kept: bytes) -> None:
    """Half a line at the end is cut off, however long it is."""
    area = FileArea(tmp_path)
    area.path("a").write_bytes(there)
    area.mend("a")
    assert area.path("a").read_bytes() == kept
    area.mend("missing")


def test_append(tmp_path: Path) -> None:
    """Lines are added to what is there."""
    area = FileArea(tmp_path / "files")
    area.append("a", b"one\n")
    area.append("a", b"two\n")
    assert area.path("a").read_bytes() == b"one\ntwo\n"


def test_one_claim_at_a_time(tmp_path: Path) -> None:
    """A claimed batch is another's when it is released; the lock's file goes with it."""
    area = FileArea(tmp_path / "files")
    claim = area.claim("b")
    assert claim is not None
    assert area.claim("b") is None
    claim.release()
    again = area.claim("b")
    assert again is not None
    again.release()
    assert list((tmp_path / "files").iterdir()) == []


def test_abandoned_uploads_go(tmp_path: Path) -> None:
    """Parts of a killed node's uploads are dropped after a day."""
    area = FileArea(tmp_path)
    for name, age in (("old.part", ABANDONED_S + 60), ("new.part", 0.0), ("file", ABANDONED_S + 60)):
        (tmp_path / name).write_bytes(b"x")
        at = (tmp_path / name).stat().st_mtime - age
        os.utime(tmp_path / name, (at, at))
    area.sweep()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "new.part"]


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    """Trouble with the disk is said as such."""
    (tmp_path / "files").write_bytes(b"not a folder")
    with pytest.raises(DiskError) as caught:
        FileArea(tmp_path / "files").append("a", b"x")
    assert caught.value.status == 507
