"""Vectors of texts by a ring: one generation per input that ends with its prompt, several at a time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence

from exo_node.errors import ContextLengthExceeded, DeadlineExceeded, InvalidRequest, RingBroken
from exo_node.models.tokenizer import Tokenizer
from exo_node.ring.library import LoadedTokenizer
from exo_node.ring.ports import Instances
from exo_node.ring.resuming import RecoveryRecord, deltas
from exo_node.transport.generated.exo.v1 import ring_pb2
from exo_node.types import EmbeddingRequest, Embeddings, Instance

AT_ONCE = 32  # inputs that wait at the head: it takes them one after the other, so more would only take memory
DEFAULT_POOLING = "mean"  # of a model whose files say nothing: sentence-transformers' own default


async def embed(
    instances: Instances, request: EmbeddingRequest, record: Callable[[RecoveryRecord], None]
) -> Embeddings:
    """See `types.Backend.embed`. A ring that breaks meanwhile is brought back (resuming.py)."""
    deadline = None if request.timeout_s is None else time.monotonic() + request.timeout_s
    try:
        async with asyncio.timeout(request.timeout_s):
            instance = await instances.ready_instance(request.model)
            loaded = await instances.tokenizer(instance)
            inputs = await asyncio.to_thread(_input_ids, request, loaded.tokenizer, instance.context)
    except TimeoutError as error:
        raise DeadlineExceeded(f"the model was not ready within {request.timeout_s:g} s; try again") from error
    pooling = ring_pb2.Pooling(mode=_mode(request, loaded), dimensions=request.dimensions or 0)
    messages = [_message(instance, request, i, ids, pooling, deadline) for i, ids in enumerate(inputs)]
    gate = asyncio.Semaphore(AT_ONCE)

    async def vector(message: ring_pb2.GenerateRequest) -> bytes:
        async with gate:
            return await _vector(deltas(instances, instance, message, deadline, record))

    tasks = [asyncio.create_task(vector(message)) for message in messages]
    try:
        vectors = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return Embeddings(tuple(vectors), sum(map(len, inputs)))


async def _vector(stream: AsyncGenerator[ring_pb2.GenerateDelta, None]) -> bytes:
    async with contextlib.aclosing(stream):
        async for delta in stream:
            if delta.finish_reason and delta.embedding:
                return delta.embedding
    raise RingBroken("the head ended the stream without a vector")


def _message(
    instance: Instance,
    request: EmbeddingRequest,
    index: int,
    ids: Sequence[int],
    pooling: ring_pb2.Pooling,
    deadline: float | None,
) -> ring_pb2.GenerateRequest:
    return ring_pb2.GenerateRequest(
        instance_id=instance.instance_id,
        request_id=f"{request.request_id}-{index}",
        prompt_ids=ids,
        sampling=ring_pb2.Sampling(top_p=1, repetition_penalty=1),
        timeout_ms=0 if deadline is None else max(1, int((deadline - time.monotonic()) * 1000)),
        pooling=pooling,
        client=request.client,
        priority=request.priority,
    )


def _mode(request: EmbeddingRequest, loaded: LoadedTokenizer) -> str:
    if request.pooling is None and loaded.pooling.problem:
        raise InvalidRequest(f"this model makes no vectors here: {loaded.pooling.problem}", param="model")
    return request.pooling or loaded.pooling.mode or DEFAULT_POOLING


def _input_ids(request: EmbeddingRequest, tokenizer: Tokenizer, context: int) -> list[list[int]]:
    """Each input's ids, refused before tokenizing where it cannot fit."""
    found = []
    for i, value in enumerate(request.inputs):
        field = "input" if len(request.inputs) == 1 else f"input[{i}]"
        at_least = tokenizer.min_tokens(value) if isinstance(value, str) else len(value)
        ids = tokenizer.input_ids(value, field) if at_least <= context else []
        if not ids or len(ids) > context:
            many = str(len(ids)) if ids else f"at least {at_least}"
            raise ContextLengthExceeded(
                f"this model's context holds {context} tokens; {field} has {many}: shorten it", param=field
            )
        found.append(ids)
    return found
