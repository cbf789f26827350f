"""`exo key` and `exo join CODE`: membership by hand."""

from __future__ import annotations

import sys

from exo_node.cli.nodes import run_files
from exo_node.cli.parser import Parsed, Parser


def arguments(parser: Parser, verb: str) -> None:
    if verb == "join":
        parser.add_argument("code", nargs="+", metavar="CODE", help="what `exo key` shows on a member")
    else:
        parser.add_settings(("cluster_key",))


def run(parsed: Parsed, verb: str) -> int:
    from exo_node.cluster.certificates import fingerprint
    from exo_node.cluster.identity import ClusterKey, KeyStore

    settings = parsed.settings()
    store = KeyStore(settings.home)
    if verb == "key":
        phrase = settings.cluster_key
        key = ClusterKey.from_phrase(phrase) if phrase is not None else store.load_or_create()
        print(key.join_code)
        print("whoever has this code is a member; on another machine: exo join CODE", file=sys.stderr)
        return 0
    key = ClusterKey.from_join_code("".join(parsed.own.code))
    store.save(key)
    print(f"joined the cluster {fingerprint(key)[:8]}")
    if settings.cluster_key is not None:
        print("exo: a cluster_key is configured here as well, and it wins over this code", file=sys.stderr)
    for one in run_files(settings.home):
        print(f"exo: restart the node {one.node_id} (pid {one.pid}): it still has the old key", file=sys.stderr)
    return 0
