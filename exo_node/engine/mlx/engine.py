"""MLXShardEngine: a shard of a model on MLX (`exo_node.engine.base.ShardEngine`)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import accumulate
from types import ModuleType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from exo_node.engine.base import EngineRow, Hidden, LoadPlan, LoadReport, Progress, TensorSource
from exo_node.engine.mlx.batch import Batch, attend_by_row
from exo_node.engine.mlx.cache import Pool, Slot
from exo_node.engine.mlx.families import (
    FAMILIES,
    decode_mask_axes,
    embedding_correction,
    kv_elements,
    layer_windows,
)
from exo_node.engine.mlx.hybrids import layer_states, slot_bytes
from exo_node.engine.mlx.load import load_weights, wanted_prefixes
from exo_node.engine.mlx.modules import import_mlx, import_model_file, select_device
from exo_node.engine.mlx.recurrent import ROLLBACK
from exo_node.engine.mlx.stage import Stage, owned
from exo_node.engine.mlx.support import COMPUTE_DTYPES, check
from exo_node.engine.mlx.threads import ThreadStreams
from exo_node.engine.windows import SLACK, kept_tokens
from exo_node.errors import CheckpointError, RingBroken, UnsupportedModel
from exo_node.types import DTYPE_BYTES, Dtype

_STREAMS = ThreadStreams()  # one for the process, because MLX's streams are


def _build(module: ModuleType, config: Mapping[str, Any]) -> Any:
    """mlx-lm's model, its parameters not evaluated."""
    try:
        return module.Model(module.ModelArgs.from_dict(config))
    except (TypeError, ValueError, KeyError) as e:  # what mlx-lm's dataclasses raise for a missing or odd field
        raise CheckpointError(f"config.json of this {config['model_type']} model does not suit mlx-lm: {e}") from e


def _pool_bytes(plan: LoadPlan, windows: Sequence[int | None], states: Sequence[int]) -> int:
    """The most that the slots take of layers with these windows and numbers of states."""
    element = DTYPE_BYTES[plan.compute_dtype]
    tokens = plan.kv_tokens or plan.slots * plan.context
    token = kv_elements(plan.config) * element
    return sum(
        plan.slots * slot_bytes(plan.config, element)
        if n
        else min(tokens, plan.slots * kept_tokens(window, plan.context, plan.max_chunk)) * token
        for window, n in zip(windows, states, strict=True)
    )


def _reach(plan: LoadPlan, windows: Sequence[int | None], states: Sequence[int]) -> tuple[int | None, int]:
    """`rollback_depth` and `whole_tokens` of a `LoadReport`."""
    if any(states):
        return ROLLBACK, 0
    kept = min((kept_tokens(window, plan.context, plan.max_chunk) for window in windows), default=plan.context)
    return (SLACK, kept) if kept < plan.context else (None, 0)


@dataclass(frozen=True, slots=True)
class _Loaded:
    plan: LoadPlan
    stage: Stage
    pool: Pool
    dtype: Any
    decode: Literal["by_row", "padded", "singles", "alone"]  # families.Family, or "alone" under `LoadPlan.reproducible`
    mask_axes: int | None  # of a batch


