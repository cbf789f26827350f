"""Tensors in a device's memory. Imports tinygrad: imported after `select_backend` only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tinygrad import Device, Tensor, dtypes

from exo_node.types import Dtype

DTYPES: Mapping[Dtype, Any] = {"float32": dtypes.float32, "float16": dtypes.float16, "bfloat16": dtypes.bfloat16}


def empty(shape: Sequence[int], dtype: Any, device: str) -> Tensor:
    """An allocated, uninitialised tensor. On a CPU its pages are committed when they are first written."""
    tensor = Tensor.empty(*shape, dtype=dtype, device=device).realize()
    tensor.uop.buffer.ensure_allocated()
    return tensor


def from_numpy(values: npt.NDArray[Any], dtype: Any, device: str) -> Tensor:
    tensor = empty(values.shape, dtype, device)
    tensor.uop.buffer.copyin(np.ascontiguousarray(values).data.cast("B"))
    return tensor


def host_bytes(tensor: Tensor) -> npt.NDArray[np.uint8]:
    """A CPU tensor's own memory in its shape, the last axis in bytes: only while nothing runs on the device."""
    buffer = tensor.uop.base.buffer
    *rest, last = tensor.shape
    shape = (*rest, last * buffer.dtype.itemsize)
    return np.frombuffer(buffer.as_memoryview(force_zero_copy=True), np.uint8).reshape(shape)


def write(tensor: Tensor, offset: int, block: memoryview) -> None:
    """Copy `block` (possibly read-only) into a tensor's memory at byte `offset`; done when this returns."""
    buffer = tensor.uop.buffer
    if buffer.device == "CPU":
        buffer.as_memoryview(force_zero_copy=True)[offset : offset + block.nbytes] = block
        return
    part = buffer.view(block.nbytes // buffer.dtype.itemsize, buffer.dtype, offset).ensure_allocated()
    part.copyin(memoryview(bytearray(block)))  # tinygrad takes the address, which ctypes gives of writable memory only
    Device[buffer.device].synchronize()
