"""ring/draining.py: a node that is emptied."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import pytest

from exo_node.errors import NoCapacity, NotFound
from exo_node.ring.draining import Drainer
from exo_node.types import Instance, Spare
from tests.unit.ring.test_caretaker import instance
from tests.unit.ring.test_instances import Cluster

MINE, THEIRS = instance("mine", "b"), dataclasses.replace(
    instance("theirs", "c"), assignments=instance("theirs", "c").assignments[1:]
)  # fmt: skip


class Moves:
    """Refuses the instances in `stuck`."""

    def __init__(self, *stuck: str) -> None:
        self.stuck = stuck
        self.asked: list[tuple[str, str]] = []

    async def __call__(self, one: Instance, node_id: str) -> None:
        self.asked.append((one.instance_id, node_id))
        if one.instance_id in self.stuck:
            raise NoCapacity("no room elsewhere")


def drainer(moves: Moves, *instances: Instance) -> Drainer:
    return Drainer(cast(Any, Cluster()), lambda: instances, moves, lambda: None)


async def test_what_is_here_moves_and_what_cannot_is_told() -> None:
    """Rings and spares of which this node holds a part; nothing stops at the first that cannot. One that loads, or is
    on its way back, will have a part here: that the node is not empty is told too."""
    spare = dataclasses.replace(THEIRS, instance_id="spare", spares=(Spare(0, MINE.assignments[0]),))
    loading = dataclasses.replace(MINE, instance_id="loading", state="loading")
    moves = Moves("mine")
    one = drainer(moves, MINE, THEIRS, spare, loading)
    answer = await one.drain(True)
    assert moves.asked == [("mine", "a"), ("spare", "a")]
    assert (list(answer.moved), one.draining) == (["spare"], True)
    assert answer.failed.pop("loading") == "m is loading or being brought back: drain once more when it is ready"
    assert dict(answer.failed) == {"mine": "no room elsewhere"}
    answer = await one.drain(False)
    assert (one.draining, len(moves.asked)) == (False, 2)


async def test_a_node_that_is_not_there_is_named() -> None:
    """With those that are."""
    with pytest.raises(NotFound, match="no such node: z; the cluster has a, b"):
        await drainer(Moves()).drain_at("z", True)
    one = drainer(Moves())
    await one.drain_at("a", True)
    assert one.draining
