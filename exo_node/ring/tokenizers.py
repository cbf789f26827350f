"""The tokenizers of instances, wherever their files are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection
from pathlib import Path

from exo_node.errors import CheckpointError, DigestMismatch, ModelNotFound, UnsupportedModel
from exo_node.models.quantization import quantized_digest
from exo_node.ring.library import LoadedTokenizer, ModelLibrary, spec_from_json, store_tokenizer_files
from exo_node.ring.members import Member
from exo_node.ring.shard_host import ShardHost
from exo_node.transport.generated.exo.v1 import node_pb2
from exo_node.types import Instance


class InstanceTokenizers:
    """Of every instance that this node sends requests to."""

    def __init__(self, member: Callable[[str], Member], host: ShardHost, library: ModelLibrary) -> None:
        self._member = member
        self._host = host
        self._library = library
        self._fetched: dict[str, Path] = {}  # by instance: files of the head's node

    async def of(self, instance: Instance) -> LoadedTokenizer:
        """The instance's tokenizer: from this node's files when they are the same, else from the head's node.

        Files that changed after the instance was loaded are not its own: the tokenizer that was read before goes on.
        Raises `DigestMismatch` when nobody has it any more.
        """
        folder = await self._same_files(instance)
        if folder is None:
            try:
                folder = await self._fetched_tokenizer(instance)
            except DigestMismatch:
                kept = self._library.kept_tokenizer(instance.model_id, instance.digest)
                if kept is None:
                    raise
                return kept
        return await self._library.tokenizer(instance.model_id, instance.digest, folder)

    def tidy(self, known: Collection[str]) -> None:
        """Forget which files are those of instances that are gone."""
        self._fetched = {one: folder for one, folder in self._fetched.items() if one in known}

    async def _same_files(self, instance: Instance) -> Path | None:
        """This node's folder of the model, when it holds what the instance was loaded from."""
        local = self._host.local_folder(instance.model_id)
        if local is not None:
            with contextlib.suppress(ModelNotFound, CheckpointError, UnsupportedModel):  # being replaced just now
                files = (await self._library.spec(instance.model_id)).digest
                if quantized_digest(files, instance.quantize) == instance.digest:
                    return local
        return None

    async def _fetched_tokenizer(self, instance: Instance) -> Path:
        """A folder with the tokenizer files that the head's node gave us, now or earlier for this instance."""
        folder = self._fetched.get(instance.instance_id)
        if folder is None or not folder.is_dir():
            head = instance.assignments[0].node_id
            answer = await self._member(head).describe_model(
                node_pb2.DescribeModelRequest(model=instance.model_id, want_tokenizer=True, quantize=instance.quantize)
            )
            if not answer.spec_json or spec_from_json(answer.spec_json).digest != instance.digest:
                raise DigestMismatch(
                    f"the files of {instance.model_id} on node {head} have changed since it was loaded: unload it "
                    f"(exo unload {instance.model_id}) and ask again"
                )
            files = dict(answer.tokenizer_files)
            folder = self._library.tokenizer_cache(files)
            await asyncio.to_thread(store_tokenizer_files, folder, files)
            self._fetched[instance.instance_id] = folder
        return folder
