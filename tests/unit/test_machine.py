"""machine.py: which devices a node offers."""

from __future__ import annotations

import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from exo_node.config import Settings
from exo_node.errors import ConfigurationError
from exo_node.machine import MAX_FILES, Machine, chosen_devices
from exo_node.types import Device

CPU = Device("CPU", "cpu", "chip", 10, 5)
GPUS = (Device("CUDA:0", "cuda", "a", 10, 9), Device("CUDA:1", "cuda", "b", 10, 9))


def test_without_devices_flag_the_best_are_taken() -> None:
    """Empty means: what the engine runs best on."""
    assert chosen_devices(GPUS, (*GPUS, CPU), ()) == GPUS


def test_devices_are_chosen_by_name_in_the_given_order() -> None:
    """Names are case-insensitive; the CPU may be split in several runners."""
    assert chosen_devices(GPUS, (*GPUS, CPU), ("cuda:1", "CPU")) == (GPUS[1], CPU)
    assert [one.id for one in chosen_devices((CPU,), (CPU,), ("CPU:0", "CPU:1"))] == ["CPU:0", "CPU:1"]


@pytest.mark.parametrize("wanted", [("CUDA:7",), ("CPU", "cpu"), ("CPU:x",)])
def test_wrong_devices_are_refused_by_name(wanted: tuple[str, ...]) -> None:
    """An unknown or repeated device is an error that names it and what there is."""
    with pytest.raises(ConfigurationError, match="--devices"):
        chosen_devices(GPUS, (*GPUS, CPU), wanted)


def test_memory_limit_caps_what_is_told(tmp_path: Path) -> None:
    """`--memory-limit` is the total that a node says it has."""
    machine = Machine(Settings(home=tmp_path, memory_limit=123))
    assert machine.memory()[0] == 123
    assert all(device.memory_total <= 123 for device in machine.devices() if device.kind == "cpu")


def test_a_gpu_node_offers_its_gpus_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where discrete GPUs hold the shards, theirs is the memory that placement may use, not the host's."""
    monkeypatch.setattr("exo_node.machine.detect_devices", lambda: (*GPUS, CPU))
    monkeypatch.setattr("exo_node.machine.usable_engines", lambda: ("tinygrad",))
    machine = Machine(Settings(home=tmp_path))
    assert machine.memory() == (20, 18)
    assert machine.devices() == GPUS
    assert Machine(Settings(home=tmp_path, memory_limit=7)).memory() == (7, 18)


def test_files_may_be_opened() -> None:
    """As many as the system lets a process have: shells and service managers give a thousand."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    script = "import resource; from exo_node.machine import allow_files; allow_files(); "
    script += "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    command = f"ulimit -Sn 200; exec {shlex.quote(sys.executable)} -c {shlex.quote(script)}"
    told = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    assert int(told) == (MAX_FILES if hard < 0 else min(hard, MAX_FILES))
