"""The runner's configuration line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from exo_node.errors import ConfigurationError
from exo_node.ring.runner_config import DraftConfig, papers_fields, parse_config
from exo_node.types import Papers, Shard

PAPERS = Papers("f" * 32, "certificate", "private key", {"f" * 32: "root"})

GOOD: dict[str, Any] = {
    "instance_id": "i",
    "token": "ab12",
    "papers": papers_fields(PAPERS),
    "model_id": "m",
    "model_path": "/models/m",
    "shard": {"start_layer": 0, "end_layer": 2, "n_layers": 4},
    "stage": 0,
    "is_head": True,
    "engine": "fake",
    "device": "CPU",
    "compute_dtype": "float32",
    "slots": 2,
    "context": 64,
    "kv_tokens": 128,
    "max_chunk": 8,
    "max_waiting": 256,
    "min_free_memory": 0,
    "reproducible": False,
    "prefix_cache": True,
    "speculation": True,
    "quantize": 0,
    "host": "127.0.0.1",
    "node_name": "n",
    "log_level": "info",
}


def test_a_good_line_is_read() -> None:
    """Every field arrives; the parent's pid may be absent."""
    config = parse_config(json.dumps(GOOD).encode())
    assert (config.shard, config.slots, config.parent_pid) == (Shard("m", 0, 2, 4), 2, None)
    assert config.papers == PAPERS
    assert "private key" not in repr(config)
    assert "ab12" not in repr(config)
    assert parse_config(json.dumps({**GOOD, "parent_pid": 7}).encode()).parent_pid == 7


DRAFT = {"model_id": "d", "path": "/d", "n_layers": 2, "compute_dtype": "float16", "slots": 4, "context": 64}


def test_a_draft_model_is_read() -> None:
    """It may be absent, as on every stage but the head."""
    assert parse_config(json.dumps(GOOD).encode()).draft is None
    assert parse_config(json.dumps({**GOOD, "draft": DRAFT}).encode()).draft == DraftConfig(
        model_id="d", path="/d", n_layers=2, compute_dtype="float16", slots=4, context=64
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"slots": 0}, "slots"),
        ({"quantize": "all"}, "all"),
        ({"context": "many"}, "many"),
        ({"token": "xyz"}, "hexadecimal"),
        ({"compute_dtype": "float8"}, "float8"),
        ({"shard": {"start_layer": 3, "end_layer": 2, "n_layers": 4}}, "layer range"),
        ({"shard": {}}, "start_layer"),
        ({"draft": {**DRAFT, "compute_dtype": "int8"}}, "int8"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], said: str) -> None:
    """The daemon's mistake is told in one line."""
    with pytest.raises(ConfigurationError, match=said):
        parse_config(json.dumps({**GOOD, **change}).encode())


@pytest.mark.parametrize("line", [b"not json", b"[]", b"{}"])
def test_what_is_no_configuration_is_refused(line: bytes) -> None:
    """Not JSON, not an object, empty."""
    with pytest.raises(ConfigurationError):
        parse_config(line)
