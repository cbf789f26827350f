"""Settings of one process, from flags > `EXO_*` variables > `$EXO_HOME/config.toml` > defaults.

One table (`OPTIONS`) says for every setting its flags, its shape and its help; the command line, the environment and
the file are three spellings of it. Reading is here, so that the same words give the same errors wherever they were
said.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from exo_node import values
from exo_node.errors import ConfigurationError

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
    open: bool = False
    cluster_key: str | None = None
    discovery_module: Literal["mdns", "manual", "none"] = "mdns"
    discovery_timeout: float = 30.0
    discovery_config_path: Path | None = None
    peers: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    wait_for_peers: int = 0
    response_timeout: float = 900.0
    max_generate_tokens: int = 10_000
    inference_engine: Literal["auto", "mlx", "tinygrad"] = "auto"
    devices: tuple[str, ...] = ()
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
    reproducible: bool = False
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


@dataclass(frozen=True, slots=True)
class Option:
    """One setting: `flags` (first is the name in errors and help), how to read it, and where else it may be said.

    `many`: may be given several times; a text splits at `separator`. `env` are names beside `EXO_<FIELD>`. `switch`:
    the flag stands alone.
    """

    field: str
    flags: tuple[str, ...]
    read: Callable[[Any], Any]
    help: str
    metavar: str = ""
    many: bool = False
    separator: str = ","
    switch: bool = False
    env: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names in a TOML file: the field's, and the flags' with underscores."""
        flags = (flag.lstrip("-").replace("-", "_") for flag in self.flags if flag.startswith("--"))
        return tuple(dict.fromkeys((self.field, *flags)))

    @property
    def variables(self) -> tuple[str, ...]:
        """Environment variables, first match counts."""
        return tuple(dict.fromkeys((*(f"EXO_{name.upper()}" for name in self.names), *self.env)))


_port = values.integer(1, 65535)
_any_port = values.integer(0, 65535)
_count = values.integer(0)
_positive = values.integer(1)
_seconds = values.number(0, open_below=True)

