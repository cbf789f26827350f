"""Loading: exactly the shard's tensors, little memory, one-line errors."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exo_node.engine.base import LoadPlan
from exo_node.engine.mlx.engine import MLXShardEngine, _build
from exo_node.engine.mlx.families import FAMILIES
from exo_node.engine.mlx.load import load_weights
from exo_node.engine.mlx.modules import import_model_file
from exo_node.errors import CheckpointError, UnsupportedModel
from exo_node.types import Shard
from tests.checkpoints import DirectorySource, ShardView, make_checkpoint
from tests.unit.engine.mlx.ring import read_config

pytest.importorskip("mlx.core")
pytestmark = pytest.mark.engine_mlx


def plan_for(config: dict[str, Any], start: int, end: int, *, is_head: bool) -> LoadPlan:
    return LoadPlan(
        config=config,
        shard=Shard("m", start, end, config["num_hidden_layers"]),
        is_head=is_head,
        compute_dtype="float32",
        slots=1,
        context=32,
        max_chunk=16,
        device="CPU",
    )


@pytest.mark.parametrize(("start", "end", "is_head"), ((0, 3, True), (3, 5, False), (5, 7, False), (0, 0, True)))
@pytest.mark.parametrize("family", ("llama", "gemma2", "qwen3_moe"))
def test_reads_the_shards_tensors_once(family: str, start: int, end: int, is_head: bool, checkpoints: Path) -> None:
    """Each tensor of the shard is read once and released; progress ends at the total; the report has the bytes."""
    path = make_checkpoint(family, checkpoints)
    config = read_config(path)
    source = DirectorySource(path)
    plan = plan_for(config, start, end, is_head=is_head)
    view = ShardView(source, config, plan.shard, is_head)
    seen: list[tuple[int, int]] = []
    report = MLXShardEngine().load(plan, view, lambda done, total: seen.append((done, total)))
    assert sorted(source.was_read) == sorted(view.names())
    assert source.released == source.was_read
    total = sum(view.info(name).nbytes for name in view.names())
    assert seen[0] == (0, total) and seen[-1] == (total, total)
    assert report.weight_bytes == total


@pytest.mark.skipif(sys.platform != "linux", reason="for OpenBLAS")
@pytest.mark.parametrize("family", ("llama", "qwen2", "gemma2"))
@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
def test_matrices_lie_as_blas_reads_them(family: str, dtype: str, checkpoints: Path) -> None:
    """Column by column in float32, a tied embedding too, with the same values; all else, and 16 bits, row by row."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    mx.set_default_device(mx.cpu)
    path = make_checkpoint(family, checkpoints)
    source = DirectorySource(path)
    config = read_config(path)
    model = _build(import_model_file(FAMILIES[family].module), FAMILIES[family].adapt(config, 32))
    load_weights(mx, model, source, ("model.", "lm_head."), getattr(mx, dtype), lambda *_: None)
    turned = set()
    for name, array in tree_flatten(model.parameters()):
        stored = np.frombuffer(source.read(name), np.float32).reshape(source.info(name).shape)
        assert mx.array_equal(array, mx.array(stored).astype(array.dtype)), name
        strides = memoryview(array).strides
        assert strides is not None
        if strides[0] < strides[-1]:
            turned.add(name)
    products = {name for name in source.names() if source.info(name).shape[1:] and "embed_tokens" not in name}
    tied = "lm_head.weight" not in source.names()
    assert turned == (products | ({"model.embed_tokens.weight"} if tied else set()) if dtype == "float32" else set())


class Changed:
    """A source without `dropped`, and with `extra` names that stand for `like`."""

    def __init__(self, source: DirectorySource, dropped: str = "", extra: str = "", like: str = "") -> None:
        self._source, self._extra, self._like = source, extra, like
        self._names = [n for n in source.names() if n != dropped] + ([extra] if extra else [])

    def names(self) -> list[str]:
        return self._names

    def info(self, name: str) -> Any:
        return self._source.info(self._like if name == self._extra else name)

    def read(self, name: str) -> memoryview:
        raise AssertionError(f"{name} was read though the load must be refused")

    def release(self, name: str) -> None:
        raise AssertionError(name)


@pytest.mark.parametrize(
    ("change", "says"),
    (
        ({"dropped": "model.layers.2.mlp.up_proj.weight"}, "model.layers.2.mlp.up_proj.weight .* is missing"),
        ({"extra": "model.layers.2.mlp.up_proj.bias", "like": "model.norm.weight"}, "up_proj.bias .* no place"),
        (
            {"dropped": "model.norm.weight", "extra": "model.norm.weight", "like": "lm_head.weight"},
            r"model.norm.weight has shape \[160, 64\]",
        ),
    ),
)
def test_wrong_tensors_are_refused_before_reading(change: dict[str, str], says: str, checkpoints: Path) -> None:
    """A missing, superfluous or misshapen tensor is named, and nothing has been read."""
    path = make_checkpoint("llama", checkpoints)
    source = Changed(DirectorySource(path), **change)
    with pytest.raises(CheckpointError, match=says):
        MLXShardEngine().load(plan_for(read_config(path), 0, 7, is_head=True), source, lambda done, total: None)


