"""A fast BLAS under MLX on a Linux CPU.

The Linux wheel of MLX links the reference BLAS, which reaches a few GFLOP/s (measured on two cores: 3.7, with OpenBLAS
200). Only the `cblas_?gemm` functions cost time, and there are two ways to give MLX others before it is imported:

1. The wheel scipy-openblas32 (in the lock, so the same arithmetic on every machine). It exports only names with the
   prefix `scipy_`, so that loading it changes nothing by itself: we write its functions' addresses into the table
   through which libmlx.so calls `cblas_?gemm` (its GOT, found by the relocations that the ELF specification describes).
2. The system's OpenBLAS, loaded with RTLD_GLOBAL first: the dynamic linker then prefers its names.

Both take effect for this process only. Elsewhere (Apple Silicon) MLX has its own and nothing is done.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
import logging
import mmap
import os
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

GEMMS = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm")
PREFIX = "scipy_"
SYSTEM_NAMES = ("libopenblas.so.0", "libopenblasp.so.0", "libopenblaso.so.0")
REFERENCE = "reference (slow: install scipy-openblas32 or the system's OpenBLAS, e.g. libopenblas0-pthread)"

# ELF constants (gABI and the processor supplements): segment types, tags of the dynamic section, relocation types.
PT_LOAD, PT_DYNAMIC = 1, 2
DT_PLTRELSZ, DT_STRTAB, DT_SYMTAB, DT_RELA, DT_RELASZ, DT_JMPREL = 2, 5, 6, 7, 8, 23
EM_X86_64, EM_AARCH64 = 62, 183
# (GLOB_DAT, JUMP_SLOT): the slot holds the symbol's address and nothing else.
POINTER_RELOCATIONS: Mapping[int, tuple[int, int]] = {EM_X86_64: (6, 7), EM_AARCH64: (1025, 1026)}


class BlasError(Exception):
    """This way of getting a fast BLAS does not work here; the next one is tried."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a shared object keeps the address of an outside function: `offset` bytes from its load address."""

    symbol: str
    offset: int


def pointer_slots(image: bytes | mmap.mmap, names: frozenset[str]) -> Iterator[Slot]:
    """The GOT slots of `names` in a 64-bit little-endian ELF shared object.

    Raises `BlasError` when the file is something else or is laid out in a way that we do not know.
    """
    if image[:6] != b"\x7fELF\x02\x01":
        raise BlasError("not a 64-bit little-endian ELF file")
    (machine,) = struct.unpack_from("<H", image, 18)
    if machine not in POINTER_RELOCATIONS:
        raise BlasError(f"relocations of ELF machine {machine} are not known")
    (header_offset,) = struct.unpack_from("<Q", image, 32)
    header_size, header_count = struct.unpack_from("<HH", image, 54)
    # type, flags, file offset, virtual address, physical address, size in the file, size in memory, alignment
    headers = [struct.unpack_from("<IIQQQQQQ", image, header_offset + i * header_size) for i in range(header_count)]
    if next((h[2:4] for h in headers if h[0] == PT_LOAD), None) != (0, 0):
        raise BlasError("the first segment does not begin at the file's and the address space's zero")

    def file_offset(address: int) -> int:
        for kind, _, offset, start, _, size, _, _ in headers:
            if kind == PT_LOAD and start <= address < start + size:
                return int(offset + address - start)
        raise BlasError(f"address {address:#x} lies in no segment")

    dynamic = next((h for h in headers if h[0] == PT_DYNAMIC), None)
    if dynamic is None:
        raise BlasError("no dynamic section")
    tags: dict[int, int] = dict(struct.iter_unpack("<QQ", image[dynamic[2] : dynamic[2] + dynamic[5]]))
    if DT_STRTAB not in tags or DT_SYMTAB not in tags:
        raise BlasError("no dynamic symbols")
    strings, symbols = file_offset(tags[DT_STRTAB]), file_offset(tags[DT_SYMTAB])
    for table, size in ((DT_JMPREL, DT_PLTRELSZ), (DT_RELA, DT_RELASZ)):
        if table not in tags:
            continue
        start = file_offset(tags[table])
        for offset, info, addend in struct.iter_unpack("<QQq", image[start : start + tags.get(size, 0)]):
            if info & 0xFFFFFFFF not in POINTER_RELOCATIONS[machine] or addend != 0:
                continue
            (name_offset,) = struct.unpack_from("<I", image, symbols + 24 * (info >> 32))
            begin = strings + name_offset
            name = image[begin : image.find(b"\0", begin)].decode("ascii", "replace")
            if name in names:
                yield Slot(name, offset)


