"""`exo status`: the cluster as the running node sees it."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from exo_node.cli.client import Client, path_of
from exo_node.cli.nodes import require_node
from exo_node.cli.parser import Parsed, Parser
from exo_node.cli.table import size
from exo_node.errors import ExoError

MEMORY_SAYS = {"low": "is low, nothing is kept for later", "critical": "runs out, no request or model is taken"}


def arguments(parser: Parser, verb: str) -> None:
    parser.add_argument(
        "--json",
        action="store_true",
        default=False,
        help="what GET /v1/topology says, under stats what the runners of each instance report, under router GET "
        "/v1/router/stats",
    )
    parser.add_node()


def run(parsed: Parsed, verb: str) -> int:
    client = require_node(parsed, parsed.settings())
    try:
        topology = client.call("GET", "/v1/topology")
        ready = (one["id"] for one in topology["instances"] if one["state"] == "ready")
        stats = {one: stages for one in ready if (stages := _stages(client, one))}
        external = client.call("GET", "/v1/router/stats")
        models = client.call("GET", "/v1/models")["data"]
        providers = client.call("GET", "/v1/providers")["data"]
    finally:
        client.close()
    if parsed.own.json:
        print(json.dumps({**topology, "stats": stats, "router": external}, indent=2))
    else:
        lines = [describe(topology, stats, client.url), *describe_memory(external["memory"])]
        print("\n".join([*lines, *describe_external(external, models, providers)]))
    return 0


def _stages(client: Client, instance_id: str) -> list[dict[str, Any]]:
    """What an instance's runners report; nothing where one does not answer any more."""
    try:
        stages: list[dict[str, Any]] = client.call("GET", path_of("instances", instance_id, "stats"))["stages"]
    except ExoError:
        return []
    return stages


def describe(topology: dict[str, Any], stats: dict[str, list[dict[str, Any]]], url: str) -> str:
    """The topology (`api/views.py`) in words, with what runners report, by instance."""
    nodes, instances = topology["nodes"], topology["instances"]
    lines = [f"{len(nodes)} node{'s' if len(nodes) != 1 else ''}, API on {url}"]
    for node_id in sorted(nodes, key=lambda node_id: (node_id != topology["active_node_id"], node_id)):
        lines += _node(node_id, nodes[node_id], this=node_id == topology["active_node_id"])
    for one in topology.get("other_clusters", ()):
        lines.append(f"\nnot ours: {one['node_id']} of cluster {one['cluster']}, {one['address']}")
    lines += [f"\nnot here: {why}" for why in topology.get("problems", {}).values()]
    lines.append("" if instances else "\nno model is loaded (exo load MODEL, or just ask one)")
    for instance in instances:
        lines += describe_instance(instance)
        lines += [describe_load(stage) for stage in stats.get(instance["id"], ()) if "scheduling" in stage]
    return "\n".join(lines)


def _node(node_id: str, node: dict[str, Any], *, this: bool) -> list[str]:
    devices = ", ".join(f"{device['id']} ({device['name']})" for device in node["devices"])
    facts = [
        ("engines", ", ".join(node["engines"]) or "none"),
        ("devices", devices),
        ("memory", f"{size(node['memory_free'])} free of {size(node['memory_total'])}"),
        ("chip", node["chip"]),
        ("BLAS", node["blas"]),
        ("address", ", ".join(node["addresses"][:2])),
    ]
    head = f"\n{node_id}  {node['name']}, exo-node {node['version']}{' (this node)' if this else ''}"
    return [head, *(f"  {name:<8} {fact}" for name, fact in facts if fact)]


def describe_external(
    stats: dict[str, Any], models: list[dict[str, Any]], providers: list[dict[str, Any]]
) -> list[str]:
    """What there is besides the ring (`/v1/router/stats`, `/v1/models`, `/v1/providers`): deployments, models of keys
    and peers, own servers whose models only they know, what is wrong with them, limits, remarks."""
    groups = stats["model_list"]
    more = [row for row in models if row["id"] not in groups and "targets" not in row]
    others = Counter(row["provider"] for row in more if row.get("provider"))
    there = [*groups, *(f"{count} of {provider}" for provider, count in sorted(others.items()))]
    servers = [row for row in providers if row["key"] == "keyless" and row["configured"] and not row["deployments"]]
    there += [f"any of {row['id']}" for row in servers if row["id"] not in others]
    none = "none (no deployment, no key, or switched off)"
    lines = [f"\nexternal models: {', '.join(there) or none}; strategy {stats['strategy']}"]
    for breaker in stats["breakers"]:
        if breaker["state"] != "closed":
            lines.append(f"  {breaker['backend']}  {breaker['state'].replace('_', ' ')}: {breaker['cause']}")
    redis = stats["limits"]["redis"]
    if redis is not None:
        lines.append(f"  Redis at {redis['address']}: {redis['state']}")
    workers = stats["litellm"]["workers"]
    if workers:
        lines.append(f"  LiteLLM: {', '.join(worker['state'] for worker in workers)}")
    return lines + [f"  note: {note}" for note in stats["notes"]]


def describe_memory(memory: dict[str, Any]) -> list[str]:
    """This node's, while it is short."""
    if memory["level"] == "ok":
        return []
    short = f"{size(memory['free'])} are free, {size(memory['min_free'])} are to stay so (--min-free-memory)"
    return [f"\nmemory of this node {MEMORY_SAYS[memory['level']]}: {short}"]


def describe_instance(instance: dict[str, Any]) -> list[str]:
    """An instance and its shards, in ring order."""
    error = f": {instance['error']}" if instance.get("error") else ""
    packed = f", quantized to {instance['quantize']} bits" if instance.get("quantize") else ""
    drafts = f", drafts by {instance['draft_model']}" if instance.get("draft_model") else ""
    lines = [
        f"{instance['model']}  {instance['state']}{error}{packed}{drafts}, context {instance['context']}, "
        f"{instance['slots']} sequences, instance {instance['id']}"
    ]
    for shard in instance["shards"]:
        span = f"[{shard['start_layer']}, {shard['end_layer']}) of {shard['n_layers']}"
        lines.append(f"  layers {span:<16} {shard['engine']} on {shard['device']}, {shard['node_id']}")
    return lines


def describe_load(head: dict[str, Any]) -> str:
    """What a head's scheduler holds, and has done since its ring was last set up."""
    found = head["scheduling"]
    words = [
        f"{head['running']} running, {head['waiting']} waiting",
        f"KV {found['kv_tokens_used']:,} of {found['kv_tokens']:,} tokens",
    ]
    if asked := found["prompt_tokens"]:
        words.append(f"{found['prefix_hit_tokens'] / asked:.0%} of {asked:,} prompt tokens were cached")
    if drafted := found["drafted_tokens"]:
        words.append(f"{found['accepted_tokens'] / drafted:.0%} of {drafted:,} guessed tokens were right")
    words += [
        f"{found[name]:,} {word}"
        for name, word in (("evictions", "evicted"), ("preemptions", "preempted"))
        if found[name]
    ]
    if (parts := found["micro_batches"]) > 1:
        words.append(f"{parts} micro-batches")
    return f"  load   {'; '.join(words)}"
