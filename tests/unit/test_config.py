"""Where settings come from, and which wins."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from exo_node.config import Settings, exo_home, load_settings
from exo_node.errors import ConfigurationError
from exo_node.options import OPTIONS


def load(tmp_path: Path, toml: str = "", flags: dict[str, Any] | None = None, **env: str) -> Settings:
    (tmp_path / "config.toml").write_text(toml)
    return load_settings(flags or {}, {"EXO_HOME": str(tmp_path), **env})


def test_every_setting_can_be_said() -> None:
    """The table of options and the settings are the same list."""
    assert [option.field for option in OPTIONS] == [field.name for field in fields(Settings) if field.name != "home"]


def test_defaults(tmp_path: Path) -> None:
    """With nothing said: loopback, exo's limits, mDNS."""
    assert load(tmp_path) == Settings(home=tmp_path)
    assert load_settings({}, {"EXO_HOME": str(tmp_path / "no-file-here")}) == Settings(home=tmp_path / "no-file-here")


def test_precedence(tmp_path: Path) -> None:
    """flag > variable > file > default, each setting by itself."""
    toml = 'api_port = 1\nmax_context = 100\nnode_id = "file"'
    settings = load(tmp_path, toml, {"api_port": "3"}, EXO_API_PORT="2", EXO_MAX_CONTEXT="200")
    assert (settings.api_port, settings.max_context, settings.node_id, settings.max_sequences) == (3, 200, "file", 8)


def test_all_shapes_from_each_source(tmp_path: Path) -> None:
    """Lists, sizes, switches, paths and numbers mean the same in a file, a variable and a flag."""
    toml = """
    peers = ["a:1", "b:2"]
    memory_limit = "2GiB"
    offline = true
    models_dirs = ["/m1", "/m2"]
    response_timeout = 5
    devices = ["CUDA:0", "CUDA:1"]
    verbose = 2
    """
    from_file = load(tmp_path, toml)
    from_env = load(
        tmp_path,
        EXO_PEERS="a:1,b:2",
        EXO_MEMORY_LIMIT="2GiB",
        EXO_OFFLINE="1",
        EXO_MODELS_DIRS=os.pathsep.join(["/m1", "/m2"]),
        EXO_RESPONSE_TIMEOUT="5",
        EXO_DEVICES="CUDA:0,CUDA:1",
        EXO_VERBOSE="2",
    )
    flags = {
        "peers": ["a:1", "b:2"],
        "memory_limit": "2GiB",
        "offline": True,
        "models_dirs": ["/m1", "/m2"],
        "response_timeout": "5",
        "devices": ["CUDA:0,CUDA:1"],
        "verbose": 2,
    }
    from_flags = load(tmp_path, "", flags)
    assert from_file == from_env == from_flags
    assert from_file.memory_limit == 2**31
    assert from_file.peers == ("a:1", "b:2")


def test_names_of_exo(tmp_path: Path) -> None:
    """exo's names work beside ours: flags as keys and variables, DEBUG, HF_HUB_OFFLINE."""
    settings = load(tmp_path, "chatgpt_api_port = 7", EXO_BOOTSTRAP_PEERS="a:1", DEBUG="2", HF_HUB_OFFLINE="1")
    assert (settings.api_port, settings.peers, settings.debug, settings.offline) == (7, ("a:1",), 2, True)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("nope = 1", "unknown key 'nope'"),
        ("api_port = 'x'", "config.toml: api_port: wants a whole number from 0 to 65535, got 'x'"),
        ("api_port = 1\nchatgpt_api_port = 2", "given twice"),
        ("api_port = ", "not TOML"),
        ("[api]\nport = 1", "unknown key 'api'"),
        ("peers = [1]", "HOST:PORT"),
        ("offline = 'perhaps'", "wants true or false"),
        ("discovery_module = 'udp'", "one of mdns, manual, none"),
    ],
)
def test_a_wrong_file(tmp_path: Path, toml: str, message: str) -> None:
    """A wrong file says its path, the key, and what is wrong."""
    with pytest.raises(ConfigurationError, match=r"config\.toml") as caught:
        load(tmp_path, toml)
    assert message in caught.value.message


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A configuration that is not text is an error, not a default."""
    (tmp_path / "config.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_settings({}, {"EXO_HOME": str(tmp_path)})


def test_wrong_variables_and_flags_are_named(tmp_path: Path) -> None:
    """The message names the variable or the flag as it was written."""
    with pytest.raises(ConfigurationError, match=r"^EXO_CHATGPT_API_PORT: "):
        load(tmp_path, EXO_CHATGPT_API_PORT="x")
    with pytest.raises(ConfigurationError, match=r"^--memory-limit: .*4GiB"):
        load(tmp_path, flags={"memory_limit": "lots"})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"api_host": "0.0.0.0"}, "--api-key"),
        ({"api_host": "example.org"}, "--open"),
        ({"discovery_module": "manual"}, "--discovery-config-path"),
        ({"discovery_config_path": "/x"}, "--discovery-module manual"),
        ({"prompt": "hi"}, "--run-model"),
        ({"reproducible": True, "wire_int8": "auto"}, "--wire-int8 auto"),
    ],
)
def test_rules_between_settings(tmp_path: Path, flags: dict[str, Any], message: str) -> None:
    """What does not fit together is refused with the way out."""
    with pytest.raises(ConfigurationError, match=message):
        load(tmp_path, flags=flags)


@pytest.mark.parametrize("extra", [{"api_key": "k"}, {"open": True}])
def test_off_loopback_with_a_key_or_open(tmp_path: Path, extra: dict[str, Any]) -> None:
    """A key, or the word that the network is trusted, opens other addresses."""
    assert load(tmp_path, flags={"api_host": "0.0.0.0", **extra}).api_host == "0.0.0.0"


def test_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """EXO_HOME absolute, with ~ or relative to the user's home; else XDG on Linux, ~/.exo elsewhere."""
    user = {"HOME": "/home/me"}
    assert exo_home({**user, "EXO_HOME": "/x"}) == Path("/x")
    assert exo_home({**user, "EXO_HOME": "~/x"}) == Path("/home/me/x")
    assert exo_home({**user, "EXO_HOME": ".cache/exo"}) == Path("/home/me/.cache/exo")
    monkeypatch.setattr("sys.platform", "linux")
    assert exo_home(user) == Path("/home/me/.local/share/exo")
    assert exo_home({**user, "XDG_DATA_HOME": "/data"}) == Path("/data/exo")
    monkeypatch.setattr("sys.platform", "darwin")
    assert exo_home({**user, "XDG_DATA_HOME": "/data"}) == Path("/home/me/.exo")
