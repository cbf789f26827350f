"""What this node knows of models: which it holds, their digests, their tokenizers. Owns the caches for it.

Reading headers, hashing and parsing tokenizers happen on worker threads; the event loop only waits.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from weakref import WeakValueDictionary

from exo_node.errors import CheckpointError, DownloadError, ExoError, ModelNotFound, ProtocolMismatch, UnsupportedModel
from exo_node.models.catalog import Catalog, LocalModel, RemoteModel
from exo_node.models.digest import compute_digest
from exo_node.models.download import ShardDownloader
from exo_node.models.generation_config import generation_defaults
from exo_node.models.pooling import MODULES, POOLING, ModelPooling, read_pooling
from exo_node.models.quantization import quantized_digest
from exo_node.models.spec import read_spec
from exo_node.models.template_sandbox import TemplateSandbox
from exo_node.models.tokenizer import Tokenizer
from exo_node.types import ModelCard, ModelSpec

# Files of a model that the node which speaks with the client needs; none is a weight.
TOKENIZER_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    MODULES,
    POOLING,
)
TOKENIZERS_KEPT = 4  # parsed tokenizers in memory; one of a 128k vocabulary is some 60 MB

StageProgress = Callable[[str, int, int], None]  # (stage, done, total)


def no_progress(stage: str, done: int, total: int) -> None:
    """Nobody watches."""


@dataclass(frozen=True, slots=True)
class Description:
    """Answer to "do you hold this model?": `spec` only when local."""

    availability: Literal["local", "fetchable", "unknown"]
    spec: ModelSpec | None = None
    detail: str = ""
    code: str = ""  # of the error that `detail` tells


@dataclass(frozen=True, slots=True)
class LoadedTokenizer:
    """A parsed tokenizer with the sampling defaults that its model's authors gave, and how it makes vectors."""

    tokenizer: Tokenizer
    defaults: Mapping[str, Any]
    pooling: ModelPooling = field(default_factory=ModelPooling)


class ModelLibrary:
    """The models of one node."""

    def __init__(self, catalog: Catalog, downloader: ShardDownloader, *, cache: Path) -> None:
        self._catalog = catalog
        self._downloader = downloader
        self._digests = cache / "digests.json"
        self._tokenizer_folder = cache / "tokenizers"
        self._specs: dict[Path, tuple[tuple[Any, ...], ModelSpec]] = {}
        self._tokenizers: dict[tuple[Any, ...], LoadedTokenizer] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # of what somebody asks for now
        self._sandbox = TemplateSandbox()

    def cards(self, loaded: set[str]) -> list[ModelCard]:
        """Rows of `/v1/models` that this node's disk holds."""
        return self._catalog.cards(loaded)

    def resolve(self, model: str) -> LocalModel | RemoteModel:
        """Where a name leads. Raises `ModelNotFound`."""
        return self._catalog.resolve(model)

    def repository(self, model: str) -> str:
        """The repository that a short name stands for, else the name itself."""
        return self._catalog.aliases.get(model.lower(), model)

    def aliases(self) -> Mapping[str, str]:
        """Short names (lower case) and the repositories that they stand for."""
        return self._catalog.aliases

    async def describe(
        self, model: str, *, fetch: bool, quantize: int = 0, progress: StageProgress = no_progress
    ) -> Description:
        """Whether the model is here; with `fetch`, make it so if it can be downloaded. `quantize` as in `spec`."""
        try:
            where = self._catalog.resolve(model)
        except ModelNotFound as error:
            return _unknown(error)
        if isinstance(where, RemoteModel) and not fetch:
            return Description("fetchable", detail=where.repo_id)
        try:
            return Description("local", spec=await self.spec(model, progress, quantize))
        except (DownloadError, CheckpointError, UnsupportedModel, ModelNotFound) as error:
            return _unknown(error)

    async def spec(self, model: str, progress: StageProgress = no_progress, quantize: int = 0) -> ModelSpec:
        """The model's spec with its digest, downloading and hashing first where that has not been done.

        `quantize`: of the model as it will be once its weights are packed into so many bits; 0 = as stored.
        Raises `ModelNotFound`, `DownloadError`, `CheckpointError`, `UnsupportedModel`.
        """
        async with self._locks.setdefault(model, asyncio.Lock()):
            where = self._catalog.resolve(model)
            if isinstance(where, RemoteModel):
                path = await self._downloader.fetch(where.repo_id, lambda at: progress("fetching", at.done, at.total))
                model_id = where.repo_id
            else:
                path, model_id = where.path, where.model_id
            signature = await asyncio.to_thread(_signature, path)
            known = self._specs.get(path)
            if known is not None and known[0] == signature and known[1].model_id == model_id:
                spec = known[1]
            else:
                spec = await asyncio.to_thread(read_spec, path, model_id)
                progress("hashing", 0, spec.total_bytes)
                digest = await asyncio.to_thread(compute_digest, spec, self._digests)
                spec = dataclasses.replace(spec, digest=digest)
                self._specs[path] = (signature, spec)
            if not quantize:
                return spec
            packed = await asyncio.to_thread(read_spec, path, model_id, quantize)
            return dataclasses.replace(packed, digest=quantized_digest(spec.digest, quantize))

    async def remove(self, model: str) -> str:
        """Delete a fetched model's files, or a copy's name; what was deleted. Raises as `Catalog.remove` does."""
        return await asyncio.to_thread(self._catalog.remove, model)

    async def copy(self, source: str, name: str) -> None:
        """Give a model of this machine one more name. Raises as `Catalog.copy` does."""
        await asyncio.to_thread(self._catalog.copy, source, name)

    async def tokenizer(self, model_id: str, digest: str, folder: Path) -> LoadedTokenizer:
        """The tokenizer in `folder`, parsed once per model and state of the files (a template may be edited).

        The digest alone does not do: two models of the same weights may differ in template, defaults and pooling.
        """
        async with self._locks.setdefault(digest, asyncio.Lock()):
            key = (model_id, digest, folder, await asyncio.to_thread(_signature, folder))
            loaded = self._tokenizers.pop(key, None)
            if loaded is None:
                loaded = await asyncio.to_thread(_load, folder, self._sandbox)
                while len(self._tokenizers) >= TOKENIZERS_KEPT:
                    del self._tokenizers[next(iter(self._tokenizers))]
            self._tokenizers[key] = loaded  # last = most recently used
            return loaded

    def kept_tokenizer(self, model_id: str, digest: str) -> LoadedTokenizer | None:
        """A tokenizer of that model which was read before and is still in memory, the latest one."""
        kept = reversed(self._tokenizers.items())
        return next((one for key, one in kept if key[:2] == (model_id, digest)), None)

    def tokenizer_cache(self, files: Mapping[str, bytes]) -> Path:
        """Folder for these tokenizer files of a model whose weights are on other nodes only."""
        content = hashlib.sha256()
        for name, data in sorted(files.items()):
            content.update(f"{name} {len(data)}\n".encode() + data)
        return self._tokenizer_folder / content.hexdigest()


