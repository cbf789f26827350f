"""Single tensors through a mapping; shards share out a model's tensors without gap or overlap."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_node.errors import CheckpointError
from exo_node.models.spec import read_spec
from exo_node.models.weights import Checkpoint, ShardSource
from exo_node.types import Shard
from tests.tiny_models import CONFIG, tensors_of, write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("weights") / "m", files=3)


@pytest.mark.parametrize("files", [1, 3])
def test_bytes_are_the_files_bytes(files: int, tmp_path: Path) -> None:
    """Each tensor read, released and read again is what was written."""
    checkpoint = Checkpoint(write_model(tmp_path / "m", files=files))
    written = tensors_of(CONFIG)
    assert set(checkpoint.names()) == set(written)
    for name, (dtype, shape, data) in written.items():
        info = checkpoint.info(name)
        assert (info.dtype, info.shape, info.nbytes) == (dtype, shape, len(data))
        view = checkpoint.read(name)
        assert view.readonly
        assert bytes(view) == data
        checkpoint.release(name)
        assert bytes(view) == data
        assert bytes(checkpoint.read(name)) == data


@given(cuts=st.sets(st.integers(0, 4)), head=st.booleans())
def test_any_split_covers_every_tensor_once(folder: Path, cuts: set[int], head: bool) -> None:
    """However the layers are cut, also with a head of no layers, each tensor is in one shard; bytes add up."""
    spec = read_spec(folder, "m")
    checkpoint = Checkpoint(folder)
    borders = sorted(cuts | {0, 4})
    shards = [Shard("m", a, b, 4) for a, b in pairwise(borders)]
    if head:
        shards.insert(0, Shard("m", 0, 0, 4))
    sources = [ShardSource(checkpoint, spec, shard, i == 0) for i, shard in enumerate(shards)]
    names = [name for source in sources for name in source.names()]
    assert sorted(names) == sorted(checkpoint.names())
    for i, (shard, source) in enumerate(zip(shards, sources, strict=True)):
        held = sum(source.info(name).nbytes for name in source.names())
        outer = spec.embed_bytes + spec.head_bytes if i == 0 else 0
        assert held == sum(spec.layer_bytes[shard.start_layer : shard.end_layer]) + outer


def test_tied_head_and_buffers_are_in_no_shard(tmp_path: Path) -> None:
    """A stored but tied LM head is not read twice."""
    folder = write_model(tmp_path / "m", config={**CONFIG, "tie_word_embeddings": True}, text_config=CONFIG)
    spec = read_spec(folder, "m")
    source = ShardSource(Checkpoint(folder), spec, Shard("m", 0, 4, 4), True)
    assert "lm_head.weight" not in source.names()
    assert "model.embed_tokens.weight" in source.names()
    assert spec.head_bytes == 4 * 16


def test_other_shards_tensors_are_refused(folder: Path) -> None:
    """A shard gives out nothing but its own tensors, and no name that does not exist."""
    spec = read_spec(folder, "m")
    source = ShardSource(Checkpoint(folder), spec, Shard("m", 1, 2, 4), False)
    for name in ("model.embed_tokens.weight", "model.layers.2.mlp.up_proj.weight", "nothing"):
        for ask in (source.info, source.read, source.release):
            with pytest.raises(CheckpointError, match="not part"):
                ask(name)
    with pytest.raises(CheckpointError, match="no tensor"):
        Checkpoint(folder).read("nothing")


def test_a_file_that_shrinks_is_noticed(tmp_path: Path) -> None:
    """A file truncated between header and mapping is an error, not a crash."""
    folder = write_model(tmp_path / "m")
    checkpoint = Checkpoint(folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(CheckpointError, match="shorter"):
        for name in checkpoint.names():
            checkpoint.read(name)
