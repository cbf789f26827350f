"""limits/memory.py: when memory is short."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from exo_node.limits.memory import MOST, MemoryWatch, floor_of


def test_the_floor_follows_the_machine_unless_it_is_said() -> None:
    """One part in fifty, half a GiB at most; 0 is no limit."""
    assert floor_of(10_000, None) == 200
    assert floor_of(2**40, None) == MOST
    assert floor_of(2**40, 7) == 7
    watch = MemoryWatch(0)
    assert not watch.look(0)
    assert watch.level == "ok"


def test_levels_come_early_and_go_late() -> None:
    """What was given back does not at once invite what needed it."""
    watch = MemoryWatch(100)
    seen = []
    for free in (250, 199, 230, 249, 250, 150, 99, 120, 149, 150, 240, 90, 250):
        watch.look(free)
        seen.append(watch.level)
    assert seen == [
        "ok", "low", "low", "low", "ok", "low", "critical", "critical", "critical", "low", "low", "critical", "ok",
    ]  # fmt: skip


@given(st.lists(st.integers(0, 400), min_size=1))
def test_below_the_floor_nothing_is_ever_begun(frees: list[int]) -> None:
    """And well above it everything is well, whatever was before; a change is told once."""
    watch = MemoryWatch(100)
    level = watch.level
    for free in frees:
        changed = watch.look(free)
        assert changed == (watch.level != level)
        level = watch.level
        assert level == "critical" or free >= 100
        assert level == "ok" or free < 250
