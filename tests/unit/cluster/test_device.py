"""A node's strength in exo's words."""

from __future__ import annotations

import dataclasses

from exo_node.cluster.device import DeviceCapabilities
from exo_node.types import Device
from tests.unit.cluster.fake_peers import node_info


def test_capabilities() -> None:
    """Model from the devices, memory in MiB, flops 0 while not measured."""
    node = dataclasses.replace(
        node_info("bob"),
        devices=(Device("CUDA:0", "cuda", "H100", 1, 1), Device("CUDA:1", "cuda", "H100", 1, 1)),
        memory_total=2**34,
        chip="EPYC",
    )
    flops = {"fp32": 0.0, "fp16": 0.0, "int8": 0.0}
    assert DeviceCapabilities.of(node).to_dict() == {"model": "H100", "chip": "EPYC", "memory": 16384, "flops": flops}
    assert DeviceCapabilities.of(node_info("bob")).model == "bob"
