"""Drive a ring of MLX engines in one process (tests only)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exo_node.engine.base import EngineRow, LoadPlan, LoadReport
from exo_node.engine.mlx.engine import MLXShardEngine
from exo_node.models.config import normalise
from exo_node.models.quantizing import shard_source
from exo_node.models.spec import read_spec
from exo_node.types import Dtype, Shard
from tests.checkpoints import DirectorySource, ShardView

Logits = npt.NDArray[np.float32]


def read_config(path: Path) -> dict[str, Any]:
    import json

    return normalise(json.loads((path / "config.json").read_text()))


def ids_of(n: int, seed: int = 0, vocab: int = 160) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(3, vocab, n)]


class LocalRing:
    """Engines for the layer ranges between `borders` (0 first: a head without layers if given twice)."""

    def __init__(
        self,
        path: Path,
        borders: Sequence[int],
        *,
        dtype: Dtype = "float32",
        wire: Dtype | None = None,
        slots: int = 3,
        context: int = 96,
        max_chunk: int = 256,
        config: Mapping[str, Any] | None = None,
        reproducible: bool = False,
        quantize: int = 0,
    ) -> None:
        """`quantize`: on load, a folder that `read_spec` reads."""
        spec = read_spec(path, "m", quantize) if quantize else None
        self.config = dict(spec.config if spec else config or read_config(path))
        self.wire: Dtype = wire or dtype
        self.engines: list[MLXShardEngine] = []
        self.reports: list[LoadReport] = []
        for i, (start, end) in enumerate(pairwise(borders)):
            shard = Shard("m", start, end, self.config["num_hidden_layers"])
            plan = LoadPlan(
                config=self.config,
                shard=shard,
                is_head=i == 0,
                compute_dtype=dtype,
                slots=slots,
                context=context,
                max_chunk=max_chunk,
                device="CPU",
                reproducible=reproducible,
            )
            engine = MLXShardEngine()
            source = (
                shard_source(spec, shard, i == 0, quantize=quantize)
                if spec
                else ShardView(DirectorySource(path), self.config, shard, i == 0)
            )
            self.reports.append(engine.load(plan, source, lambda done, total: None))
            self.engines.append(engine)
        self.lengths = [0] * slots
        self.home: Any = None  # what came home of the newest step

    def step(self, *rows: tuple[int, Sequence[int], int]) -> Logits:
        """Rows of (slot, token ids, n_outputs), all in one step."""
        made = []
        for slot, ids, n_outputs in rows:
            made.append(
                EngineRow(
                    slot=slot,
                    position=self.lengths[slot],
                    length=len(ids),
                    token_ids=np.array(ids, np.int32),
                    n_outputs=n_outputs,
                )
            )
            self.lengths[slot] += len(ids)
        out: Any = self.engines[0].forward(made, None)
        if len(self.engines) == 1:
            self.home = out
            return self.engines[0].logits(out)
        hidden = self.engines[0].export(out, self.wire)
        for engine in self.engines[1:]:
            hidden = engine.export(
                engine.forward([EngineRow(r.slot, r.position, r.length, None, r.n_outputs) for r in made], hidden),
                self.wire,
            )
        self.home = hidden
        return self.engines[0].logits(hidden)

    def truncate(self, slot: int, length: int) -> None:
        self.lengths[slot] = length
        for engine in self.engines:
            engine.truncate(slot, length)

    def copy(self, target: int, source: int, length: int) -> None:
        self.lengths[target] = length
        for engine in self.engines:
            engine.copy(target, source, length)

    def run(self, slot: int, ids: Sequence[int], chunks: Sequence[int]) -> Logits:
        """Logits of every position: `chunks` prefill lengths, then one token at a time."""
        outputs, at = [], 0
        for n in [*chunks, *[1] * (len(ids) - sum(chunks))]:
            outputs.append(self.step((slot, ids[at : at + n], n)))
            at += n
        return np.concatenate(outputs)
