from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from exo_node.engine.base import EngineRow, Hidden, LoadPlan
from exo_node.engine.tinygrad.engine import TinygradShardEngine
from exo_node.errors import CheckpointError, EngineUnavailable, RingBroken, UnsupportedModel
from exo_node.types import Shard
from tests.checkpoints import DirectorySource, ShardView, make_checkpoint, plain_config
from tests.unit.engine.tinygrad.harness import Ring, tokens

pytestmark = pytest.mark.engine_tinygrad
STORIES = Path(__file__).parents[5] / "shared" / "models" / "stories260K"
# EXPECTED.md: greedy ids from BOS
FIRST_IDS = [1, 403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426, 338, 401, 396, 267]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("mistral", tmp_path_factory.mktemp("checkpoints"), num_hidden_layers=2)


@pytest.fixture(scope="module")
def loaded(path: Path) -> Ring:
    return Ring(path, ((0, 1), (1, 2)), slots=3, max_chunk=16, reproducible=True)


@pytest.fixture
def ring(loaded: Ring) -> Ring:
    """A ring of two shards with empty slots, whose rows run alone."""
    for slot in range(3):
        loaded.truncate(slot, 0)
    return loaded


@pytest.mark.skipif(not STORIES.is_dir(), reason="../shared/models/stories260K is not there")
def test_published_ids() -> None:
    """stories260K, greedy from BOS, gives the first ids of its EXPECTED.md."""
    ring = Ring(STORIES, ((0, 5),), slots=1, context=512, reproducible=True)
    ids = [1]
    while len(ids) < len(FIRST_IDS):
        ids.append(int(ring.prefill(0, ids[-1:])[0].argmax()))
    assert ids == FIRST_IDS


def test_slots_are_alike_and_independent(ring: Ring) -> None:
    """The same tokens give the same bits in every slot, whatever the others hold."""
    first = ring.prefill(0, tokens(20))
    ring.prefill(1, tokens(30, seed=2))
    assert np.array_equal(first, ring.prefill(2, tokens(20)))
    assert np.array_equal(ring.prefill(0, [7]), ring.prefill(2, [7]))


def test_rows_of_a_step_equal_rows_alone(ring: Ring) -> None:
    """Prefill and decode rows that share a step give bit for bit what each gives alone."""
    a, b, c = tokens(20), tokens(18, seed=2), tokens(5, seed=3)
    alone = [ring.prefill(0, a), ring.prefill(1, b[:17]), ring.step([(1, b[17:], 1)]), ring.step([(2, c, 2)])]
    for slot in range(3):
        ring.truncate(slot, 0)
    ring.prefill(1, b[:17])
    together = ring.step([(0, a, 20), (1, b[17:], 1), (2, c, 2)])
    assert np.array_equal(np.concatenate([alone[0], alone[2], alone[3]]), together)


def test_outputs_are_the_trailing_tokens(ring: Ring) -> None:
    """The last shard returns the trailing n_outputs states of each row, none for 0."""
    every = ring.prefill(0, tokens(20))
    assert np.array_equal(every[-3:], ring.step([(1, tokens(20), 3)]))
    assert ring.step([(2, tokens(20), 0)]).shape == (0, every.shape[1])


def test_truncate_equals_fresh(ring: Ring) -> None:
    """After a rollback a slot gives what a slot gives that never went further."""
    ids, other = tokens(20), tokens(12, seed=4)
    ring.prefill(0, ids + other)
    ring.truncate(0, 20)
    ring.prefill(1, ids)
    assert np.array_equal(ring.prefill(0, other), ring.prefill(1, other))


def test_copy_equals_fresh(ring: Ring) -> None:
    """A copied prefix gives what the prefix gives when computed, and leaves its source alone."""
    ids, other = tokens(20), tokens(12, seed=5)
    ring.prefill(0, ids)
    expected = ring.prefill(0, other)
    ring.prefill(2, tokens(25, seed=6))
    ring.truncate(0, 20)
    ring.copy(2, 0, 20)
    assert np.array_equal(expected, ring.prefill(2, other))
    assert np.array_equal(expected, ring.prefill(0, other))


