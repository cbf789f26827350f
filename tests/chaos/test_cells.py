"""Cells of the matrix are text and back, and only such as can be run."""

from __future__ import annotations

import pytest

from tests.chaos.cells import ENGINES, HOWS, MOMENTS, STREAMS, VICTIMS, drawn, parse, whole


def test_each_cell_can_be_named() -> None:
    """What is drawn is read back from its name: so any cell can be run again alone."""
    cells = whole(0)
    assert [parse(str(cell)) for cell in cells] == cells
    assert len({str(cell) for cell in cells}) == len(cells)


def test_the_whole_has_every_combination_once() -> None:
    """Six victims, three ways (a runner has no link), eight moments, three kinds of ring, one and eight streams."""
    cells = whole(3)
    seen = {(cell.victim, cell.how, cell.moment, cell.engines, cell.streams) for cell in cells}
    assert len(seen) == len(cells) == (len(VICTIMS) * len(HOWS) - 2) * len(MOMENTS) * len(ENGINES) * len(STREAMS)
    assert not any(cell.how == "cut" for cell in whole(3, links=False))
    assert {cell.model for cell in whole(3, ["demo"])} == {"demo"}


def test_the_clients_node_is_never_hit_as_a_whole() -> None:
    """Its runner may be, itself never: the clients' sockets end there."""
    for seed in range(3):
        for cell in whole(seed):
            assert "a" not in cell.targets or cell.runner_only, cell


def test_a_sample_has_the_kills_that_were_asked_for() -> None:
    """As many as asked (one more where the last cell has two), the same for the same seed, by fleets."""
    for kills in (1, 30, 500, 2000):
        cells = drawn(7, kills)
        assert kills <= sum(cell.kills for cell in cells) <= kills + 2
        assert cells == drawn(7, kills)
        fleets = [cell.fleet for cell in cells]
        assert fleets == sorted(fleets, key=fleets.index)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("peer", "ten parts"),
        ("nobody:kill:first:mlx:x1:exact:demo:bc:d:1", "'nobody' is no victim"),
        ("peer:kill:first:mlx:x2:exact:demo:bc:d:1", "'x2' is no streams"),
        ("peer:kill:first:mlx:x1:exact:demo:bc:d:-1", "no number"),
        ("peer:kill:first:mlx:x1:exact:demo:b:d:1", "two or more"),
        ("peer:kill:first:mlx:x1:exact:demo:bc:c:1", "'c' is not 1 of d"),
        ("head-node:kill:first:mlx:x1:exact:demo:ab:a:1", "'a' is not 1 of no node"),
        ("head-runner:cut:first:mlx:x1:exact:demo:ab:a:1", "no link"),
        ("two-nodes:kill:first:mlx:x1:exact:demo:ab:cd:1", "neither"),
        ("peer:kill:first:mixed:x1:exact:demo:ac:d:1", "a mixed ring"),
    ],
)
def test_what_cannot_be_run_is_refused(text: str, fault: str) -> None:
    """A slip in a name is told, with the part that is wrong."""
    with pytest.raises(ValueError, match=fault):
        parse(text)
