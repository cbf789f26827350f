"""`exo list`: models that the node knows."""

from __future__ import annotations

import json
import sys
from typing import Any
from urllib.parse import urlencode

from exo_node.cli.client import Client
from exo_node.cli.nodes import node_for_call
from exo_node.cli.parser import Parsed, Parser
from exo_node.cli.run import START_FLAGS
from exo_node.cli.table import table


def arguments(parser: Parser, verb: str) -> None:
    about = "what GET /v1/models says, with own servers' models"
    parser.add_argument("--json", action="store_true", default=False, help=about)
    parser.add_node()
    parser.add_settings(START_FLAGS, title="settings of the node that is started when none runs", quiet=True)


def run(parsed: Parsed, verb: str) -> int:
    with node_for_call(parsed, parsed.settings(), START_FLAGS) as client:
        models = listed(client)
    if parsed.own.json:
        print(json.dumps(models, indent=2))
        return 0
    rows = [
        [
            model["id"],
            str(model["context_length"] or "?"),
            "loaded" if model["loaded"] else "",
            model["owned_by"],
            ", ".join(model["aliases"]),
        ]
        for model in models
    ]
    print(table(["MODEL", "CONTEXT", "STATE", "FROM", "ALSO"], rows))
    return 0


def listed(client: Client) -> list[dict[str, Any]]:
    """Everything in /v1/models, and what own servers (Ollama, vLLM, ...) have, which only they know."""
    models: list[dict[str, Any]] = client.call("GET", "/v1/models")["data"]
    there = {model["id"] for model in models}
    for provider in client.call("GET", "/v1/providers")["data"]:
        if provider["key"] != "keyless" or not provider["configured"]:
            continue
        found = client.call("GET", f"/v1/models?{urlencode({'provider': provider['id']})}")["data"]
        if not found:
            print(f"exo: {provider['name']} lists no models: does it run?", file=sys.stderr)
        models += [model for model in found if model["id"] not in there]
    return models
