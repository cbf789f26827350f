"""Which id a new instance may have, and when one that is there will do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exo_node.errors import InvalidRequest
from exo_node.ring.instance_checks import check_draft, check_id, check_precision
from exo_node.transport.generated.exo.v1 import node_pb2
from exo_node.types import Instance

INSTANCE = Instance(
    instance_id="i", model_id="m", digest="d", assignments=(), addresses=(), coordinator="a", epoch=1, context=8,
    slots=1, state="ready",
)  # fmt: skip
TAKEN = "8fe382c3-a4fe-4a6b-8e0a-b9ac973ae6fc"


@pytest.mark.parametrize("wanted", ["x", "8FE382C3-A4FE-4A6B-8E0A-B9AC973AE6FC", "../../etc", TAKEN])
def test_an_instances_id_is_a_new_uuid(wanted: str) -> None:
    """A caller may choose the id of an instance, but neither another's nor what is no UUID."""
    check_id("", [])
    check_id(TAKEN, [])
    with pytest.raises(InvalidRequest):
        check_id(wanted, [replace(INSTANCE, instance_id=TAKEN)])


@pytest.mark.parametrize(
    ("held", "bits", "reuse", "fine"),
    [(0, 0, False, True), (4, 4, False, True), (4, 0, True, True), (4, 4, True, True),
     (0, 4, False, False), (0, 4, True, False), (4, 0, False, False), (4, 8, True, False)],
)  # fmt: skip
def test_a_model_is_held_in_one_precision(held: int, bits: int, reuse: bool, fine: bool) -> None:
    """Instances of one model hold the same weights; who takes what is there and says no bits is content."""
    request = node_pb2.PlaceModelRequest(model="m", reuse=reuse, quantize=bits)
    there = [replace(INSTANCE, quantize=held)]
    if fine:
        check_precision(request, there)
        return
    with pytest.raises(InvalidRequest, match="exo unload m") as caught:
        check_precision(request, there)
    assert (caught.value.status, caught.value.param) == (409, "quantize")
    request.exclude.append(INSTANCE.instance_id)  # the asker found it broken
    check_precision(request, there)


def test_a_draft_model_that_is_not_there_is_not_passed_off() -> None:
    """What is loaded is taken only with the draft model that was asked for, under any of its names."""
    check_draft(replace(INSTANCE, draft_model="org/d"), {"d", "org/d"})
    for there, said in (("", "without a draft model"), ("other", "with draft model other")):
        with pytest.raises(InvalidRequest, match=said) as caught:
            check_draft(replace(INSTANCE, draft_model=there), {"d"})
        assert (caught.value.status, caught.value.param) == (409, "draft_model")
