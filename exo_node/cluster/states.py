"""The life of a peer as a table. Pure; cluster/membership.py feeds it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class State(Enum):
    """`SEEN`: announced, not connected. `GONE`: was online and is not; dialled again until nobody announces it."""

    SEEN = "seen"
    CONNECTING = "connecting"
    ONLINE = "online"
    SUSPECT = "suspect"  # the control stream broke; one quick redial decides
    REFUSED = "refused"  # another cluster, protocol, or identity
    GONE = "gone"


class Event(Enum):
    DIAL = "dial"
    CONNECTED = "connected"  # handshake done and the first state received
    DIAL_FAILED = "dial failed"
    TURNED_DOWN = "turned down"
    STREAM_BROKEN = "stream broken"
    LEFT = "left"  # said goodbye on the control stream
    REBOOTED = "rebooted"  # announced under a new boot id while the old one seemed online


NEXT: Mapping[tuple[State, Event], State] = {
    (State.SEEN, Event.DIAL): State.CONNECTING,
    (State.CONNECTING, Event.CONNECTED): State.ONLINE,
    (State.CONNECTING, Event.DIAL_FAILED): State.SEEN,
    (State.CONNECTING, Event.TURNED_DOWN): State.REFUSED,
    (State.CONNECTING, Event.LEFT): State.SEEN,
    (State.ONLINE, Event.STREAM_BROKEN): State.SUSPECT,
    (State.ONLINE, Event.LEFT): State.GONE,
    (State.ONLINE, Event.REBOOTED): State.GONE,
    (State.SUSPECT, Event.CONNECTED): State.ONLINE,
    (State.SUSPECT, Event.DIAL_FAILED): State.GONE,
    (State.SUSPECT, Event.LEFT): State.GONE,
    (State.SUSPECT, Event.REBOOTED): State.GONE,
    (State.REFUSED, Event.DIAL): State.CONNECTING,
    (State.GONE, Event.DIAL): State.CONNECTING,
}

HERE = frozenset({State.ONLINE, State.SUSPECT})  # counted as members


def following(state: State, event: Event) -> State:
    """The next state; an event that cannot happen there is our bug."""
    try:
        return NEXT[state, event]
    except KeyError:
        raise AssertionError(f"{event} in {state}") from None
