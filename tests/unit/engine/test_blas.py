"""The fast BLAS under MLX on Linux: found, put in place, faster, and still right. Each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from exo_node.engine import blas
from exo_node.engine.blas import BlasError, pointer_slots

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="MLX brings its own BLAS here")

PRELOAD = """
import ctypes, sys
from pathlib import Path
from exo_node.engine import blas
try:
    print(blas.preload_blas(sys.argv[1]) if sys.argv[1] != "none" else "none")
except blas.BlasError as error:
    sys.exit(f"{error}")
assert blas.measure_sgemm(64, 1) > 0
import mlx.core as mx, numpy as np
mx.set_default_device(mx.cpu)
rng = np.random.default_rng(0)
left, right = rng.standard_normal((70, 130), np.float32), rng.standard_normal((130, 50), np.float32)
print(float(np.abs(np.array(mx.array(left) @ mx.array(right)) - left.astype("d") @ right.astype("d")).max()))
library = blas.package_file("mlx", "lib/libmlx.so")
(slot,) = blas.pointer_slots(library.read_bytes(), frozenset({"cblas_sgemm"}))
called = ctypes.c_void_p.from_address(blas.load_address(library) + slot.offset).value
for line in Path("/proc/self/maps").read_text().splitlines():
    first, last = (int(part, 16) for part in line.split()[0].split("-"))
    if first <= called < last:
        print(Path(line.split()[-1]).name)
"""


def preload(way: str) -> tuple[str, str]:
    """(description, file of the code that MLX's product calls) in a fresh process that multiplies right.

    Skips where the system has no OpenBLAS.
    """
    done = subprocess.run([sys.executable, "-c", PRELOAD, way], capture_output=True, text=True, check=False)
    if way == "system" and "the system has no OpenBLAS" in done.stderr:
        pytest.skip("the system has no OpenBLAS (e.g. libopenblas0-pthread)")
    assert done.returncode == 0, done.stderr
    description, error, library = done.stdout.splitlines()
    assert float(error) < 1e-4
    return description, library


@on_linux
@pytest.mark.engine_mlx
@pytest.mark.parametrize(
    ("way", "words", "library"),
    [("wheel", "(scipy-openblas32)", "libscipy_openblas"), ("system", "(system)", "libopenblas")],
)
def test_both_ways_make_mlx_call_openblas(way: str, words: str, library: str) -> None:
    """MLX's product runs in OpenBLAS (which is some 50 times as fast as what it links) and is right."""
    assert not preload("none")[1].startswith(library)
    description, called = preload(way)
    assert description.startswith("openblas 0.")
    assert description.endswith(words)
    assert called.startswith(library)


@on_linux
@pytest.mark.engine_mlx
def test_auto_takes_the_wheel() -> None:
    """The locked wheel comes before the system's library, so that machines with one lock compute alike."""
    description, _ = preload("auto")
    assert description.endswith("(scipy-openblas32)")


@on_linux
@pytest.mark.engine_mlx
def test_too_late_is_an_error() -> None:
    """After MLX is imported nothing would change: said, not passed over."""
    code = "import mlx.core; from exo_node.engine.blas import preload_blas; preload_blas()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MLX has been imported already" in done.stderr


@pytest.mark.parametrize("image", [b"", b"MZ" + bytes(100), b"\x7fELF\x01\x01" + bytes(100)])
def test_other_files_are_refused(image: bytes) -> None:
    """Only a 64-bit little-endian ELF file is read."""
    with pytest.raises(BlasError, match="not a 64-bit"):
        list(pointer_slots(image, frozenset(blas.GEMMS)))


def test_an_unknown_machine_is_refused() -> None:
    """Relocation types are known for x86-64 and AArch64 only: elsewhere no byte is written."""
    image = bytearray(b"\x7fELF\x02\x01" + bytes(100))
    image[18] = 243  # RISC-V
    with pytest.raises(BlasError, match="machine 243"):
        list(pointer_slots(bytes(image), frozenset(blas.GEMMS)))


@on_linux
@pytest.mark.engine_mlx
def test_slots_are_those_of_the_wanted_names() -> None:
    """In libmlx.so each of the three functions has one slot, and a name that it does not call has none."""
    library = blas.package_file("mlx", "lib/libmlx.so")
    assert isinstance(library, Path)
    slots = list(pointer_slots(library.read_bytes(), frozenset({*blas.GEMMS, "cblas_nonesuch"})))
    assert sorted(slot.symbol for slot in slots) == sorted(blas.GEMMS)
    assert len({slot.offset for slot in slots}) == 3
