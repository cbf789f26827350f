"""What a runner can be, and what its head goes by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from exo_node.errors import ExoError
from exo_node.ring.configuring import check_configure, ring_setup
from exo_node.ring.messages import Epoch, Kept
from exo_node.ring.runner_config import RunnerConfig, parse_config
from exo_node.transport.generated.exo.v1 import ring_pb2
from tests.integration.runners import CONTEXT, MAX_CHUNK, SLOTS, config


def runner(**changes: Any) -> RunnerConfig:
    return parse_config(json.dumps(config(Path("model"), 0, 3, **changes)).encode())


def request(**changes: Any) -> ring_pb2.ConfigureRequest:
    fields = {
        "epoch": ring_pb2.Epoch(counter=2, coordinator="c"), "n_stages": 3, "next_address": "there:1",
        "wire_dtype": "bfloat16", "slots": SLOTS, "context": CONTEXT, "max_chunk": MAX_CHUNK, "rollback_depth": -1,
        "kept": [ring_pb2.KeptSequence(sequence=4, length=2, most=3, lost_from=1)], "kept_from": 2, "next_sequence": 5,
    }  # fmt: skip
    return ring_pb2.ConfigureRequest(**{**fields, **changes})


def test_a_head_is_set_up_as_it_is_told() -> None:
    """With what is kept, and the bytes of a vector on the wire; what is not told of is none."""
    check_configure(runner(), request())
    setup = ring_setup(runner(), request(), 97, 16)
    assert (setup.epoch, setup.vector_bytes, setup.rollback_depth) == (Epoch(2, "c"), 32, None)
    assert (setup.kept, setup.kept_from, setup.next_sequence) == ((Kept(4, 2, 3, 0, 1),), 2, 5)
    plain = ring_setup(runner(), request(kept=[], next_sequence=0), 97, 16)
    assert (plain.kept, plain.kept_from, plain.next_sequence) == ((), 0, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"stage": 3},
        {"stage": 1},
        {"kept_from": 4},
        {"kept_from": 0},
        {"next_sequence": 4},
        {"next_address": ""},
        {"wire_dtype": "float8"},
        {"slots": SLOTS + 1},
        {"context": 0},
    ],
)
def test_what_cannot_be_is_refused_by_name(changes: dict[str, Any]) -> None:
    """A stage that is none or not the head's, what is kept where nothing is, ids used again, more than was loaded."""
    with pytest.raises(ExoError) as caught:
        check_configure(runner(), request(**changes))
    (name,) = changes
    assert name in (caught.value.param, "wire_dtype")


def test_what_must_not_be_packed_is_not() -> None:
    """A reproducible stage's rows travel as they are."""
    with pytest.raises(ExoError, match="pack nothing"):
        check_configure(runner(reproducible=True), request(int8_rows=True))
