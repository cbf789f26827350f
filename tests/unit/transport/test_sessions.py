"""Sessions that a server has granted."""

from __future__ import annotations

import pytest

from exo_node.errors import Unauthorized
from exo_node.transport.handshake import Party, Session
from exo_node.transport.sessions import SessionTable, credentials

METHOD = "/exo.v1.NodeService/Watch"


def session(name: str, boot: str = "b1", number: int = 0) -> Session:
    return Session(f"{name}-{boot}-{number}", Party(name, boot, "f", "1"), 1, b"k" * 32)


def test_check() -> None:
    """A call passes with its session's proof for that method, and with nothing else."""
    table, ann = SessionTable(), session("ann")
    table.add(ann)
    assert table.check(list(credentials(ann, METHOD)), METHOD) is ann
    for metadata in ([], [("exo-session", ann.session_id)], list(credentials(ann, "/other")),
                     list(credentials(session("eve"), METHOD))):  # fmt: skip
        with pytest.raises(Unauthorized, match="shake hands"):
            table.check(metadata, METHOD)


def test_restart_ends_old_sessions() -> None:
    """A restarted node's handshake ends the sessions of its former life, and only those."""
    table = SessionTable()
    for one in (session("ann", "b1"), session("ann", "b1", 1), session("bob"), session("ann", "b2")):
        table.add(one)
    assert len(table) == 2
    with pytest.raises(Unauthorized):
        table.check(list(credentials(session("ann", "b1"), METHOD)), METHOD)


def test_bounded() -> None:
    """The table never grows past its limit; the longest unused goes first."""
    table = SessionTable(limit=2)
    a, b, c = (session("ann", number=i) for i in range(3))
    table.add(a)
    table.add(b)
    table.check(list(credentials(a, METHOD)), METHOD)
    table.add(c)
    assert table.check(list(credentials(a, METHOD)), METHOD) is a
    with pytest.raises(Unauthorized):
        table.check(list(credentials(b, METHOD)), METHOD)
