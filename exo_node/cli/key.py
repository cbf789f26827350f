"""`exo key`, `exo key rotate` and `exo join CODE`: membership by hand."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from exo_node import values
from exo_node.cli.audit import note
from exo_node.cli.nodes import local_node, run_files
from exo_node.cli.parser import Parsed, Parser
from exo_node.config import Settings
from exo_node.errors import ConfigurationError, PeerUnavailable


def arguments(parser: Parser, verb: str) -> None:
    if verb == "join":
        parser.add_argument("code", nargs="+", metavar="CODE", help="what `exo key` shows on a member")
        return
    parser.add_argument(
        "action",
        nargs="?",
        choices=("rotate",),
        default=None,
        metavar="rotate",
        help="change the key of the whole running cluster",
    )
    parser.add_argument(
        "--without", action="append", metavar="NODE", help="a member that is not told the new key (rotate; repeatable)"
    )
    parser.add_argument(
        "--patience", metavar="SECONDS", help="for calls in progress, before the old key ends (rotate; 30)"
    )
    parser.add_settings(("cluster_key", "api_key"))


def run(parsed: Parsed, verb: str) -> int:
    from exo_node.cluster.certificates import fingerprint
    from exo_node.cluster.identity import ClusterKey, KeyStore

    settings = parsed.settings()
    store = KeyStore(settings.home)
    own = vars(parsed.own)
    if own.get("action") == "rotate":
        return _rotate(settings, own, parsed.flags.get("cluster_key"))
    for flag in ("without", "patience"):
        if own.get(flag) is not None:
            raise ConfigurationError(f"--{flag} belongs to exo key rotate")
    if verb == "key":
        phrase = settings.cluster_key
        key = ClusterKey.from_phrase(phrase) if phrase is not None else store.load_or_create()
        print(key.join_code)
        print("whoever has this code is a member; on another machine: exo join CODE", file=sys.stderr)
        return 0
    key = ClusterKey.from_join_code("".join(parsed.own.code))
    store.save(key)
    name = fingerprint(key)[:8]
    note(settings.home, "exo join", name)
    print(f"joined the cluster {name}")
    if settings.cluster_key is not None:
        print("exo: a cluster_key is configured here as well, and it wins over this code", file=sys.stderr)
    for one in run_files(settings.home):
        print(f"exo: restart the node {one.node_id} (pid {one.pid}): it still has the old key", file=sys.stderr)
    return 0


def _rotate(settings: Settings, own: Mapping[str, Any], phrase: str | None) -> int:
    """Asks a node of this machine, which has the old key and the members' ears."""
    patience = 30.0
    if own.get("patience") is not None:
        try:
            patience = values.number(0, 3600)(own["patience"])
        except ValueError as e:
            raise ConfigurationError(f"--patience: {e}") from e
    client = local_node(settings)
    if client is None:
        raise PeerUnavailable("no node is running here: a key is changed where the cluster runs (or: exo join CODE)")
    body: dict[str, Any] = {"without": own.get("without") or [], "patience_s": patience}
    if phrase is not None:
        body["phrase"] = phrase
    try:
        done = client.call("POST", "/v1/cluster/key", body)
    finally:
        client.close()
    print(f"the cluster's key is {done['fingerprint'][:8]} now, on {', '.join(done['nodes'])}")
    print(f"exo: the old key ends in {done['patience_s']:g} s; `exo key` shows the new code", file=sys.stderr)
    for node_id in done["configured"]:
        print(
            f"exo: node {node_id} has a --cluster-key of its own: change it there, or it starts with the old one",
            file=sys.stderr,
        )
    for node_id, why in done["failed"].items():
        print(f"exo: node {node_id} must be joined anew (exo join CODE): {why}", file=sys.stderr)
    return 1 if done["failed"] else 0
