"""Command lines with the settings of `options.OPTIONS` as flags, and exo's other flags refused by name."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from exo_node.config import DEFAULT_API_PORT, Settings, load_settings
from exo_node.errors import ConfigurationError
from exo_node.options import BY_FIELD, OPTIONS, Option

_UDP = "nodes are found by mDNS, which needs no port of its own"
_TAILSCALE = "there is no Tailscale discovery; give the nodes' addresses with --peer HOST:PORT"
_TRAIN = "training is not part of exo-node"
_NO_MASTER = "no node is a master here"
# exo's flags (v1 and v2) that mean nothing here, or nothing yet: why.
REFUSED: Mapping[str, str] = {
    "--listen-port": _UDP,
    "--broadcast-port": _UDP,
    "--discovery-port": _UDP,
    "--tailscale-api-key": _TAILSCALE,
    "--tailnet-name": _TAILSCALE,
    "--node-id-filter": "only nodes with this cluster's key are let in (exo key, exo join)",
    "--interface-type-filter": "peers are reached over every interface; --node-host names this node's address",
    "--namespace": "clusters are told apart by their key: --cluster-key PHRASE, or exo join CODE",
    "--download-quick-check": "files on disk are never checked again over the network",
    "--iters": _TRAIN,
    "--save-every": _TRAIN,
    "--data": _TRAIN,
    "--batch-size": _TRAIN,
    "--resume-checkpoint": _TRAIN,
    "--save-checkpoint-dir": _TRAIN,
    "--force-master": _NO_MASTER,
    "--legacy-daemon": _NO_MASTER,
    "--no-api": "every node has its API; it listens on loopback only unless --host says otherwise",
    "--no-worker": "every node may hold shards; --memory-limit caps what they take",
    "--no-downloads": "use --offline",
    "--no-batch": "sequences share steps; --max-sequences 1 serves one at a time",
    "--zenoh-port": "nodes talk gRPC: --node-port",
    "--fast-synch": "there is no such switch in the engines here",
    "--no-fast-synch": "there is no such switch in the engines here",
    "-q": "output is quiet unless -v or DEBUG=n asks for more",
}


@dataclass(frozen=True, slots=True)
class Parsed:
    """A parsed line: `flags` are the settings that it gave (field -> text), `own` the verb's other arguments."""

    flags: Mapping[str, Any]
    own: argparse.Namespace

    def settings(self, *, check: bool = False) -> Settings:
        """With the environment and the configuration file (`config.load_settings`)."""
        return load_settings(self.flags, os.environ, check=check)


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors, no abbreviations, and settings apart from the verb's own arguments."""

    def __init__(self, prog: str, about: str) -> None:
        super().__init__(prog=prog, description=about, allow_abbrev=False, argument_default=argparse.SUPPRESS)
        self._settings: dict[str, str] = {}  # argparse's dest -> field

    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message} (see {self.prog} --help)")

    def add_settings(self, fields: Iterable[str], *, title: str = "settings", quiet: bool = False) -> None:
        """Flags for these settings; `quiet` leaves them out of the help."""
        group = self.add_argument_group(title)
        wanted = set(fields)
        for option in OPTIONS:
            if option.field in wanted:
                self._add(group, option, argparse.SUPPRESS if quiet else option.help)

    def add_node(self) -> None:
        """Flags of a verb that talks to a node: which one, its key, and how much to say."""
        group = self.add_argument_group("which node (default: of this machine and EXO_HOME the one that started last)")
        for field in CLIENT:
            self._add(group, BY_FIELD[field], _OF_A_CLIENT.get(field, BY_FIELD[field].help))

    def _add(self, group: Any, option: Option, about: str) -> None:
        dest = f"setting:{option.field}"
        self._settings[dest] = option.field
        if option.field == "verbose":
            group.add_argument("-v", *option.flags, dest=dest, action="count", help=about)
        elif option.switch:
            group.add_argument(*option.flags, dest=dest, action="store_const", const=True, help=about)
            off = f"--no-{option.field.replace('_', '-')}"
            group.add_argument(off, dest=dest, action="store_const", const=False, help=argparse.SUPPRESS)
        else:
            action = "append" if option.many else "store"
            group.add_argument(*option.flags, dest=dest, action=action, metavar=option.metavar, help=about)

    def parse(self, argv: Sequence[str]) -> Parsed:
        """Raises `ConfigurationError`; `--help` prints and exits."""
        for word in argv:
            if word == "--":
                break
            flag = word.partition("=")[0]
            if flag in REFUSED and flag not in self._option_string_actions:
                raise ConfigurationError(f"{flag} does nothing here: {REFUSED[flag]}")
        found = vars(self.parse_args(list(argv)))
        flags = {field: found[dest] for dest, field in self._settings.items() if dest in found}
        own = {name: value for name, value in found.items() if name not in self._settings}
        return Parsed(flags, argparse.Namespace(**own))


# What every verb that talks to a node takes: where it is, and how much to say.
CLIENT = ("api_host", "api_port", "cacert", "api_key", "verbose", "debug")
# Where the same flag says something else to a client than to the node that it is about.
_OF_A_CLIENT: Mapping[str, str] = {
    "api_host": "where its HTTP API is (default 127.0.0.1)",
    "api_port": f"the API's port (default {DEFAULT_API_PORT} where --host is given)",
    "api_key": "the key that it wants: the admin's, or one that `exo apikey` made",
}
