"""Chooses the verb, and turns every failure into one line and an exit status."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Protocol, cast

from exo_node.cli.parser import Parsed, Parser
from exo_node.errors import ConfigurationError, ExoError


class Verb(Protocol):
    """What a module behind a verb offers."""

    def arguments(self, parser: Parser, verb: str) -> None: ...

    def run(self, parsed: Parsed, verb: str) -> int: ...


# verb -> (module in this package, what `exo --help` says)
VERBS: Mapping[str, tuple[str, str]] = {
    "serve": ("serve", "start a node (the same as exo without a verb)"),
    "run": ("run", "ask a model, or chat with it; starts a node for the call when none runs"),
    "status": ("status", "nodes, engines, memory, and what is loaded where"),
    "list": ("models", "models that there are"),
    "load": ("load", "place a model on the cluster and wait until it is ready"),
    "unload": ("load", "take a model or an instance off the cluster"),
    "drain": ("drain", "empty a node before it is switched off; its answers go on elsewhere"),
    "apikey": ("apikey", "API keys of this machine's nodes: add, list, revoke"),
    "spend": ("spend", "what calls have cost, by day, key, model, provider or user"),
    "audit": ("audit", "who changed what: keys, models, deployments, configuration"),
    "key": ("key", "show the code that lets another machine join this cluster"),
    "join": ("key", "make this machine a member: exo join CODE"),
    "secrets": ("secrets", "keys of providers, encrypted on this machine: set, list, remove, import"),
}
ALIASES: Mapping[str, str] = {"ls": "list", "ps": "status", "stop": "unload", "topology": "status"}
ABSENT: Mapping[str, str] = {
    "train": "training is not part of exo-node; it serves models",
    "eval": "evaluation is not part of exo-node; it serves models",
}


def dispatch(argv: Sequence[str]) -> int:
    """Run the command line `argv` (without the program's name); returns the exit status."""
    try:
        try:
            return _dispatch(list(argv))
        finally:
            sys.stdout.flush()  # here, where a reader that has gone is no error; at exit it would be a message
    except ConfigurationError as e:
        return _complain(e, 2)
    except ExoError as e:
        return _complain(e, 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `exo list | head`: the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _complain(error: ExoError, status: int) -> int:
    sys.stdout.flush()
    for line in getattr(error, "lines", (error.message,)):  # a configuration file's mistakes come all at once
        print(f"exo: {' '.join(line.split())}", file=sys.stderr)
    return status


def _dispatch(argv: list[str]) -> int:
    while argv and argv[0].startswith("-v") and set(argv[0][1:]) == {"v"} and len(argv) > 1 and argv[1][0] != "-":
        argv.append(argv.pop(0))  # `exo -v status` means `exo status -v`
    if argv and argv[0] == "help" and len(argv) == 2:
        argv = [argv[1], "--help"]
    first = argv[0] if argv else ""
    if first in ("-h", "--help", "help") and len(argv) == 1:
        print(overview())
        return 0
    if first in ("--version", "version"):
        from exo_node import __version__

        print(f"exo-node {__version__}")
        return 0
    if first in ABSENT:
        raise ConfigurationError(f"{first}: {ABSENT[first]}")
    verb = "serve"
    if first and not first.startswith("-"):
        verb = ALIASES.get(first, first)
        argv = argv[1:]
        if verb not in VERBS:
            raise ConfigurationError(f"no verb {first!r}; there are: {', '.join(VERBS)} (see exo --help)")
    module = cast(Verb, importlib.import_module(f"exo_node.cli.{VERBS[verb][0]}"))
    parser = Parser(f"exo {verb}", VERBS[verb][1])
    module.arguments(parser, verb)
    return module.run(parser.parse(argv), verb)


def overview() -> str:
    """`exo --help`."""
    verbs = "\n".join(f"  exo {verb:<8} {about}" for verb, (_, about) in VERBS.items())
    return (
        "exo: language models of your machines together and of outside providers, behind one OpenAI-compatible API\n\n"
        f"  exo          start a node; its API is on http://127.0.0.1:52415\n{verbs}\n\n"
        "exo VERB --help tells the rest; exo serve --help all settings. Each --some-flag may also be said as the\n"
        "variable EXO_SOME_FLAG or as some_flag in $EXO_HOME/config.toml. -v says more, DEBUG=0..9 much more."
    )
