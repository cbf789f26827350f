"""A node's strength in exo's words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from exo_node.types import NodeInfo

MIB = 2**20


@dataclass(frozen=True, slots=True)
class DeviceFlops:
    """TFLOP/s; 0 = not measured."""

    fp32: float = 0.0
    fp16: float = 0.0
    int8: float = 0.0

    def to_dict(self) -> dict[str, float]:
        return {"fp32": self.fp32, "fp16": self.fp16, "int8": self.int8}


@dataclass(frozen=True, slots=True)
class DeviceCapabilities:
    """As exo has them: `memory` in MiB, `flops` in TFLOP/s."""

    model: str
    chip: str
    memory: int
    flops: DeviceFlops = field(default_factory=DeviceFlops)

    def to_dict(self) -> dict[str, Any]:
        return {"model": self.model, "chip": self.chip, "memory": self.memory, "flops": self.flops.to_dict()}

    @classmethod
    def of(cls, node: NodeInfo) -> DeviceCapabilities:
        """A node's capabilities from its own description."""
        model = ", ".join(dict.fromkeys(device.name for device in node.devices)) or node.name
        return cls(model=model, chip=node.chip or "unknown", memory=node.memory_total // MIB)
