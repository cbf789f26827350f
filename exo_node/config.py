"""Settings of one process, from flags > `EXO_*` variables > `$EXO_HOME/config.toml` > defaults.

The command line, the environment and the file are three spellings of options.py's table. Reading is here, so that the
same words give the same errors wherever they were said.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from exo_node import values
from exo_node.errors import ConfigurationError
from exo_node.options import BY_FIELD, OPTIONS, Option

DEFAULT_API_PORT = 52415  # exo's


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the user chose. Times in seconds, sizes in bytes; None and empty tuples mean "not said".

    `api_port` None: 52415, or a free port when that is taken; 0: any free port; a number that is taken is an error.
    `node_port` (gRPC) None: a free port. `devices` empty: what the engine finds.
    """

    home: Path
    node_id: str | None = None
    node_host: str | None = None
    node_port: int | None = None
    api_host: str = "127.0.0.1"
    api_port: int | None = None
    api_key: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    cacert: Path | None = None
    open: bool = False
    cluster_key: str | None = None
    discovery_module: Literal["mdns", "manual", "none"] = "mdns"
    discovery_timeout: float = 30.0
    discovery_config_path: Path | None = None
    peers: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    image_hosts: tuple[str, ...] = ()
    wait_for_peers: int = 0
    peer_timeout: float = 2.0
    response_timeout: float = 900.0
    send_timeout: float = 60.0
    shutdown_timeout: float = 10.0
    max_generate_tokens: int = 10_000
    inference_engine: Literal["auto", "mlx", "tinygrad"] = "auto"
    devices: tuple[str, ...] = ()
    min_free_memory: int | None = None
    memory_limit: int | None = None
    models_dirs: tuple[Path, ...] = ()
    offline: bool = False
    max_parallel_downloads: int = 8
    default_model: str | None = None
    default_temp: float | None = None
    system_prompt: str | None = None
    run_model: str | None = None
    prompt: str | None = None
    max_context: int = 8192
    max_sequences: int = 8
    max_waiting: int = 256
    reproducible: bool = False
    prefix_cache: bool = True
    speculation: bool = True
    wire_int8: Literal["off", "auto", "on"] = "off"
    enable_litellm: bool = True
    litellm_config: tuple[Path, ...] = ()
    env_file: Path | None = None
    routing_strategy: str | None = None
    equivalents: Literal["off", "failover", "latency"] | None = None
    continuation: Literal["off", "same-model", "any"] = "same-model"
    probe: Literal["off", "local", "all"] = "local"
    hedge: bool = False
    max_cost: float | None = None
    verbose: int = 0
    debug: int = 0


def exo_home(env: Mapping[str, str]) -> Path:
    """`EXO_HOME` (a relative one lies in the user's home, exo's rule), else the platform's place for data."""
    user = Path(env.get("HOME") or os.path.expanduser("~"))
    if given := env.get("EXO_HOME"):
        return user / given[2:] if given.startswith("~/") else user / given
    if sys.platform == "linux":
        data = env.get("XDG_DATA_HOME")
        return (Path(data) if data else user / ".local" / "share") / "exo"
    return user / ".exo"


def load_settings(flags: Mapping[str, Any], env: Mapping[str, str], *, check: bool = True) -> Settings:
    """Settings from `flags` (field -> text, list of texts, or a count), the environment and the configuration file.

    `check=False` (for commands that only talk to a node) leaves out the rules between settings.
    Raises `ConfigurationError`, which names the flag, the variable or the file and its key.
    """
    home = exo_home(env)
    chosen = _from_file(home / "config.toml")
    chosen |= _from_env(env)
    for field, raw in flags.items():
        option = BY_FIELD[field]
        chosen[field] = _read(option, raw, option.flags[0])
    settings = Settings(home=home, **chosen)
    if check:
        check_settings(settings)
    return settings


def check_settings(settings: Settings) -> None:
    """The rules between settings; raises `ConfigurationError`."""
    if not values.is_loopback(settings.api_host) and not settings.api_key and not settings.open:
        raise ConfigurationError(
            f"--host {settings.api_host} would let anyone on the network in: add --api-key KEY, "
            "or --open if you trust everyone who can reach it"
        )
    if (settings.tls_cert is None) != (settings.tls_key is None):
        given, missing = ("--tls-cert", "--tls-key") if settings.tls_key is None else ("--tls-key", "--tls-cert")
        raise ConfigurationError(f"{given} needs {missing} FILE too")
    if "*" in settings.allowed_origins and not settings.api_key:
        raise ConfigurationError(
            "--allowed-origins '*' would let every web page use this node: add --api-key KEY, or name the origins"
        )
    manual = settings.discovery_module == "manual"
    if manual and settings.discovery_config_path is None:
        raise ConfigurationError("--discovery-module manual needs the peers file: --discovery-config-path FILE")
    if not manual and settings.discovery_config_path is not None:
        raise ConfigurationError("--discovery-config-path is read only with --discovery-module manual")
    if settings.prompt is not None and settings.run_model is None:
        raise ConfigurationError("--prompt needs --run-model MODEL (or use: exo run MODEL --prompt TEXT)")
    if settings.reproducible and settings.wire_int8 != "off":
        raise ConfigurationError(f"--reproducible rules out --wire-int8 {settings.wire_int8}: leave one of them out")


def _read(option: Option, raw: Any, said: str) -> Any:
    try:
        if not option.many:
            return option.read(raw)
        pieces: list[Any] = []
        for part in raw if isinstance(raw, list | tuple) else [raw]:
            pieces += part.split(option.separator) if isinstance(part, str) else [part]
        return tuple(option.read(piece) for piece in pieces if piece != "")
    except ValueError as e:
        raise ConfigurationError(f"{said}: {e}") from e


def _from_env(env: Mapping[str, str]) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for option in OPTIONS:
        for variable in option.variables:
            if env.get(variable):  # set but empty is how shells say "not set"
                chosen[option.field] = _read(option, env[variable], variable)
                break
    return chosen


def _from_file(path: Path) -> dict[str, Any]:
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigurationError(f"{path}: cannot be read: {e}") from e
    import tomllib  # only who has a file pays for it

    try:
        table = tomllib.loads(content)
    except tomllib.TOMLDecodeError as e:
        raise ConfigurationError(f"{path}: not TOML: {e}") from e
    names = {name: option for option in OPTIONS for name in option.names}
    chosen: dict[str, Any] = {}
    for key, raw in table.items():
        option = names.get(key)
        if option is None:
            raise ConfigurationError(f"{path}: unknown key {key!r}; known: {', '.join(o.field for o in OPTIONS)}")
        if option.field in chosen:
            raise ConfigurationError(f"{path}: {option.field} is given twice, once as {key!r}")
        chosen[option.field] = _read(option, raw, f"{path}: {key}")
    return chosen
