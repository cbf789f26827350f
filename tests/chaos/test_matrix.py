"""What is printed of a run says what was lost, and no more than the kills show."""

from __future__ import annotations

import pytest

from tests.chaos.cells import parse
from tests.chaos.matrix import bound, line, summary, table
from tests.chaos.running import Outcome

ONE = parse("peer:kill:first:mlx:x1:exact:demo:bc:d:3")
TWO = parse("two-nodes:kill:t16:mlx:x8:plain:demo:bc:bc:4")


def test_the_rule_of_three() -> None:
    """No loss in n kills: below 3 / n; each loss raises the bound."""
    assert bound(0, 500) == pytest.approx(3 / 500, rel=0.002)
    assert bound(1, 500) == pytest.approx(4.744 / 500, rel=0.001)
    assert bound(2, 2) == 1


def test_what_was_lost_is_named() -> None:
    """A lost cell stands in the summary with its name; one that came too late counts as no kill."""
    good = Outcome(ONE, kills=1, gap_ms=12.4, equal=1, replayed=7)
    bad = Outcome(TWO, kills=2, gap_ms=900, equal=6, ties=1, lost=["no [DONE]"])
    late = Outcome(ONE, missed=True, equal=1)
    text = table([good, bad, late])
    assert "3 kills in 3 cells under 9 streams: 7 byte-identical" in text
    assert "1 parted at a near tie (plain or mixed rings), 1 lost; 7 tokens replayed in 1 cells" in text
    assert f"lost: {TWO}" in text
    assert "1 of 3; with 95 % confidence below 100.00 %" in text
    assert "1 cells came too late" in text
    assert "12/12" in text
    assert "900/900" in text
    assert [line(one).split()[0] for one in (good, bad, late)] == ["ok", "LOST", "MISSED"]
    assert "below" not in "".join(summary([late]))


def test_trouble_is_told_beside_losses() -> None:
    """Nodes that did not heal are no loss of a stream, and not passed over either."""
    sick = Outcome(ONE, kills=1, equal=1, trouble=["not within 60 s: left over"])
    assert line(sick).startswith("TROUBLE")
    assert f"trouble: {ONE}: not within 60 s" in table([sick])
    assert "0 of 1" in table([sick])
