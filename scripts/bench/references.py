"""The other programs that generate, each in a process of its own that is asked a line at a time.

All take token ids and draw greedily. Their `rate` is tokens a second from the first token to the last.
"""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench_nodes import ROOT, rate
from line_process import LineProcess

MLX_LM = """
import json, sys, time
from pathlib import Path
root, folder, bits = sys.argv[1], sys.argv[2], int(sys.argv[3])
sys.path.insert(0, root)
from exo_node.engine.blas import preload_blas
blas = preload_blas()
import mlx.core as mx
import mlx.nn as nn
from mlx_lm.utils import load_model
from mlx_lm.generate import BatchGenerator, generate_step
model, _ = load_model(Path(folder))
if bits:
    nn.quantize(model, group_size=64, bits=bits)
    mx.eval(model.parameters())
for line in sys.stdin:
    request = json.loads(line)
    tokens = request["tokens"]
    if request["batched"]:
        generator = BatchGenerator(model, max_tokens=tokens, completion_batch_size=32)
        start = time.perf_counter()
        numbers = {uid: n for n, uid in enumerate(generator.insert(request["prompts"]))}
        stamps = [[] for _ in numbers]
        while any(len(one) < tokens for one in stamps):
            for response in generator.next_generated():
                stamps[numbers[response.uid]].append(time.perf_counter() - start)
        generator.close()
    else:
        start = time.perf_counter()
        [prompt] = request["prompts"]
        stamps = [[time.perf_counter() - start for _ in generate_step(mx.array(prompt), model, max_tokens=tokens)]]
    print(json.dumps({"stamps": stamps, "blas": blas}), flush=True)
"""

TORCH = """
import json, sys, time
import torch
import transformers
from transformers import AutoModelForCausalLM
transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(int(sys.argv[2]))
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
for line in sys.stdin:
    request = json.loads(line)
    [prompt] = request["prompts"]
    ids, cache, stamps = torch.tensor([prompt]), None, []
    start = time.perf_counter()
    with torch.inference_mode():
        for _ in range(request["tokens"]):
            out = model(input_ids=ids, past_key_values=cache, use_cache=True)
            ids, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
            ids.item()
            stamps.append(time.perf_counter() - start)
    print(json.dumps({"stamps": [stamps]}), flush=True)
"""


class Reference:
    """A process that answers `{"prompts", "tokens", "batched"}` with each prompt's token times."""

    def __init__(self, process: LineProcess) -> None:
        self._process = process
        self.blas = ""

    def generate(self, asked: Sequence[Sequence[int]], tokens: int, batched: bool = False) -> list[list[float]]:
        """Seconds since the request of each prompt's tokens."""
        answer = self._process.ask(prompts=asked, tokens=tokens, batched=batched)
        self.blas = answer.get("blas", "")
        stamps: list[list[float]] = answer["stamps"]
        return stamps

    def rate(self, prompt: Sequence[int], tokens: int) -> float:
        return rate(self.generate([prompt], tokens)[0])

    def close(self) -> None:
        self._process.close()


def threads_of(count: int) -> dict[str, str]:
    """The environment that gives a process so many threads: OpenBLAS, OpenMP, tinygrad."""
    return {"OPENBLAS_NUM_THREADS": str(count), "OMP_NUM_THREADS": str(count), "CPU_COUNT": str(count)}


def mlx_lm(folder: Path, threads: int, bits: int = 0) -> Reference:
    """mlx-lm's own `generate_step` and BatchGenerator, with the BLAS that our runner takes."""
    return Reference(LineProcess(MLX_LM, threads_of(threads), str(ROOT), str(folder), str(bits)))


def torch(folder: Path, threads: int, bits: int = 0) -> Reference | str:
    """transformers on torch; or why not."""
    if bits:
        return "transformers has no packed weights of this kind on a CPU"
    if missing := [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]:
        return f"{missing[0]} is not installed"
    return Reference(LineProcess(TORCH, threads_of(threads), str(folder), str(threads)))


def llama_cpp(folder: Path, threads: int, bits: int, python: str, work: Path) -> Reference | str:
    """llama.cpp by the bindings of the interpreter `python`, which also needs the package gguf; or why not.

    F32, Q8_0 or Q4_0: what llama.cpp has nearest to 0, 8 or 4 bits (blocks of 32 where ours are of 64).
    """
    probe = subprocess.run([python, "-c", "import llama_cpp, gguf, numpy"], capture_output=True, text=True)
    if probe.returncode:
        return f"{python} cannot import llama_cpp and gguf: {probe.stderr.strip().splitlines()[-1]}"
    file = work / f"{folder.name}-{bits}.gguf"
    side = Path(__file__).with_name("llama_cpp_side.py").read_text()
    return Reference(
        LineProcess(side, threads_of(threads), str(folder), str(file), str(bits), str(threads), python=python)
    )
