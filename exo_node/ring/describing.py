"""Finds out what a model is and which nodes have it, before it is placed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from exo_node.errors import DigestMismatch, ModelNotFound, PeerUnavailable, error_from_code
from exo_node.ring.library import spec_from_json
from exo_node.ring.members import Member
from exo_node.transport.generated.exo.v1 import node_pb2
from exo_node.types import ModelSpec, NodeInfo


async def describe(
    member: Callable[[str], Member],
    here: str,
    model: str,
    nodes: Mapping[str, NodeInfo],
    needed: Sequence[str],
    *,
    quantize: int = 0,
    fetch: bool = True,
    patience_s: float | None = None,
) -> tuple[ModelSpec, set[str]]:
    """The model's spec, and which of `nodes` hold it or can fetch it; those `needed` must.

    `fetch`: where none holds it one does so now, the node `here` first. `patience_s`: who takes longer to answer (a
    node's first look at a model reads all of it) is left out, where somebody who has answered holds it. Raises
    `ModelNotFound`, `DigestMismatch`."""

    async def ask(node_id: str, fetch: bool) -> node_pb2.DescribeModelResponse:
        try:
            return await member(node_id).describe_model(
                node_pb2.DescribeModelRequest(model=model, fetch=fetch, quantize=quantize)
            )
        except PeerUnavailable as error:
            return node_pb2.DescribeModelResponse(availability="unknown", detail=error.message)

    node_ids = sorted(nodes)
    answers = await _answers({one: asyncio.create_task(ask(one, False)) for one in node_ids}, patience_s)
    local = {one: spec_from_json(answer.spec_json) for one, answer in answers.items() if answer.spec_json}
    fetchable = [one for one in node_ids if answers[one].availability == "fetchable"]
    if not local and fetchable and not fetch:
        raise ModelNotFound(f"{model} was not fetched yet: POST /v1/download does it", code="not_fetched")
    if not local and fetchable:
        first = here if here in fetchable else fetchable[0]
        answer = await ask(first, True)
        if not answer.spec_json:
            raise error_from_code(answer.code, answer.detail)
        local[first] = spec_from_json(answer.spec_json)
    if not local:
        # What is wrong with files that are there says more than that other nodes do not have them.
        told = [one for one in answers.values() if one.code] or list(answers.values())
        worst = min(told, key=lambda one: one.code == ModelNotFound.code)
        raise error_from_code(worst.code or "model_not_found", worst.detail or f"no model {model}")
    missing = [one for one in needed if one not in local and one not in fetchable]
    if missing:
        raise ModelNotFound(
            f"{model} is not on {', '.join(missing)} and cannot be fetched there: copy its folder to that "
            "node's --models-dir",
            param="nodes",
        )
    digests = {one: spec.digest for one, spec in local.items()}
    if len(set(digests.values())) > 1:
        shown = ", ".join(f"{one}: {digest[:12]}" for one, digest in sorted(digests.items()))
        raise DigestMismatch(
            f"the nodes hold different files under the name {model} ({shown}): give them the same files, "
            "or name the nodes to use"
        )
    return next(iter(local.values())), {*local, *fetchable}


async def _answers(
    asked: Mapping[str, asyncio.Task[node_pb2.DescribeModelResponse]], patience_s: float | None
) -> dict[str, node_pb2.DescribeModelResponse]:
    """What the nodes say. Those that are late are waited for only where nobody else holds the model."""
    late = set(asked.values())
    try:
        if late:
            done, late = await asyncio.wait(late, timeout=patience_s, return_when=asyncio.FIRST_EXCEPTION)
            if not any(one.result().spec_json for one in done):
                late = set()
        gathered = await asyncio.gather(*(one for one in asked.values() if one not in late))
    finally:
        for task in asked.values():
            task.cancel()
        await asyncio.gather(*asked.values(), return_exceptions=True)
    told = dict(zip((one for one, task in asked.items() if task not in late), gathered, strict=True))
    unknown = node_pb2.DescribeModelResponse(availability="unknown", detail="it has not said yet whether it has it")
    return {one: told.get(one, unknown) for one in asked}
