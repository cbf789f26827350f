"""Models as Ollama lists them, and its names for ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from exo_node.api.dialects.ollama_facts import Facts
from exo_node.api.dialects.ollama_models import our_name, remote_show, remote_tag, running, show, tag
from exo_node.models.spec import read_spec
from exo_node.types import ModelCard
from tests.tiny_models import write_model

KNOWN = ("demo", "llama-3.2-1b", "gemma2-2b", "ollama/llama3:latest", "qwen:7b")
CARD = ModelCard("tiny", 1_700_000_000, "local", 64, True, "/models/tiny")
ROW = {"id": "fast", "owned_by": "openai", "context_length": 128000, "capabilities": ["json_schema", "tools", "vision"]}


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("demo", "demo"),
        ("demo:latest", "demo"),
        ("ollama/llama3:latest", "ollama/llama3:latest"),
        ("qwen:7b", "qwen:7b"),
        ("qwen:7b:latest", "qwen:7b"),
        ("llama3.2:1b", "llama-3.2-1b"),
        ("Gemma2:2b", "gemma2-2b"),
        ("mistral:latest", "mistral"),
        ("mistral:7b", "mistral:7b"),
        ("org/name", "org/name"),
    ],
)
def test_names(asked: str, name: str) -> None:
    """The very name first, then without `:latest`, then a tag as the end of one of our names."""
    assert our_name(asked, KNOWN) == name


@pytest.fixture
def facts(tmp_path: Path) -> Facts:
    return Facts(
        size=1234,
        digest="ab" * 32,
        spec=read_spec(write_model(tmp_path / "tiny"), "tiny"),
        template="{% if tools %}{{ enable_thinking }}{% endif %}",
        parameters={"temperature": 0.5},
    )


def test_ours(facts: Facts) -> None:
    """A model of the cluster with what its files say."""
    row = tag(CARD, facts)
    assert (row["name"], row["size"], row["modified_at"]) == ("tiny", 1234, "2023-11-14T22:13:20.000000000Z")
    assert row["details"]["family"] == "llama"
    assert row["details"]["quantization_level"] == "F32"
    assert facts.spec is not None
    packed = replace(facts.spec, config={**facts.spec.config, "quantization": {"bits": 4}})
    assert tag(CARD, replace(facts, spec=packed))["details"]["quantization_level"] == "Q4"
    shown = show(CARD, facts)
    info = shown["model_info"]
    assert shown["capabilities"] == ["completion", "tools", "embedding", "thinking"]
    assert (info["general.architecture"], info["llama.context_length"], info["llama.block_count"]) == ("llama", 64, 4)
    assert (shown["parameters"].split(), shown["template"]) == (["temperature", "0.5"], facts.template)
    assert shown["modelfile"].startswith("FROM tiny\n")


def test_unknown_files() -> None:
    """A model whose files are elsewhere has what its card says."""
    shown = show(CARD, Facts())
    assert (shown["capabilities"], shown["details"]["family"]) == (["completion", "tools", "embedding"], "")
    assert shown["model_info"]["exo.context_length"] == 64


def test_theirs() -> None:
    """A provider's model says whose it is and what it can do."""
    assert (remote_tag(ROW)["remote_host"], len(remote_tag(ROW)["digest"])) == ("openai", 64)
    shown = remote_show(ROW)
    assert shown["capabilities"] == ["completion", "tools", "vision"]
    assert shown["model_info"] == {"general.architecture": "openai", "openai.context_length": 128000}
    assert remote_show({**ROW, "capabilities": ["embedding"]})["capabilities"] == ["embedding"]
    unknown = remote_show({**ROW, "capabilities": ["audio", "embedding", "tools"]})  # all that its provider can
    assert unknown["capabilities"] == ["completion", "tools", "embedding"]


def test_what_runs() -> None:
    """Sizes are what the runners report; only those on accelerators count as VRAM."""
    shards = [{"device": "CPU"}, {"device": "CUDA:0"}]
    stages = [{"stage": i, "weight_bytes": 10 * (i + 1), "kv_bytes": 1} for i in (1, 0)]
    row = running({"model": "tiny", "shards": shards, "context": 64}, Facts(digest="d"), stages, 0)
    assert (row["size"], row["size_vram"], row["context_length"]) == (32, 21, 64)
    assert row["expires_at"] == "1970-01-01T00:00:00.000000000Z"
