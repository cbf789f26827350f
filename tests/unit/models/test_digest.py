"""The digest names a model's content: what changes its numbers or ids changes it, how it is stored does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from exo_node.errors import CheckpointError
from exo_node.models import digest as digest_module
from exo_node.models.digest import compute_digest
from exo_node.models.spec import read_spec
from tests.tiny_models import CONFIG, write_model


def digest(folder: Path, cache: Path) -> str:
    return compute_digest(read_spec(folder, "m"), cache)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "home" / "digests.json"


def test_same_content_however_stored(tmp_path: Path, cache: Path) -> None:
    """One file, three files, a wrapper's prefix, another folder, 10000 for 10000.0: one digest."""
    one = digest(write_model(tmp_path / "a"), cache)
    assert digest(write_model(tmp_path / "b", files=3), cache) == one
    assert digest(write_model(tmp_path / "c", config={**CONFIG, "rope_theta": 10000}), cache) == one
    assert digest(write_model(tmp_path / "d", config={**CONFIG, "transformers_version": "5.0"}), cache) == one
    assert digest(write_model(tmp_path / "e", config={**CONFIG, "rope_parameters": {"rope_theta": 1e4}}), cache) == one


@pytest.mark.parametrize(
    "change", [{"rope_theta": 10001.0}, {"rms_norm_eps": 1e-5}, {"head_dim": 4, "hidden_act": "gelu"}]
)
def test_another_meaning_is_another_digest(change: dict[str, Any], tmp_path: Path, cache: Path) -> None:
    """A config field that changes numbers changes the digest."""
    assert digest(write_model(tmp_path / "b", config={**CONFIG, **change}), cache) != digest(
        write_model(tmp_path / "a"), cache
    )


def test_one_byte_of_weights_or_tokenizer(tmp_path: Path, cache: Path) -> None:
    """One changed byte in a tensor or in tokenizer.json changes the digest, also when size and mtime stay."""
    folder = write_model(tmp_path / "a")
    path = folder / "model.safetensors"
    before = digest(folder, cache)
    stat = path.stat()
    with path.open("r+b") as handle:
        handle.seek(-1, 2)
        last = handle.read(1)
        handle.seek(-1, 2)
        handle.write(bytes([last[0] ^ 1]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    changed = digest(folder, cache)
    assert changed != before
    (folder / "tokenizer.json").write_text("{ }")
    assert digest(folder, cache) not in (before, changed)


def test_remembers_files_that_did_not_change(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time nothing is read but headers; a change is seen at once; a broken cache file only costs time."""
    folder = write_model(tmp_path / "a", files=2)
    monkeypatch.setattr(digest_module, "_RACY_NS", -(10**18))  # remember files that were written just now
    before = digest(folder, cache)
    assert len(json.loads(cache.read_text())) == 3
    with monkeypatch.context() as patched:
        patched.setattr(digest_module, "_hash_tensors", lambda path: pytest.fail(f"{path} was read again"))
        assert digest(folder, cache) == before
    cache.write_text("{broken")
    assert digest(folder, cache) == before
    (folder / "tokenizer.json").write_text('{"version": "2"}')
    assert digest(folder, cache) != before


def test_young_files_are_not_remembered(tmp_path: Path, cache: Path) -> None:
    """A file that was written a moment ago could change within one tick of its time: it is hashed again next time."""
    folder = write_model(tmp_path / "a")
    os.utime(folder / "model.safetensors", ns=(time.time_ns(), time.time_ns()))
    digest(folder, cache)
    assert not cache.exists() or "model.safetensors" not in cache.read_text()


def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    """A cache path that is a folder is no reason to fail."""
    folder = write_model(tmp_path / "a")
    (tmp_path / "taken").mkdir()
    assert digest(folder, tmp_path / "taken") == digest(folder, tmp_path / "taken")


def test_several_processes_share_the_cache(tmp_path: Path, cache: Path) -> None:
    """Four processes that hash different models into one cache file lose none of each other's entries."""
    code = (
        "import sys; from pathlib import Path; from exo_node.models import digest, spec;"
        "digest._RACY_NS = -10**18;"
        "print(digest.compute_digest(spec.read_spec(Path(sys.argv[1]), 'm'), Path(sys.argv[2])))"
    )
    folders = [write_model(tmp_path / f"m{i}", seed=i) for i in range(4)]
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(folder), str(cache)], stdout=subprocess.PIPE, text=True)
        for folder in folders
    ]
    digests = {process.communicate()[0].strip() for process in running}
    assert len(digests) == 4
    assert len(json.loads(cache.read_text())) == 8
    assert [p.name for p in cache.parent.iterdir() if p.name.startswith(".digests-")] == []


def test_missing_file(tmp_path: Path, cache: Path) -> None:
    """A tokenizer that went away meanwhile is an error that names it."""
    folder = write_model(tmp_path / "a")
    spec = read_spec(folder, "m")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        compute_digest(spec, cache)
