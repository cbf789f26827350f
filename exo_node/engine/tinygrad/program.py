"""Captured JITs with their input buffers. Imports tinygrad: imported after `select_backend` only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tinygrad import TinyJit, dtypes
from tinygrad.helpers import Context

from exo_node.engine.tinygrad.memory import empty


class Program:
    """One captured JIT: numpy in, numpy out.

    `inputs`: shape and dtype (int32 or float32) of each; the first axis of all of them, and of the output, is the rows.
    `padding`: what fills each of them behind the rows that a call brings. The first call captures (`cnt = 1` skips
    tinygrad's uncaptured warm-up call: all our inputs are realised buffers, so there is nothing for it to do, and it
    would lower every kernel for nothing).
    """

    def __init__(
        self, function: Any, inputs: Sequence[tuple[Sequence[int], Any]], padding: Sequence[int], device: str
    ) -> None:
        self._jit = TinyJit(function)
        self._jit.cnt = 1
        self._inputs = [empty(shape, dtype, device) for shape, dtype in inputs]
        self._hosts = [np.zeros(shape, np.int32 if dtype is dtypes.int32 else np.float32) for shape, dtype in inputs]
        self._padding = padding

    def __call__(self, *values: npt.NDArray[Any], variables: Sequence[Any] = ()) -> npt.NDArray[np.float32]:
        """Run on `values` (one array an input, of the same number of rows, at most as many as the program has) and copy
        their output rows out: the JIT's buffer belongs to its next call."""
        n = len(values[0])
        for tensor, host, given, filler in zip(self._inputs, self._hosts, values, self._padding, strict=True):
            host[:n] = given
            host[n:] = filler
            tensor.uop.buffer.copyin(host.data.cast("B"))
        # one graph per call: launching is most of a small model's step; SPEC only checks tinygrad's own graphs
        with Context(JIT_BATCH_SIZE=0, SPEC=0):
            output = self._jit(*self._inputs, *variables)
        result = np.empty(output.shape, dtype=np.float32)
        output.uop.base.buffer.copyout(result.data.cast("B"))
        return result[:n]
