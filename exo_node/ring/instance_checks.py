"""Whether a new instance, or one that is there already, is what is asked for. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence

from exo_node.errors import InvalidRequest
from exo_node.transport.generated.exo.v1 import node_pb2
from exo_node.types import Instance


def check_id(wanted: str, there: Sequence[Instance]) -> None:
    """Raises `InvalidRequest` for an id that a new instance cannot have."""
    if not wanted:
        return
    try:
        well_formed = str(uuid.UUID(wanted)) == wanted
    except ValueError:
        well_formed = False
    if not well_formed:
        raise InvalidRequest(f"the instance's id must be a UUID, got {wanted[:60]!r}", param="instance")
    if any(one.instance_id == wanted for one in there):
        raise InvalidRequest(f"there is an instance {wanted} already", param="instance", status=409)


def check_precision(request: node_pb2.PlaceModelRequest, there: Sequence[Instance]) -> None:
    """Raises `InvalidRequest` where instances of one model (`there`) would come to hold different weights: a request
    by the model's name goes to any of them. One that takes what is there (`reuse`) and says no bits is content."""
    for one in there:
        if one.quantize != request.quantize and one.instance_id not in request.exclude:
            if request.reuse and not request.quantize:
                continue
            raise InvalidRequest(
                f"{one.model_id} is loaded {precision(one.quantize)} already, not {precision(request.quantize)}: "
                f"unload it first (exo unload {one.model_id})",
                param="quantize",
                code="loaded_otherwise",
                status=409,
            )


def check_draft(there: Instance, wanted: Collection[str]) -> None:
    """Raises `InvalidRequest` where an instance is to be taken as it is, but one with a draft model of these names was
    asked for."""
    if there.draft_model not in wanted:
        has = f"with draft model {there.draft_model}" if there.draft_model else "without a draft model"
        raise InvalidRequest(
            f"{there.model_id} is loaded {has} already: unload it first (exo unload {there.model_id})",
            param="draft_model",
            code="loaded_otherwise",
            status=409,
        )


def precision(bits: int) -> str:
    """
    >>> precision(4), precision(0)
    ('in 4 bits', 'as stored')
    """
    return f"in {bits} bits" if bits else "as stored"