OPTIONS: tuple[Option, ...] = (
    Option("node_id", ("--node-id",), values.name, "this node's name in the cluster (default: made once, kept)", "ID"),
    Option("node_host", ("--node-host",), values.text, "address the gRPC server listens on (default: all)", "HOST"),
    Option("node_port", ("--node-port",), _port, "gRPC port of this node (default: a free one)", "PORT"),
    Option(
        "api_host",
        ("--host", "--api-host"),
        values.text,
        "address the HTTP API listens on; off loopback it wants --api-key or --open (default 127.0.0.1)",
        "HOST",
    ),
    Option(
        "api_port",
        ("--api-port", "--chatgpt-api-port"),
        _any_port,
        "HTTP port; 0 = any free one (default 52415, or a free one when that is taken)",
        "PORT",
    ),
    Option(
        "api_key",
        ("--api-key",),
        values.text,
        "the admin's key; HTTP clients must send it or one that `exo apikey` makes",
        "KEY",
    ),
    Option("open", ("--open",), values.switch, "trust the network: serve off loopback without a key", switch=True),
    Option("cluster_key", ("--cluster-key",), values.text, "the same phrase on each machine makes a cluster", "PHRASE"),
    Option(
        "discovery_module",
        ("--discovery-module",),
        values.choice("mdns", "manual", "none"),
        "how nodes find each other: mdns (default), manual (--discovery-config-path), none (--peer only)",
        "MODULE",
    ),
    Option(
        "discovery_timeout", ("--discovery-timeout",), _seconds, "seconds to look for peers at start (30)", "SECONDS"
    ),
    Option("discovery_config_path", ("--discovery-config-path",), values.path, "peers file for manual", "FILE"),
    Option(
        "peers",
        ("--peer", "--bootstrap-peers"),
        values.host_port,
        "a node to connect to, besides those discovered (repeatable)",
        "HOST:PORT",
        many=True,
    ),
    Option(
        "allowed_origins",
        ("--allowed-origins",),
        values.origin,
        "web pages that may read this node's answers, besides this machine's and desktop apps' (repeatable)",
        "ORIGIN",
        many=True,
    ),
    Option("wait_for_peers", ("--wait-for-peers",), _count, "peers to wait for before serving (0)", "N"),
    Option(
        "response_timeout",
        ("--response-timeout", "--chatgpt-api-response-timeout"),
        _seconds,
        "seconds until an answer must be complete (900)",
        "SECONDS",
    ),
    Option(
        "max_generate_tokens",
        ("--max-generate-tokens",),
        _positive,
        "most tokens of one answer, whatever the request says (10000)",
        "N",
    ),
    Option(
        "inference_engine",
        ("--inference-engine",),
        values.choice("auto", "mlx", "tinygrad"),
        "auto (default), mlx or tinygrad",
        "ENGINE",
    ),
    Option("devices", ("--devices",), values.text, "devices to use, e.g. CUDA:0,CUDA:1", "IDS", many=True),
    Option("memory_limit", ("--memory-limit",), values.size, "memory that models may take here, e.g. 4GiB", "SIZE"),
    Option(
        "models_dirs",
        ("--models-dir", "--models-seed-dir"),
        values.path,
        "folder whose sub-folders are models (repeatable; read in place)",
        "DIR",
        many=True,
        separator=os.pathsep,
    ),
    Option(
        "offline", ("--offline",), values.switch, "fetch nothing from the network", switch=True, env=("HF_HUB_OFFLINE",)
    ),
    Option("max_parallel_downloads", ("--max-parallel-downloads",), _positive, "files fetched at once (8)", "N"),
    Option("default_model", ("--default-model",), values.text, "model of requests that name none", "MODEL"),
    Option(
        "default_temp",
        ("--default-temp",),
        values.number(0, 2),
        "temperature of requests and models that name none",
        "T",
    ),
    Option("system_prompt", ("--system-prompt",), values.text, "system message of chats that have none", "TEXT"),
    Option("run_model", ("--run-model",), values.text, "place this model at start and answer --prompt", "MODEL"),
    Option("prompt", ("--prompt",), values.text, "prompt for --run-model", "TEXT"),
    Option("max_context", ("--max-context",), _positive, "tokens a sequence may hold at most (8192)", "N"),
    Option("max_sequences", ("--max-sequences",), _positive, "sequences in flight at once per model (8)", "N"),
    Option(
        "reproducible",
        ("--reproducible",),
        values.switch,
        "this node computes each request as if it were alone: the same bits in any company, but slower together",
        switch=True,
    ),
    Option(
        "enable_litellm",
        ("--enable-litellm",),
        values.switch,
        "serve external models too (default; --no-enable-litellm: the ring only)",
        switch=True,
    ),
    Option(
        "litellm_config",
        ("--litellm-config",),
        values.path,
        "external models: JSON, LiteLLM's config.yaml, or provider records (repeatable)",
        "FILE",
        many=True,
        separator=os.pathsep,
    ),
    Option("env_file", ("--env-file",), values.path, "provider keys and other variables (default: ./.env)", "FILE"),
    Option(
        "routing_strategy",
        ("--routing-strategy",),
        values.text,
        "how a backend is chosen: latency (default), cost, least-busy, simple-shuffle, priority, local-first, "
        "cloud-first, heuristic, hybrid, cascade, usage-based-routing, provider-budget-routing",
        "NAME",
        env=("DEFAULT_ROUTING_STRATEGY",),
    ),
    Option(
        "equivalents",
        ("--equivalents",),
        values.choice("off", "failover", "latency"),
        "when an equivalent model may answer: off, failover, latency (default: latency for your own aliases, "
        "failover for the shipped table)",
        "WHEN",
    ),
    Option(
        "continuation",
        ("--continuation",),
        values.choice("off", "same-model", "any"),
        "who may go on when a backend dies in the middle of an answer (same-model)",
        "WHO",
    ),
    Option(
        "probe",
        ("--probe",),
        values.choice("off", "local", "all"),
        "what may be measured with one-token requests while idle: off, local (default), all (spends money)",
        "WHAT",
    ),
    Option(
        "hedge", ("--hedge",), values.switch, "ask a second backend when the first is late (spends more)", switch=True
    ),
    Option("max_cost", ("--max-cost",), values.number(0), "USD that one request may be predicted to cost", "USD"),
    Option("verbose", ("--verbose",), _count, "say more; twice: much more", "N"),
    Option("debug", ("--debug",), values.integer(0, 9), "exo's DEBUG level 0..9; same as DEBUG=N", "N", env=("DEBUG",)),
)
BY_FIELD: Mapping[str, Option] = {option.field: option for option in OPTIONS}


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
