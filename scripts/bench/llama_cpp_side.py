"""llama.cpp's side of decode.py. Runs in an environment of its own: needs numpy, gguf and llama_cpp, nothing of ours.

Arguments: a folder of make_checkpoint.py, the GGUF file to write from it, 0, 8 or 4 (F32, Q8_0, Q4_0), threads.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    """
    >>> gguf_name("model.layers.3.mlp.up_proj.weight"), gguf_name("model.norm.weight")
    ('blk.3.ffn_up.weight', 'output_norm.weight')
    """
    if name.startswith("model.layers."):
        _, _, layer, rest = name.split(".", 3)
        return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"
    return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[name]


def write(folder: Path, file: Path, bits: int) -> None:
    """The float32 checkpoint as GGUF; matrices packed into `bits`."""
    import numpy as np

    gguf: Any = importlib.import_module("gguf")
    config = json.loads((folder / "config.json").read_text())
    writer: Any = gguf.GGUFWriter(str(file), "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    kind = {0: gguf.GGMLQuantizationType.F32, 8: gguf.GGMLQuantizationType.Q8_0, 4: gguf.GGMLQuantizationType.Q4_0}[
        bits
    ]
    for path in sorted(folder.glob("model-*.safetensors")):
        with path.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(size))
        data = np.memmap(path, np.uint8, "r", offset=8 + size)
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            tensor = np.frombuffer(data[begin:end], "<f4").reshape(entry["shape"])
            heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(name.split(".")[-2])
            if heads:  # llama.cpp rotates neighbours, transformers the two halves of a head
                rows, columns = tensor.shape
                count = config[heads]
                tensor = tensor.reshape(count, 2, rows // count // 2, columns).swapaxes(1, 2).reshape(rows, columns)
            if tensor.ndim == 2 and bits:
                writer.add_tensor(gguf_name(name), gguf.quants.quantize(tensor, kind), raw_dtype=kind)
            else:
                writer.add_tensor(gguf_name(name), np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    import numpy as np

    llama_cpp: Any = importlib.import_module("llama_cpp")
    folder, file, bits, threads = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    if not file.exists():
        write(folder, file, bits)
    llama: Any = llama_cpp.Llama(
        str(file), n_ctx=512, n_threads=threads, n_threads_batch=threads, logits_all=False, verbose=False
    )
    for line in sys.stdin:
        request = json.loads(line)
        [prompt] = request["prompts"]
        llama.reset()
        start, stamps, ids, next_ids = time.perf_counter(), [], [], prompt
        vocab = llama.n_vocab()
        for _ in range(request["tokens"]):
            llama.eval(next_ids)
            scores = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(llama.ctx, -1), shape=(vocab,))
            next_ids = [int(scores.argmax())]
            ids += next_ids
            stamps.append(time.perf_counter() - start)
        print(json.dumps({"stamps": [stamps], "ids": ids}), flush=True)


if __name__ == "__main__":
    main()
