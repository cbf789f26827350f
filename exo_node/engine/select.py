"""Which engine a node runs, and its construction. Choosing is pure; a framework is imported only by `create_engine`."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from exo_node.engine.windows import kept_tokens
from exo_node.errors import CheckpointError, EngineUnavailable, UnsupportedModel
from exo_node.types import Device, NodeInfo, Shard

if TYPE_CHECKING:  # the contract imports numpy, which a daemon does without
    from exo_node.engine.base import ShardEngine

ENGINES = ("mlx", "tinygrad")
# Kinds of device that an engine computes on, best first.
RUNS_ON: Mapping[str, tuple[str, ...]] = {
    "mlx": ("metal", "cpu"),
    "tinygrad": ("cuda", "amd", "metal", "cpu"),
    "fake": ("cpu", "metal"),
}
INSTALL = "make the environment anew with scripts/exo, or pip install 'exo-node[{}]'"


def preferred(engines: Sequence[str], devices: Sequence[Device]) -> tuple[str, ...]:
    """`engines`, the one first that is the faster here.

    MLX on Apple Silicon and on a plain CPU (with OpenBLAS it reads weights faster than tinygrad there, ENGINES.md),
    tinygrad where it sees a GPU of another kind.
    """
    gpu = any(device.kind in ("cuda", "amd") for device in devices)
    order = ("tinygrad", "mlx") if gpu else ("mlx", "tinygrad")
    return tuple(name for name in order if name in engines)


def choose_engine(setting: str, engines: Sequence[str], devices: Sequence[Device]) -> str:
    """The engine for `--inference-engine setting` ("auto" or a name), given those that are usable.

    Raises `EngineUnavailable` naming the extra to install.
    """
    if setting == "auto":
        order = preferred(engines, devices)
        if not order:
            raise EngineUnavailable(f"no inference engine is installed: {INSTALL.format('mlx,tinygrad')}")
        return order[0]
    _known(setting)
    if setting not in engines:
        others = f"; usable here: {', '.join(engines)}" if engines else ""
        raise EngineUnavailable(
            f"--inference-engine {setting}: {setting} is not installed or does not run on this machine: "
            f"{INSTALL.format(setting)}{others}"
        )
    return setting


def devices_for(engine: str, devices: Sequence[Device]) -> tuple[Device, ...]:
    """Those of `devices` that `engine` computes on: its best kind only (a GPU is not mixed with the CPU beside it)."""
    for kind in RUNS_ON[_known(engine)]:
        found = tuple(device for device in devices if device.kind == kind)
        if found:
            return found
    return ()


def check_supported(engine: str, config: Mapping[str, Any], shard: Shard) -> None:
    """Raise `UnsupportedModel` when `engine` does not run this model or this cut. Imports no framework.

    `config` is the normalised config.json. Raises `EngineUnavailable` for an engine that does not exist.
    """
    if engine == "mlx":
        from exo_node.engine.mlx import support as mlx_support

        mlx_support.check(config, shard)
    elif engine == "tinygrad":
        from exo_node.engine.tinygrad import support as tinygrad_support

        tinygrad_support.check(config, shard)
    else:
        _known(engine)


def able(nodes: Sequence[NodeInfo], config: Mapping[str, Any], wanted: int) -> list[NodeInfo]:
    """`nodes`, each with those of its engines that run this (normalised) model on its devices; as they are where fewer
    than `wanted` have any, so that `check_supported` says of their engines what they do not run."""
    depth = int(config["num_hidden_layers"])

    def runs(engine: str) -> bool:
        try:
            check_supported(engine, config, Shard("", 0, depth, depth))
        except (UnsupportedModel, CheckpointError):
            return False
        return True

    running = {engine for engine in {one for node in nodes for one in node.engines} if runs(engine)}
    found = [
        replace(node, engines=tuple(one for one in node.engines if one in running and devices_for(one, node.devices)))
        for node in nodes
    ]
    return found if sum(bool(node.engines) for node in found) >= max(1, wanted) else list(nodes)


def kept_by_layer(engine: str, config: Mapping[str, Any], context: int, max_chunk: int) -> tuple[int, ...]:
    """How many tokens of one sequence of `context` each layer's KV holds at most, with rows of `max_chunk` at most.

    `config` is the normalised config.json; of a model that the engine does not run, the whole context. Imports no
    framework.
    """
    n_layers = int(config["num_hidden_layers"])
    windows: Sequence[int | None] = ()
    if engine == "mlx":
        from exo_node.engine.mlx.families import FAMILIES, layer_windows

        windows = layer_windows(config) if config["model_type"] in FAMILIES else ()
    elif engine == "tinygrad":
        from exo_node.engine.tinygrad.spec import decoder_spec

        with contextlib.suppress(UnsupportedModel, CheckpointError):  # which `check_supported` raises
            windows = [layer.window for layer in decoder_spec(config).layers]
    if len(windows) != n_layers:
        windows = (None,) * n_layers
    return tuple(kept_tokens(window, context, max_chunk) for window in windows)


def state_bytes(engine: str, config: Mapping[str, Any], element: int) -> tuple[int, ...]:
    """For each layer how many bytes it holds of one sequence whatever its length, computing in elements of so many
    bytes; 0 = keys and values by token.

    `config` is the normalised config.json, perhaps of a model that the engine does not run. Imports no framework.
    """
    if engine != "mlx":
        return (0,) * int(config["num_hidden_layers"])
    from exo_node.engine.mlx.hybrids import layer_states, slot_bytes

    return tuple(slot_bytes(config, element) if n else 0 for n in layer_states(config))


def create_engine(name: str) -> ShardEngine:
    """A new engine, on the thread that will own it; imports its framework. For runners only.

    Raises `EngineUnavailable` when the framework is not installed or there is no such engine. "fake" is the arithmetic
    engine of the tests: it is never chosen, only named.
    """
    try:
        if name == "mlx":
            from exo_node.engine.mlx.engine import MLXShardEngine

            return MLXShardEngine()
        if name == "tinygrad":
            from exo_node.engine.tinygrad.engine import TinygradShardEngine

            return TinygradShardEngine()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("exo_node"):
            raise
        raise EngineUnavailable(f"{name} does not import ({error}): {INSTALL.format(name)}") from error
    _known(name)
    from exo_node.engine.fake import FakeEngine

    return FakeEngine()


def _known(engine: str) -> str:
    if engine not in RUNS_ON:
        raise EngineUnavailable(f"there is no engine {engine!r}; choose one of auto, {', '.join(ENGINES)}")
    return engine