def test_reaches_the_last_position(ring: Ring) -> None:
    """A slot can be filled to its context exactly, padded chunks included."""
    ring.prefill(0, tokens(60))
    full = ring.prefill(0, tokens(4, seed=7))
    ring.prefill(1, tokens(60))
    assert np.array_equal(full, ring.prefill(1, tokens(4, seed=7)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_export(ring: Ring, dtype: str) -> None:
    """Exported bytes are the rounded activation, and are taken back as input."""
    head = ring.engines[0]
    row = EngineRow(0, 0, 5, np.array(tokens(5), dtype=np.int32), 0)
    activation = head.forward([row], None)
    hidden = head.export(activation, dtype)  # type: ignore[arg-type]
    assert hidden.shape == (5, 64)
    assert 5 * 64 * (4 if dtype == "float32" else 2) == len(hidden.data)
    taken = ring.engines[1].forward([EngineRow(0, 0, 5, None, 5)], hidden)
    exact = head.export(activation, "float32")
    ring.engines[1].truncate(0, 0)
    assert np.abs(taken - ring.engines[1].forward([EngineRow(0, 0, 5, None, 5)], exact)).max() < 0.2
    head.truncate(0, 0)


def test_broken_rules_are_errors(ring: Ring) -> None:
    """A gap, an overflow, a foreign slot, missing ids, short bytes: refused before anything is computed."""
    head, last = ring.engines
    ids = np.array([5], dtype=np.int32)
    for row in (
        EngineRow(0, 3, 1, ids, 1),
        EngineRow(7, 0, 1, ids, 1),
        EngineRow(0, 0, 2, ids, 1),
        EngineRow(0, 0, 1, None, 1),
        EngineRow(0, 0, 1, np.array([4000], dtype=np.int32), 1),
        EngineRow(0, 0, 65, np.zeros(65, dtype=np.int32), 1),
        EngineRow(0, 0, 1, ids, 2),
    ):
        with pytest.raises(RingBroken, match="tinygrad"):
            head.forward([row], None)
    with pytest.raises(RingBroken, match="hidden states"):
        last.forward([EngineRow(0, 0, 1, None, 1)], Hidden("float32", (1, 64), b"\0" * 8))
    with pytest.raises(RingBroken, match="head"):
        last.forward([EngineRow(0, 0, 1, ids, 1)], None)
    with pytest.raises(RingBroken, match="LM head"):
        last.logits(np.zeros((1, 64), dtype=np.float32))
    with pytest.raises(RingBroken, match="cut"):
        head.truncate(0, 1)
    with pytest.raises(RingBroken, match="asked for"):
        head.copy(1, 0, 1)


def test_reads_its_tensors_only(path: Path) -> None:
    """A shard reads each of its tensors once, releases it at once, and reports its bytes and progress."""
    config, source = plain_config(path), DirectorySource(path)
    shard = Shard("test", 1, 2, 2)
    view = ShardView(source, config, shard, False)
    seen: list[tuple[int, int]] = []
    engine = TinygradShardEngine()
    report = engine.load(_plan(path, shard), view, lambda done, total: seen.append((done, total)))
    assert sorted(view.names()) == sorted(source.was_read) == sorted(source.released)
    assert sum(source.info(n).nbytes for n in view.names()) == report.weight_bytes == seen[-1][0] == seen[-1][1]
    assert report.kv_bytes == 1 * 2 * 3 * 2 * (64 + 16) * 16 * 4
    engine.close()
    engine.close()
    with pytest.raises(RingBroken, match="nothing is loaded"):
        engine.truncate(0, 0)


def test_refuses_before_loading(path: Path) -> None:
    """An architecture, a context, a device, missing tensors: refused by name and nothing is read."""
    config, source = plain_config(path), DirectorySource(path)
    shard = Shard("test", 0, 2, 2)
    cases: list[tuple[dict[str, object], dict[str, object], type[Exception], str]] = [
        ({"model_type": "mamba", "architectures": ["MambaForCausalLM"]}, {}, UnsupportedModel, "MambaForCausalLM"),
        ({}, {"context": 100_000}, UnsupportedModel, "100000"),
        ({}, {"device": "TPU:0"}, EngineUnavailable, "TPU:0"),
        ({"attention_bias": True, "model_type": "llama", "architectures": None}, {}, CheckpointError, "bias"),
        ({"intermediate_size": 80}, {}, CheckpointError, "shape"),
    ]
    for config_changes, plan_changes, error, words in cases:
        engine = TinygradShardEngine()
        plan = _plan(path, shard, config={**config, **config_changes}, is_head=True, **plan_changes)
        with pytest.raises(error, match=words):
            engine.load(plan, ShardView(source, config, shard, True), lambda done, total: None)
    assert source.was_read == []


def test_import_is_free_of_frameworks() -> None:
    """Package, support and engine module import neither tinygrad nor (package and support) numpy."""
    code = (
        "import sys, exo_node.engine.tinygrad.support; assert 'numpy' not in sys.modules;"
        "import exo_node.engine.tinygrad.engine; assert 'tinygrad' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[4])


def _plan(path: Path, shard: Shard, **changes: object) -> LoadPlan:
    fields: dict[str, object] = {
        "config": plain_config(path),
        "shard": shard,
        "is_head": False,
        "compute_dtype": "float32",
        "slots": 3,
        "context": 64,
        "max_chunk": 16,
        "device": "CPU",
        "reproducible": True,
    }
    return LoadPlan(**{**fields, **changes})  # type: ignore[arg-type]
