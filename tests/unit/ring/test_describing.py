"""What a model is and who has it, by what the nodes say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from exo_node.errors import DigestMismatch, ModelNotFound, PeerUnavailable
from exo_node.ring.describing import describe
from exo_node.ring.library import spec_to_json
from exo_node.transport.generated.exo.v1 import node_pb2
from exo_node.types import ModelSpec

SPEC = ModelSpec("m", "", "llama", {}, 2, 8, 16, 64, "bfloat16", (1, 1), 1, 1, 4, 8, digest="one")


class Node:
    """Holds what `spec` says, can fetch it, or cannot be asked."""

    def __init__(self, spec: ModelSpec | None = None, *, fetchable: bool = False, gone: bool = False) -> None:
        self.spec, self.fetchable, self.gone, self.fetched = spec, fetchable, gone, False

    async def describe_model(self, request: node_pb2.DescribeModelRequest) -> node_pb2.DescribeModelResponse:
        if self.gone:
            raise PeerUnavailable("gone")
        if request.fetch and self.fetchable:
            self.spec, self.fetched = SPEC, True
        if self.spec is not None:
            return node_pb2.DescribeModelResponse(availability="local", spec_json=spec_to_json(self.spec))
        if self.fetchable:
            return node_pb2.DescribeModelResponse(availability="fetchable")
        return node_pb2.DescribeModelResponse(availability="absent", code="model_not_found", detail="no model m")


async def described(nodes: dict[str, Node], *needed: str, here: str = "a", fetch: bool = True) -> set[str]:
    spec, holders = await describe(cast(Any, nodes.__getitem__), here, "m", cast(Any, nodes), needed, fetch=fetch)
    assert spec.digest == "one"
    return holders


async def test_nodes_that_hold_it_or_can_fetch_it_may_take_part() -> None:
    """One that is gone, or has neither files nor a network, is left out."""
    nodes = {"a": Node(gone=True), "b": Node(SPEC), "c": Node(fetchable=True), "d": Node()}
    assert await described(nodes) == {"b", "c"}
    with pytest.raises(ModelNotFound, match="m is not on a, d "):
        await described(nodes, "a", "b", "d")


async def test_where_nobody_has_it_one_fetches_it() -> None:
    """The node that coordinates if it can; a preview fetches nothing."""
    nodes = {"a": Node(), "b": Node(fetchable=True), "c": Node(fetchable=True)}
    with pytest.raises(ModelNotFound, match="not fetched yet"):
        await described(nodes, fetch=False)
    assert await described(nodes, here="c") == {"b", "c"}
    assert [node.fetched for node in nodes.values()] == [False, False, True]
    with pytest.raises(ModelNotFound, match="no model m"):
        await described({"a": Node(), "b": Node(gone=True)})


async def test_different_files_of_one_name_are_refused() -> None:
    """Their layers would not fit together, and both nodes are named."""
    with pytest.raises(DigestMismatch, match="a: one, b: other"):
        await described({"a": Node(SPEC), "b": Node(replace(SPEC, digest="other"))})
