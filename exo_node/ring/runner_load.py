"""Engine and weights of a runner, on its engine thread."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exo_node.engine.base import LoadPlan, LoadReport, Progress, ShardEngine
from exo_node.errors import CheckpointError
from exo_node.ring.draft_model import DraftModel
from exo_node.ring.runner_config import DraftConfig, RunnerConfig
from exo_node.types import Shard

log = logging.getLogger("exo.runner")

PROGRESS_EVERY_S = 0.1  # a progress line per tensor would be thousands


@dataclass(frozen=True, slots=True)
class LoadedShard:
    """`info` holds the engine's own and ours, for `exo status`; `report` counts a `draft` model's bytes too."""

    engine: ShardEngine
    plan: LoadPlan
    report: LoadReport
    info: Mapping[str, str]
    draft: DraftModel | None = None

    @property
    def hidden_size(self) -> int:
        return int(self.plan.config["hidden_size"])

    @property
    def vocab_size(self) -> int:
        return int(self.plan.config["vocab_size"])


def load_shard(config: RunnerConfig, progress: Progress) -> LoadedShard:
    """Read the shard, and a draft model, and warm them up.

    Raises `CheckpointError`, `UnsupportedModel`, `EngineUnavailable`."""
    blas = ""
    if config.engine == "mlx":
        from exo_node.engine.blas import preload_blas

        blas = preload_blas()
    shard = _load(config, progress)
    if blas:
        shard = replace(shard, info={**shard.info, "blas": blas})
    return shard if config.draft is None else _with_draft(shard, config, config.draft, progress)


def _with_draft(shard: LoadedShard, config: RunnerConfig, draft: DraftConfig, progress: Progress) -> LoadedShard:
    own = replace(
        config,
        model_id=draft.model_id,
        model_path=draft.path,
        shard=Shard(draft.model_id, 0, draft.n_layers, draft.n_layers),
        is_head=True,
        compute_dtype=draft.compute_dtype,
        slots=draft.slots,
        context=draft.context,
        kv_tokens=draft.slots * draft.context,
        quantize=0,
        draft=None,
    )
    loaded = _load(own, progress)
    model = DraftModel(
        loaded.engine,
        slots=draft.slots,
        context=draft.context,
        max_chunk=config.max_chunk,
        vocab_size=loaded.vocab_size,
        target_vocab_size=shard.vocab_size,
        rollback_depth=loaded.report.rollback_depth,
    )
    model.measure()
    report = replace(
        shard.report,
        weight_bytes=shard.report.weight_bytes + loaded.report.weight_bytes,
        kv_bytes=shard.report.kv_bytes + loaded.report.kv_bytes,
        seconds=shard.report.seconds + loaded.report.seconds,
    )
    info = {**shard.info, "draft_model": draft.model_id, "draft_token_us": str(round(model.token_s * 1e6))}
    return replace(shard, report=report, info=info, draft=model)


def _load(config: RunnerConfig, progress: Progress) -> LoadedShard:
    path = Path(config.model_path)
    report_progress = throttled(progress)
    if config.engine == "fake":
        from exo_node.engine.fake import FakeEngine

        engine: Any = FakeEngine()
        plan = _plan(config, _read_config(path))
        report = engine.load(plan, None, report_progress)
    else:
        from exo_node.engine.select import create_engine
        from exo_node.models.quantizing import shard_source
        from exo_node.models.spec import read_spec

        spec = read_spec(path, config.model_id, config.quantize)
        source = shard_source(spec, config.shard, config.is_head, quantize=config.quantize)
        engine = create_engine(config.engine)
        plan = _plan(config, spec.config)
        report = engine.load(plan, source, report_progress)
    return LoadedShard(engine, plan, report, {**report.info, "engine": config.engine})


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
