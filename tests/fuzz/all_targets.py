"""Every target by name."""

from __future__ import annotations

from tests.fuzz import config_targets, grpc_calls, grpc_targets, http_node, http_targets, model_targets
from tests.fuzz.cases import Target

TARGETS: tuple[Target, ...] = (
    *grpc_targets.TARGETS,
    *grpc_calls.TARGETS,
    *http_targets.TARGETS,
    *http_node.TARGETS,
    *config_targets.TARGETS,
    *model_targets.TARGETS,
)


def by_name(name: str) -> Target:
    return next(one for one in TARGETS if one.name == name)
