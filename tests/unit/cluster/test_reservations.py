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
    ledger.reserve("i", "CPU", 60, free=100, now=0, until=10)
    assert ledger.available(100, 1) == 40
    ledger.hold("i", "CPU")
    assert ledger.expire(10**9) == []
    ledger.commit("i", "CPU", until=20)
    assert ledger.available(40, 15) == 40
    assert ledger.renew("i", until=30)
    assert ledger.expire(25) == []
    assert ledger.release("i")
    assert not ledger.release("i")
    assert not ledger.renew("i", until=99)


def test_all_or_nothing() -> None:
    """Too much is refused with both numbers and changes nothing; so is a second shard where one loads."""
    ledger = ReservationLedger()
    ledger.reserve("i", "CPU", 60, free=100, now=0, until=10)
    with pytest.raises(NoCapacity, match=r"40 bytes left .* 41 are wanted"):
        ledger.reserve("j", "CPU", 41, free=100, now=0, until=10)
    with pytest.raises(NoCapacity):
        ledger.reserve("i", "CPU", 101, free=100, now=0, until=10)
    assert [(e.instance_id, e.bytes) for e in ledger.entries()] == [("i", 60)]
    ledger.hold("i", "CPU")
    with pytest.raises(InvalidRequest, match="already has a shard"):
        ledger.reserve("i", "CPU", 10, free=100, now=0, until=10)


def test_asking_again_replaces() -> None:
    """The same reservation again (a repeated call) is not counted twice."""
    ledger = ReservationLedger()
    for _ in range(3):
        ledger.reserve("i", "CPU", 60, free=100, now=0, until=10)
    assert ledger.available(100, 0) == 40


def test_leases_run_out() -> None:
    """What nobody commits or renews is free again, and a late load is told to place again."""
    ledger = ReservationLedger()
    ledger.reserve("i", "CPU", 60, free=100, now=0, until=10)
    assert ledger.available(100, 10) == 100
    assert ledger.expire(10) == ["i"]
    with pytest.raises(NoCapacity, match="place it again"):
        ledger.hold("i", "CPU")


def test_memory_limit() -> None:
    """--memory-limit caps all instances together, loaded ones included."""
    ledger = ReservationLedger(limit=100)
    ledger.reserve("i", "CPU", 60, free=1000, now=0, until=10)
    ledger.commit("i", "CPU", until=10)
    assert ledger.available(940, 0) == 40
    assert ledger.available(30, 0) == 30


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 60), st.integers(1, 20)), max_size=20))
def test_never_more_than_there_is(calls: list[tuple[int, int, int]]) -> None:
    """Whatever is asked, live promises never exceed what was free."""
    ledger = ReservationLedger()
    for now, (instance, size, lease) in enumerate(calls):
        with contextlib.suppress(NoCapacity):
            ledger.reserve(f"i{instance}", "CPU", size, free=100, now=now, until=now + lease)
        assert sum(entry.bytes for entry in ledger.entries() if entry.until > now) <= 100
