"""machine.py: which devices a node offers."""

from __future__ import annotations

import asyncio
import dataclasses
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


async def test_what_a_runner_held_of_a_gpu_is_free_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And read anew, rather than within seconds: what other programs took meanwhile counts too."""
    found = [dataclasses.replace(GPUS[0], memory_free=1), GPUS[1]]
    monkeypatch.setattr("exo_node.machine.detect_devices", lambda: (*found, CPU))
    monkeypatch.setattr("exo_node.machine.usable_engines", lambda: ("tinygrad",))
    machine = Machine(Settings(home=tmp_path))
    machine.freed("CUDA:0", 7)
    assert [one.memory_free for one in machine.devices()] == [8, 9]
    machine.freed("CUDA:0", 7)
    assert machine.devices()[0].memory_free == GPUS[0].memory_total
    found[0] = dataclasses.replace(GPUS[0], memory_free=6)
    reading = asyncio.create_task(machine.refresh())
    async with asyncio.timeout(2):
        while machine.devices()[0].memory_free != 6:  # noqa: ASYNC110 - what ends is in the machine, which tells nobody
            await asyncio.sleep(0.01)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


def test_files_may_be_opened() -> None:
    """As many as the system lets a process have: shells and service managers give a thousand."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    script = "import resource; from exo_node.machine import allow_files; allow_files(); "
    script += "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    command = f"ulimit -Sn 200; exec {shlex.quote(sys.executable)} -c {shlex.quote(script)}"
    told = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    assert int(told) == (MAX_FILES if hard < 0 else min(hard, MAX_FILES))
