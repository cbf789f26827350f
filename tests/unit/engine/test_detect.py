"""What the machine says of itself, from texts and folders that stand for machines that we do not have."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from exo_node.engine import detect
from exo_node.engine.detect import MIB, Gpu

SMI = """\
0, GPU-aaaa-1, NVIDIA H200, 143771, 143155
1, GPU-bbbb-2, NVIDIA H200, 143771, 100
"""


def gpu(index: int, uuid: str) -> Gpu:
    return Gpu(index, uuid, "G", 10 * MIB, 5 * MIB)


def test_rows_of_nvidia_smi_become_gpus_in_bytes() -> None:
    """Each line of the query is a GPU; memory is told in MiB."""
    assert detect.parse_nvidia_smi(SMI) == [
        Gpu(0, "GPU-aaaa-1", "NVIDIA H200", 143771 * MIB, 143155 * MIB),
        Gpu(1, "GPU-bbbb-2", "NVIDIA H200", 143771 * MIB, 100 * MIB),
    ]


@pytest.mark.parametrize("text", ["", "No devices were found\n", "0, GPU-a, GB10, [N/A], [N/A]\n"])
def test_rows_that_say_nothing_are_left_out(text: str) -> None:
    """A driver's complaint, or memory that it does not tell, makes no device."""
    assert detect.parse_nvidia_smi(text) == []


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("2,0", [2, 0]),
        ("GPU-bb", [1]),
        ("1,7,0", [1]),  # stops at the first that is not there
        ("-1", []),
        ("0,0", [0]),
    ],
)
def test_visible_devices_are_cuda_s(visible: str | None, expected: list[int]) -> None:
    """CUDA_VISIBLE_DEVICES selects and orders as CUDA itself does."""
    gpus = [gpu(0, "GPU-aa"), gpu(1, "GPU-bb"), gpu(2, "GPU-cc")]
    assert [one.index for one in detect.visible_gpus(gpus, visible)] == expected


def test_a_container_s_limit_is_read(tmp_path: Path) -> None:
    """Free is what the limit leaves, page cache that can be dropped included."""
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 400\ninactive_file 200\n")
    assert detect.cgroup_memory(tmp_path) == (1000, 500)


def test_no_limit_is_no_limit(tmp_path: Path) -> None:
    """Neither "max" nor a machine without cgroups limits anything."""
    assert detect.cgroup_memory(tmp_path) is None
    for name, text in (("memory.max", "max"), ("memory.current", "5"), ("memory.stat", "anon 1\n")):
        (tmp_path / name).write_text(text)
    assert detect.cgroup_memory(tmp_path) is None


def test_amd_gpus_are_numbered_and_others_skipped(tmp_path: Path) -> None:
    """Only cards of the vendor with memory of their own count, and only with the compute driver."""
    for card, vendor, files in (
        ("card0", "0x10de", {"mem_info_vram_total": "9", "mem_info_vram_used": "1"}),
        ("card1", "0x1002", {"mem_info_vram_total": "100", "mem_info_vram_used": "30"}),
        ("card2", "0x1002", {}),
    ):
        folder = tmp_path / card / "device"
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(vendor + "\n")
        for name, text in files.items():
            (folder / name).write_text(text)
    assert list(detect.amd_gpus(tmp_path, tmp_path / "kfd")) == []
    (tmp_path / "kfd").touch()
    assert [(d.id, d.memory_total, d.memory_free) for d in detect.amd_gpus(tmp_path, tmp_path / "kfd")] == [
        ("AMD:0", 100, 70)
    ]


def test_cpuinfo_names_the_chip_or_nothing() -> None:
    """x86 kernels name the chip, ARM kernels do not."""
    assert detect.parse_cpuinfo("processor\t: 0\nmodel name\t: AMD EPYC 9B14\n") == "AMD EPYC 9B14"
    assert detect.parse_cpuinfo("processor\t: 0\nBogoMIPS\t: 50\n") == ""


def test_this_machine_has_a_device_with_memory() -> None:
    """Detection works on the machine that runs the tests, with GPUs hidden as well."""
    devices = detect.detect_devices({**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert devices
    assert all(0 <= device.memory_free <= device.memory_total > 0 and device.name for device in devices)
    assert not [device for device in devices if device.kind == "cuda"]


def test_detection_imports_neither_framework_nor_numpy() -> None:
    """A daemon that knows its engines and devices has loaded none of them."""
    code = (
        "import sys; from exo_node.engine import detect, select; detect.usable_engines(); detect.chip_name();"
        "print(*sorted({n.split('.')[0] for n in sys.modules} & {'numpy', 'mlx', 'mlx_lm', 'tinygrad', 'torch'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
