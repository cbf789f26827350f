"""Which models there are: the bundled demo, the folders of `--models-dir`, the Hugging Face cache, and short names.

Names are only ever compared with what a scan of these places found, so a name cannot lead out of them.
"""

from __future__ import annotations

import builtins
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from exo_node.models.names_file import ALIAS_FILE, Names, NamesFile, Stamp, check_copy_name, is_repo_id, parse
from exo_node.types import ModelCard

log = logging.getLogger("exo.models")

DEMO = "demo"
Source = Literal["models-dir", "bundled", "cache"]


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model on this machine. `created` is its config.json's time (seconds since 1970)."""

    model_id: str
    path: Path
    source: Source
    created: int
    aliases: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()


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
    """The models of one node. Every call looks at the disk anew (a few stats per model); only names are remembered."""

    def __init__(self, models_dirs: Sequence[Path], home: Path, offline: bool, hf_home: Path | None = None) -> None:
        for folder in models_dirs:
            if not folder.is_dir():
                raise ConfigurationError(f"--models-dir {folder} is not a folder")
        self._models_dirs = tuple(models_dirs)
        self._names_file = NamesFile(home)
        self._names: tuple[Stamp, Names] | None = None
        self._offline = offline
        self._cache = hub_cache(hf_home)

    @property
    def aliases(self) -> Mapping[str, str]:
        """Short name (lower case) -> model: the package's table, then `model_aliases.toml` in the home folder, then the
        copies. Another object after each change."""
        return self._known().every

    @property
    def last_names(self) -> object:
        """The names as they were read last, without a look at the disk: another object after each change made here."""
        return self._names

    def _known(self) -> Names:
        """Read again when the file has changed: nodes of one home folder share it."""
        stamp, kept = self._names_file.stamp(), self._names
        if kept is None or kept[0] != stamp:
            try:
                kept = stamp, self._read_names()
            except ConfigurationError as error:
                if kept is None:
                    raise
                log.warning("%s; the names that were read before stay", error.message)
                kept = stamp, kept[1]
            self._names = kept
        return kept[1]

    def _read_names(self) -> Names:
        shipped = parse(resources.files("exo_node.models").joinpath(ALIAS_FILE).read_text(), ALIAS_FILE)
        own = self._names_file.read()
        return Names({**shipped.aliases, **own.aliases}, own.copies)

    def list(self) -> list[ModelEntry]:
        """Every model on this machine, one per name: models folders in the order given, the demo, then the cache."""
        found: dict[str, ModelEntry] = {}
        for entry in (*self._in_models_dirs(), *self._bundled(), *self._in_cache()):
            found.setdefault(entry.model_id, entry)
        for one in found.values():
            if hidden := found.keys() & set(one.copies):  # models of those names came later
                found[one.model_id] = replace(one, copies=tuple(name for name in one.copies if name not in hidden))
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
                copies=entry.copies,
                size=_weights_bytes(entry.path),
            )
            for entry in self.list()
        ]

    def copy(self, source: str, name: str) -> None:
        """Let `name` stand for the model `source` of this machine too, from now on; a copy of that name is replaced.

        Raises `ModelNotFound`, `InvalidRequest` (409 where the name means something else already), and
        `ConfigurationError` where `model_aliases.toml` cannot be changed. Blocking.
        """
        check_copy_name(name)
        with self._changing() as names:
            try:
                where = self.resolve(source)
            except DownloadError as error:  # offline, and not here
                raise ModelNotFound(error.message, param="source") from error
            if isinstance(where, RemoteModel):
                raise ModelNotFound(f"model {source[:200]!r} is not on this machine: pull it first", param="source")
            if name in (source, where.model_id):
                return  # as Ollama has it
            taken = {entry.model_id.lower() for entry in self.list()} | names.aliases.keys()
            taken |= {repo_id.lower() for repo_id in names.aliases.values()}
            if name.lower() in taken:
                raise InvalidRequest(
                    f"destination {name!r} is the name of another model already", param="destination", status=409
                )
            self._names_file.set(name, where.model_id)

    def remove(self, name: str) -> str:
        """Delete a fetched model's files, or a copy, which is its name only; what was deleted.

        Raises `ModelNotFound`, or `InvalidRequest` for a model that was not fetched: what somebody else put there is
        not ours to delete; nor is one deleted (409) that has copies. Blocking.
        """
        if name not in {entry.model_id for entry in self.list()} and self._known().copy(name) is not None:
            with self._changing() as names:
                if (copy := names.copy(name)) is None:
                    raise ModelNotFound(f"model {name[:200]!r} is not on this machine", param="model")
                self._names_file.set(copy, None)
            return copy
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
        if entry.copies:
            raise InvalidRequest(
                f"model {entry.model_id!r} has copies, which use its files: delete {', '.join(entry.copies)} first",
                param="model",
                status=409,
            )
        repository = entry.path.parent.parent  # <cache>/models--organisation--name/snapshots/<revision>
        if repository.is_symlink():
            raise InvalidRequest(
                f"model {entry.model_id!r} is a link of yours ({repository}): only fetched models are deleted",
                param="model",
            )
        shutil.rmtree(repository)  # follows no link inside
        return entry.model_id

    @contextmanager
    def _changing(self) -> Iterator[Names]:
        """The names as they are now, which nobody else changes meanwhile; read again afterwards."""
        with self._names_file.changing():
            self._names = self._names_file.stamp(), self._read_names()
            yield self._names[1]
            self._names = self._names_file.stamp(), self._read_names()

    def _not_found(self, name: str, entries: Iterable[ModelEntry]) -> str:
        here = ", ".join(entry.model_id for entry in entries) or "none"
        copy = self._known().copy(name)
        of = "" if copy is None else f" (a copy of {self._known().copies[copy]!r}, which is gone)"
        text = f"no model {name[:200]!r}{of}; on this machine: {here}"
        if self._offline:
            return text + " (the node runs --offline)"
        short = ", ".join(sorted(self._known().aliases))
        return f"{text}; fetched on demand: {short}, or any Hugging Face 'organisation/name'"

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
        aliases = tuple(sorted(alias for alias, repo_id in self._known().aliases.items() if repo_id == model_id))
        copies = tuple(sorted(name for name, model in self._known().copies.items() if model == model_id))
        return ModelEntry(model_id, path, source, int((path / "config.json").stat().st_mtime), aliases, copies)


def hub_cache(hf_home: Path | None = None) -> Path:
    """Where huggingface_hub keeps repositories: `hf_home`/hub, else as HF_HUB_CACHE, HF_HOME or XDG_CACHE_HOME say."""
    if hf_home is not None:
        return hf_home / "hub"
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface" / "hub"


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
