"""Tiny model folders written by hand: safetensors bytes without any library, and tokenizers of the two common kinds."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exo_node.models.config import normalise
from exo_node.models.layout import layer_tensors, outer_tensors

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]


def safetensors(tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]]) -> bytes:
    """A safetensors file of name -> (dtype, shape, bytes)."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values())


def tensors_of(config: Mapping[str, Any], prefix: str = "", seed: int = 0) -> Tensors:
    """Random float32 tensors that the config asks for; `prefix` goes before each name, as wrappers write it."""
    plain = normalise(config)
    shapes = dict(outer_tensors(plain))
    for i in range(plain["num_hidden_layers"]):
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer_tensors(plain).items()}
    rng = random.Random(seed)
    out: Tensors = {}
    for name, shape in shapes.items():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        out[prefix + name] = ("F32", shape, struct.pack(f"<{count}f", *(rng.uniform(-1, 1) for _ in range(count))))
    return out


def write_model(folder: Path, *, files: int = 1, config: Mapping[str, Any] = CONFIG, prefix: str = "", seed: int = 0,
                text_config: Mapping[str, Any] | None = None) -> Path:  # fmt: skip
    """A whole model folder with its weights in `files` files; `text_config` is what the tensors are made by."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    tensors = tensors_of(text_config or config, prefix, seed)
    if files == 1:
        (folder / "model.safetensors").write_bytes(safetensors(tensors))
        return folder
    weight_map: dict[str, str] = {}
    names = list(tensors)
    for i in range(files):
        file = f"model-{i + 1:05}-of-{files:05}.safetensors"
        part = names[i::files]
        weight_map |= dict.fromkeys(part, file)
        (folder / file).write_bytes(safetensors({name: tensors[name] for name in part}))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


TEXT = """Once upon a time there was a small ring of three machines. They said: "Let us share one model!" and it ran.
def step(x): return x + 1  # 1234567890 äöü ß éèê 你好世界 привет 😀👩‍👩‍👧 ½ — “quoted”   spaces   and\ttabs\n\n"""


def write_byte_level(folder: Path, **config: Any) -> Path:
    """A ByteLevel BPE tokenizer (as Llama 3, Qwen, GPT-2) with ChatML's and Llama 3's special tokens."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    special = [
        "<|bos|>",
        "<|eos|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ]
    made = tokenizers.Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([TEXT], trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", pair=None, special_tokens=[("<|bos|>", made.token_to_id("<|bos|>"))]
    )
    return _save(folder, made, {"bos_token": "<|bos|>", "eos_token": "<|eos|>", **config})


def write_metaspace(folder: Path, **config: Any) -> Path:
    """A SentencePiece-style BPE with byte fallback (as Llama 2, Mistral, Gemma)."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, processors, trainers

    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<start_of_turn>", "<end_of_turn>"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(
        vocab_size=440, special_tokens=special + bytes_, show_progress=False, limit_alphabet=60
    )
    made.train_from_iterator([TEXT.replace(" ", "▁")], trainer)
    # Only the first seven are special: the bytes are ordinary tokens, as in a converted SentencePiece model.
    state = json.loads(made.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in special]
    made = tokenizers.Tokenizer.from_str(json.dumps(state))
    made.normalizer = normalizer
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(steps)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", pair=None, special_tokens=[("<s>", 1)])
    return _save(folder, made, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **config})


def with_marks(folder: Path, target: Path, *marks: str) -> Path:
    """A copy of a tokenizer with special tokens for filling in the middle."""
    import tokenizers

    made = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    made.add_special_tokens(list(marks))
    return _save(target, made, json.loads((folder / "tokenizer_config.json").read_text()))


def _save(folder: Path, made: Any, config: Mapping[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
