"""What a runner is told on the first line of its standard input."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from exo_node.errors import ConfigurationError
from exo_node.types import Dtype, Papers, Shard


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftConfig:
    """A small model that the head loads whole, to guess ahead."""

    model_id: str
    path: str
    n_layers: int
    compute_dtype: Dtype
    slots: int
    context: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerConfig:
    """One shard of one instance on one device. `token` is the instance's secret in hex."""

    instance_id: str
    token: str = field(repr=False)
    papers: Papers  # of this runner; a later line on the same pipe replaces them
    model_id: str
    model_path: str
    shard: Shard
    stage: int
    is_head: bool
    engine: str
    device: str
    compute_dtype: Dtype
    slots: int
    context: int
    kv_tokens: int
    max_chunk: int
    max_waiting: int
    min_free_memory: int  # bytes of the machine's
    reproducible: bool
    prefix_cache: bool
    speculation: bool
    quantize: int  # bits into which weights are packed on load; 0 = as stored
    host: str
    node_name: str
    log_level: str
    parent_pid: int | None = None
    draft: DraftConfig | None = None


def parse_config(line: bytes) -> RunnerConfig:
    """Raises `ConfigurationError` that names the field. Fields that the daemon keeps for itself are not read."""
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise ConfigurationError(f"the runner's configuration is not a line of JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ConfigurationError("the runner's configuration is not a JSON object")
    try:
        return _build(fields)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"the runner's configuration is wrong: {type(error).__name__} {error}") from error


def _build(fields: Mapping[str, Any]) -> RunnerConfig:
    shard = fields["shard"]
    numbers = {name: int(fields[name]) for name in ("slots", "context", "kv_tokens", "max_chunk", "max_waiting")}
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    bytes.fromhex(fields["token"])
    return RunnerConfig(
        papers=read_papers(fields["papers"]),
        instance_id=str(fields["instance_id"]),
        token=str(fields["token"]),
        model_id=str(fields["model_id"]),
        model_path=str(fields["model_path"]),
        engine=str(fields["engine"]),
        device=str(fields["device"]),
        host=str(fields["host"]),
        node_name=str(fields["node_name"]),
        log_level=str(fields["log_level"]),
        slots=numbers["slots"],
        context=numbers["context"],
        kv_tokens=numbers["kv_tokens"],
        max_chunk=numbers["max_chunk"],
        max_waiting=numbers["max_waiting"],
        min_free_memory=int(fields["min_free_memory"]),
        reproducible=bool(fields["reproducible"]),
        prefix_cache=bool(fields["prefix_cache"]),
        speculation=bool(fields["speculation"]),
        quantize=int(fields["quantize"]),
        shard=Shard(fields["model_id"], int(shard["start_layer"]), int(shard["end_layer"]), int(shard["n_layers"])),
        stage=int(fields["stage"]),
        is_head=bool(fields["is_head"]),
        compute_dtype=_dtype(fields["compute_dtype"]),
        draft=None if fields.get("draft") is None else _draft(fields["draft"]),
        parent_pid=None if fields.get("parent_pid") is None else int(fields["parent_pid"]),
    )


def read_papers(fields: Mapping[str, Any]) -> Papers:
    """What `papers_fields` wrote. Raises `KeyError`, `TypeError`."""
    roots = {str(name): str(root) for name, root in dict(fields["roots"]).items()}
    return Papers(str(fields["fingerprint"]), str(fields["certificate"]), str(fields["key"]), roots)


def papers_fields(papers: Papers) -> dict[str, Any]:
    """Papers as JSON, for the pipe of a runner and no other place."""
    return {
        "fingerprint": papers.fingerprint,
        "certificate": papers.certificate,
        "key": papers.key,
        "roots": dict(papers.roots),
    }


def _draft(fields: Mapping[str, Any]) -> DraftConfig:
    return DraftConfig(
        model_id=str(fields["model_id"]),
        path=str(fields["path"]),
        n_layers=int(fields["n_layers"]),
        compute_dtype=_dtype(fields["compute_dtype"]),
        slots=int(fields["slots"]),
        context=int(fields["context"]),
    )


def _dtype(name: Any) -> Dtype:
    if name not in get_args(Dtype):
        raise ValueError(f"compute_dtype {name!r}")
    found: Dtype = name
    return found
