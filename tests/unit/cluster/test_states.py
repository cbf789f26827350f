"""The table of a peer's life."""

from __future__ import annotations

import pytest

from exo_node.cluster.states import HERE, NEXT, Event, State, following


def test_every_state_is_reached_and_left() -> None:
    """No state is a dead end, and each can be reached from `SEEN`."""
    reached = {State.SEEN}
    for _ in State:
        reached |= {after for (before, _), after in NEXT.items() if before in reached}
    assert reached == set(State)
    assert {before for before, _ in NEXT} == set(State)


def test_only_a_connection_makes_a_member() -> None:
    """Nothing but a handshake and a first state makes a peer a member."""
    entering = {event for (before, event), after in NEXT.items() if before not in HERE and after in HERE}
    assert entering == {Event.CONNECTED}


def test_impossible_events_are_our_bugs() -> None:
    """An event that cannot happen in a state raises."""
    with pytest.raises(AssertionError, match=r"LEFT in .*SEEN"):
        following(State.SEEN, Event.LEFT)
