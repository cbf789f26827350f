"""Cached tokens are copied alike by host and program."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("tinygrad")
from exo_node.engine.tinygrad.backend import select_backend

pytestmark = pytest.mark.engine_tinygrad


@pytest.mark.parametrize("by", ["host", "program"])
def test_the_first_tokens_of_a_slot_are_copied_and_nothing_else(by: str) -> None:
    """Keys and values of every layer, between any two slots, captured once for all lengths. Of a ring the program
    copies all, which a host need not."""
    device = select_backend("CPU").device
    from tinygrad import Device, dtypes

    from exo_node.engine.tinygrad.copying import CopyProgram, copy_on_host
    from exo_node.engine.tinygrad.memory import from_numpy

    shape = (6, 2, 9, 4)  # three slots of two heads, seven tokens and a chunk of two
    shapes = (shape, shape, (6, 2, 5, 4))
    expected = [np.random.default_rng(i).normal(size=one).astype(np.float32) for i, one in enumerate(shapes)]
    pools = [from_numpy(values, dtypes.float32, device) for values in expected]
    program = CopyProgram(pools, 3, 7)
    for target, source, length in ((1, 0, 5), (2, 1, 3), (0, 2, 7), (1, 2, 1)):
        if by == "program":
            program(target, source, length)
        else:
            copy_on_host(pools, target, source, length)
        Device[device].synchronize()
        for values, pool in zip(expected, pools, strict=True):
            count = 5 if by == "program" and values.shape[2] == 5 else length
            values[2 * target : 2 * target + 2, :, :count] = values[2 * source : 2 * source + 2, :, :count]
            assert np.array_equal(pool.numpy(), values)
