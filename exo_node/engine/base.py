"""The contract between the ring and an engine. Pure protocol: no framework is imported here.

All methods of one engine are called on one dedicated thread (MLX streams and tinygrad belong to a thread). The ring
decides; the engine holds weights and a fixed pool of KV slots and trusts nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from exo_node.types import Dtype, Shard
from exo_node.types import TensorInfo as TensorInfo  # models/ makes them, engines read them

Progress = Callable[[int, int], None]  # (bytes done, bytes total)


class TensorSource(Protocol):
    """Reads single tensors of a checkpoint (models/weights.py)."""

    def names(self) -> Collection[str]: ...

    def info(self, name: str) -> TensorInfo: ...

    def read(self, name: str) -> memoryview:
        """The tensor's bytes, little-endian, C order: a read-only view of the mapped file, no anonymous memory."""
        ...

    def release(self, name: str) -> None:
        """Tell the kernel that these pages are no longer wanted."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """What an engine is to hold.

    `is_head`: also embedding, final norm and LM head, whatever the layer range. `compute_dtype`: weights, activations
    and KV (an engine may keep weights narrower than activations where ENGINES.md says so). `slots` sequences of at most
    `context` tokens each, and of `kv_tokens` together (in whole blocks): the KV pool is accounted for in full at load
    and never grows past that; the ring sees to it. `reproducible`: a
    row's bits must not depend on the other rows of its step (an engine that runs rows one by one always keeps that).
    """

    config: Mapping[str, Any]
    shard: Shard
    is_head: bool
    compute_dtype: Dtype
    slots: int
    context: int
    max_chunk: int  # longest row of a step
    device: str
    reproducible: bool = False
    kv_tokens: int = 0  # 0: slots * context


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What was loaded. `rollback_depth`: how far a slot may be rolled back, counted from the most tokens that it has
    held (None = any number); one that never held more than `whole_tokens` may be rolled back by any number.

    What a slot could be rolled back to can be copied; the copy can be rolled back as far as its source. `info` goes to
    `exo status` (device, BLAS, ...).
    """

    weight_bytes: int
    kv_bytes: int
    seconds: float
    rollback_depth: int | None = None
    whole_tokens: int = 0
    info: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EngineRow:
    """`length` consecutive tokens of the sequence in slot `slot`, starting at `position` (= the slot's cached length).

    `token_ids` (int32, shape [length]) only on the head, else None. `n_outputs`: for how many trailing tokens the
    hidden state after the last layer is wanted; only the last shard acts on it.
    """

    slot: int
    position: int
    length: int
    token_ids: npt.NDArray[np.int32] | None
    n_outputs: int


@dataclass(frozen=True, slots=True)
class Hidden:
    """Hidden states on their way: `shape` = (tokens, hidden_size), `data` C order, little-endian; bf16 as raw bits."""

    dtype: Dtype
    shape: tuple[int, int]
    data: bytes | memoryview


class ShardEngine(Protocol):
    """One shard on one device. Not thread-safe: one thread for its whole life."""

    name: str  # "mlx" | "tinygrad" | "fake"

    def load(self, plan: LoadPlan, source: TensorSource, progress: Progress) -> LoadReport:
        """Read the shard's tensors and nothing else, allocate the KV pool, warm up.

        Raises `UnsupportedModel` or `CheckpointError` before large allocations where it can.
        """
        ...

    def forward(self, rows: Sequence[EngineRow], hidden: Hidden | None) -> Any:
        """Run the shard's layers over the rows and append their keys and values to the slots.

        `hidden` is None on the head (rows carry token ids), else holds sum(length) rows in row order. Returns the
        engine's own (possibly lazy) activation: [sum(length), hidden_size], or on the last shard
        [sum(n_outputs), hidden_size]. A row's numbers do not depend on what the other rows are; their last bits may on
        how many there are, except under `LoadPlan.reproducible`.
        """
        ...

    def export(self, activation: Any, dtype: Dtype) -> Hidden:
        """Evaluate an activation and hand it over in `dtype`: bytes, or a view of items of one byte onto the engine's
        own memory, whose bytes stay as they are until the engine is called again."""
        ...

    def logits(self, activation: Any | Hidden, outputs: Sequence[int] | None = None) -> npt.NDArray[np.float32]:
        """Head only: final norm and LM head (with the family's soft-capping or scaling): float32 [n, vocab].

        Of these `outputs` of the activation, None: of all. Their last bits may depend on how many there are, except
        under `LoadPlan.reproducible`.
        """
        ...

    def scores(self, activation: Any | Hidden, outputs: range) -> npt.NDArray[np.float32]:
        """Head only: as `logits`, for consecutive outputs in one product even under `LoadPlan.reproducible`: it reads
        the LM head's weights once. For what is told of a prompt, not for drawing."""
        ...

    def states(self, activation: Any | Hidden, outputs: range) -> npt.NDArray[np.float32]:
        """Head only: final norm of consecutive outputs: float32 [n, hidden_size]."""
        ...

    def truncate(self, slot: int, length: int) -> None:
        """Forget everything past the first `length` cached tokens; 0 empties the slot, which is always possible."""
        ...

    def copy(self, target: int, source: int, length: int) -> None:
        """Make `target` hold the first `length` cached tokens of `source`."""
        ...

    def kv_bytes(self) -> int:
        """Bytes that keys and values take at present; `LoadReport.kv_bytes` is the most. Only looked at: any thread."""
        ...

    def give_back(self) -> None:
        """Give memory back to the system that is kept for later only."""
        ...

    def close(self) -> None: ...
