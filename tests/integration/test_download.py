"""Fetching models with the real huggingface_hub client from a stand-in hub over real HTTP."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from exo_node.errors import DownloadError, ModelNotFound
from exo_node.models.catalog import Catalog, LocalModel, RemoteModel
from exo_node.models.download import DownloadProgress, ShardDownloader
from tests.standin_hub import Hub, serve

pytest.importorskip("huggingface_hub")
REPO = "org/tiny"
WEIGHTS = os.urandom(3 << 20)
FILES = {
    "config.json": b'{"model_type": "llama", "max_position_embeddings": 64}',
    "generation_config.json": b"{}",
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"x",
    "model-00001-of-00002.safetensors": WEIGHTS[: 1 << 20],
    "model-00002-of-00002.safetensors": WEIGHTS[1 << 20 :],
    "model.safetensors.index.json": b'{"weight_map": {"a": "model-00001-of-00002.safetensors",'
    b' "b": "model-00002-of-00002.safetensors"}}',
    "consolidated.safetensors": b"c" * 100,
    "pytorch_model.bin": b"b" * 100,
    "model.gguf": b"g" * 100,
    "original/params.json": b"{}",
    "README.md": b"# tiny",
}
UNWANTED = {"consolidated.safetensors", "pytorch_model.bin", "model.gguf", "params.json", "README.md"}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve(Hub({REPO: dict(FILES), "org/gated": dict(FILES), "org/gguf": {"model.gguf": b"g"}})) as running:
        running.gated = frozenset({"org/gated"})
        yield running


def downloader(hub: Hub, home: Path, **environment: str) -> ShardDownloader:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    return ShardDownloader(hf_home=home, environment={**clean, "HF_ENDPOINT": hub.url, **environment})


async def test_fetches_only_what_a_model_needs(hub: Hub, tmp_path: Path) -> None:
    """Config, tokenizer, template and indexed weights come, nothing else; progress ends at the whole."""
    seen: list[DownloadProgress] = []
    path = await downloader(hub, tmp_path).fetch(REPO, seen.append)
    assert {p.name for p in path.iterdir()} == {name for name in FILES if "/" not in name} - UNWANTED
    assert (path / "model-00002-of-00002.safetensors").read_bytes() == WEIGHTS[1 << 20 :]
    assert not hub.fetched() & UNWANTED
    assert seen[-1].done == seen[-1].total == sum(len(FILES[p.name]) for p in path.iterdir())
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    catalog = Catalog([], tmp_path, offline=True, hf_home=tmp_path)
    assert catalog.resolve(REPO) == LocalModel(path, REPO)
    assert catalog.resolve(REPO.upper()) == LocalModel(path, REPO)


async def test_broken_connection_is_resumed(hub: Hub, tmp_path: Path) -> None:
    """A connection that breaks in the middle of the weights goes on from there with a Range request."""
    name = "model-00002-of-00002.safetensors"
    hub.repos[REPO][name] = large = WEIGHTS * 5  # the client hands on what it received in pieces of 10 MiB
    hub.cut[name] = 11 << 20
    path = await downloader(hub, tmp_path).fetch(REPO, lambda _: None)
    assert (path / name).read_bytes() == large
    assert ("GET", f"/cdn/{REPO}/{name}", f"bytes={10 << 20}-") in hub.log


async def test_wrong_bytes_are_refused_and_not_kept(hub: Hub, tmp_path: Path) -> None:
    """A file whose sha256 is not the promised one is an error and is fetched anew the next time."""
    hub.corrupt = frozenset({"model-00001-of-00002.safetensors"})
    with pytest.raises(DownloadError, match="other bytes"):
        await downloader(hub, tmp_path).fetch(REPO, lambda _: None)
    hub.corrupt = frozenset()
    path = await downloader(hub, tmp_path).fetch(REPO, lambda _: None)
    assert (path / "model-00001-of-00002.safetensors").read_bytes() == WEIGHTS[: 1 << 20]


async def test_gated_repository_wants_a_token(hub: Hub, tmp_path: Path) -> None:
    """401 of a gated repository says to set HF_TOKEN; with the token it comes."""
    with pytest.raises(DownloadError, match="HF_TOKEN") as caught:
        await downloader(hub, tmp_path).fetch("org/gated", lambda _: None)
    assert not caught.value.retryable
    path = await downloader(hub, tmp_path, HF_TOKEN=hub.token).fetch("org/gated", lambda _: None)
    assert (path / "config.json").is_file()


async def test_missing_and_unusable_repositories(hub: Hub, tmp_path: Path) -> None:
    """No such repository is ModelNotFound (404); one without safetensors is refused before its files are fetched."""
    with pytest.raises(ModelNotFound, match="org/none"):
        await downloader(hub, tmp_path).fetch("org/none", lambda _: None)
    with pytest.raises(DownloadError, match=r"config\.json"):
        await downloader(hub, tmp_path).fetch("org/gguf", lambda _: None)
    assert not hub.fetched()


async def test_offline_asks_nobody(hub: Hub, tmp_path: Path) -> None:
    """--offline is a clear error without a process; HF_HUB_OFFLINE and a dead hub are clear errors too."""
    with pytest.raises(DownloadError, match="--offline"):
        await ShardDownloader(offline=True).fetch(REPO, lambda _: None)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE"):
        await downloader(hub, tmp_path, HF_HUB_OFFLINE="1").fetch(REPO, lambda _: None)
    assert not hub.log
    dead = downloader(hub, tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"from 127\.0\.0\.1 failed .* try again") as caught:
        await dead.fetch(REPO, lambda _: None)
    assert caught.value.retryable


async def test_two_at_once_fetch_once(hub: Hub, tmp_path: Path) -> None:
    """Two calls for one repository give the same folder and fetch its weights once."""
    both = downloader(hub, tmp_path)
    first, second = await asyncio.gather(both.fetch(REPO, lambda _: None), both.fetch(REPO, lambda _: None))
    assert first == second
    cdn = [path for method, path, _ in hub.log if method == "GET" and path.startswith("/cdn/")]
    assert len(cdn) == len(set(cdn)) == 2


async def test_cancelled_fetch_ends_its_process(hub: Hub, tmp_path: Path) -> None:
    """Cancelling stops the fetch, and a later call completes it."""
    again = downloader(hub, tmp_path)
    begun = asyncio.Event()
    task = asyncio.create_task(again.fetch(REPO, lambda _: begun.set()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await again.fetch(REPO, lambda _: None) / "config.json").is_file()


def test_catalog_leaves_out_an_unfinished_download(tmp_path: Path) -> None:
    """A cached snapshot that lacks a weights file is not a model on this machine yet."""
    snapshot = tmp_path / "hub" / "models--org--tiny" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for name in FILES:
        if "/" not in name and "00002-of" not in name:
            (snapshot / name).write_bytes(FILES[name])
    catalog = Catalog([], tmp_path, offline=False, hf_home=tmp_path)
    assert catalog.resolve(REPO) == RemoteModel(REPO)
    (snapshot / "model-00002-of-00002.safetensors").write_bytes(b"x")
    assert catalog.resolve(REPO) == LocalModel(snapshot, REPO)
