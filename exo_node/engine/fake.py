"""`FakeEngine`: a deterministic arithmetic engine whose every output depends on every cached token of its slot.

It stands in for MLX and tinygrad in tests and in the protocol model. All values are integers below 251, exact in
float32, float16 and bfloat16, so a ring of any wire dtype gives the same text as the whole model. Each layer mixes its
input with a position-weighted sum over the slot's cache of that layer: a wrong position, slot, order or a missing layer
changes the text. Nothing is checked on purpose (a real engine would not either), except what would read outside arrays.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from exo_node.engine.base import EngineRow, Hidden, LoadPlan, LoadReport, Progress, TensorSource
from exo_node.errors import CheckpointError, UnsupportedModel
from exo_node.types import DTYPE_BYTES, Dtype

PRIME = 251  # the largest prime below 256: integers up to 256 are exact in bfloat16 (8 bits of mantissa)
POISON = 97  # what an emptied cell holds: reading one shows in the text


class FakeEngine:
    """Runs on the `config` alone: `num_hidden_layers`, `hidden_size`, `vocab_size`; reads no tensor.

    `fake_step_seconds` in the config makes every forward take that long (for tests of cancelling and of progress);
    `fake_fail_at` makes the forward that reaches this position raise (for tests of a failing stage); `fake_hang_at`
    makes it never end, in all stages or in that of layer `fake_hang_layer`, with Python's lock held if
    `fake_hang_locked`.
    """

    name = "fake"

    def __init__(self) -> None:
        self._plan: LoadPlan | None = None

    def load(self, plan: LoadPlan, source: TensorSource | None, progress: Progress) -> LoadReport:
        """See `ShardEngine.load`; `source` is not read."""
        started = time.monotonic()
        config = plan.config
        for key in ("num_hidden_layers", "hidden_size", "vocab_size"):
            if not isinstance(config.get(key), int):
                raise CheckpointError(f"config.json of {plan.shard.model_id} has no whole number under '{key}'")
        if config["num_hidden_layers"] != plan.shard.n_layers:
            raise UnsupportedModel(
                f"the shard says {plan.shard.n_layers} layers, the config {config['num_hidden_layers']}"
            )
        self._plan = plan
        self._hidden = int(config["hidden_size"])
        self._delay = float(config.get("fake_step_seconds", 0.0))
        self._fail_at = int(config.get("fake_fail_at", -1))
        at = plan.shard.start_layer <= int(config.get("fake_hang_layer", plan.shard.start_layer)) < plan.shard.end_layer
        self._hang_at = int(config.get("fake_hang_at", -1)) if at else -1
        self._hang_locked = bool(config.get("fake_hang_locked", False))
        owned = plan.shard.n_owned
        # [layer, slot, position, hidden]
        self._cache = np.full((owned, plan.slots, plan.context, self._hidden), POISON, np.float32)
        vocab = int(config["vocab_size"])
        weight_bytes = 0
        if plan.is_head:
            ids = np.arange(vocab, dtype=np.int64)[:, None]
            dims = np.arange(self._hidden, dtype=np.int64)[None, :]
            self._embedding = ((ids * 31 + dims * 17 + (ids * dims) % 13 + 5) % PRIME).astype(np.float32)
            self._head = ((ids * 101 + dims * 57 + (ids * ids * (dims + 3)) % 89 + 7) % PRIME).astype(np.float64)
            weight_bytes = self._embedding.nbytes + self._head.nbytes
        progress(weight_bytes, weight_bytes)
        return LoadReport(
            weight_bytes=weight_bytes,
            kv_bytes=self._cache.nbytes,
            seconds=time.monotonic() - started,
            info={"device": plan.device},
        )

    def forward(self, rows: Sequence[EngineRow], hidden: Hidden | None) -> npt.NDArray[np.float32]:
        """See `ShardEngine.forward`; returns float32 integers in [0, 251)."""
        plan = self._loaded()
        if self._delay:
            time.sleep(self._delay)
        received = None if hidden is None else to_array(hidden)
        outputs: list[npt.NDArray[np.float32]] = []
        offset = 0
        for row in rows:
            if row.position <= self._fail_at < row.position + row.length:
                raise RuntimeError(f"fake failure at position {self._fail_at}")
            if row.position <= self._hang_at < row.position + row.length:
                hang(locked=self._hang_locked)
            if row.token_ids is not None:
                state = self._embedding[row.token_ids]
            else:
                assert received is not None
                state = received[offset : offset + row.length]
                offset += row.length
            for index in range(plan.shard.n_owned):
                state = self._layer(index, row, state)
            outputs.append(state[row.length - row.n_outputs :] if plan.shard.is_last else state)
        return np.concatenate(outputs) if outputs else np.zeros((0, self._hidden), np.float32)

    def _layer(self, index: int, row: EngineRow, state: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """One layer: write the inputs to the cache, then mix each with a weighted sum over cells 0..its position."""
        number = self._loaded().shard.start_layer + index
        cells = self._cache[index, row.slot]
        end = row.position + row.length
        cells[row.position : end] = state
        positions = np.arange(row.position, end)[:, None]
        seen = np.arange(end)[None, :]
        weights = np.where(seen <= positions, (seen * 7 + positions * 3 + number * 11 + 1) % PRIME, 0)
        # below 251 * 251 * context: exact in float64 up to 10^11 cells
        mixed = weights.astype(np.float64) @ cells[:end].astype(np.float64)
        out = (np.roll(state, 1, axis=1).astype(np.float64) * (number + 2) + mixed + positions + number) % PRIME
        return out.astype(np.float32)

    def export(self, activation: Any, dtype: Dtype) -> Hidden:
        """See `ShardEngine.export`."""
        array: npt.NDArray[np.float32] = activation
        shape = (int(array.shape[0]), int(array.shape[1]))
        if dtype == "bfloat16":
            # exact: the values are integers below 256, so the lower 16 bits are zero
            return Hidden(dtype, shape, (array.view(np.uint32) >> np.uint32(16)).astype("<u2").tobytes())
        return Hidden(dtype, shape, array.astype("<f4" if dtype == "float32" else "<f2").tobytes())

    def logits(self, activation: Any | Hidden, outputs: Sequence[int] | None = None) -> npt.NDArray[np.float32]:
        """See `ShardEngine.logits`: integers in [0, 251) divided by 16, so that softmax is neither flat nor a spike."""
        array = to_array(activation) if isinstance(activation, Hidden) else activation
        array = array if outputs is None else array[list(outputs)]
        return (((array.astype(np.float64) @ self._head.T) % PRIME) / 16.0).astype(np.float32)

    def scores(self, activation: Any | Hidden, outputs: range) -> npt.NDArray[np.float32]:
        """See `ShardEngine.scores`."""
        return self.logits(activation, outputs)

    def states(self, activation: Any | Hidden, outputs: range) -> npt.NDArray[np.float32]:
        """See `ShardEngine.states`: there is no norm here."""
        array = to_array(activation) if isinstance(activation, Hidden) else activation
        return array[outputs.start : outputs.stop]

    def truncate(self, slot: int, length: int) -> None:
        """See `ShardEngine.truncate`: the forgotten cells are poisoned."""
        self._loaded()
        self._cache[:, slot, length:] = POISON

    def copy(self, target: int, source: int, length: int) -> None:
        """See `ShardEngine.copy`."""
        self._loaded()
        self._cache[:, target, :length] = self._cache[:, source, :length]
        self._cache[:, target, length:] = POISON

    def kv_bytes(self) -> int:
        """See `ShardEngine.kv_bytes`: all is there from the start."""
        return int(self._cache.nbytes)

    def give_back(self) -> None:
        """See `ShardEngine.give_back`: nothing is kept."""

    def close(self) -> None:
        self._plan = None

    def _loaded(self) -> LoadPlan:
        if self._plan is None:
            raise RuntimeError("the engine holds no shard: call load first")
        return self._plan


def to_array(hidden: Hidden) -> npt.NDArray[np.float32]:
    """The float32 array of a travelled activation; wrong sizes raise ValueError."""
    tokens, width = hidden.shape
    if len(hidden.data) != tokens * width * DTYPE_BYTES[hidden.dtype]:
        raise ValueError(f"hidden state of shape {hidden.shape} in {hidden.dtype} has {len(hidden.data)} bytes")
    if hidden.dtype == "bfloat16":
        bits = np.frombuffer(hidden.data, "<u2").astype(np.uint32) << np.uint32(16)
        return bits.view(np.float32).reshape(tokens, width)
    flat = np.frombuffer(hidden.data, "<f4" if hidden.dtype == "float32" else "<f2")
    return flat.astype(np.float32).reshape(tokens, width)


def hang(*, locked: bool) -> None:
    """Never return; `locked`: and let no other thread of Python's run."""
    if locked:
        import ctypes

        ctypes.PyDLL(None).pause()
    threading.Event().wait()
