from __future__ import annotations

import pytest

from exo_node.engine.tinygrad.backend import choose_backend
from exo_node.errors import EngineUnavailable


def test_devices() -> None:
    """CUDA is pinned to NVRTC, an index survives (tinygrad spells the first without one), the CPU names a renderer."""
    assert _fields("CUDA:1") == ("CUDA:1", "CUDA:CUDA", False)
    assert _fields("CUDA:0") == ("CUDA", "CUDA:CUDA", False)
    assert _fields("METAL") == ("METAL", "METAL", False)
    assert _fields("amd:2") == ("AMD:2", "AMD", False)
    device, selector, is_cpu = _fields("CPU")
    assert (device, is_cpu) == ("CPU", True)
    assert selector in ("CPU:X86", "CPU:CLANG", "CPU:LLVM")


@pytest.mark.parametrize("device", ["TPU", "CUDA:x", ""])
def test_unknown_devices_are_named(device: str) -> None:
    """A device that tinygrad does not run is refused by its name."""
    with pytest.raises(EngineUnavailable, match=repr(device)):
        choose_backend(device)


def _fields(device: str) -> tuple[str, str, bool]:
    backend = choose_backend(device)
    return backend.device, backend.selector, backend.is_cpu
