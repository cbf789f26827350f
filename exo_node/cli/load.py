"""`exo load` and `exo unload`: instances by hand."""

from __future__ import annotations

import json
import sys
from typing import Any, TextIO

from exo_node.cli.client import Client, path_of
from exo_node.cli.nodes import require_node
from exo_node.cli.parser import Parsed, Parser
from exo_node.cli.status import describe_instance
from exo_node.cli.table import size
from exo_node.errors import ConfigurationError, NotFound
from exo_node.packing import BITS
from exo_node.values import integer


def arguments(parser: Parser, verb: str) -> None:
    if verb == "load":
        parser.add_argument("model", metavar="MODEL", help="a name from exo list, or a Hugging Face repository")
        parser.add_argument("--min-nodes", default="1", metavar="N", help="spread it over at least N nodes (1)")
        parser.add_argument(
            "--node", action="append", default=[], metavar="ID", help="only these nodes, in ring order (repeatable)"
        )
        parser.add_argument(
            "--engine", action="append", default=[], metavar="E", help="mlx or tinygrad: one, or one per --node"
        )
        wish_arguments(parser)
        about = "load each part once more on another node with room, to take over at once when one is lost"
        parser.add_argument("--spares", action="store_true", default=False, help=about)
        parser.add_argument("--json", action="store_true", default=False, help="print the instance as JSON")
    else:
        parser.add_argument(
            "name",
            metavar="MODEL|INSTANCE",
            help="a model (all its instances) by any of its names, or an instance's id",
        )
    parser.add_node()


def run(parsed: Parsed, verb: str) -> int:
    client = require_node(parsed, parsed.settings())
    try:
        return _load(client, parsed.own) if verb == "load" else _unload(client, parsed.own.name)
    finally:
        client.close()


def _load(client: Client, own: Any) -> int:
    try:
        min_nodes = integer(1)(own.min_nodes)
    except ValueError as e:
        raise ConfigurationError(f"--min-nodes: {e}") from e
    body = {"model": own.model, "min_nodes": min_nodes, "nodes": own.node, "engines": own.engine, "stream": True}
    body |= wishes(own)
    if own.spares:
        body["spares"] = True
    progress = ProgressLine(sys.stderr)
    instance: dict[str, Any] = {}
    try:
        for event in client.events("/v1/instances", body):
            if event["object"] == "instance.progress":
                progress.show(event)
            else:
                instance = event
    finally:
        progress.end()
    print(json.dumps(instance, indent=2) if own.json else "\n".join(describe_instance(instance)))
    return 0


def wish_arguments(parser: Parser) -> None:
    """How a model is loaded, of every verb that loads."""
    about = "pack full-precision weights into so many bits (4 or 8) while they are loaded"
    parser.add_argument("--quantize", default=None, metavar="BITS", help=about)
    about = "a small model of the same vocabulary that guesses ahead; the text stays the same"
    parser.add_argument("--draft-model", default=None, metavar="MODEL", help=about)


def wishes(own: Any) -> dict[str, Any]:
    """Fields of `POST /v1/instances`, of what was given. Raises `ConfigurationError`."""
    found: dict[str, Any] = {}
    if own.quantize is not None:
        if own.quantize not in map(str, BITS):
            bits = " or ".join(map(str, BITS))
            raise ConfigurationError(f"--quantize: wants {bits} (bits), got {own.quantize[:40]!r}")
        found["quantize"] = int(own.quantize)
    if own.draft_model is not None:
        if not own.draft_model:
            raise ConfigurationError("--draft-model: wants a model's name")
        found["draft_model"] = own.draft_model
    return found


def _unload(client: Client, name: str) -> int:
    instances = client.call("GET", "/v1/instances")["data"]
    chosen = [one for one in instances if name in (one["id"], one["model"])]
    if not chosen and instances:
        meant = _meant(client, name.lower())
        chosen = [one for one in instances if one["model"] in meant]
    if not chosen:
        there = ", ".join(f"{one['model']} ({one['id']})" for one in instances) or "nothing is loaded"
        raise NotFound(f"{name!r} is not loaded; there is: {there}")
    for one in chosen:
        client.call("DELETE", path_of("instances", one["id"]))
        print(f"unloaded {one['model']} ({one['id']})")
    return 0


def _meant(client: Client, name: str) -> set[str]:
    """The models whose short name or copy is called so, in any case."""
    rows = client.call("GET", "/v1/models?provider=exo")["data"]
    return {row["hugging_face_id"] for row in rows if name in (one.lower() for one in (row["id"], *row["aliases"]))}


class ProgressLine:
    """Progress events on one line of a terminal; elsewhere one line per stage."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._terminal = out.isatty()
        self._last: tuple[Any, Any] | None = None
        self._shown = False

    def show(self, event: dict[str, Any]) -> None:
        """`stage`, and as far as known `detail`, `done` and `total` (bytes)."""
        words = [str(event.get("stage", "")), str(event.get("detail") or "")]
        if event.get("total"):
            share = 100 * event.get("done", 0) / event["total"]
            words.append(f"{share:3.0f}% of {size(event['total'])}")
        line = " ".join(word for word in words if word)
        if self._terminal:
            self._out.write(f"\r\x1b[K{line}")
            self._shown = True
        elif (key := (event.get("stage"), event.get("detail"))) != self._last:
            self._last = key
            self._out.write(f"{line}\n")
        self._out.flush()

    def end(self) -> None:
        """Take the line away."""
        if self._shown:
            self._out.write("\r\x1b[K")
            self._out.flush()
