"""Which tinygrad runtime serves a device, and how it is selected (ENGINES.md 2). No tinygrad import here."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass

from exo_node.errors import EngineUnavailable

# device name in LoadPlan -> value of tinygrad's DEV variable. CUDA is pinned to its NVRTC renderer: without NVRTC
# tinygrad falls back to PTX, where bfloat16 fails; and autodetection would try NV first, which has no Hopper classes.
_RUNTIMES = {"METAL": "METAL", "CUDA": "CUDA:CUDA", "AMD": "AMD"}


@dataclass(frozen=True, slots=True)
class Backend:
    """`device`: tinygrad's name of the device. `selector`: the value of DEV. `is_cpu`: host memory is device memory."""

    device: str
    selector: str
    is_cpu: bool


def choose_backend(device: str) -> Backend:
    """The runtime for a device id as `Device.id` spells it ("CPU", "METAL", "CUDA:0", "AMD:1").

    Raises `EngineUnavailable` naming the device when tinygrad has none that we run.
    """
    kind, _, index = device.upper().partition(":")
    if index and not index.isdigit():
        raise EngineUnavailable(f"tinygrad: device {device!r} is not of the form KIND or KIND:NUMBER")
    if kind == "CPU":
        return Backend("CPU", f"CPU:{_cpu_renderer()}", True)
    if kind not in _RUNTIMES:
        raise EngineUnavailable(f"tinygrad: device {device!r} is not run; it runs CPU, {', '.join(_RUNTIMES)}")
    return Backend(f"{kind}:{index}" if index and int(index) else kind, _RUNTIMES[kind], False)


def _cpu_renderer() -> str:
    """X86 needs no compiler at all but writes System V calls: Linux on x86-64 only. Elsewhere clang, else LLVM."""
    if platform.machine().lower() in ("x86_64", "amd64") and sys.platform == "linux":
        return "X86"
    return "CLANG" if shutil.which(os.environ.get("CC", "clang")) else "LLVM"


def select_backend(device: str) -> Backend:
    """Choose the runtime, import tinygrad and make it use that; raises `EngineUnavailable` when it cannot.

    A DEV in the environment that names the same kind of device wins (someone has chosen a renderer).
    """
    backend = choose_backend(device)
    given = os.environ.get("DEV", "")
    kind = backend.device.partition(":")[0]
    if given.upper().partition(":")[0] == kind and (":" in given or ":" not in backend.selector):
        backend = Backend(backend.device, given, backend.is_cpu)
    os.environ.setdefault("PARALLEL", "0")  # no pool of compiler processes under a daemon
    try:
        from tinygrad import Device
        from tinygrad.helpers import DEV
    except ImportError as error:
        raise EngineUnavailable("tinygrad is not installed: pip install 'exo-node[tinygrad]'") from error
    DEV.value = backend.selector
    try:
        opened = Device[backend.device]
        _ = opened.renderer
    except Exception as error:  # tinygrad raises whatever its driver's bindings raise: all mean "cannot be used here"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EngineUnavailable(f"tinygrad cannot use {device} ({backend.selector}): {reason}") from error
    return backend
