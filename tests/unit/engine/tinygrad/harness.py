"""A ring of tinygrad engines in one process, joined by `Hidden`, over a small checkpoint (tests only)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exo_node.engine.base import EngineRow, Hidden, LoadPlan, LoadReport
from exo_node.engine.tinygrad.engine import TinygradShardEngine
from exo_node.types import Dtype, Shard
from tests.checkpoints import VOCAB, DirectorySource, ShardView, make_checkpoint, plain_config

WHOLE: tuple[tuple[int, int], ...] = ((0, 2),)
THREE = ((0, 0), (0, 1), (1, 2))  # a head without layers, and two shards that share the layers


def two_layers(family: str, root: Path, **overrides: Any) -> Path:
    """A checkpoint of two layers, of each kind that the family has one."""
    if family == "gemma3_text":
        overrides["layer_types"] = ["sliding_attention", "full_attention"]
    return make_checkpoint(family, root, num_hidden_layers=2, **overrides)


def tokens(count: int, seed: int = 1) -> list[int]:
    return [int(x) for x in np.random.default_rng(seed).integers(3, VOCAB, count)]


class Ring:
    """Engines for the layer ranges `cuts` of the checkpoint at `path`; the first is the head.

    What is left out is small, and the same in most tests: each program and each shape costs seconds of compilation.
    """

    def __init__(
        self,
        path: Path,
        cuts: Sequence[tuple[int, int]] = WHOLE,
        *,
        compute: Dtype = "float32",
        wire: Dtype = "float32",
        slots: int = 2,
        context: int = 64,
        max_chunk: int = 8,
        reproducible: bool = False,
    ) -> None:
        config = plain_config(path)
        self.source = DirectorySource(path)
        self.wire: Dtype = wire
        self.engines: list[TinygradShardEngine] = []
        self.reports: list[LoadReport] = []
        self.lengths = [0] * slots
        for index, (start, end) in enumerate(cuts):
            shard = Shard("test", start, end, config["num_hidden_layers"])
            plan = LoadPlan(
                config=config,
                shard=shard,
                is_head=index == 0,
                compute_dtype=compute,
                slots=slots,
                context=context,
                max_chunk=max_chunk,
                device="CPU",
                reproducible=reproducible,
            )
            engine = TinygradShardEngine()
            view = ShardView(self.source, config, shard, index == 0)
            self.reports.append(engine.load(plan, view, lambda done, total: None))
            self.engines.append(engine)

    def step(self, rows: Sequence[tuple[int, Sequence[int], int]]) -> npt.NDArray[np.float32]:
        """Rows of (slot, token ids, n_outputs), each where its slot ends; the logits of all outputs."""
        hidden: Hidden | None = None
        for index, engine in enumerate(self.engines):
            at = list(self.lengths)
            built = []
            for slot, ids, outputs in rows:
                given = np.array(ids, dtype=np.int32) if index == 0 else None
                built.append(EngineRow(slot, at[slot], len(ids), given, outputs))
                at[slot] += len(ids)
            hidden = engine.export(engine.forward(built, hidden), self.wire)
        self.lengths = at
        assert hidden is not None
        self.home = hidden
        return self.engines[0].logits(hidden)

    def prefill(self, slot: int, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """All logits of `ids` in one row."""
        return self.step([(slot, ids, len(ids))])

    def truncate(self, slot: int, length: int) -> None:
        for engine in self.engines:
            engine.truncate(slot, length)
        self.lengths[slot] = length

    def copy(self, target: int, source: int, length: int) -> None:
        for engine in self.engines:
            engine.copy(target, source, length)
        self.lengths[target] = length

    def clear(self) -> None:
        for slot in range(len(self.lengths)):
            self.truncate(slot, 0)


class Pair:
    """A family of two layers: `batched`, in three shards, runs rows of one token together; `alone`, whole, does not."""

    def __init__(self, family: str, root: Path) -> None:
        self.path = two_layers(family, root)
        # past its original context phi3_longrope's long factors hold
        self.context = 160 if family == "phi3_longrope" else 64
        self.batched = Ring(self.path, THREE, context=self.context)
        self.alone = Ring(self.path, WHOLE, context=self.context, reproducible=True)

    @property
    def rings(self) -> tuple[Ring, Ring]:
        return self.batched, self.alone

    def clear(self) -> None:
        for ring in self.rings:
            ring.clear()