class MLXShardEngine:
    """One shard over mlx-lm's own model classes. All calls on one thread: MLX's streams belong to a thread.

    `forward` is lazy: it returns before the layers have been computed, and a ring of one evaluates once, in `logits`.
    The rows of a step run as one pass (batch.py); one by one those of more than one token where the family computes
    attention itself, all of them under `LoadPlan.reproducible` and where a slot comes twice.
    """

    name = "mlx"

    def __init__(self) -> None:
        self._mx = import_mlx()
        self._loaded: _Loaded | None = None
        self._entered = False

    def load(self, plan: LoadPlan, source: TensorSource, progress: Progress) -> LoadReport:
        """See `ShardEngine.load`. Raises `UnsupportedModel`, `CheckpointError`, `EngineUnavailable`."""
        started = time.perf_counter()
        mx = self._mx
        check(plan.config, plan.shard)
        if plan.compute_dtype not in COMPUTE_DTYPES:
            raise UnsupportedModel(f"the mlx engine does not compute in {plan.compute_dtype}")
        if plan.slots < 1 or plan.context < 1:
            raise ValueError(f"a shard needs a slot and a token at least: {plan.slots} slots of {plan.context}")
        device = select_device(mx, plan.device)
        if not self._entered:
            _STREAMS.enter(mx, device)
            self._entered = True
        if device == mx.Device(mx.cpu):
            # On a CPU MLX compiles fused kernels with the system's g++: 0.5 s each, or a failure where there is none.
            mx.disable_compile()
        family = FAMILIES[plan.config["model_type"]]
        model = _build(import_model_file(family.module), family.adapt(plan.config, plan.context))
        dtype = getattr(mx, plan.compute_dtype)
        prefixes = wanted_prefixes(plan.config, plan.shard, plan.is_head)
        weight_bytes = load_weights(mx, model, source, prefixes, dtype, progress)
        correction = 1.0 if plan.compute_dtype == "bfloat16" else embedding_correction(plan.config)
        stage = Stage(mx, model, plan.shard, is_head=plan.is_head, correction=correction)
        windows = owned(layer_windows(plan.config), plan.shard)
        states = owned(layer_states(plan.config), plan.shard)
        pool = Pool(mx, plan.slots, plan.context, windows, family.array_mask, plan.max_chunk, states)
        if family.decode != "padded":
            attend_by_row(mx, next(layer.self_attn for layer in model.model.layers if hasattr(layer, "self_attn")))
        decode = "alone" if plan.reproducible else family.decode
        self._loaded = _Loaded(plan, stage, pool, dtype, decode, decode_mask_axes(plan.config))
        self._warm_up(self._loaded)
        rollback_depth, whole_tokens = _reach(plan, windows, states)
        return LoadReport(
            weight_bytes=weight_bytes,
            kv_bytes=_pool_bytes(plan, windows, states),
            seconds=time.perf_counter() - started,
            rollback_depth=rollback_depth,
            whole_tokens=whole_tokens,
            info={
                "device": plan.device,
                "mlx": version("mlx"),
                "mlx-lm": version("mlx-lm"),
                "decode": "row by row" if decode == "alone" else "batched",
            },
        )

    def forward(self, rows: Sequence[EngineRow], hidden: Hidden | None) -> Any:
        """See `ShardEngine.forward`. A lazy mx.array; a row that breaks a slot's order raises `RingBroken`."""
        mx, loaded = self._mx, self._state()
        plan = loaded.plan
        received = None if hidden is None else self._to_array(hidden)
        if (received is None) != plan.is_head:
            raise RingBroken("the head takes token ids, every other shard hidden states")
        if received is not None and received.shape[0] != sum(row.length for row in rows):
            raise RingBroken(f"{received.shape[0]} hidden states for rows of {[row.length for row in rows]} tokens")
        starts = [0, *accumulate(row.length for row in rows)]
        pieces: dict[int, Any] = {}  # row -> [length, hidden_size]
        for group in self._passes(rows):
            entering = received
            if received is not None and len(group) < len(rows):
                entering = mx.concatenate([received[starts[i] : starts[i + 1]] for i in group])
            members = [rows[i] for i in group]
            out = self._together(members, entering) if len(group) > 1 else self._alone(members[0], entering)
            if len(group) == len(rows) and (not plan.shard.is_last or all(r.n_outputs == r.length for r in rows)):
                return out
            ends = accumulate(row.length for row in members)
            pieces |= {i: out[end - rows[i].length : end] for i, end in zip(group, ends, strict=True)}
            if plan.shard.is_last and not any(row.n_outputs for row in members):
                # Nothing else will ask for this pass, and its graph would grow with the next.
                mx.eval([array for row in members for array in loaded.pool[row.slot].arrays()])
        if not plan.shard.is_last:
            outputs = [pieces[i] for i in range(len(rows))]
        else:
            outputs = [pieces[i][row.length - row.n_outputs :] for i, row in enumerate(rows) if row.n_outputs]
        if not outputs:
            return mx.zeros((0, plan.config["hidden_size"]), loaded.dtype)
        return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=0)

    def _passes(self, rows: Sequence[EngineRow]) -> list[list[int]]:
        """The rows (by their index) of each pass that this step takes."""
        loaded = self._state()
        if loaded.decode == "alone" or len({row.slot for row in rows}) < len(rows):
            return [[i] for i in range(len(rows))]  # two rows of one slot follow each other
        if loaded.decode == "by_row":
            return [list(range(len(rows)))] if rows else []
        single = [i for i, row in enumerate(rows) if row.length == 1]
        return ([single] if single else []) + [[i] for i, row in enumerate(rows) if row.length > 1]

    def _together(self, rows: Sequence[EngineRow], entering: Any) -> Any:
        """Rows of several slots in one pass; `entering` (or None) and what is returned: [tokens, hidden_size]."""
        mx, loaded = self._mx, self._state()
        slots, lengths = [loaded.pool[row.slot] for row in rows], [row.length for row in rows]
        for slot, row in zip(slots, rows, strict=True):
            slot.expect(row.position, row.length)
        batch = Batch(mx, slots, lengths, loaded.mask_axes)
        if entering is None:
            ids = mx.array(np.concatenate([self._ids(row) for row in rows]))
            out = loaded.stage.run(batch, ids[:, None], None)
        else:
            out = loaded.stage.run(batch, None, entering[:, None])
        batch.commit()
        self._begin_states(slots)
        return out[:, 0]

    def _alone(self, row: EngineRow, entering: Any) -> Any:
        """One row as [1, length, hidden_size]; `entering` (or None) and what is returned: [length, hidden_size]."""
        loaded = self._state()
        slot = loaded.pool[row.slot]
        slot.expect(row.position, row.length)
        if entering is None:
            out = loaded.stage.run(slot, self._mx.array(self._ids(row))[None], None)
        else:
            out = loaded.stage.run(slot, None, entering[None])
        slot.commit(row.length)
        self._begin_states([slot])
        return out[0]

    def _begin_states(self, slots: Sequence[Slot]) -> None:
        """Begin to evaluate the recurrent states after a pass: its outputs need not depend on them, and unevaluated
        they would hold all of its graph."""
        if states := [state for slot in slots for state in slot.states()]:
            self._mx.async_eval(states)

    def export(self, activation: Any, dtype: Dtype) -> Hidden:
        """See `ShardEngine.export`."""
        mx = self._mx
        array = mx.contiguous(activation.astype(getattr(mx, dtype)))
        mx.eval(array)
        n, width = array.shape
        # The array's own memory, bf16 as its raw bits; an array without elements has none.
        return Hidden(dtype, (n, width), memoryview(array).cast("B") if n else b"")

    def logits(self, activation: Any | Hidden, outputs: Sequence[int] | None = None) -> npt.NDArray[np.float32]:
        """See `ShardEngine.logits`. A matrix product's bits change with the number of its rows."""
        mx, stage, plan = self._mx, self._heading(), self._state().plan
        array = self._to_array(activation) if isinstance(activation, Hidden) else activation
        wanted = range(array.shape[0]) if outputs is None else outputs
        if not len(wanted):
            return np.zeros((0, plan.config["vocab_size"]), np.float32)
        if not plan.reproducible:
            if list(wanted) != list(range(array.shape[0])):
                array = array[mx.array(list(wanted))]
            return self._evaluated(stage.logits(array[None])[0])
        rows = [stage.logits(array[None, i : i + 1])[0] for i in wanted]
        return self._evaluated(rows[0] if len(rows) == 1 else mx.concatenate(rows, axis=0))

    def scores(self, activation: Any | Hidden, outputs: range) -> npt.NDArray[np.float32]:
        """See `ShardEngine.scores`."""
        stage = self._heading()
        array = self._to_array(activation) if isinstance(activation, Hidden) else activation
        return self._evaluated(stage.logits(array[None, outputs.start : outputs.stop])[0])

    def states(self, activation: Any | Hidden, outputs: range) -> npt.NDArray[np.float32]:
        """See `ShardEngine.states`."""
        stage = self._heading()
        array = self._to_array(activation) if isinstance(activation, Hidden) else activation
        return self._evaluated(stage.states(array[None, outputs.start : outputs.stop])[0])

    def truncate(self, slot: int, length: int) -> None:
        """See `ShardEngine.truncate`."""
        self._state().pool[slot].truncate(length)

    def copy(self, target: int, source: int, length: int) -> None:
        """See `ShardEngine.copy`."""
        pool = self._state().pool
        pool[target].copy_from(pool[source], length)

    def kv_bytes(self) -> int:
        """Bytes that the slots' keys and values take at present (`LoadReport.kv_bytes`: what they may at most)."""
        return self._state().pool.bytes()

    def give_back(self) -> None:
        """See `ShardEngine.give_back`: MLX keeps freed buffers."""
        self._mx.clear_cache()

    def close(self) -> None:
        """Give up weights and slots. On the engine's thread, as every call; the thread may end after it."""
        self._loaded = None
        self._mx.clear_cache()
        if self._entered:
            self._entered = False
            _STREAMS.leave(self._mx)

    def _state(self) -> _Loaded:
        if self._loaded is None:
            raise RuntimeError("load() comes first")
        return self._loaded

    def _heading(self) -> Stage:
        if not self._state().plan.is_head:
            raise RingBroken("only the head holds the LM head")
        return self._state().stage

    def _evaluated(self, array: Any) -> npt.NDArray[np.float32]:
        out = array.astype(self._mx.float32)
        self._mx.eval(out)
        return np.array(out)

    def _ids(self, row: EngineRow) -> npt.NDArray[np.int32]:
        """The row's token ids, checked."""
        if row.token_ids is None or len(row.token_ids) != row.length:
            raise RingBroken(f"a row of {row.length} tokens came to the head without its token ids")
        vocabulary = self._state().plan.config["vocab_size"]
        if not 0 <= row.token_ids.min() <= row.token_ids.max() < vocabulary:
            raise RingBroken(f"a token id is not within the vocabulary of {vocabulary}")  # MLX would read past its end
        return row.token_ids

    def _to_array(self, hidden: Hidden) -> Any:
        """[tokens, hidden_size] in the compute dtype."""
        mx = self._mx
        width = self._state().plan.config["hidden_size"]
        n, got = hidden.shape
        if got != width or len(hidden.data) != n * width * DTYPE_BYTES[hidden.dtype]:
            raise RingBroken(f"hidden states of shape {hidden.shape} with {len(hidden.data)} bytes; width is {width}")
        kind = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}[hidden.dtype]
        array = mx.array(np.frombuffer(hidden.data, dtype=kind).reshape(n, width))
        if hidden.dtype == "bfloat16":
            array = array.view(mx.bfloat16)
        return array.astype(self._state().dtype)

    def _warm_up(self, loaded: _Loaded) -> None:
        """One token through everything: kernels compile, pages come in, and what is wrong fails here."""
        plan = loaded.plan
        if plan.is_head:
            row = EngineRow(slot=0, position=0, length=1, token_ids=np.zeros(1, np.int32), n_outputs=1)
            out = self.forward([row], None)
            self.logits(out)
        else:
            row = EngineRow(slot=0, position=0, length=1, token_ids=None, n_outputs=1)
            width = plan.config["hidden_size"]
            self.export(self.forward([row], Hidden("float32", (1, width), bytes(4 * width))), plan.compute_dtype)
        loaded.pool[0].truncate(0)
