"""ring/library.py: what travels of a model between nodes, and what a node keeps."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

import exo_node.models
from exo_node.errors import ExoError, ModelNotFound
from exo_node.models.catalog import Catalog
from exo_node.models.download import ShardDownloader
from exo_node.models.pooling import POOLING, read_pooling
from exo_node.ring.library import (
    ModelLibrary,
    spec_from_json,
    spec_to_json,
    store_tokenizer_files,
    tokenizer_files,
)
from tests.checkpoints import make_checkpoint

DEMO = Path(exo_node.models.__file__).parent / "demo"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    made = make_checkpoint("llama", root)
    for name in ("tokenizer.json",):
        if not (made / name).exists():
            (made / name).write_text('{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}')
    return made.parent


def library(models: Path, home: Path) -> ModelLibrary:
    return ModelLibrary(Catalog([models], home, True), ShardDownloader(offline=True), cache=home / "cache")


def a_model(models: Path) -> str:
    return next(path.parent.name for path in models.glob("*/config.json"))


async def test_spec_has_a_digest_and_survives_the_wire(models: Path, tmp_path: Path) -> None:
    """A spec sent to another node is the same but for the path, which means nothing there."""
    spec = await library(models, tmp_path).spec(a_model(models))
    assert len(spec.digest) == 64
    sent = spec_from_json(spec_to_json(spec))
    assert sent.path == ""
    assert (sent.digest, sent.layer_bytes, sent.config) == (spec.digest, spec.layer_bytes, spec.config)


async def test_a_quantized_model_has_an_identity_of_its_own(models: Path, tmp_path: Path) -> None:
    """`--quantize` gives other sizes and another digest, and leaves what is known of the files alone."""
    one = library(models, tmp_path)
    name = a_model(models)
    plain, four, eight = [await one.spec(name, quantize=bits) for bits in (0, 4, 8)]
    assert len({plain.digest, four.digest, eight.digest}) == 3
    assert plain.total_bytes > eight.total_bytes > four.total_bytes
    assert spec_from_json(spec_to_json(four)).layer_packed == four.layer_packed
    assert (await one.describe(name, fetch=False, quantize=4)).spec == four
    assert (await one.describe(name, fetch=False, quantize=5)).code == "unsupported_model"
    assert (await one.spec(name)) is plain


async def test_changed_files_are_seen_without_a_restart(models: Path, tmp_path: Path) -> None:
    """The digest follows the files: a changed tokenizer gives another one."""
    one = library(models, tmp_path)
    name = a_model(models)
    before = await one.spec(name)
    assert (await one.spec(name)) is before
    tokenizer = models / name / "tokenizer.json"
    text = tokenizer.read_text()
    try:
        tokenizer.write_text(text + "\n ")
        assert (await one.spec(name)).digest != before.digest
    finally:
        tokenizer.write_text(text)


async def test_describe_tells_unknown_and_offline(models: Path, tmp_path: Path) -> None:
    """A name that leads nowhere is unknown, with the reason; nothing is fetched unasked."""
    one = library(models, tmp_path)
    found = await one.describe("no-such-model", fetch=False)
    assert found.availability == "unknown"
    assert "no-such-model" in found.detail
    with pytest.raises(ModelNotFound):
        await one.spec("no-such-model")
    remote = await one.describe("somebody/something", fetch=True)
    assert remote.availability == "unknown"
    assert "offline" in remote.detail


async def test_two_requests_share_one_read(models: Path, tmp_path: Path) -> None:
    """Concurrent questions for one model are answered by one reading."""
    one = library(models, tmp_path)
    first, second = await asyncio.gather(one.spec(a_model(models)), one.spec(a_model(models)))
    assert first is second


async def test_models_of_the_same_weights_have_their_own_tokenizers(tmp_path: Path) -> None:
    """Copies to the second, one with a pooling of its own: each gets its own, also once it is only kept."""
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        shutil.copytree(DEMO, folder)
    (folders[1] / POOLING).parent.mkdir()
    (folders[1] / POOLING).write_text('{"pooling_mode_lasttoken": true}')
    one = library(tmp_path, tmp_path / "home")
    first, second = [await one.tokenizer(folder.name, "d", folder) for folder in folders]
    assert (first.pooling.mode, second.pooling.mode) == (None, "last")
    assert await one.tokenizer("first", "d", folders[0]) is first
    assert (one.kept_tokenizer("first", "d"), one.kept_tokenizer("second", "d")) == (first, second)
    assert one.kept_tokenizer("first", "e") is None
    (folders[1] / POOLING).write_text('{"pooling_mode_mean_tokens": true}')
    assert (await one.tokenizer("second", "d", folders[1])).pooling.mode == "mean"


def test_peers_files_are_kept_by_content(tmp_path: Path) -> None:
    """Another template is another folder; the same files are the same."""
    one = library(tmp_path, tmp_path / "home")
    folders = [one.tokenizer_cache(files) for files in ({"a": b"1", "b": b""}, {"b": b"", "a": b"1"}, {"a": b"2"})]
    assert folders[0] == folders[1] != folders[2]


def test_a_peer_picks_no_paths(models: Path, tmp_path: Path) -> None:
    """Only known tokenizer files are written, whatever names a peer sends."""
    folder = tmp_path / "tokenizers" / "d"
    files = tokenizer_files(models / a_model(models))
    assert "config.json" in files
    store_tokenizer_files(folder, {**files, "../../evil": b"x", "model.safetensors": b"x"})
    assert sorted(path.name for path in folder.iterdir()) == sorted(files)
    store_tokenizer_files(folder, files)  # again: kept
    pooled = tmp_path / "tokenizers" / "e"
    store_tokenizer_files(pooled, {**files, POOLING: b'{"pooling_mode_lasttoken": true}'})
    assert read_pooling(pooled).mode == "last"
    assert not (tmp_path / "evil").exists()


def test_a_disk_that_takes_no_tokenizer(tmp_path: Path) -> None:
    """Where a peer's files cannot be written that is said, as a 507 that names the folder."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ExoError, match="cannot be kept") as caught:
        store_tokenizer_files(tmp_path / "file" / "d", {"tokenizer.json": b"{}"})
    assert (caught.value.status, caught.value.code) == (507, "storage_failed")
