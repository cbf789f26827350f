"""What a `TinygradShardEngine` has between load and close. Imports tinygrad only when it is made."""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from exo_node.engine.base import EngineRow, Hidden, LoadPlan, Progress, TensorSource
from exo_node.engine.tinygrad.backend import Backend
from exo_node.engine.tinygrad.chunks import chunk_lengths, group_rows, row_widths, split_row
from exo_node.engine.tinygrad.packed_weights import Run, runs_bytes
from exo_node.engine.tinygrad.spec import DecoderSpec
from exo_node.engine.windows import kept_tokens
from exo_node.errors import RingBroken
from exo_node.types import DTYPE_BYTES, Dtype

if TYPE_CHECKING:
    from exo_node.engine.tinygrad.decoder import ShardDecoder
    from exo_node.engine.tinygrad.program import Program

_log = logging.getLogger(__name__)
Floats = npt.NDArray[np.float32]
SCORED = 32  # outputs of one `scores` product


class Loaded:
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

        self.kernels = persist_kernels("lanes" if backend.selector == "CPU:X86" and _lanes() else "plain")
        self.plan, self.spec = plan, spec
        self.activation: Dtype = "float32" if backend.is_cpu else plan.compute_dtype
        self.lengths = [0] * plan.slots
        weights = _read_weights(runs, source, plan.compute_dtype, backend, progress)
        score_bytes = spec.n_heads * (plan.context + plan.max_chunk) * 4
        self._chunks = chunk_lengths(plan.max_chunk, score_bytes, is_cpu=backend.is_cpu)
        owned = spec.layers[plan.shard.start_layer : plan.shard.end_layer]
        window = next((layer.window for layer in owned if layer.window is not None), None)  # all have the same
        self.kept = kept_tokens(window, plan.context, max(plan.max_chunk, self._chunks[-1]))
        self._widths = (1,) if plan.reproducible else row_widths(plan.slots, score_bytes, is_cpu=backend.is_cpu)
        self.decoder: ShardDecoder = ShardDecoder(
            spec,
            plan.shard,
            weights,
            slots=plan.slots,
            context=plan.context,
            max_chunk=self._chunks[-1],
            kept=self.kept,
            activation=self.activation,
            device=backend.device,
        )
        embeds = plan.is_head
        self._steps: dict[int, Program] = {n: self.decoder.chunk_program(n, embeds=embeds) for n in self._chunks}
        self._rows: dict[int, Program] = {n: self.decoder.rows_program(n, embeds=embeds) for n in self._widths}
        self._heads: dict[int, Program] = {}
        self._reading: dict[bool, Program] = {}  # with the LM head and without, of SCORED outputs at once
        if plan.is_head:
            self._heads = {n: self.decoder.logits_program(n) for n in self._widths}
            self._reading = {True: self.decoder.logits_program(SCORED), False: self.decoder.states_program(SCORED)}

    def warm_up(self) -> None:
        """Compile everything now: a stage that compiles while a step waits for it would pass for a hung one."""
        with _no_collection():
            self._run_each()

    def _run_each(self) -> None:
        entering = np.zeros(1, np.int32) if self.plan.is_head else np.zeros((1, self.spec.hidden_size), np.float32)
        zero = np.zeros(1, np.int32)
        for length, chunk in self._steps.items():
            chunk(entering, variables=self.decoder.place(0, 0, length))
        for rows in self._rows.values():
            rows(entering, zero, zero, variables=self.decoder.seen(1))
        for head in (*self._heads.values(), *self._reading.values()):
            head(np.zeros((1, self.spec.hidden_size), dtype=np.float32))
        if self.plan.slots > 1:
            self.decoder.copy(1, 0, 1)

    def check_rows(self, rows: Sequence[EngineRow], hidden: Hidden | None) -> None:
        """Refuse a step that cannot be run as it stands before any of it is run."""
        if (hidden is None) != self.plan.is_head:
            raise RingBroken("tinygrad: the head takes token ids, every other shard takes hidden states")
        lengths = list(self.lengths)
        for row in rows:
            check_slot(row.slot, lengths)
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
        for length in split_row(row.length, self._chunks, row.position, self.decoder.ring):
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
        if not self._reading:
            raise RingBroken("tinygrad: only the head has an LM head")
        program = self._reading[lm_head]
        return np.concatenate([program(values[at : at + SCORED]) for at in range(0, len(values), SCORED)])

    def _run(self, values: npt.NDArray[Any], slot: int, position: int) -> Floats:
        if len(values) == 1:
            places = (np.array([2 * slot], np.int32), np.array([position], np.int32))
            return self._rows[1](values, *places, variables=self.decoder.seen(position + 1))
        length = min(n for n in self._steps if n >= len(values))
        return self._steps[length](values, variables=self.decoder.place(slot, position, length))

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


def _lanes() -> bool:
    try:
        from exo_node.engine.tinygrad.lanes import use_lanes
    except (ImportError, AttributeError) as error:  # lanes.py is written in names that tinygrad promises nobody
        _log.warning("tinygrad: products run one number at a time, about half as fast: %s", error)
        return False
    return use_lanes()


@contextmanager
def _no_collection() -> Iterator[None]:
    """tinygrad's graphs live in caches, and going through them for garbage again and again is a fifth of a load."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _given(values: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    assert values is not None  # check_rows
    return values


def check_slot(slot: int, lengths: Sequence[int]) -> None:
    if not 0 <= slot < len(lengths):
        raise RingBroken(f"tinygrad: slot {slot} of {len(lengths)}")
