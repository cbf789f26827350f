"""Engine and weights of a runner, on its engine thread."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exo_node.engine.base import LoadPlan, LoadReport, Progress, ShardEngine
from exo_node.errors import CheckpointError
from exo_node.ring.runner_config import RunnerConfig

log = logging.getLogger("exo.runner")

PROGRESS_EVERY_S = 0.1  # a progress line per tensor would be thousands


@dataclass(frozen=True, slots=True)
class LoadedShard:
    """`info` holds the engine's own and ours, for `exo status`."""

    engine: ShardEngine
    plan: LoadPlan
    report: LoadReport
    info: Mapping[str, str]

    @property
    def hidden_size(self) -> int:
        return int(self.plan.config["hidden_size"])

    @property
    def vocab_size(self) -> int:
        return int(self.plan.config["vocab_size"])


def load_shard(config: RunnerConfig, progress: Progress) -> LoadedShard:
    """Read the shard and warm it up. Raises `CheckpointError`, `UnsupportedModel`, `EngineUnavailable`."""
    path = Path(config.model_path)
    report_progress = throttled(progress)
    blas = ""
    if config.engine == "fake":
        from exo_node.engine.fake import FakeEngine

        engine: Any = FakeEngine()
        plan = _plan(config, _read_config(path))
        report = engine.load(plan, None, report_progress)
    else:
        if config.engine == "mlx":
            from exo_node.engine.blas import preload_blas

            blas = preload_blas()
        from exo_node.engine.select import create_engine
        from exo_node.models.quantizing import shard_source
        from exo_node.models.spec import read_spec

        spec = read_spec(path, config.model_id, config.quantize)
        source = shard_source(spec, config.shard, config.is_head, quantize=config.quantize)
        engine = create_engine(config.engine)
        plan = _plan(config, spec.config)
        report = engine.load(plan, source, report_progress)
    info = {**report.info, "engine": config.engine}
    if blas:
        info["blas"] = blas
    return LoadedShard(engine, plan, report, info)


def _plan(config: RunnerConfig, model_config: Mapping[str, Any]) -> LoadPlan:
    return LoadPlan(
        config=model_config,
        shard=config.shard,
        is_head=config.is_head,
        compute_dtype=config.compute_dtype,
        slots=config.slots,
        context=config.context,
        kv_tokens=config.kv_tokens,
        max_chunk=config.max_chunk,
        device=config.device,
        reproducible=config.reproducible,
    )


def _read_config(path: Path) -> Mapping[str, Any]:
    """config.json alone: the fake engine has no weights."""
    try:
        config = json.loads((path / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path / 'config.json'} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path / 'config.json'} is not a JSON object")
    return config


def throttled(progress: Progress, clock: Callable[[], float] = time.monotonic) -> Progress:
    """`progress`, at most every `PROGRESS_EVERY_S`; the end is always told."""
    last = -PROGRESS_EVERY_S

    def call(done: int, total: int) -> None:
        nonlocal last
        now = clock()
        if done >= total or now - last >= PROGRESS_EVERY_S:
            last = now
            progress(done, total)

    return call
