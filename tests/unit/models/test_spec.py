"""read_spec: what a model is, from headers alone; broken files are named in one line."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exo_node.errors import CheckpointError, UnsupportedModel
from exo_node.models.headers import canonical_name, read_header
from exo_node.models.spec import read_spec
from tests.tiny_models import CONFIG, safetensors, tensors_of, write_model

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3")


@pytest.mark.reference
@pytest.mark.parametrize("family", FAMILIES)
def test_reads_what_transformers_saves(family: str, tmp_path: Path) -> None:
    """Sizes and parameter counts of a folder that transformers itself saved; every tensor has its place."""
    from tests.checkpoints import make_checkpoint

    folder = make_checkpoint(family, tmp_path)
    (folder / "tokenizer.json").write_text("{}")
    spec = read_spec(folder, "m")
    stored = read_header(folder / "model.safetensors")
    assert spec.total_bytes == sum(entry.info.nbytes for entry in stored.values())
    assert spec.n_params * 4 == spec.total_bytes
    assert (spec.n_layers, spec.hidden_size, spec.dtype) == (7, 64, "float32")
    assert spec.kv_width == 2 * 2 * 16
    assert (spec.head_bytes == 4 * 64) == spec.config["tie_word_embeddings"]


def test_published_model(stories260k: Path) -> None:
    """The published stories260K: 260 thousand parameters in five equal layers, tied."""
    spec = read_spec(stories260k, "stories260K")
    assert (spec.n_params, spec.n_layers, spec.vocab_size, spec.max_context) == (260032, 5, 512, 512)
    assert len(set(spec.layer_bytes)) == 1
    assert spec.head_bytes == 4 * 64
    assert spec.architecture == "LlamaForCausalLM"


def test_wrapped_gemma3(tmp_path: Path) -> None:
    """A multimodal gemma3: its vision tower counts nothing, its prefixed text tensors are found."""
    text = {**CONFIG, "model_type": "gemma3_text", "head_dim": 4}
    folder = write_model(
        tmp_path / "m",
        config={"model_type": "gemma3", "text_config": text},
        text_config=text,
        prefix="language_model.",
    )
    path = folder / "model.safetensors"
    tensors = tensors_of(text, "language_model.") | {"vision_tower.x": ("F32", (2,), bytes(8))}
    path.write_bytes(safetensors(tensors))
    spec = read_spec(folder, "m")
    assert spec.total_bytes == sum(len(data) for name, (_, _, data) in tensors.items() if "vision" not in name)
    assert spec.architecture == "Gemma3ForCausalLM"


@pytest.mark.parametrize(
    ("stored", "known"),
    [
        ("language_model.model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        ("model.language_model.norm.weight", "model.norm.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("layers.3.input_layernorm.weight", "model.layers.3.input_layernorm.weight"),
        ("model.embed_tokens.weight", "model.embed_tokens.weight"),
    ],
)
def test_prefixes(stored: str, known: str) -> None:
    """Wrappers' and bare models' tensor names are brought to one form."""
    assert canonical_name(stored) == known


def test_half_precision_is_the_stored_one(tmp_path: Path) -> None:
    """The spec's dtype is what the files hold, whatever config.json says."""
    folder = write_model(tmp_path / "m", config={**CONFIG, "torch_dtype": "float32"})
    tensors = {name: ("BF16", shape, data[::2]) for name, (_, shape, data) in tensors_of(CONFIG).items()}
    (folder / "model.safetensors").write_bytes(safetensors(tensors))
    assert read_spec(folder, "m").dtype == "bfloat16"


def edit_json(file: str, **change: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        value = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**value, **change}))

    return edit


def truncate(folder: Path) -> None:
    path = folder / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def lengthen(folder: Path) -> None:
    with (folder / "model-00001-of-00002.safetensors").open("ab") as handle:
        handle.write(b"more")


def drop_entry(folder: Path) -> None:
    path = folder / "model.safetensors.index.json"
    weight_map = json.loads(path.read_text())["weight_map"]
    weight_map.pop("model.layers.2.mlp.up_proj.weight")
    path.write_text(json.dumps({"weight_map": weight_map}))


