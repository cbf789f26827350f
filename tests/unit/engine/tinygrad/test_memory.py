from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("tinygrad")
from exo_node.engine.tinygrad.backend import select_backend

pytestmark = pytest.mark.engine_tinygrad


def test_blocks_are_written_where_they_belong() -> None:
    """Read-only blocks at byte offsets make up the tensor, and leave the rest of it alone."""
    device = select_backend("CPU").device
    from tinygrad import dtypes

    from exo_node.engine.tinygrad.memory import from_numpy, write

    tensor = from_numpy(np.full((2, 3), 7, np.float32), dtypes.float32, device)
    write(tensor, 4, memoryview(np.array([1, 2], np.float32).tobytes()))
    write(tensor, 20, memoryview(np.array([3], np.float32).tobytes()))
    assert tensor.numpy().tolist() == [[7, 1, 2], [7, 7, 3]]


def test_empty_is_allocated() -> None:
    """An empty tensor has its memory, which keeps what is written to it."""
    device = select_backend("CPU").device
    from tinygrad import dtypes

    from exo_node.engine.tinygrad.memory import empty, write

    tensor = empty((4,), dtypes.uint8, device)
    assert tensor.uop.buffer.is_allocated()
    write(tensor, 0, memoryview(b"\1\2\3\4"))
    assert tensor.numpy().tolist() == [1, 2, 3, 4]
