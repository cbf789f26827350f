from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("tinygrad")
from exo_node.engine.tinygrad.backend import select_backend

pytestmark = pytest.mark.engine_tinygrad


def test_captured_once_and_padded() -> None:
    """The function is traced in the first call only; rows that a call does not bring hold the padding, and results are
    the caller's own."""
    device = select_backend("CPU").device
    from tinygrad import Tensor, UOp, dtypes

    from exo_node.engine.tinygrad.program import Program

    traced = []

    def function(values: Tensor, numbers: Tensor, factor: Any) -> Tensor:
        traced.append(1)
        return ((values + numbers.sum()) * factor).contiguous()

    def times(factor: int) -> tuple[Any, ...]:
        return (UOp.variable("factor", 1, 9).bind(factor),)

    program = Program(function, [((3,), dtypes.float32), ((3,), dtypes.int32)], (0, 10), device)
    first = program(np.array([1, 2], np.float32), np.array([3, 4], np.int32), variables=times(1))
    assert first.tolist() == [18, 19]  # 3 + 4 + 10
    assert program(np.ones(3, np.float32), np.zeros(3, np.int32), variables=times(2)).tolist() == [2, 2, 2]
    assert program(np.ones(1, np.float32), np.zeros(1, np.int32), variables=times(3)).tolist() == [63]
    assert first.tolist() == [18, 19]
    assert traced == [1]
