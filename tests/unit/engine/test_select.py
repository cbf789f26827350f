"""Which engine is chosen for which machine, and what is said when it cannot be had."""

from __future__ import annotations

from typing import Any

import pytest

from exo_node.engine.select import (
    able,
    check_supported,
    choose_engine,
    create_engine,
    devices_for,
    kept_by_layer,
    preferred,
    state_bytes,
)
from exo_node.errors import EngineUnavailable, UnsupportedModel
from exo_node.models.config import normalise
from exo_node.types import Device, NodeInfo, Shard

CPU = Device("CPU", "cpu", "c", 8, 4)
METAL = Device("METAL", "metal", "m", 8, 4)
CUDA = tuple(Device(f"CUDA:{n}", "cuda", "g", 8, 4) for n in range(2))
BOTH = ("mlx", "tinygrad")


@pytest.mark.parametrize(
    ("engines", "devices", "expected"),
    [
        (BOTH, (METAL,), "mlx"),
        (BOTH, (CPU,), "mlx"),
        (BOTH, (*CUDA, CPU), "tinygrad"),
        (("mlx",), (*CUDA, CPU), "mlx"),
        (("tinygrad",), (CPU,), "tinygrad"),
    ],
)
def test_auto_takes_the_faster_engine(engines: tuple[str, ...], devices: tuple[Device, ...], expected: str) -> None:
    """MLX on Apple Silicon and plain CPUs, tinygrad where there is a GPU for it, else the one that is there."""
    assert choose_engine("auto", engines, devices) == expected
    assert preferred(engines, devices)[0] == expected


def test_a_named_engine_is_taken_as_named() -> None:
    """A choice of the user is not improved upon."""
    assert choose_engine("tinygrad", BOTH, (METAL,)) == "tinygrad"
    assert choose_engine("mlx", BOTH, (*CUDA, CPU)) == "mlx"


@pytest.mark.parametrize(
    ("setting", "engines", "words"),
    [
        ("mlx", ("tinygrad",), ("exo-node[mlx]", "usable here: tinygrad")),
        ("auto", (), ("exo-node[mlx,tinygrad]",)),
        ("torch", BOTH, ("'torch'", "auto, mlx, tinygrad")),
    ],
)
def test_what_cannot_be_had_names_the_remedy(setting: str, engines: tuple[str, ...], words: tuple[str, ...]) -> None:
    """The error of an engine that is not there names the extra; of one that does not exist, those that do."""
    with pytest.raises(EngineUnavailable) as caught:
        choose_engine(setting, engines, (CPU,))
    assert [word for word in words if word not in caught.value.message] == []


def test_an_engine_gets_its_best_kind_of_device() -> None:
    """tinygrad takes every GPU and leaves the CPU beside them; MLX has no CUDA here."""
    assert devices_for("tinygrad", (*CUDA, CPU)) == CUDA
    assert devices_for("mlx", (*CUDA, CPU)) == (CPU,)
    assert devices_for("mlx", (METAL,)) == (METAL,)
    assert devices_for("mlx", CUDA) == ()


@pytest.mark.parametrize("engine", BOTH)
def test_an_unknown_architecture_is_refused_without_a_framework(engine: str) -> None:
    """The refusal is `UnsupportedModel` on both engines and names the architecture."""
    config = {"model_type": "nonesuch", "architectures": ["NonesuchForCausalLM"], "num_hidden_layers": 2}
    with pytest.raises(UnsupportedModel, match=r"(?i)nonesuch"):
        check_supported(engine, config, Shard("m", 0, 2, 2))


def test_a_model_goes_to_the_engines_that_run_it() -> None:
    """Of a node with both the one that runs it, on the devices that it has; where too few nodes have one, nothing
    changes, and the plan's check says why."""
    kinds = {"mlx": (CPU,), "tinygrad": (CPU,), "both": (CPU,), "gpu": CUDA}
    engines = {"mlx": ("mlx",), "tinygrad": ("tinygrad",), "both": ("tinygrad", "mlx"), "gpu": ("tinygrad", "mlx")}
    rest: dict[str, Any] = {"boot_id": "", "name": "", "version": "", "addresses": (), "grpc_port": 0, "api_port": 0}
    rest |= {"memory_total": 1, "memory_free": 1}
    nodes = [NodeInfo(node_id=name, engines=engines[name], devices=kinds[name], **rest) for name in kinds]
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "vocab_size": 160, "num_hidden_layers": 2}
    experts = normalise({"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], **sizes})
    assert [node.engines for node in able(nodes, experts, 0)] == [("mlx",), (), ("mlx",), ()]
    assert able(nodes, experts, 2) != nodes
    assert able(nodes, experts, 3) == nodes
    assert able(nodes[1:2], experts, 0) == nodes[1:2]
    plain = normalise({"model_type": "llama", "intermediate_size": 96, **sizes})
    assert [node.engines for node in able(nodes[:3], plain, 3)] == [engines[name] for name in list(kinds)[:3]]


def test_an_engine_that_does_not_exist_is_refused() -> None:
    """Neither checking nor creating passes over a misspelt name."""
    with pytest.raises(EngineUnavailable, match="'mxl'"):
        check_supported("mxl", {}, Shard("m", 0, 2, 2))
    with pytest.raises(EngineUnavailable, match="'mxl'"):
        create_engine("mxl")


@pytest.mark.parametrize(
    "name",
    [
        "fake",
        pytest.param("mlx", marks=pytest.mark.engine_mlx),
        pytest.param("tinygrad", marks=pytest.mark.engine_tinygrad),
    ],
)
def test_engines_are_created_by_name(name: str) -> None:
    """What is created says the name that it was asked for by."""
    assert create_engine(name).name == name


def test_what_layers_keep_of_a_sequence() -> None:
    """What lies behind a window is forgotten; of a family that an engine does not run nothing is assumed."""
    kinds = ["sliding_attention", "full_attention"]
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "vocab_size": 160}
    config = normalise(
        {"model_type": "gemma3_text", "num_hidden_layers": 2, "layer_types": kinds, "sliding_window": 1024, **sizes}
    )
    for engine in BOTH:
        assert kept_by_layer(engine, config, 8192, 256) == (1535, 8192)
        assert kept_by_layer(engine, config, 1024, 256) == (1024, 1024)
        assert kept_by_layer(engine, {**config, "model_type": "other"}, 8192, 256) == (8192, 8192)
        assert kept_by_layer(engine, {**config, "num_hidden_layers": 3}, 8192, 256) == (8192,) * 3
    assert kept_by_layer("fake", config, 8192, 256) == (8192, 8192)


def test_what_states_take() -> None:
    """On MLX a layer of recurrent state takes as much for any sequence; no other engine or family has any."""
    kinds = ["conv", "full_attention"]
    config = {"model_type": "lfm2", "num_hidden_layers": 2, "layer_types": kinds, "hidden_size": 8, "conv_L_cache": 3}
    states = state_bytes("mlx", config, 4)
    assert states[0] > 0 and states[1] == 0
    assert state_bytes("mlx", config, 2) == (states[0] // 2, 0)
    assert state_bytes("tinygrad", config, 4) == state_bytes("mlx", {**config, "model_type": "other"}, 4) == (0, 0)
