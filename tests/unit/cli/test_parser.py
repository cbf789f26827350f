"""Flags become settings; exo's flags without a meaning here are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from exo_node.cli import serve
from exo_node.cli.parser import REFUSED, Parsed, Parser
from exo_node.config import Settings
from exo_node.errors import ConfigurationError


def parse(*argv: str) -> Parsed:
    parser = Parser("exo serve", "test")
    serve.arguments(parser, "serve")
    return parser.parse(argv)


def test_flags(exo_home: Path) -> None:
    """Flags, their other names, repeated ones, switches and counts."""
    settings = parse(
        "--chatgpt-api-port", "0", "--peer", "a:1", "--bootstrap-peers", "b:2,c:3", "--offline", "-vv",
        "--models-dir=~/models", "--memory-limit", "1GiB", "--inference-engine", "tinygrad", "--debug", "2",
    ).settings(check=True)  # fmt: skip
    assert settings == Settings(
        home=exo_home,
        api_port=0,
        peers=("a:1", "b:2", "c:3"),
        offline=True,
        verbose=2,
        models_dirs=(Path.home() / "models",),
        memory_limit=2**30,
        inference_engine="tinygrad",
        debug=2,
    )


def test_only_what_was_said_is_a_flag() -> None:
    """Flags that were not given do not hide the environment."""
    assert parse().flags == {}
    assert parse("--no-offline").flags == {"offline": False}


@pytest.mark.parametrize("flag", REFUSED)
def test_refused_flags(flag: str) -> None:
    """Each of exo's flags that does nothing here says so by name, with or without a value."""
    for line in ([flag], [flag, "5"], [f"{flag}=5"]):
        with pytest.raises(ConfigurationError, match=f"^{flag} does nothing here: "):
            parse(*line)


@pytest.mark.parametrize("line", [["--bogus"], ["--api-por", "5"], ["--api-port"], ["word"]])
def test_wrong_lines(line: list[str]) -> None:
    """Unknown flags, abbreviations, missing values and stray words are one-line errors that point at --help."""
    with pytest.raises(ConfigurationError, match=r"see exo serve --help"):
        parse(*line)
