"""A sample of `scripts/fuzz`, with seeds of its own that never change: values and errors of ours, nothing else."""

from __future__ import annotations

import pytest

from tests.fuzz.all_targets import TARGETS
from tests.fuzz.cases import Target, run_block

# There are processes behind them.
FEWER = {"templates.templates": 24, "grpc.node": 60, "grpc.runner": 60, "http.node": 60}


@pytest.mark.parametrize("target", TARGETS, ids=lambda one: one.name)
def test_sample(target: Target) -> None:
    """Some hundred inputs of each border raise no exception but ours, end in time and show nothing of our code."""
    block = run_block(target, 20261121, FEWER.get(target.name, 150), limits=False)
    assert block.cases >= 20
    assert not block.found, "\n\n".join(f"{one.signature}\n{one.input}\n{one.trace}" for one in block.found.values())