def point_elsewhere(folder: Path) -> None:
    path = folder / "model.safetensors.index.json"
    weight_map = json.loads(path.read_text())["weight_map"]
    weight_map["model.norm.weight"] = next(f for f in set(weight_map.values()) if f != weight_map["model.norm.weight"])
    path.write_text(json.dumps({"weight_map": weight_map}))


def escape(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))


def unlink(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def overwrite(name: str, data: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return write


FIRST = "model-00001-of-00002.safetensors"
ENTRY = b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [%s]}}'


def raw(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (truncate, "truncated"),
        (lengthen, "longer"),
        (drop_entry, "no entry"),
        (point_elsewhere, "lacks tensor"),
        (escape, "plain file name"),
        (unlink(FIRST), "is missing"),
        (unlink("tokenizer.json"), "tokenizer.json is missing"),
        (unlink("config.json"), "config.json is missing"),
        (unlink("model.safetensors.index.json"), "only safetensors"),
        (overwrite("config.json", b"{"), "cannot be read"),
        (overwrite("config.json", b"[]"), "JSON object"),
        (overwrite("config.json", b"\xff\xfe{"), "cannot be read"),
        (overwrite("model.safetensors.index.json", b"{}"), "weight_map"),
        (overwrite(FIRST, b""), "not a safetensors file"),
        (overwrite(FIRST, b"\xff" * 100), "not a safetensors file"),
        (overwrite(FIRST, struct.pack("<Q", 90_000_000) + b"{"), "truncated"),
        (overwrite(FIRST, raw(b"{nonsense")), "corrupt"),
        (overwrite(FIRST, raw(b"[" * 20000)), "corrupt"),
        (overwrite(FIRST, raw(b'{"a": 3}')), "corrupt header entry"),
        (overwrite(FIRST, raw(ENTRY % b"0, 7", bytes(7))), "not what F32"),
        (overwrite(FIRST, raw(ENTRY % b"4, 12", bytes(12))), "hole"),
        (overwrite(FIRST, raw(ENTRY % b"-8, 0", bytes(8))), "corrupt header entry"),
        (edit_json("config.json", intermediate_size=24), "config.json asks for"),
        (edit_json("config.json", num_hidden_layers=5), "none of the files"),
        (edit_json("config.json", num_hidden_layers=3), "no place"),
        (edit_json("config.json", num_hidden_layers=10**9), "num_hidden_layers"),
    ],
)
def test_broken_folders_are_one_line_errors(spoil: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    """Every broken file is a CheckpointError of one line that names the file or field."""
    folder = write_model(tmp_path / "m", files=2)
    read_spec(folder, "m")
    spoil(folder)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_spec(folder, "m")
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 500


def test_models_quantized_otherwise_are_refused(tmp_path: Path) -> None:
    """A model quantized by other tools is refused by name and told what to use."""
    folder = write_model(tmp_path / "m")
    edit_json("config.json", quantization_config={"quant_method": "gptq", "bits": 4})(folder)
    with pytest.raises(UnsupportedModel, match=r"'gptq'.*full-precision"):
        read_spec(folder, "m")


def test_integer_weights_are_refused(tmp_path: Path) -> None:
    """Weights of a dtype that no engine runs are refused by name."""
    folder = write_model(tmp_path / "m")
    tensors = {name: ("I32", shape, data) for name, (_, shape, data) in tensors_of(CONFIG).items()}
    (folder / "model.safetensors").write_bytes(safetensors(tensors))
    with pytest.raises(UnsupportedModel, match="I32"):
        read_spec(folder, "m")


def test_unknown_family_is_described_by_its_files(tmp_path: Path) -> None:
    """A family without a table of ours still gets a spec (an engine refuses it by name, or runs it)."""
    folder = write_model(tmp_path / "m")
    edit_json("config.json", model_type="olmo9")(folder)
    spec = read_spec(folder, "m")
    assert spec.config["tie_word_embeddings"] is False
    assert spec.n_params * 4 == spec.total_bytes
