"""Which tensors a shard holds, and how they are read: checkpoint names on one side, the decoder's own on the other.

`held_tensors` is pure. `read_blocks` hands a tensor over in pieces of a few MiB in the dtype wanted, so that a
conversion never costs a second copy of a large tensor.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from exo_node.engine.base import TensorSource
from exo_node.engine.tinygrad.spec import DecoderSpec
from exo_node.errors import CheckpointError, UnsupportedModel
from exo_node.packing import Packing, scales_of
from exo_node.types import Dtype, Shard

Packings = Mapping[str, Packing]  # of the matrices that are packed, by the checkpoint's name
BLOCK_ELEMENTS = 4 << 20  # 16 MiB of float32: large enough for full copy speed, small against the 300 MB allowance
TILES = (16, 8, 4)  # four vector registers of float32; less than one is not worth it
_FILE_DTYPES: dict[str, Dtype] = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class Held:
    """One tensor that the shard holds under `key`: the checkpoint's `parts` (name, shape) stacked along the first axis.

    Matrices are held in the compute dtype; vectors (norms, biases) in float32, with `offset` added.
    """

    key: str
    parts: tuple[tuple[str, tuple[int, ...]], ...]
    offset: float = 0.0

    @property
    def tile(self) -> int:
        """How many rows of a matrix a CPU's memory holds together, their elements side by side (linear.py): 1 = none,
        for vectors and where a part's rows do not divide."""
        if len(self.shape) != 2:
            return 1
        return next((n for n in TILES if all(shape[0] % n == 0 for _, shape in self.parts)), 1)

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(shape[0] for _, shape in self.parts), *self.parts[0][1][1:])

    def dtype(self, compute: Dtype) -> Dtype:
        return compute if len(self.shape) == 2 else "float32"


def held_tensors(spec: DecoderSpec, shard: Shard, is_head: bool) -> list[Held]:
    """What the shard holds, in the order in which it is read. Layer keys are `LAYER.part`, LAYER global."""
    held = []
    if is_head:
        table = (spec.vocab_size, spec.hidden_size)
        held.append(Held("embed", (("model.embed_tokens.weight", table),)))
        held.append(Held("norm", (("model.norm.weight", (spec.hidden_size,)),), spec.norm_offset))
        if not spec.tied:
            held.append(Held("head", (("lm_head.weight", table),)))
    for layer in range(shard.start_layer, shard.end_layer):
        held += _layer(spec, layer)
    return held


def _layer(spec: DecoderSpec, layer: int) -> list[Held]:
    prefix, hidden, inner = f"model.layers.{layer}.", spec.hidden_size, spec.intermediate_size
    q, kv = spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim
    held: list[Held] = []

    def linear(key: str, sources: Sequence[tuple[str, int]], width: int, bias: bool) -> None:
        held.append(Held(f"{layer}.{key}", tuple((f"{prefix}{n}.weight", (rows, width)) for n, rows in sources)))
        if bias:
            held.append(Held(f"{layer}.{key}_bias", tuple((f"{prefix}{n}.bias", (rows,)) for n, rows in sources)))

    def norm(key: str, source: str, width: int) -> None:
        held.append(Held(f"{layer}.{key}", ((f"{prefix}{source}.weight", (width,)),), spec.norm_offset))

    norm("attention_norm", "input_layernorm", hidden)
    if spec.packed:
        linear("qkv", [("self_attn.qkv_proj", q + 2 * kv)], hidden, spec.qkv_bias)
    else:
        names = [("self_attn.q_proj", q), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)]
        linear("qkv", names, hidden, spec.qkv_bias)
    if spec.qk_norm:
        norm("q_norm", "self_attn.q_norm", spec.head_dim)
        norm("k_norm", "self_attn.k_norm", spec.head_dim)
    linear("out", [("self_attn.o_proj", hidden)], q, spec.out_bias)
    if spec.post_norms:
        norm("attention_post_norm", "post_attention_layernorm", hidden)
        norm("mlp_norm", "pre_feedforward_layernorm", hidden)
        norm("mlp_post_norm", "post_feedforward_layernorm", hidden)
    else:
        norm("mlp_norm", "post_attention_layernorm", hidden)
    if spec.packed:
        linear("gate_up", [("mlp.gate_up_proj", 2 * inner)], hidden, spec.mlp_bias)
    else:
        linear("gate_up", [("mlp.gate_proj", inner), ("mlp.up_proj", inner)], hidden, spec.mlp_bias)
    linear("down", [("mlp.down_proj", hidden)], inner, spec.mlp_bias)
    return held