def load_address(library: Path) -> int:
    """Where the loaded `library` begins in this process's memory (its first mapping; its first segment is at 0)."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[2] == "00000000" and os.path.realpath(fields[5]) == os.path.realpath(library):
            return int(fields[0].split("-")[0], 16)
    raise BlasError(f"{library} is not mapped")


def write_pointer(address: int, value: int) -> None:
    """Store a pointer at an address that the linker may have made read-only (RELRO)."""
    libc = ctypes.CDLL(None, use_errno=True)
    page = address & ~(mmap.PAGESIZE - 1)
    if libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), 3) != 0:  # PROT_READ | PROT_WRITE
        raise BlasError(f"mprotect: {os.strerror(ctypes.get_errno())}")
    ctypes.c_void_p.from_address(address).value = value


def package_file(package: str, pattern: str) -> Path | None:
    """The first file `pattern` below an installed package that is not imported for that."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        found = next(iter(sorted(Path(folder).glob(pattern))), None)
        if found is not None:
            return found
    return None


def openblas_version(library: ctypes.CDLL, prefix: str = "") -> str:
    """E.g. "openblas 0.3.34", from what the library says of itself."""
    try:
        get_config = library[f"{prefix}openblas_get_config"]
    except AttributeError as error:
        raise BlasError("not OpenBLAS") from error
    get_config.restype = ctypes.c_char_p
    words = (get_config() or b"").decode("ascii", "replace").split()
    return f"openblas {words[1]}" if len(words) > 1 else "openblas"


def use_wheel() -> str:
    """Way 1. Raises `BlasError`."""
    mlx, wheel = package_file("mlx", "lib/libmlx.so"), package_file("scipy_openblas32", "lib/libscipy_openblas*.so")
    if mlx is None or wheel is None:
        raise BlasError("not installed: " + ("mlx" if mlx is None else "scipy-openblas32"))
    try:
        openblas = ctypes.CDLL(str(wheel))
        ctypes.CDLL(str(mlx))  # the import will find it loaded; ctypes never unloads
    except OSError as error:
        raise BlasError(str(error)) from error
    with mlx.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as image:
        slots = list(pointer_slots(image, frozenset(GEMMS)))
    if {slot.symbol for slot in slots} != set(GEMMS):
        raise BlasError("libmlx.so does not call cblas_?gemm through a table")
    try:
        addresses = {name: ctypes.cast(openblas[PREFIX + name], ctypes.c_void_p).value for name in GEMMS}
    except AttributeError as error:
        raise BlasError(str(error)) from error
    version, base = openblas_version(openblas, PREFIX), load_address(mlx)
    for slot in slots:
        write_pointer(base + slot.offset, addresses[slot.symbol] or 0)
    return f"{version} (scipy-openblas32)"


def use_system() -> str:
    """Way 2. Raises `BlasError`."""
    found = ctypes.util.find_library("openblas")
    for name in (*SYSTEM_NAMES, *([found] if found else ())):
        try:
            library = ctypes.CDLL(name, ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return f"{openblas_version(library)} (system)"
    raise BlasError("the system has no OpenBLAS")


# OpenBLAS's threads spin for 2^26 cycles after each call before they sleep, taking the cores from the next shard of a
# ring on the same machine. On two busy cores a decode-sized product every 5 ms took 105 ms with that, 3 ms with 2^4.
THREAD_TIMEOUT = ("OPENBLAS_THREAD_TIMEOUT", "4")
WAYS: Mapping[str, Callable[[], str]] = {"wheel": use_wheel, "system": use_system}


def preload_blas(way: str = "auto") -> str:
    """Give MLX a fast BLAS where it needs one; call it in a runner before `import mlx`. Returns the BLAS in words.

    `way` is "wheel", "system", or "auto": the first that works, in this order, else the reference BLAS. It uses as many
    threads as there are cores unless OPENBLAS_NUM_THREADS says otherwise. Raises
    `BlasError` for a named way that does not work, and when MLX has been imported already (nothing would change).
    """
    if sys.platform != "linux":
        return "built in"  # Accelerate on macOS
    if "mlx.core" in sys.modules:
        raise BlasError("MLX has been imported already: call preload_blas before that")
    os.environ.setdefault(*THREAD_TIMEOUT)  # read when the library is loaded
    if way != "auto":
        return WAYS[way]()
    for use in WAYS.values():
        try:
            return use()
        except BlasError as error:
            logger.info("BLAS: %s", error)
    return REFERENCE


def measure_sgemm(size: int = 512, repeats: int = 3) -> float:
    """GFLOP/s of MLX's float32 matrix product on the CPU: the best of `repeats`, about 10 ms each with a fast BLAS."""
    import mlx.core as mx

    with mx.stream(mx.cpu):
        left, right = mx.random.normal((size, size)), mx.random.normal((size, size))
        mx.eval(left, right)
        seconds = []
        for _ in range(repeats):
            begin = time.perf_counter()
            mx.eval(left @ right)
            seconds.append(time.perf_counter() - begin)
    return 2 * size**3 / min(seconds) / 1e9
