"""`TinygradShardEngine`: one shard on one device. Imports tinygrad only when it loads."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from exo_node.engine.base import EngineRow, Hidden, LoadPlan, LoadReport, Progress, TensorSource
from exo_node.engine.tinygrad.backend import select_backend
from exo_node.engine.tinygrad.loaded import Floats, Loaded, check_slot
from exo_node.engine.tinygrad.packed_weights import packings_of, runs_bytes, runs_of
from exo_node.engine.tinygrad.spec import decoder_spec
from exo_node.engine.tinygrad.support import check
from exo_node.engine.tinygrad.weights import (
    check_source,
    from_float32,
    held_tensors,
    storage,
    to_float32,
)
from exo_node.engine.windows import SLACK
from exo_node.errors import RingBroken, UnsupportedModel
from exo_node.types import Dtype


class TinygradShardEngine:
    """A `ShardEngine` whose activations are float32 numpy arrays [tokens, hidden_size].

    Rows of one token of different slots run together (`rows_program`), longer ones one after the other in chunks.
    Under `LoadPlan.reproducible` every row runs alone through the same programs, and so do logits: then a row's bits
    depend neither on its neighbours nor on its slot.
    """

    name = "tinygrad"

    def __init__(self) -> None:
        self._loaded: Loaded | None = None

    def load(self, plan: LoadPlan, source: TensorSource, progress: Progress) -> LoadReport:
        """See `ShardEngine.load`. On a CPU activations and KV are float32 whatever `plan.compute_dtype` is (narrow ones
        are several times slower there, ENGINES.md 2.5); elsewhere KV and the inputs of matrix products have it."""
        began = time.perf_counter()
        check(plan.config, plan.shard)
        spec = decoder_spec(plan.config)
        held = held_tensors(spec, plan.shard, plan.is_head)
        packings = packings_of(held, source)
        check_source(held, source, spec.tied, packings)
        if plan.context > spec.max_context:
            raise UnsupportedModel(f"tinygrad: context {plan.context} is over the model's {spec.max_context}")
        backend = select_backend(plan.device)
        runs = runs_of(held, packings)
        self._loaded = Loaded(plan, spec, backend, runs, source, progress)
        self._loaded.warm_up()
        seconds = time.perf_counter() - began
        kernels = self._loaded.kernels
        info = {
            "device": backend.device,
            "runtime": backend.selector,
            "activations": self._loaded.activation,
            "decode": "row by row" if plan.reproducible else "batched",
            "kernels": f"{kernels.compiled} compiled, {kernels.reused} from disk",
        }
        return LoadReport(
            weight_bytes=runs_bytes(runs, plan.compute_dtype),
            kv_bytes=self._loaded.decoder.kv_bytes,
            seconds=seconds,
            rollback_depth=None if self._loaded.decoder.ring is None else SLACK,
            whole_tokens=self._loaded.decoder.ring or 0,
            info=info,
        )

    def forward(self, rows: Sequence[EngineRow], hidden: Hidden | None) -> Floats:
        """See `ShardEngine.forward`. Raises `RingBroken` when a row does not continue its slot or does not fit it."""
        loaded = self._ready()
        loaded.check_rows(rows, hidden)
        inputs = None if hidden is None else _floats(hidden)
        starts = [0, *accumulate(row.length for row in rows)]
        given = [row.token_ids if inputs is None else inputs[starts[i] : starts[i + 1]] for i, row in enumerate(rows)]
        results = loaded.run_together(rows, given)
        for i, row in enumerate(rows):
            if i not in results:
                results[i] = loaded.run_row(row, given[i])
        outputs = [results[i] for i in range(len(rows))]
        if loaded.plan.shard.is_last:
            outputs = [one[row.length - row.n_outputs :] for one, row in zip(outputs, rows, strict=True)]
        return np.concatenate(outputs) if outputs else np.empty((0, loaded.spec.hidden_size), dtype=np.float32)

    def export(self, activation: Floats, dtype: Dtype) -> Hidden:
        """See `ShardEngine.export`."""
        values = np.ascontiguousarray(from_float32(activation, dtype))
        tokens, width = activation.shape
        return Hidden(dtype, (tokens, width), values.data.cast("B") if values.size else b"")

    def logits(self, activation: Floats | Hidden, outputs: Sequence[int] | None = None) -> Floats:
        """See `ShardEngine.logits`."""
        loaded = self._ready()
        values = _floats(activation) if isinstance(activation, Hidden) else activation
        return loaded.logits(values if outputs is None else values[list(outputs)])

    def scores(self, activation: Floats | Hidden, outputs: range) -> Floats:
        """See `ShardEngine.scores`."""
        values = _floats(activation) if isinstance(activation, Hidden) else activation
        return self._ready().scores(values[outputs.start : outputs.stop])

    def states(self, activation: Floats | Hidden, outputs: range) -> Floats:
        """See `ShardEngine.states`."""
        values = _floats(activation) if isinstance(activation, Hidden) else activation
        return self._ready().states(values[outputs.start : outputs.stop])

    def truncate(self, slot: int, length: int) -> None:
        """See `ShardEngine.truncate`. Costs nothing: what lies past the length is never read."""
        lengths = self._ready().lengths
        check_slot(slot, lengths)
        if not 0 <= length <= lengths[slot]:
            raise RingBroken(f"tinygrad: slot {slot} holds {lengths[slot]} tokens, cannot be cut to {length}")
        lengths[slot] = length

    def copy(self, target: int, source: int, length: int) -> None:
        """See `ShardEngine.copy`."""
        loaded = self._ready()
        for slot in (target, source):
            check_slot(slot, loaded.lengths)
        if not 0 <= length <= loaded.lengths[source]:
            raise RingBroken(f"tinygrad: slot {source} holds {loaded.lengths[source]} tokens, {length} asked for")
        if length and target != source:
            loaded.decoder.copy(target, source, length)
        loaded.lengths[target] = length

    def kv_bytes(self) -> int:
        """See `ShardEngine.kv_bytes`: all is there from the start."""
        return self._ready().decoder.kv_bytes

    def give_back(self) -> None:
        """See `ShardEngine.give_back`: its pool is all there from the start, and nothing is kept beside it."""

    def close(self) -> None:
        """Drop weights and KV. Safe to call twice; the engine can load again."""
        if self._loaded is not None:
            self._loaded.decoder.synchronize()
            self._loaded = None

    def _ready(self) -> Loaded:
        if self._loaded is None:
            raise RingBroken("tinygrad: nothing is loaded")
        return self._loaded


def _floats(hidden: Hidden) -> Floats:
    raw = np.frombuffer(hidden.data, dtype=storage(hidden.dtype)).reshape(hidden.shape)
    return to_float32(raw, hidden.dtype)
