"""`exo status`."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from exo_node.cli.main import dispatch
from exo_node.cli.status import describe, describe_external, describe_load, describe_memory
from tests.unit.api.scripted import END, ScriptedBackend, ScriptedCluster
from tests.unit.api.scripted_routing import ScriptedRouting
from tests.unit.cli.conftest import StartNode


def test_status(start_node: StartNode, capsys: pytest.CaptureFixture[str]) -> None:
    """Nodes with engines, memory and BLAS; instances with their shards; the same as JSON."""
    cluster = ScriptedCluster()
    url = start_node(ScriptedBackend([END]), cluster)
    assert dispatch(["status"]) == 0
    out = capsys.readouterr().out
    for words in (
        "1 node,",
        url,
        "node-a",
        "mlx, tinygrad",
        "openblas",
        "5.6 GiB free of 7.5 GiB",
        "no model is loaded",
        "external models: gpt-4o; strategy latency",
        "azure/gpt-4o  open: server",
        "Redis at localhost:6379: up",
        "LiteLLM: serving",
        "note: no key for Groq",
    ):
        assert words in out
    assert dispatch(["load", "demo"]) == 0
    capsys.readouterr()
    assert dispatch(["status"]) == 0
    out = capsys.readouterr().out
    assert "demo  ready, context 512, 8 sequences, instance inst-0" in out
    assert "layers [0, 8) of 8" in out
    assert "mlx on CPU, node-a" in out
    assert (
        "  load   1 running, 2 waiting; KV 1,024 of 4,096 tokens; 75% of 2,000 prompt tokens were cached; "
        "75% of 40 guessed tokens were right; 2 evicted; 1 preempted; 3 micro-batches\n" in out
    )
    assert dispatch(["status", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said.pop("stats") == {"inst-0": asyncio.run(cluster.instance_stats("inst-0"))}
    assert said.pop("router") == {**ScriptedRouting().stats(), "memory": {"level": "ok", "free": 0, "min_free": 0}}
    assert said == cluster.topology()


def test_short_memory_is_told() -> None:
    """Nothing is said while there is enough."""
    row = {"level": "critical", "free": 300 * 2**20, "min_free": 512 * 2**20}
    assert describe_memory({**row, "level": "ok"}) == []
    (line,) = describe_memory(row)
    assert "runs out" in line
    assert "300.0 MiB are free" in line


def test_who_is_outside_is_shown() -> None:
    """Nodes of other clusters with theirs, and why a peer that was named is not here."""
    topology = ScriptedCluster().topology()
    topology["other_clusters"] = [{"node_id": "eve", "cluster": "00000000", "address": "10.0.0.9:5"}]
    topology["problems"] = {"10.0.0.8:5": "peer 10.0.0.8:5: cannot be reached"}
    said = describe(topology, {}, "http://127.0.0.1:1")
    assert "not ours: eve of cluster 00000000, 10.0.0.9:5" in said
    assert "not here: peer 10.0.0.8:5: cannot be reached" in said


def test_models_of_keys_and_peers() -> None:
    """What a key in the environment or a peer makes available counts, though nothing is configured."""
    stats = {**ScriptedRouting().stats(), "model_list": []}
    local: dict[str, Any] = {"id": "demo"}
    alias: dict[str, Any] = {"id": "chat", "provider": "alias", "targets": ["x"]}
    rows = [local, alias, {"id": "openai/a", "provider": "openai"}, {"id": "openai/b", "provider": "openai"}]
    assert describe_external(stats, rows, [])[0] == "\nexternal models: 2 of openai; strategy latency"
    assert "none (no deployment, no key, or switched off)" in describe_external(stats, [local], [])[0]


def test_own_servers() -> None:
    """A server without a key, of which only the address is known, counts too; a deployment says it already."""
    stats = {**ScriptedRouting().stats(), "model_list": []}
    ollama = {"id": "ollama", "key": "keyless", "configured": True, "deployments": 0}
    away = {**ollama, "id": "lm_studio", "configured": False}
    named = {**ollama, "id": "hosted_vllm", "deployments": 1}
    keyed = {**ollama, "id": "openai", "key": "present"}
    said = describe_external(stats, [], [ollama, away, named, keyed])[0]
    assert said == "\nexternal models: any of ollama; strategy latency"


def test_a_ring_without_work() -> None:
    """Nothing is divided by nothing, and what never happened is not told."""
    nothing = dict.fromkeys(("kv_tokens_used", "prompt_tokens", "drafted_tokens", "evictions", "preemptions"), 0)
    head = {"running": 0, "waiting": 0, "scheduling": {**nothing, "kv_tokens": 512, "micro_batches": 1}}
    assert describe_load(head) == "  load   0 running, 0 waiting; KV 0 of 512 tokens"