def stored_shapes(shapes: Mapping[str, tuple[int, ...]], packings: Packings) -> dict[str, tuple[int, ...]]:
    """Of the checkpoint's tensors, where `shapes` are those of the tensors that they stand for."""
    stored = dict(shapes)
    for name, packing in packings.items():
        rows, columns = shapes[name]
        stored[name], scales = packing.shapes(rows, columns)
        stored |= dict.fromkeys(scales_of(name), scales)
    return stored


def check_source(held: Sequence[Held], source: TensorSource, tied: bool, packings: Packings) -> None:
    """Raise before anything is read when `source` lacks a tensor, holds one that the decoder would ignore, or differs
    in shape (`CheckpointError`) or has a dtype that is not run (`UnsupportedModel`)."""
    wanted = stored_shapes({name: shape for tensor in held for name, shape in tensor.parts}, packings)
    present = set(source.names())
    if missing := sorted(wanted.keys() - present):
        raise CheckpointError(f"checkpoint lacks {missing[0]} ({len(missing)} missing): files and config.json disagree")
    # old exports carry the rotary buffer, and tied ones a second copy of the embedding: neither changes a number
    ignored = {n for n in present if n.endswith("rotary_emb.inv_freq")}
    ignored |= {"lm_head.weight", *scales_of("lm_head.weight")} if tied else set()
    if unknown := sorted(present - wanted.keys() - ignored):
        raise CheckpointError(
            f"checkpoint holds {unknown[0]} ({len(unknown)} unknown), which config.json's architecture does not have"
        )
    for name, shape in wanted.items():
        info = source.info(name)
        if info.dtype not in _FILE_DTYPES and name not in packings:
            raise UnsupportedModel(f"tinygrad: tensor {name} is {info.dtype}; it runs {', '.join(_FILE_DTYPES)}")
        if tuple(info.shape) != shape:
            raise CheckpointError(f"tensor {name} has shape {list(info.shape)}, config.json says {list(shape)}")


def read_blocks(source: TensorSource, name: str, to: Dtype, offset: float, tile: int = 1) -> Iterator[memoryview]:
    """The tensor's bytes in dtype `to` (bfloat16 as raw bits) with `offset` added, block after block, in order.

    `tile` over 1: of a matrix [rows, width], in the order [rows / tile, width, tile].
    """
    info = source.info(name)
    kind = _FILE_DTYPES[info.dtype]
    raw = np.frombuffer(source.read(name), dtype=_STORAGE[kind])
    step = BLOCK_ELEMENTS
    if tile > 1:
        band = tile * info.shape[1]
        step = max(1, step // band) * band
    for start in range(0, raw.size, step):
        block = raw[start : start + step]
        if offset:
            block = from_float32(to_float32(block, kind) + np.float32(offset), to)
        elif kind != to:
            block = from_float32(to_float32(block, kind), to)
        if tile > 1:
            block = np.ascontiguousarray(block.reshape(-1, tile, info.shape[1]).transpose(0, 2, 1)).reshape(-1)
        yield block.data.cast("B")


_STORAGE: dict[Dtype, npt.DTypeLike] = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}
assert sys.byteorder == "little"  # safetensors and the wire are little-endian; no big-endian machine runs tinygrad


def to_float32(values: npt.NDArray[np.generic], dtype: Dtype) -> npt.NDArray[np.float32]:
    """`values` in storage form (bfloat16 as uint16 bits) as float32, exactly."""
    if dtype == "bfloat16":
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values.astype(np.float32, copy=False)


def from_float32(values: npt.NDArray[np.float32], dtype: Dtype) -> npt.NDArray[np.generic]:
    """float32 in the storage form of `dtype`, rounded to nearest even; NaN stays NaN."""
    if dtype != "bfloat16":
        return values.astype(_STORAGE[dtype], copy=False)
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded).astype(np.uint16, copy=False)


def storage(dtype: Dtype) -> npt.DTypeLike:
    """numpy dtype in which `dtype` travels: bfloat16 as its raw bits."""
    return _STORAGE[dtype]
