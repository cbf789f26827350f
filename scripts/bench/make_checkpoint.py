#!/usr/bin/env python3
"""Make a Llama-architecture checkpoint of any size with random weights, for benchmarks and memory tests.

Writes `config.json`, sharded `model-*.safetensors` with an index, and a byte-level tokenizer. Nothing is held in memory
but one block of random numbers: a folder of several GB takes as long as the disk needs.

    scripts/bench/make_checkpoint.py FOLDER --hidden 2048 --layers 4 --ffn 8192 --heads 32 --kv-heads 8 --vocab 32000
"""

from __future__ import annotations

import argparse
import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

BLOCK = 1 << 20  # random numbers drawn once and repeated from changing offsets: no two tensors are equal
FILE_BYTES = 1 << 30  # start a new safetensors file past this size


@dataclass(frozen=True)
class Shape:
    hidden: int
    layers: int
    ffn: int
    heads: int
    kv_heads: int
    vocab: int
    dtype: str = "float32"
    context: int = 4096

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes, in file order."""
        head = self.hidden // self.heads
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, self.hidden)}
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}."
            found |= {
                prefix + "input_layernorm.weight": (self.hidden,),
                prefix + "self_attn.q_proj.weight": (self.heads * head, self.hidden),
                prefix + "self_attn.k_proj.weight": (self.kv_heads * head, self.hidden),
                prefix + "self_attn.v_proj.weight": (self.kv_heads * head, self.hidden),
                prefix + "self_attn.o_proj.weight": (self.hidden, self.heads * head),
                prefix + "post_attention_layernorm.weight": (self.hidden,),
                prefix + "mlp.gate_proj.weight": (self.ffn, self.hidden),
                prefix + "mlp.up_proj.weight": (self.ffn, self.hidden),
                prefix + "mlp.down_proj.weight": (self.hidden, self.ffn),
            }
        found["model.norm.weight"] = (self.hidden,)
        return found

    @property
    def total_bytes(self) -> int:
        width = 4 if self.dtype == "float32" else 2
        return sum(int(np.prod(shape)) * width for shape in self.tensors().values())

    def config(self) -> dict[str, object]:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.hidden // self.heads,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.context,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": True,
            "attention_bias": False,
            "mlp_bias": False,
            "bos_token_id": 256,
            "eos_token_id": 257,
            "torch_dtype": self.dtype,
        }


def make(folder: Path, shape: Shape, seed: int = 0) -> Path:
    """Write the checkpoint; an existing one with the same configuration is kept."""
    config = folder / "config.json"
    if config.is_file() and json.loads(config.read_text()) == shape.config():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(folder, shape.vocab)
    block = np.random.default_rng(seed).standard_normal(BLOCK, dtype=np.float32)
    files: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, dims in shape.tensors().items():
        width = 4 if shape.dtype == "float32" else 2
        if size and size + int(np.prod(dims)) * width > FILE_BYTES:
            files.append({})
            size = 0
        files[-1][name] = dims
        size += int(np.prod(dims)) * width
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(files, start=1):
        file_name = f"model-{number:05}-of-{len(files):05}.safetensors"
        _write_file(folder / file_name, tensors, shape, block)
        weight_map |= dict.fromkeys(tensors, file_name)
    index = {"metadata": {"total_size": shape.total_bytes}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config.write_text(json.dumps(shape.config(), indent=2))  # last: its presence says that the rest is complete
    return folder


def _write_file(path: Path, tensors: dict[str, tuple[int, ...]], shape: Shape, block: np.ndarray) -> None:
    width = 4 if shape.dtype == "float32" else 2
    header, offset = {}, 0
    for name, dims in tensors.items():
        nbytes = int(np.prod(dims)) * width
        dtype = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[shape.dtype]
        header[name] = {"dtype": dtype, "shape": dims, "data_offsets": [offset, offset + nbytes]}
        offset += nbytes
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for name, dims in tensors.items():
            # Norms near one, matrices scaled by 1/sqrt(inputs): hidden states keep their size from layer to layer.
            scale, mean = (0.02, 1.0) if len(dims) == 1 else (dims[-1] ** -0.5, 0.0)
            left, start = int(np.prod(dims)), sum(name.encode()) * 997 % BLOCK
            while left:
                piece = block[start : start + min(left, BLOCK - start)] * np.float32(scale) + np.float32(mean)
                file.write(_encode(piece, shape.dtype))
                left, start = left - len(piece), 0


def _encode(values: np.ndarray, dtype: str) -> bytes:
    if dtype == "bfloat16":
        return (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    return values.astype({"float32": "<f4", "float16": "<f2"}[dtype]).tobytes()


def _write_tokenizer(folder: Path, vocab: int) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*alphabet, "<s>", "</s>", *(f"<filler{number}>" for number in range(vocab - 258))]
    tokenizer = Tokenizer(models.BPE(vocab={name: number for number, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": "<s>",
                "eos_token": "</s>",
                "add_bos_token": True,
                "chat_template": "{% for message in messages %}{{ message['content'] }}\n{% endfor %}",
            }
        )
    )
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 256, "eos_token_id": 257}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name, default in (
        ("hidden", 2048),
        ("layers", 4),
        ("ffn", 8192),
        ("heads", 32),
        ("kv-heads", 8),
        ("vocab", 32000),
        ("context", 4096),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    arguments = vars(parser.parse_args())
    folder = arguments.pop("folder")
    shape = Shape(**arguments)
    make(folder, shape)
    print(json.dumps({"folder": str(folder), "bytes": shape.total_bytes}))


if __name__ == "__main__":
    main()
