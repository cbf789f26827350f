"""`TinygradShardEngine`: one shard on one device. Imports tinygrad only when it loads."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from exo_node.engine.base import EngineRow, Hidden, LoadPlan, LoadReport, Progress, TensorSource
from exo_node.engine.tinygrad.backend import Backend, select_backend
from exo_node.engine.tinygrad.chunks import chunk_lengths, group_rows, row_widths, split_row
from exo_node.engine.tinygrad.packed_weights import Run, packings_of, runs_bytes, runs_of
from exo_node.engine.tinygrad.spec import DecoderSpec, decoder_spec
from exo_node.engine.tinygrad.support import check
from exo_node.engine.tinygrad.weights import (
    check_source,
    from_float32,
    held_tensors,
    storage,
    to_float32,
)
from exo_node.errors import RingBroken, UnsupportedModel
from exo_node.types import DTYPE_BYTES, Dtype

if TYPE_CHECKING:
    from exo_node.engine.tinygrad.decoder import ShardDecoder
    from exo_node.engine.tinygrad.program import Program

Floats = npt.NDArray[np.float32]
SCORED = 32  # outputs of one `scores` product


class TinygradShardEngine:
    """A `ShardEngine` whose activations are float32 numpy arrays [tokens, hidden_size].

    Rows of one token of different slots run together (`rows_program`), longer ones one after the other in chunks.
    Under `LoadPlan.reproducible` every row runs alone through the same programs, and so do logits: then a row's bits
    depend neither on its neighbours nor on its slot.
    """

    name = "tinygrad"

    def __init__(self) -> None:
        self._loaded: _Loaded | None = None

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
        self._loaded = _Loaded(plan, spec, backend, runs, source, progress)
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
        _check_slot(slot, lengths)
        if not 0 <= length <= lengths[slot]:
            raise RingBroken(f"tinygrad: slot {slot} holds {lengths[slot]} tokens, cannot be cut to {length}")
        lengths[slot] = length

    def copy(self, target: int, source: int, length: int) -> None:
        """See `ShardEngine.copy`."""
        loaded = self._ready()
        for slot in (target, source):
            _check_slot(slot, loaded.lengths)
        if not 0 <= length <= loaded.lengths[source]:
            raise RingBroken(f"tinygrad: slot {source} holds {loaded.lengths[source]} tokens, {length} asked for")
        if length and target != source:
            loaded.decoder.copy(target, source, length)
        loaded.lengths[target] = length

    def kv_bytes(self) -> int:
        """See `ShardEngine.kv_bytes`: all is there from the start."""
        return self._ready().decoder.kv_bytes

    def close(self) -> None:
        """Drop weights and KV. Safe to call twice; the engine can load again."""
        if self._loaded is not None:
            self._loaded.decoder.synchronize()
            self._loaded = None

    def _ready(self) -> _Loaded:
        if self._loaded is None:
            raise RingBroken("tinygrad: nothing is loaded")
        return self._loaded


class _Loaded:
    """Everything that exists between load and close."""

    def __init__(
        self,
        plan: LoadPlan,
        spec: DecoderSpec,
        backend: Backend,
        runs: Sequence[Run],
        source: TensorSource,
        progress: Progress,
    ) -> None:
        from exo_node.engine.tinygrad.decoder import ShardDecoder
        from exo_node.engine.tinygrad.kernels import persist_kernels

        vectors = backend.selector == "CPU:X86"
        if vectors:
            from exo_node.engine.tinygrad.lanes import use_lanes

            use_lanes()
        self.kernels = persist_kernels("lanes" if vectors else "plain")
        self.plan, self.spec = plan, spec
        self.activation: Dtype = "float32" if backend.is_cpu else plan.compute_dtype
        self.lengths = [0] * plan.slots
        weights = _read_weights(runs, source, plan.compute_dtype, backend, progress)
        score_bytes = spec.n_heads * (plan.context + plan.max_chunk) * 4
        self._chunks = chunk_lengths(plan.max_chunk, score_bytes, is_cpu=backend.is_cpu)
        self._widths = (1,) if plan.reproducible else row_widths(plan.slots, score_bytes, is_cpu=backend.is_cpu)
        self.decoder: ShardDecoder = ShardDecoder(
            spec,
            plan.shard,
            weights,
            slots=plan.slots,
            context=plan.context,
            max_chunk=self._chunks[-1],
            activation=self.activation,
            device=backend.device,
        )
        embeds = plan.is_head
        self._steps: dict[int, Program] = {n: self.decoder.chunk_program(n, embeds=embeds) for n in self._chunks}
        self._rows: dict[int, Program] = {n: self.decoder.rows_program(n, embeds=embeds) for n in self._widths}
        self._heads: dict[int, Program] = {}
        if plan.is_head:
            self._heads = {n: self.decoder.logits_program(n) for n in self._widths}
        self._reading: dict[bool, Program] = {}  # of SCORED outputs at once, compiled when they are first asked for

    def warm_up(self) -> None:
        """Compile everything now: a stage that compiles while a step waits for it would pass for a hung one."""
        entering = np.zeros(1, np.int32) if self.plan.is_head else np.zeros((1, self.spec.hidden_size), np.float32)
        zero = np.zeros(1, np.int32)
        for chunk in self._steps.values():
            chunk(entering, variables=self.decoder.place(0, 0))
        for rows in self._rows.values():
            rows(entering, zero, zero, variables=self.decoder.seen(1))
        for head in self._heads.values():
            head(np.zeros((1, self.spec.hidden_size), dtype=np.float32))

    def check_rows(self, rows: Sequence[EngineRow], hidden: Hidden | None) -> None:
        """Refuse a step that cannot be run as it stands before any of it is run."""
        if (hidden is None) != self.plan.is_head:
            raise RingBroken("tinygrad: the head takes token ids, every other shard takes hidden states")
        lengths = list(self.lengths)
        for row in rows:
            _check_slot(row.slot, lengths)
            if row.position != lengths[row.slot]:
                raise RingBroken(
                    f"tinygrad: slot {row.slot} holds {lengths[row.slot]} tokens, row is at {row.position}"
                )
            if row.length <= 0 or not 0 <= row.n_outputs <= row.length:
                raise RingBroken(f"tinygrad: row of {row.length} tokens with {row.n_outputs} outputs")
            if row.position + row.length > self.plan.context:
                raise RingBroken(f"tinygrad: row ends at {row.position + row.length}, context is {self.plan.context}")
            if self.plan.is_head:
                ids = row.token_ids
                if ids is None or ids.shape != (row.length,):
                    raise RingBroken(f"tinygrad: row of {row.length} tokens without as many token ids")
                if int(ids.min()) < 0 or int(ids.max()) >= self.spec.vocab_size:
                    raise RingBroken(f"tinygrad: token id outside the vocabulary of {self.spec.vocab_size}")
            lengths[row.slot] += row.length
        if hidden is not None:
            shape = (sum(row.length for row in rows), self.spec.hidden_size)
            if hidden.shape != shape or len(hidden.data) != math.prod(shape) * DTYPE_BYTES[hidden.dtype]:
                raise RingBroken(f"tinygrad: hidden states {hidden.shape} {hidden.dtype}, {shape} expected")

    def run_together(self, rows: Sequence[EngineRow], given: Sequence[npt.NDArray[Any] | None]) -> dict[int, Floats]:
        """All layers over the rows of one token, as many at once as programs are wide: results by index in `rows`.

        None, if a slot comes twice: then rows follow each other. Each slot is one token longer afterwards.
        """
        if len({row.slot for row in rows}) < len(rows):
            return {}
        alone = [i for i, row in enumerate(rows) if row.length == 1]
        found: dict[int, Floats] = {}
        for group in group_rows([rows[i].position for i in alone], self._widths):
            chosen = [alone[i] for i in group]
            values = np.concatenate([_given(given[i]) for i in chosen])
            keys_at = np.array([2 * rows[i].slot for i in chosen], np.int32)
            positions = np.array([rows[i].position for i in chosen], np.int32)
            seen = self.decoder.seen(int(positions.max()) + 1)
            out = self._fitting(self._rows, len(chosen))(values, keys_at, positions, variables=seen)
            for n, i in enumerate(chosen):
                found[i] = out[n : n + 1]
                self.lengths[rows[i].slot] = rows[i].position + 1
        return found

    def run_row(self, row: EngineRow, given: npt.NDArray[Any] | None) -> Floats:
        """All layers over one row, chunk after chunk; the slot's length grows with each."""
        values = _given(given)
        results = []
        done = 0
        for length in split_row(row.length, self._chunks):
            results.append(self._run(values[done : done + length], row.slot, row.position + done))
            done += length
        self.lengths[row.slot] = row.position + row.length
        return results[0] if len(results) == 1 else np.concatenate(results)

    def logits(self, values: Floats) -> Floats:
        if not self._heads:
            raise RingBroken("tinygrad: only the head has an LM head")
        step = self._widths[-1]
        parts = [values[at : at + step] for at in range(0, len(values), step)]
        found = [self._fitting(self._heads, len(part))(part) for part in parts]
        return np.concatenate(found) if found else np.empty((0, self.spec.vocab_size), dtype=np.float32)

    def scores(self, values: Floats) -> Floats:
        return self._read(values, lm_head=True)

    def states(self, values: Floats) -> Floats:
        return self._read(values, lm_head=False)

    def _read(self, values: Floats, *, lm_head: bool) -> Floats:
        if not self._heads:
            raise RingBroken("tinygrad: only the head has an LM head")
        program = self._reading.get(lm_head)
        if program is None:
            make = self.decoder.logits_program if lm_head else self.decoder.states_program
            program = self._reading[lm_head] = make(SCORED)
        return np.concatenate([program(values[at : at + SCORED]) for at in range(0, len(values), SCORED)])

    def _run(self, values: npt.NDArray[Any], slot: int, position: int) -> Floats:
        if len(values) == 1:
            places = (np.array([2 * slot], np.int32), np.array([position], np.int32))
            return self._rows[1](values, *places, variables=self.decoder.seen(position + 1))
        return self._fitting(self._steps, len(values))(values, variables=self.decoder.place(slot, position))

    @staticmethod
    def _fitting(programs: Mapping[int, Program], count: int) -> Program:
        return programs[min(n for n in programs if n >= count)]


def _read_weights(
    runs: Sequence[Run], source: TensorSource, compute: Dtype, backend: Backend, progress: Progress
) -> Mapping[str, Any]:
    """Read tensor by tensor into device memory. On a CPU matrices are laid out in tiles."""
    from exo_node.engine.tinygrad.matrices import read_run

    done, total = 0, runs_bytes(runs, compute)
    progress(0, total)
    found: dict[str, list[Any]] = {}
    for held, packing in runs:
        run = read_run(held, packing, source, compute, backend.device, tiles=backend.is_cpu)
        found.setdefault(held.key, []).append(run)
        done += runs_bytes([(held, packing)], compute)
        progress(done, total)
    return {key: tuple(parts) if len(parts) > 1 else parts[0] for key, parts in found.items()}


def _floats(hidden: Hidden) -> Floats:
    raw = np.frombuffer(hidden.data, dtype=storage(hidden.dtype)).reshape(hidden.shape)
    return to_float32(raw, hidden.dtype)


def _given(values: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    assert values is not None  # check_rows
    return values


def _check_slot(slot: int, lengths: Sequence[int]) -> None:
    if not 0 <= slot < len(lengths):
        raise RingBroken(f"tinygrad: slot {slot} of {len(lengths)}")
