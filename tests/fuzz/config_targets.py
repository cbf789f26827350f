"""Files that people and programs write: a configuration, or an error of ours that names the place."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import strategies as st

from exo_node.cli.nodes import run_files
from exo_node.cluster.identity import KeyStore
from exo_node.cluster.keys import ClusterKey
from exo_node.cluster.manual import parse_endpoint, parse_peers
from exo_node.cluster.mdns import read_service
from exo_node.config import Settings, load_settings
from exo_node.models.names_file import edited, is_copy_name, parse
from exo_node.ring.runner_config import parse_config
from exo_node.routing.catalog.tables import load_tables
from exo_node.routing.configuration.environment import merge, read_env_file, unify
from exo_node.routing.configuration.secrets import SecretStore
from exo_node.routing.configuration.settings import load_routing
from tests.fuzz.cases import ROOT, Finding, Target
from tests.fuzz.inputs import TEXTS, as_json, broken, broken_text, mutated, nasty

DOCUMENTS = sorted((ROOT / "configs" / "documents").iterdir())
JSON_FILES = [json.loads(one.read_text()) for one in DOCUMENTS if one.suffix == ".json"]
TEXT_FILES = [(one.suffix, one.read_text()) for one in DOCUMENTS if one.suffix != ".env"]
ENV_FILES = [one.read_text() for one in DOCUMENTS if one.suffix == ".env"] + [
    "A=1\nB=${A}x\nC='q w'\nexport D=\"e\\n\"\n"
]
FULL = {
    "model_list": [{"model_name": "a", "litellm_params": {"model": "openai/gpt-4o", "api_key": "os.environ/HOME",
     "api_base": "http://x/v1", "rpm": 5, "timeout": 3}, "model_info": {"input_cost_per_token": 1e-6}}],
    "router_settings": {"routing_strategy": "cost-based-routing", "num_retries": 2, "fallbacks": [{"a": ["b"]}],
     "model_group_alias": {"c": "a"}, "redis_url": "redis://:p@h:1/0", "provider_budget_config":
     {"openai": {"budget_limit": 1, "time_period": "1d"}}},
    "litellm_settings": {"cache": True, "cache_params": {"type": "local", "ttl": 5}, "callbacks": ["otel"]},
    "general_settings": {"master_key": "sk-1", "database_url": "/tmp/none.db"}, "environment_variables": {"X": "y"},
    "equivalents": "off",
}  # fmt: skip
TOML = (ROOT / "configs" / "config.example.toml").read_text()
NAMES = '[aliases]\n"a b" = "org/name"\nx = "org/y"  # why\n\n[copies]\n"mine:1" = "demo"\n'
PEERS = json.loads((ROOT / "configs" / "peers.example.json").read_text())
MODELS = (ROOT / "configs" / "models.toml").read_text()
RUNNER = {
    "instance_id": "i", "token": "00", "model_id": "m", "model_path": "/x", "stage": 0, "is_head": True,
    "shard": {"start_layer": 0, "end_layer": 2, "n_layers": 2}, "engine": "fake", "device": "CPU", "slots": 1,
    "compute_dtype": "float32", "context": 5, "kv_tokens": 5, "max_chunk": 2, "reproducible": False, "host": "h",
    "prefix_cache": True, "speculation": True, "quantize": 0, "node_name": "n", "log_level": "info", "parent_pid": 1,
    "draft": {"model_id": "m", "model_path": "/y", "compute_dtype": "float32", "slots": 1, "context": 5},
}  # fmt: skip
RUN = {"pid": 1, "api_url": "http://127.0.0.1:1", "node_id": "n", "started": 1.0}


@dataclass(frozen=True)
class Case:
    """What is in the file. A tuple: shown whole in a finding."""

    what: str
    data: bytes


@contextlib.contextmanager
def _home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="exo-fuzz-") as name:
        folder = Path(name)
        (folder / "home" / "run").mkdir(parents=True)
        SecretStore(folder / "home", {}).set("x", "y")
        yield folder


def _routing(suffix: str) -> Callable[[Path, bytes], None]:
    def read(folder: Path, data: bytes) -> None:
        path = folder / f"c{suffix}"
        path.write_bytes(data)
        settings = Settings(home=folder / "home", litellm_config=(path,))
        load_routing(settings, {"HOME": str(folder), "OPENAI_API_KEY": "sk-never-shown-0123"}, folder)

    return read


def _env(folder: Path, data: bytes) -> None:
    path = folder / "env"
    path.write_bytes(data)
    unify(merge(read_env_file(path, {"HOME": "/h"}), {}))


def _toml(folder: Path, data: bytes) -> None:
    (folder / "home" / "config.toml").write_bytes(data)
    load_settings({}, {"EXO_HOME": str(folder / "home")})


def _variable(folder: Path, data: bytes) -> None:
    name, _, value = data.decode("utf-8", "surrogateescape").partition("=")
    with contextlib.suppress(FileNotFoundError):
        (folder / "home" / "config.toml").unlink()
    load_settings({}, {"EXO_HOME": str(folder / "home"), name: value.replace("\0", "")})


def _names(folder: Path, data: bytes) -> None:
    text = data.decode(errors="replace")
    parse(text, "names")
    for name in ("mine:1", "New-1"):
        made = edited(text, name, "demo", "names")
        if is_copy_name(name) and parse(made, "names").copies.get(name) != "demo":
            raise Finding("a copy that was written is not there")


def _peers(folder: Path, data: bytes) -> None:
    parse_peers(data.decode(errors="replace"), "peers")


def _endpoint(folder: Path, data: bytes) -> None:
    parse_endpoint(data.decode(errors="replace"), "--peer")


def _mdns(folder: Path, data: bytes) -> None:
    text = data.decode(errors="replace")
    properties = dict(pair.partition("=")[::2] for pair in text.split("\n"))
    read_service("x", properties, ["127.0.0.1", "fe80::1%eth0"], "t")


def _code(folder: Path, data: bytes) -> None:
    ClusterKey.from_join_code(data.decode(errors="replace"))


def _key(folder: Path, data: bytes) -> None:
    store = KeyStore(folder / "home")
    store.path.parent.mkdir(exist_ok=True)
    store.path.write_bytes(data)
    store.path.chmod(0o600)
    store.load()


def _secrets(folder: Path, data: bytes) -> None:
    store = SecretStore(folder / "home", {})
    sound = store.path.read_bytes()
    try:
        store.path.write_bytes(data)
        for name in store.names():
            store.get(name)
    finally:
        store.path.write_bytes(sound)


def _tables(folder: Path, data: bytes) -> None:
    path = folder / "models.toml"
    path.write_bytes(data)
    load_tables(path)


def _runner(folder: Path, data: bytes) -> None:
    parse_config(data)


def _run_file(folder: Path, data: bytes) -> None:
    (folder / "home" / "run" / "1.json").write_bytes(data)
    run_files(folder / "home")


READERS: dict[str, Callable[[Path, bytes], None]] = {
    ".json": _routing(".json"), ".yaml": _routing(".yaml"), "env": _env, "toml": _toml, "variable": _variable,
    "names": _names, "peers": _peers, "endpoint": _endpoint, "mdns": _mdns, "code": _code, "key": _key,
    "secrets": _secrets, "tables": _tables, "runner": _runner, "run": _run_file,
}  # fmt: skip
CODE = ClusterKey(bytes(32)).join_code
MDNS = "node_id=a\nboot_id=b\nprotocol=1-1\ngrpc_port=5\ncluster=f\nversion=1\nhost=t"
_VARIABLES = [
    "EXO_API_PORT",
    "EXO_PEERS",
    "EXO_MODELS_DIRS",
    "EXO_MEMORY_LIMIT",
    "EXO_NODE_ID",
    "EXO_API_HOST",
    "DEBUG",
]
# What is mutated as JSON, and what as text.
_AS_JSON: tuple[tuple[str, Any], ...] = (
    *((".json", one) for one in JSON_FILES), (".json", FULL), (".json", [FULL["model_list"]]), ("peers", PEERS),
    ("runner", RUNNER), ("run", RUN), ("secrets", {"version": 1, "secrets": {"x": "enc:v1:" + "A" * 60}}),
)  # fmt: skip
_AS_TEXT: tuple[tuple[str, str], ...] = (
    *TEXT_FILES, *(("env", one) for one in ENV_FILES), ("toml", TOML), ("names", NAMES), ("tables", MODELS),
    ("endpoint", "[fe80::1%eth0]:5000"), ("mdns", MDNS), ("code", CODE), ("key", CODE + "\n"),
    *(("variable", f"{name}=5") for name in _VARIABLES),
)  # fmt: skip


def _spread(example: Any, random: Random) -> Iterator[Case]:
    of_json, of_text = example
    what, value = _AS_JSON[of_json]
    kind, text = _AS_TEXT[of_text]
    yield Case(what, as_json(value))
    yield Case(kind, text.encode())
    while True:
        match random.randrange(8):
            case 0:
                yield Case(random.choice((what, kind)), broken(random.choice((as_json(value), text.encode())), random))
            case 1:
                yield Case(random.choice(list(READERS)), as_json(nasty(random)))
            case 2 if kind == ".yaml":
                yield Case(kind, as_json(mutated(value, random)))  # JSON is YAML
            case 2:
                yield Case(kind, f"{random.choice(TEXTS)}={random.choice(TEXTS)}".encode("utf-8", "surrogatepass"))
            case 3 | 4:
                yield Case(kind, broken_text(text, random).encode("utf-8", "surrogatepass"))
            case _:
                yield Case(what, as_json(mutated(value, random, 3)))


def _read(folder: Path, case: Case) -> None:
    READERS[case.what](folder, case.data)


TARGETS = (
    Target(
        name="config.files",
        share=150,
        example=st.tuples(st.integers(0, len(_AS_JSON) - 1), st.integers(0, len(_AS_TEXT) - 1)),
        spread=_spread,
        check=_read,
        each=20,
        world=_home,
    ),
)
