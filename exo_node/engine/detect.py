"""What this machine has: devices with their memory, its chip, and which engines run. Imports no framework and no numpy.

Everything is read from files, from `nvidia-smi` or `sysctl` in a process of their own (a broken driver must not take
the daemon with it), or found without being imported. What cannot be read is logged and left out, never guessed.
"""

from __future__ import annotations

import csv
import importlib.util
import logging
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from exo_node.types import Device

logger = logging.getLogger(__name__)

MIB = 1024 * 1024
NVIDIA_SMI_TIMEOUT_S = 10.0  # without persistence mode the first call waits for the driver, 2-3 s per GPU
NVIDIA_SMI_QUERY = ("--query-gpu=index,uuid,name,memory.total,memory.free", "--format=csv,noheader,nounits")
AMD_VENDOR = "0x1002"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One row of `nvidia-smi`; memory in bytes."""

    index: int
    uuid: str
    name: str
    memory_total: int
    memory_free: int


def parse_nvidia_smi(text: str) -> list[Gpu]:
    """The GPUs of `nvidia-smi --query-gpu=...`; a row whose memory the driver does not tell ("[N/A]") is left out."""
    gpus = []
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        try:
            index, uuid, name, total, free = row
            gpus.append(Gpu(int(index), uuid, name, int(total) * MIB, int(free) * MIB))
        except ValueError:
            logger.warning("nvidia-smi: cannot read %r", ", ".join(row))
    return gpus


def visible_gpus(gpus: Sequence[Gpu], visible: str | None) -> list[Gpu]:
    """The GPUs that CUDA shows under CUDA_VISIBLE_DEVICES, in its order: their places are CUDA's numbers.

    Entries are indices or UUID prefixes; CUDA stops at the first that names none (CUDA C Programming Guide, environment
    variables). Unset (None) shows all.
    """
    if visible is None:
        return list(gpus)
    shown: list[Gpu] = []
    for entry in (part.strip() for part in visible.split(",")):
        wanted = [
            gpu
            for gpu in gpus
            if (str(gpu.index) == entry or (entry.startswith("GPU-") and gpu.uuid.startswith(entry)))
        ]
        if len(wanted) != 1 or wanted[0] in shown:
            break
        shown.append(wanted[0])
    return shown


def cgroup_memory(root: Path = Path("/sys/fs/cgroup")) -> tuple[int, int] | None:
    """(limit, free) bytes of the container that we run in (cgroup v2), None without a limit.

    Inactive page cache counts as free: the kernel drops it before it kills.
    """
    try:
        limit = (root / "memory.max").read_text().strip()
        current = int((root / "memory.current").read_text())
        stat = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if not limit.isdigit():  # "max"
        return None
    return int(limit), max(0, int(limit) - current + int(stat.get("inactive_file", 0)))


def host_memory() -> tuple[int, int]:
    """(total, free) bytes that processes here may use: the machine's, or the container's where that is less."""
    memory = psutil.virtual_memory()
    total, free = int(memory.total), int(memory.available)
    limit = cgroup_memory()
    return (total, free) if limit is None else (min(total, limit[0]), min(free, limit[1]))


def parse_cpuinfo(text: str) -> str:
    """The first "model name" of /proc/cpuinfo; empty where there is none (most ARM kernels)."""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return ""


def chip_name() -> str:
    """E.g. "Apple M4 Max" or "AMD EPYC 9B14"; the architecture where the machine does not say more."""
    if sys.platform == "darwin":
        return _output(("sysctl", "-n", "machdep.cpu.brand_string"), 5.0).strip() or platform.machine()
    try:
        return parse_cpuinfo(Path("/proc/cpuinfo").read_text()) or platform.machine()
    except OSError:
        return platform.machine()


def detect_devices(environ: Mapping[str, str] = os.environ) -> tuple[Device, ...]:
    """The devices that can hold a shard, the best first. Takes up to some seconds where NVIDIA's driver is asleep.

    Apple Silicon has one (its memory is shared), else GPUs come first and the CPU is always last.
    """
    total, free = host_memory()
    chip = chip_name()
    if _is_apple_silicon():
        return (Device("METAL", "metal", chip, total, free),)
    nvidia = visible_gpus(_nvidia_gpus(), environ.get("CUDA_VISIBLE_DEVICES"))
    return (
        *(Device(f"CUDA:{n}", "cuda", gpu.name, gpu.memory_total, gpu.memory_free) for n, gpu in enumerate(nvidia)),
        *amd_gpus(),
        Device("CPU", "cpu", chip, total, free),
    )


def amd_gpus(drm: Path = Path("/sys/class/drm"), kfd: Path = Path("/dev/kfd")) -> Iterator[Device]:
    """AMD GPUs whose compute driver is there, with what the kernel says of their memory."""
    if not kfd.exists():
        return
    number = 0
    for folder in sorted(drm.glob("card[0-9]*/device")):
        try:
            if (folder / "vendor").read_text().strip() != AMD_VENDOR:
                continue
            total = int((folder / "mem_info_vram_total").read_text())
            used = int((folder / "mem_info_vram_used").read_text())
        except (OSError, ValueError):
            continue  # a connector of a card, or an integrated GPU without memory of its own
        yield Device(f"AMD:{number}", "amd", "AMD GPU", total, total - used)
        number += 1


def usable_engines() -> tuple[str, ...]:
    """The engines that are installed and can run here (`select.preferred` says in which order they are wanted)."""
    return tuple(name for name, usable in (("mlx", _mlx_runs()), ("tinygrad", _tinygrad_runs())) if usable)


def _mlx_runs() -> bool:
    """Its files are there: on Linux the package `mlx` alone, without `mlx[cpu]`, lacks the library."""
    return _package_has("mlx", "lib/libmlx.*") and _package_has("mlx_lm", "models")


def _tinygrad_runs() -> bool:
    """On x86-64 Linux it needs no compiler, on Apple Silicon it has Metal; elsewhere the CPU needs clang or LLVM."""
    if not _package_has("tinygrad", "__init__.py"):
        return False
    if _is_apple_silicon() or (sys.platform == "linux" and platform.machine().lower() in ("x86_64", "amd64")):
        return True
    return shutil.which(os.environ.get("CC", "clang")) is not None or "LLVM_PATH" in os.environ


def _package_has(package: str, pattern: str) -> bool:
    """Whether an installed package, which is not imported for that, holds a file or folder `pattern`."""
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations or ()) if spec is not None else ()
    return any(next(Path(folder).glob(pattern), None) is not None for folder in folders)


def _is_apple_silicon() -> bool:
    return sys.platform == "darwin" and platform.machine() == "arm64"


def _nvidia_gpus() -> list[Gpu]:
    if not (Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()):  # Linux; Windows' Linux
        return []
    if shutil.which("nvidia-smi") is None:
        logger.warning("an NVIDIA driver is loaded but nvidia-smi is not on PATH: its GPUs are not used")
        return []
    return parse_nvidia_smi(_output(("nvidia-smi", *NVIDIA_SMI_QUERY), NVIDIA_SMI_TIMEOUT_S))


def _output(command: tuple[str, ...], timeout: float) -> str:
    """Standard output of a command; empty, with a log line, when it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("%s: %s", command[0], error)
        return ""
    return done.stdout
