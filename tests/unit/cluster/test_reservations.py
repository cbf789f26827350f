"""Promised memory."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_node.cluster.reservations import ReservationLedger
from exo_node.errors import InvalidRequest, NoCapacity


def test_life_of_a_reservation() -> None:
    """Reserved, held while loading, committed, renewed, released; what is committed shows in the measurement."""
    ledger = ReservationLedger()
    ledger.reserve("i", 0, "CPU", 60, free=100, now=0, until=10)
    assert ledger.available(100, 1) == 40
    ledger.hold("i", 0)
    assert ledger.expire(10**9) == []
    ledger.commit("i", 0, until=20)
    assert ledger.available(40, 15) == 40
    assert ledger.renew("i", until=30)
    assert ledger.expire(25) == []
    assert ledger.release("i")
    assert not ledger.release("i")
    assert not ledger.renew("i", until=99)


def test_all_or_nothing() -> None:
    """Too much is refused with both numbers and changes nothing; so is a second shard where one loads."""
    ledger = ReservationLedger()
    ledger.reserve("i", 0, "CPU", 60, free=100, now=0, until=10)
    with pytest.raises(NoCapacity, match=r"40 bytes left .* 41 are wanted"):
        ledger.reserve("j", 0, "CPU", 41, free=100, now=0, until=10)
    with pytest.raises(NoCapacity):
        ledger.reserve("i", 0, "CPU", 101, free=100, now=0, until=10)
    assert [(e.instance_id, e.bytes) for e in ledger.entries()] == [("i", 60)]
    ledger.hold("i", 0)
    with pytest.raises(InvalidRequest, match="is on this node already"):
        ledger.reserve("i", 0, "CPU", 10, free=100, now=0, until=10)


def test_stages_of_one_instance_are_counted_apart() -> None:
    """Two stages on one device each hold their own; a spare takes the number of the stage that it stands in for."""
    ledger = ReservationLedger()
    ledger.reserve("i", 1, "CPU", 30, free=100, now=0, until=10)
    ledger.reserve("i", 7, "CPU", 20, free=100, now=0, until=10)
    assert ledger.available(100, 0) == 50
    assert ledger.release("i", 1)
    ledger.rename("i", 7, 1)
    assert [(e.stage, e.bytes) for e in ledger.entries()] == [(1, 20)]
    assert ledger.holds("i")
    assert ledger.release("i", 1)
    assert not ledger.holds("i")


def test_asking_again_replaces() -> None:
    """The same reservation again (a repeated call) is not counted twice."""
    ledger = ReservationLedger()
    for _ in range(3):
        ledger.reserve("i", 0, "CPU", 60, free=100, now=0, until=10)
    assert ledger.available(100, 0) == 40


def test_leases_run_out() -> None:
    """What nobody commits or renews is free again, and a late load is told to place again."""
    ledger = ReservationLedger()
    ledger.reserve("i", 0, "CPU", 60, free=100, now=0, until=10)
    assert ledger.available(100, 10) == 100
    assert ledger.expire(10) == ["i"]
    with pytest.raises(NoCapacity, match="place it again"):
        ledger.hold("i", 0)


def test_memory_limit() -> None:
    """--memory-limit caps all instances together, loaded ones included."""
    ledger = ReservationLedger(limit=100)
    ledger.reserve("i", 0, "CPU", 60, free=1000, now=0, until=10)
    ledger.commit("i", 0, until=10)
    assert ledger.available(940, 0) == 40
    assert ledger.available(30, 0) == 30


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 60), st.integers(1, 20)), max_size=20))
def test_never_more_than_there_is(calls: list[tuple[int, int, int]]) -> None:
    """Whatever is asked, live promises never exceed what was free."""
    ledger = ReservationLedger()
    for now, (instance, size, lease) in enumerate(calls):
        with contextlib.suppress(NoCapacity):
            ledger.reserve(f"i{instance}", 0, "CPU", size, free=100, now=now, until=now + lease)
        assert sum(entry.bytes for entry in ledger.entries() if entry.until > now) <= 100