def test_a_config_that_lacks_a_field_is_refused(checkpoints: Path) -> None:
    """A config.json that mlx-lm cannot read is one line that names what is missing."""
    path = make_checkpoint("llama", checkpoints)
    config = read_config(path)
    del config["rms_norm_eps"]
    with pytest.raises(CheckpointError, match="rms_norm_eps"):
        MLXShardEngine().load(plan_for(config, 0, 7, is_head=True), DirectorySource(path), lambda done, total: None)


def test_experts_on_a_cpu_are_computed_in_float32(checkpoints: Path) -> None:
    """Of experts that are not packed MLX multiplies float32 only, there: another type is refused before anything is
    read. A shard whose layers have none computes in any."""
    path = make_checkpoint("qwen3_moe", checkpoints, dtype="bfloat16")
    config, source = read_config(path), DirectorySource(path)

    def load(start: int, end: int) -> float:
        plan = dataclasses.replace(plan_for(config, start, end, is_head=False), compute_dtype="bfloat16")
        return MLXShardEngine().load(plan, ShardView(source, config, plan.shard, False), lambda *_: None).weight_bytes

    with pytest.raises(UnsupportedModel, match="in float32 on a CPU, not in bfloat16"):
        load(2, 4)
    assert source.was_read == []
    assert load(3, 4) > 0


def test_a_missing_expert_is_named(checkpoints: Path) -> None:
    """Also the last one, by the number of experts that are there."""
    path = make_checkpoint("qwen3_moe", checkpoints)
    for missing, says in (
        (2, r"experts\.2\.up_proj\.weight is missing"),
        (5, r"shape \[5, 32, 64\], .* \[6, 32, 64\]"),
    ):
        source = Changed(DirectorySource(path), dropped=f"model.layers.2.mlp.experts.{missing}.up_proj.weight")
        with pytest.raises(CheckpointError, match=says):
            MLXShardEngine().load(plan_for(read_config(path), 0, 7, is_head=True), source, lambda *_: None)


def test_tensors_of_other_types_are_refused(tmp_path: Path, checkpoints: Path) -> None:
    """Integer tensors (a quantized checkpoint without its config) are refused by name."""
    from safetensors.numpy import load_file, save_file

    path = make_checkpoint("llama", checkpoints)
    tensors = load_file(path / "model.safetensors")
    tensors["model.norm.weight"] = np.ones(64, np.uint32)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedModel, match=r"model.norm.weight is U32"):
        MLXShardEngine().load(
            plan_for(read_config(path), 0, 7, is_head=True), DirectorySource(tmp_path), lambda done, total: None
        )


_MEASURE = """
import json, sys, threading
from pathlib import Path
from exo_node.engine.base import LoadPlan
from exo_node.engine.mlx.engine import MLXShardEngine, _build
from exo_node.engine.mlx.families import FAMILIES
from exo_node.engine.mlx.load import load_weights
from exo_node.engine.mlx.modules import import_model_file
from exo_node.models.config import normalise
from exo_node.types import Shard
from tests.checkpoints import DirectorySource, ShardView

def anonymous():
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024

path, start, end, head = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "head"
config = normalise(json.loads((path / "config.json").read_text()))
shard = Shard("m", start, end, config["num_hidden_layers"])
plan = LoadPlan(config=config, shard=shard, is_head=head, compute_dtype="float32",
                slots=1, context=32, max_chunk=16, device="CPU")
engine, source = MLXShardEngine(), ShardView(DirectorySource(path), config, shard, head)
before, peak, stop = anonymous(), 0, threading.Event()

def watch():
    global peak
    while not stop.wait(0.002):
        peak = max(peak, anonymous())

watcher = threading.Thread(target=watch)
watcher.start()
report = engine.load(plan, source, lambda done, total: None)
stop.set()
watcher.join()
print(json.dumps([report.weight_bytes, peak - before]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads RssAnon, which is Linux's")
@pytest.mark.parametrize(("start", "end", "kind"), ((0, 8, "head"), (0, 2, "head"), (2, 4, "follower")))
def test_anonymous_memory_of_a_load(start: int, end: int, kind: str, big: Path) -> None:
    """Loading bf16 as float32 takes at most 1.15 x the bytes held + 100 MB, and a shard only its own part."""
    out = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(big), str(start), str(end), kind],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[4],
        check=True,
    )
    held, peak = json.loads(out.stdout)
    assert held > 30e6
    assert peak <= 1.15 * held + 100e6


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of 67 million bf16 parameters, two thirds of them in the embedding and the LM head."""
    folder = tmp_path_factory.mktemp("big")
    hidden, inner, vocab, layers = 768, 1024, 30000, 8
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab, hidden),
        "lm_head.weight": (vocab, hidden),
        "model.norm.weight": (hidden,),
    }
    for i in range(layers):
        prefix = f"model.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            shapes[f"{prefix}self_attn.{name}.weight"] = (hidden, hidden)
        for name, rows, columns in (("gate", inner, hidden), ("up", inner, hidden), ("down", hidden, inner)):
            shapes[f"{prefix}mlp.{name}_proj.weight"] = (rows, columns)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{prefix}{name}.weight"] = (hidden,)
    header: dict[str, Any] = {}
    at = 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        block = np.full(1 << 20, 0x3C00, "<u2").tobytes()  # 0.0078125
        for start in range(0, at, len(block)):
            file.write(block[: at - start])
    config = {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": 12,
        "vocab_size": vocab,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder
