"""`exo secrets set|list|remove|import`: what `{name}` in a configuration file stands for. Values are never printed."""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path

from exo_node.cli.audit import note
from exo_node.cli.parser import Parsed, Parser
from exo_node.errors import ConfigurationError

ACTIONS = ("set", "list", "remove", "import")


def arguments(parser: Parser, verb: str) -> None:
    parser.add_argument(
        "action",
        choices=ACTIONS,
        metavar="|".join(ACTIONS),
        help="import encrypts the secrets_encrypted of a file in place",
    )
    parser.add_argument("names", nargs="*", default=[], metavar="NAME", help="the secret's name; the file for import")
    parser.add_argument(
        "--from-env", metavar="VAR", help="set: the value of this variable (default: asked for, or standard input)"
    )


def run(parsed: Parsed, verb: str) -> int:
    from exo_node.routing.configuration.secrets import SecretStore

    action, names = parsed.own.action, getattr(parsed.own, "names", [])
    variable = getattr(parsed.own, "from_env", None)
    if variable is not None and action != "set":
        raise ConfigurationError("--from-env is for exo secrets set")
    store = SecretStore(parsed.settings().home, os.environ)
    if action == "list":
        if names:
            raise ConfigurationError("exo secrets list takes no name")
        for name in store.names():
            print(name)
        if not store.names():
            print("no secrets; keep one with: exo secrets set NAME", file=sys.stderr)
        return 0
    if len(names) != 1:
        raise ConfigurationError(f"exo secrets {action} takes one {'FILE' if action == 'import' else 'NAME'}")
    if action == "set":
        store.set(names[0], _value(names[0], variable))
        print(f"secret {names[0]} is set; in a configuration file: {{{names[0]}}}")
    elif action == "remove":
        store.remove(names[0])
        print(f"secret {names[0]} is removed")
    else:
        from exo_node.routing.configuration.secrets_import import import_file

        count = import_file(Path(names[0]).expanduser(), store)
        print(f"{names[0]}: {count} secrets encrypted" if count else f"{names[0]}: nothing to encrypt")
    note(parsed.settings().home, f"exo secrets {action}", names[0])
    return 0


def _value(name: str, variable: str | None) -> str:
    if variable is not None:
        value = os.environ.get(variable)
        if not value:
            raise ConfigurationError(f"--from-env: the variable {variable} is not set")
        return value
    if sys.stdin.isatty():
        return getpass.getpass(f"value of {name}: ")
    return sys.stdin.read().rstrip("\r\n")
