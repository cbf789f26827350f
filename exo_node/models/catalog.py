"""Which models there are: the bundled demo, the folders of `--models-dir`, the Hugging Face cache, and short names.

Names are only ever compared with what a scan of these places found, so a name cannot lead out of them.
"""

from __future__ import annotations

import builtins
import os
import re
import shutil
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Literal

from exo_node.errors import (
    CheckpointError,
    ConfigurationError,
    DownloadError,
    InvalidRequest,
    ModelNotFound,
    UnsupportedModel,
)
from exo_node.models.config import normalise
from exo_node.models.headers import INDEX, SINGLE, read_json
from exo_node.types import ModelCard

DEMO = "demo"
ALIAS_FILE = "model_aliases.toml"
# What the hub allows as "organisation/name"; no dot or dash at either end and no "..", checked beside it.
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}")
Source = Literal["models-dir", "bundled", "cache"]


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model on this machine. `created` is its config.json's time (seconds since 1970)."""

    model_id: str
    path: Path
    source: Source
    created: int
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model folder to load and the name under which the cluster knows it."""

    path: Path
    model_id: str


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A Hugging Face repository that must be fetched first."""

    repo_id: str


class Catalog:
    """The models of one node. Every call looks at the disk anew (a few stats per model); nothing is remembered."""

    def __init__(self, models_dirs: Sequence[Path], home: Path, offline: bool, hf_home: Path | None = None) -> None:
        for folder in models_dirs:
            if not folder.is_dir():
                raise ConfigurationError(f"--models-dir {folder} is not a folder")
        self._models_dirs = tuple(models_dirs)
        self._home = home
        self._offline = offline
        self._cache = hub_cache(hf_home)

    @cached_property
    def aliases(self) -> Mapping[str, str]:
        """Short name (lower case) -> repository: the package's table, then `model_aliases.toml` in the home folder."""
        shipped = _parse_aliases(resources.files("exo_node.models").joinpath(ALIAS_FILE).read_text(), ALIAS_FILE)
        own = self._home / ALIAS_FILE
        return {**shipped, **_parse_aliases(own.read_text(), str(own))} if own.is_file() else shipped

    def list(self) -> list[ModelEntry]:
        """Every model on this machine, one per name: models folders in the order given, the demo, then the cache."""
        found: dict[str, ModelEntry] = {}
        for entry in (*self._in_models_dirs(), *self._bundled(), *self._in_cache()):
            found.setdefault(entry.model_id, entry)
        return list(found.values())

    def resolve(self, name: str) -> LocalModel | RemoteModel:
        """What `name` means: an exact name first, then a short name, then either in any case, then a repository id.

        Raises `ModelNotFound` that lists what there is; `DownloadError` when only fetching would help and the node is
        offline.
        """
        entries = self.list()
        by_id = {entry.model_id: entry for entry in entries}
        repo_id = self.aliases.get(name.lower(), name)
        for candidate in (name, repo_id):
            if candidate in by_id:
                return _local(by_id[candidate])
        same = [entry for entry in entries if entry.model_id.lower() in (name.lower(), repo_id.lower())]
        if len(same) == 1:
            return _local(same[0])
        if same:
            names = ", ".join(repr(entry.model_id) for entry in same)
            raise ModelNotFound(f"model {name!r} is ambiguous: write one of {names} exactly", param="model")
        if is_repo_id(repo_id) and (not self._offline or repo_id != name):
            if self._offline:
                raise DownloadError(f"model {name!r} ({repo_id}) is not on this machine and the node runs --offline")
            return RemoteModel(repo_id)
        raise ModelNotFound(self._not_found(name, entries), param="model")

    def cards(self, loaded: set[str]) -> builtins.list[ModelCard]:
        """One card per model on this machine; `loaded` are the names of those that run."""
        return [
            ModelCard(
                id=entry.model_id,
                created=entry.created,
                owned_by=_owner(entry),
                context_length=_context_length(entry.path),
                loaded=entry.model_id in loaded,
                local_path=str(entry.path),
                aliases=entry.aliases,
                size=_weights_bytes(entry.path),
            )
            for entry in self.list()
        ]

    def remove(self, name: str) -> str:
        """Delete a fetched model's files; its name. Raises `ModelNotFound`, or `InvalidRequest` for one that was not
        fetched: what somebody else put there is not ours to delete. Blocking."""
        try:
            where: LocalModel | RemoteModel | None = self.resolve(name)
        except DownloadError:  # offline, and not here
            where = None
        entry = None
        if isinstance(where, LocalModel):
            entry = next((one for one in self.list() if one.model_id == where.model_id), None)
        if entry is None:
            raise ModelNotFound(f"model {name[:200]!r} is not on this machine", param="model")
        if entry.source != "cache":
            why = "comes with exo-node" if entry.source == "bundled" else f"is your own folder {entry.path}"
            raise InvalidRequest(f"model {entry.model_id!r} {why}: only fetched models are deleted", param="model")
        shutil.rmtree(entry.path.parent.parent)  # <cache>/models--organisation--name/snapshots/<revision>
        return entry.model_id

    def _not_found(self, name: str, entries: Iterable[ModelEntry]) -> str:
        here = ", ".join(entry.model_id for entry in entries) or "none"
        text = f"no model {name[:200]!r}; on this machine: {here}"
        if self._offline:
            return text + " (the node runs --offline)"
        return f"{text}; fetched on demand: {', '.join(sorted(self.aliases))}, or any Hugging Face 'organisation/name'"

    def _in_models_dirs(self) -> Iterable[ModelEntry]:
        for folder in self._models_dirs:
            for path in _sub_folders(folder):
                if (path / "config.json").is_file():
                    yield self._entry(path.name, path, "models-dir")

    def _bundled(self) -> Iterable[ModelEntry]:
        path = Path(str(resources.files("exo_node.models"))) / DEMO
        if (path / "config.json").is_file():
            yield self._entry(DEMO, path, "bundled")

    def _in_cache(self) -> Iterable[ModelEntry]:
        for path in _sub_folders(self._cache):
            kind, _, rest = path.name.partition("--")
            repo_id = rest.replace("--", "/", 1)
            if kind != "models" or not is_repo_id(repo_id):
                continue
            snapshot = _snapshot(path)
            if snapshot is not None:
                yield self._entry(repo_id, snapshot, "cache")

    def _entry(self, model_id: str, path: Path, source: Source) -> ModelEntry:
        aliases = tuple(sorted(alias for alias, repo_id in self.aliases.items() if repo_id == model_id))
        return ModelEntry(model_id, path, source, int((path / "config.json").stat().st_mtime), aliases)


