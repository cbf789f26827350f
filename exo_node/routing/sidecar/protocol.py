"""What the pipes between the service and a worker carry: one JSON object a line.

To the worker's standard input: `Configuration`s, the first one at once. The end of that pipe ends the worker.
From its standard output: `{"event": "ready" | "configured" | "failed", ...}`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from exo_node.routing.deployment import Deployment

DEPLOYMENT_HEADER = "x-exo-deployment"
CAUSE_HEADER = "x-exo-cause"


@dataclass(frozen=True, slots=True)
class Target:
    """A deployment as a worker sees it. `tools` None: the worker looks it up; False: tools are prompted."""

    id: str
    model: str
    params: Mapping[str, Any] = field(default_factory=dict, repr=False)
    tools: bool | None = None


@dataclass(frozen=True, slots=True)
class Configuration:
    """Everything a worker is told. `environment` holds the providers' variables, which never stand in its real one."""

    version: int
    parent_pid: int
    targets: tuple[Target, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


def target_of(deployment: Deployment) -> Target:
    """What a worker must know of a deployment; `exo_tools: prompt|native` in its parameters wins over capabilities."""
    params = dict(deployment.params)
    said = params.pop("exo_tools", None)
    tools: bool | None = None
    if said in ("prompt", "native"):
        tools = said == "native"
    elif deployment.capabilities is not None:
        tools = "tools" in deployment.capabilities
    return Target(deployment.id, deployment.litellm_model, params, tools)


def encode(configuration: Configuration) -> bytes:
    """One line."""
    targets = [
        {"id": t.id, "model": t.model, "params": dict(t.params), "tools": t.tools} for t in configuration.targets
    ]
    line = {
        "version": configuration.version,
        "parent_pid": configuration.parent_pid,
        "targets": targets,
        "environment": dict(configuration.environment),
    }
    return json.dumps(line).encode() + b"\n"


def decode(line: bytes) -> Configuration:
    """The inverse of `encode`."""
    said = json.loads(line)
    targets = tuple(Target(t["id"], t["model"], t["params"], t["tools"]) for t in said["targets"])
    return Configuration(said["version"], said["parent_pid"], targets, said["environment"])


# What a worker's process really needs around it. Everything else (keys, proxies with passwords) comes by the pipe.
_PROCESS_VARIABLES = frozenset(
    {
        "PATH", "HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV",
        "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "SYSTEMROOT",
    }
)  # fmt: skip


def process_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The real environment of a worker: no provider's variable is in it."""
    return {name: value for name, value in environment.items() if name in _PROCESS_VARIABLES}


def provider_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What a worker puts into `os.environ` itself: all variables but those that would change how LiteLLM works.

    `LITELLM_...` are settings of LiteLLM (drop parameters silently, fetch the price map, read `.env`, log bodies), save
    the key and the address of an upstream proxy.
    """
    return {name: value for name, value in environment.items() if _is_provider_variable(name)}


def _is_provider_variable(name: str) -> bool:
    if name.startswith("LITELLM_"):
        return name.endswith(("_API_KEY", "_API_BASE"))
    if name.startswith(("PYTHON", "LD_", "DYLD_", "EXO_")) or name in ("OPENAI_LOG", "ANTHROPIC_LOG", "DEBUG"):
        return False
    return name not in _PROCESS_VARIABLES


def targets_of(deployments: Sequence[Deployment]) -> tuple[Target, ...]:
    """Targets of this node's own deployments."""
    return tuple(target_of(d) for d in deployments if not d.node_id)
