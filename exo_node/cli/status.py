"""`exo status`: the cluster as the running node sees it."""

from __future__ import annotations

import json
from typing import Any

from exo_node.cli.nodes import require_node
from exo_node.cli.parser import CLIENT, Parsed, Parser
from exo_node.cli.table import size


def arguments(parser: Parser, verb: str) -> None:
    parser.add_argument("--json", action="store_true", default=False, help="what GET /v1/topology says")
    parser.add_settings(CLIENT, title="which node")


def run(parsed: Parsed, verb: str) -> int:
    client = require_node(parsed, parsed.settings())
    try:
        topology = client.call("GET", "/v1/topology")
    finally:
        client.close()
    print(json.dumps(topology, indent=2) if parsed.own.json else describe(topology, client.url))
    return 0


def describe(topology: dict[str, Any], url: str) -> str:
    """The topology (`api/views.py`) in words."""
    nodes, instances = topology["nodes"], topology["instances"]
    lines = [f"{len(nodes)} node{'s' if len(nodes) != 1 else ''}, API on {url}"]
    for node_id in sorted(nodes, key=lambda node_id: (node_id != topology["active_node_id"], node_id)):
        lines += _node(node_id, nodes[node_id], this=node_id == topology["active_node_id"])
    lines.append("" if instances else "\nno model is loaded (exo load MODEL, or just ask one)")
    for instance in instances:
        lines += describe_instance(instance)
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


def describe_instance(instance: dict[str, Any]) -> list[str]:
    """An instance and its shards, in ring order."""
    error = f": {instance['error']}" if instance.get("error") else ""
    lines = [
        f"{instance['model']}  {instance['state']}{error}, context {instance['context']}, "
        f"{instance['slots']} sequences, instance {instance['id']}"
    ]
    for shard in instance["shards"]:
        span = f"[{shard['start_layer']}, {shard['end_layer']}) of {shard['n_layers']}"
        lines.append(f"  layers {span:<16} {shard['engine']} on {shard['device']}, {shard['node_id']}")
    return lines