def hub_cache(hf_home: Path | None = None) -> Path:
    """Where huggingface_hub keeps repositories: `hf_home`/hub, else as HF_HUB_CACHE, HF_HOME or XDG_CACHE_HOME say."""
    if hf_home is not None:
        return hf_home / "hub"
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface" / "hub"


def is_repo_id(name: str) -> bool:
    """Whether `name` has the shape of a Hugging Face repository id ("organisation/name")."""
    return (
        _REPO_ID.fullmatch(name) is not None
        and not {"..", "--"} & {name[i : i + 2] for i in range(len(name))}
        and not any(part.endswith((".", "-", ".git")) for part in name.split("/"))
    )


def is_complete(folder: Path) -> bool:
    """Whether a folder holds all that running needs: config, tokenizer, and every weights file that the index names."""
    if not (folder / "config.json").is_file() or not (folder / "tokenizer.json").is_file():
        return False
    if (folder / SINGLE).is_file():
        return True
    try:
        weight_map = read_json(folder / INDEX).get("weight_map")
    except CheckpointError:
        return False
    return isinstance(weight_map, dict) and all((folder / str(file)).is_file() for file in set(weight_map.values()))


def _snapshot(repo: Path) -> Path | None:
    """The complete snapshot of a cached repository: that of `main`, else the newest."""
    snapshots = _sub_folders(repo / "snapshots")
    try:
        main = (repo / "refs" / "main").read_text().strip()
    except (OSError, ValueError):
        main = ""
    ordered = sorted(snapshots, key=lambda path: (path.name == main, path.stat().st_mtime), reverse=True)
    return next((path for path in ordered if is_complete(path)), None)


def _sub_folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def _local(entry: ModelEntry) -> LocalModel:
    return LocalModel(entry.path, entry.model_id)


def _owner(entry: ModelEntry) -> str:
    if entry.source == "cache":
        return entry.model_id.partition("/")[0]
    return "exo-node" if entry.source == "bundled" else "local"


def _context_length(path: Path) -> int | None:
    try:
        value = normalise(read_json(path / "config.json")).get("max_position_embeddings")
    except (CheckpointError, UnsupportedModel):
        return None  # the card still lists the model; loading it says what is wrong
    return value if isinstance(value, int) else None


def _weights_bytes(path: Path) -> int:
    try:
        return sum(file.stat().st_size for file in path.glob("*.safetensors"))
    except OSError:  # being deleted just now
        return 0


def _parse_aliases(text: str, where: str) -> dict[str, str]:
    try:
        table = tomllib.loads(text).get("aliases", {})
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{where}: not valid TOML ({error})") from error
    out: dict[str, str] = {}
    for alias, repo_id in table.items() if isinstance(table, dict) else ():
        if not isinstance(repo_id, str) or not is_repo_id(repo_id):
            raise ConfigurationError(f"{where}: alias {alias!r} must name a repository as 'organisation/name'")
        out[alias.lower()] = repo_id
    return out
