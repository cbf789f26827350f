"""`exo drain NODE`: empty a node before it is switched off; `--undo` gives it shards again."""

from __future__ import annotations

from exo_node.cli.client import path_of
from exo_node.cli.nodes import require_node
from exo_node.cli.parser import Parsed, Parser
from exo_node.errors import NoCapacity


def arguments(parser: Parser, verb: str) -> None:
    parser.add_argument("id", metavar="NODE", help="its id, as exo status shows it")
    parser.add_argument("--undo", action="store_true", default=False, help="it takes shards again")
    parser.add_node()


def run(parsed: Parsed, verb: str) -> int:
    client = require_node(parsed, parsed.settings())
    try:
        answer = client.call("POST", path_of("nodes", parsed.own.id, "drain"), {"undo": parsed.own.undo})
    finally:
        client.close()
    if parsed.own.undo:
        print(f"{answer['id']} takes shards again")
        return 0
    print(f"{answer['id']} takes no more shards; {len(answer['moved'])} instance(s) have left it")
    if answer["failed"]:
        reasons = "; ".join(f"{instance}: {why}" for instance, why in answer["failed"].items())
        raise NoCapacity(f"{len(answer['failed'])} could not leave and run there still: {reasons}")
    return 0
