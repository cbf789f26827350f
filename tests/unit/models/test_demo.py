"""The bundled `demo` model folder: complete, small, deep enough for a ring, and in the forms that the loaders read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

import exo_node.models

FOLDER = Path(exo_node.models.__file__).parent / "demo"
MAX_BYTES = 12 * 1024 * 1024  # the bound for what the package carries
FILES = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


def read_json(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    return content


def tensor_header() -> dict[str, Any]:
    """The safetensors header (its length is the first 8 bytes, little-endian) without its metadata entry."""
    with (FOLDER / "model.safetensors").open("rb") as file:
        header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    return header


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


def render(messages: list[dict[str, str]], *, add_generation_prompt: bool = True) -> str:
    def raise_exception(message: str) -> None:
        raise ValueError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = raise_exception
    config = read_json("tokenizer_config.json")
    return environment.from_string(config["chat_template"]).render(
        messages=messages,
        add_generation_prompt=add_generation_prompt,
        bos_token=config["bos_token"],
        eos_token=config["eos_token"],
    )


def test_folder_is_complete_and_small() -> None:
    """The folder holds exactly the files a model needs, at most 12 MB in all."""
    assert {path.name for path in FOLDER.iterdir()} == FILES
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= MAX_BYTES


def test_config_is_a_llama_with_enough_layers_to_share() -> None:
    """At least 8 layers, so that rings of up to eight nodes can hold it, and grouped-query attention."""
    config = read_json("config.json")
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["num_hidden_layers"] >= 8
    assert config["num_attention_heads"] % config["num_key_value_heads"] == 0
    assert config["num_key_value_heads"] < config["num_attention_heads"]
    assert config["tie_word_embeddings"] is True


def test_weights_match_the_config() -> None:
    """Every tensor that the config promises is there, in float32, in its shape, and no other."""
    config = read_json("config.json")
    hidden, inner, width = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    heads, kv_heads = config["num_attention_heads"] * width, config["num_key_value_heads"] * width
    shapes = {"model.embed_tokens.weight": [config["vocab_size"], hidden], "model.norm.weight": [hidden]}
    for layer in range(config["num_hidden_layers"]):
        for name, shape in {
            "input_layernorm": [hidden],
            "self_attn.q_proj": [heads, hidden],
            "self_attn.k_proj": [kv_heads, hidden],
            "self_attn.v_proj": [kv_heads, hidden],
            "self_attn.o_proj": [hidden, heads],
            "post_attention_layernorm": [hidden],
            "mlp.gate_proj": [inner, hidden],
            "mlp.up_proj": [inner, hidden],
            "mlp.down_proj": [hidden, inner],
        }.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    header = tensor_header()
    assert shapes == {name: entry["shape"] for name, entry in header.items()}
    assert {entry["dtype"] for entry in header.values()} == {"F32"}
    assert max(entry["data_offsets"][1] for entry in header.values()) == 4 * sum(map(math.prod, shapes.values()))


def test_special_tokens_agree_in_all_files(tokenizer: Tokenizer) -> None:
    """config, generation_config and tokenizer name the same BOS, EOS and vocabulary size."""
    config, generation, names = (
        read_json("config.json"),
        read_json("generation_config.json"),
        read_json("tokenizer_config.json"),
    )
    assert config["vocab_size"] == tokenizer.get_vocab_size()
    assert config["bos_token_id"] == generation["bos_token_id"] == tokenizer.token_to_id(names["bos_token"])
    assert generation["eos_token_id"] == [config["eos_token_id"]] == [tokenizer.token_to_id(names["eos_token"])]
    assert names["model_max_length"] == config["max_position_embeddings"]


@pytest.mark.parametrize("text", ["What is exo?", "127 + 5 = 132.", "naïve café — 東京 🙂\n\ttabs", "<user> </s>", ""])
def test_any_text_round_trips(tokenizer: Tokenizer, text: str) -> None:
    """Byte-level tokens give back any text exactly."""
    assert text == tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids)


def test_digits_are_single_tokens(tokenizer: Tokenizer) -> None:
    """Each digit is its own token, which is what makes sums regular."""
    assert tokenizer.encode("1942", add_special_tokens=False).tokens == ["1", "9", "4", "2"]


def test_plain_prompts_start_with_bos(tokenizer: Tokenizer) -> None:
    """The tokenizer puts BOS before a plain prompt, an empty one included."""
    bos = read_json("config.json")["bos_token_id"]
    assert [bos] == tokenizer.encode("").ids
    assert bos == tokenizer.encode("Once").ids[0]


def test_chat_template_writes_turns_as_special_tokens(tokenizer: Tokenizer) -> None:
    """Each role and each end of turn is one special token; the assistant's turn is opened last."""
    text = render([{"role": "system", "content": "Be kind."}, {"role": "user", "content": " Hi "}])
    assert text == "<|begin|><|system|>Be kind.<|end|><|user|>Hi<|end|><|assistant|>"
    tokens = tokenizer.encode(text, add_special_tokens=False).tokens
    assert tokens[:2] == ["<|begin|>", "<|system|>"]
    assert tokens[-2:] == ["<|end|>", "<|assistant|>"]
    assert "<|assistant|>" not in render([{"role": "user", "content": "Hi"}], add_generation_prompt=False)


def test_chat_template_refuses_an_unknown_role() -> None:
    """A role that the model was not trained on is an error that names it."""
    with pytest.raises(ValueError, match="not tool"):
        render([{"role": "tool", "content": "x"}])