def _load(folder: Path, sandbox: TemplateSandbox) -> LoadedTokenizer:
    return LoadedTokenizer(Tokenizer.load(folder, sandbox), generation_defaults(folder), read_pooling(folder))


def _unknown(error: ExoError) -> Description:
    return Description("unknown", detail=error.message, code=error.code or "")


def tokenizer_files(folder: Path) -> dict[str, bytes]:
    """The files that another node needs to speak for this model."""
    return {name: (folder / name).read_bytes() for name in TOKENIZER_FILES if (folder / name).is_file()}


def store_tokenizer_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write tokenizer files that a peer sent. Names outside `TOKENIZER_FILES` are dropped: a peer picks no paths.

    Raises `ExoError` (507) where the disk takes none.
    """
    staged: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(dir=folder.parent))
        for name in TOKENIZER_FILES:
            if name in files:
                (staged / name).parent.mkdir(exist_ok=True)
                with (staged / name).open("wb") as file:
                    file.write(files[name])
                    file.flush()
                    os.fsync(file.fileno())  # the folder's name says for ever what is in it
        os.replace(staged, folder)
    except OSError as error:
        if staged is not None:
            shutil.rmtree(staged, ignore_errors=True)
        if not folder.is_dir():  # else they are there already: the folder's name says that they are the same
            problem = f"{folder}: the tokenizer of a model on another node cannot be kept ({error.strerror})"
            raise ExoError(problem, code="storage_failed", status=507) from error


def spec_to_json(spec: ModelSpec) -> str:
    """A spec for another node: without the path, which means nothing there."""
    return json.dumps({**dataclasses.asdict(spec), "path": ""})


def spec_from_json(text: str) -> ModelSpec:
    """Inverse of `spec_to_json`. Raises `ProtocolMismatch` for what no node of this version writes."""
    try:
        fields = json.loads(text)
        return ModelSpec(**{**fields, **{name: tuple(fields[name]) for name in ("layer_bytes", "layer_packed")}})
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProtocolMismatch(
            "another node's description of a model cannot be read; run the same exo version everywhere"
        ) from error


def _signature(path: Path) -> tuple[Any, ...]:
    """Changes whenever a file of the model changes: names, sizes and modification times."""
    entries = []
    pooling = [POOLING] if (path / POOLING).is_file() else []
    for name in sorted(os.listdir(path)) + pooling:
        if name.endswith((".safetensors", ".json", ".jinja")):
            status = (path / name).stat()
            entries.append((name, status.st_size, status.st_mtime_ns))
    return tuple(entries)
