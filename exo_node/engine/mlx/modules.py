"""Import MLX, and of mlx-lm nothing but model files.

`import mlx_lm` runs a package `__init__` that imports transformers (2.4 CPU s, 260 MB). With a package object that has
mlx_lm's `__path__` and no code in `sys.modules`, `mlx_lm.models.llama` imports in 0.05 s.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

from exo_node.errors import EngineUnavailable

_INSTALL = "install exo-node[mlx] or choose --inference-engine tinygrad"


def import_mlx() -> Any:
    """mlx.core. Raises `EngineUnavailable` where MLX is not installed or does not load."""
    try:
        return importlib.import_module("mlx.core")
    except ImportError as e:
        raise EngineUnavailable(f"the mlx engine needs MLX, which does not import ({e}); {_INSTALL}") from e


def import_model_file(name: str) -> ModuleType:
    """`mlx_lm.models.<name>`. Raises `EngineUnavailable` where mlx-lm is not installed."""
    if "mlx_lm" not in sys.modules:
        spec = importlib.util.find_spec("mlx_lm")  # finds, does not run
        if spec is None or spec.submodule_search_locations is None:
            raise EngineUnavailable(f"the mlx engine needs mlx-lm, which is not installed; {_INSTALL}")
        package = ModuleType("mlx_lm")
        package.__path__ = list(spec.submodule_search_locations)
        package.__spec__ = spec
        sys.modules["mlx_lm"] = package
    try:
        return importlib.import_module(f"mlx_lm.models.{name}")
    except ImportError as e:
        raise EngineUnavailable(f"mlx-lm's model file {name!r} does not import ({e}); {_INSTALL}") from e


def select_device(mx: Any, device: str) -> Any:
    """Make `device` ("CPU", "METAL", "GPU", "CUDA:1" ...) MLX's default and return it.

    Raises `EngineUnavailable` where this MLX has no such device.
    """
    kind, _, index = device.upper().partition(":")
    if kind not in ("CPU", "METAL", "GPU", "CUDA") or (index and not index.isdigit()):
        raise EngineUnavailable(f"the mlx engine knows no device {device!r}; use CPU, METAL or CUDA")
    chosen = mx.Device(mx.cpu if kind == "CPU" else mx.gpu, int(index or 0))
    if not mx.is_available(chosen):
        raise EngineUnavailable(f"this MLX has no device {device!r}; use CPU")
    mx.set_default_device(chosen)
    return chosen
