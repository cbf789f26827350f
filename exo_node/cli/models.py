"""`exo list`: models that the node knows."""

from __future__ import annotations

import json

from exo_node.cli.nodes import node_for_call
from exo_node.cli.parser import CLIENT, Parsed, Parser
from exo_node.cli.run import START_FLAGS
from exo_node.cli.table import table


def arguments(parser: Parser, verb: str) -> None:
    parser.add_argument("--json", action="store_true", default=False, help="what GET /v1/models says")
    parser.add_settings(CLIENT, title="which node (default: the one of this machine and EXO_HOME)")
    parser.add_settings(START_FLAGS, title="settings of the node that is started when none runs", quiet=True)


def run(parsed: Parsed, verb: str) -> int:
    with node_for_call(parsed, parsed.settings(), START_FLAGS) as client:
        models = client.call("GET", "/v1/models")["data"]
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
