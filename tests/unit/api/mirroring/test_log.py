"""The log of a background answer and its copy: order, gaps, terms."""

from __future__ import annotations

import pytest

from exo_node.api.mirroring import log
from exo_node.api.mirroring.log import Copy, Part, Position, ResponseLog
from exo_node.routing.call import Said


def said(*more: int, before: tuple[int, ...] = (), model: str = "m") -> Said:
    return Said(before, more, model, f"id of {model}")


def made() -> ResponseLog:
    one = ResponseLog("r", b'{"head":1}')
    one.add(b"data: 1\n\n", said(1))
    one.add(b"data: 2\n\n", said(1, 2, 3))
    return one


def test_a_copy_grows_with_its_log() -> None:
    """Each part holds what came since the last one; the end comes with the stored row."""
    one, copy, at = made(), Copy("r", 1, "a", "1"), Position()
    part, at = one.after(at, "a", "1")
    assert (copy.take(part), copy.usable, copy.ended, at.version) == (True, True, False, 2)
    assert copy.begun().raw == b"data: 1\n\ndata: 2\n\n"
    assert (copy.begun().ids, copy.begun().ids_model, copy.begun().model_id) == ((1, 2, 3), "m", "id of m")
    one.add(b"data: 3\n\n", said(4, before=(1, 2, 3)))
    one.end(b"row")
    part, at = one.after(at, "a", "1")
    assert (part.head, part.said, part.ids, part.row) == (b"", b"data: 3\n\n", (4,), b"row")
    assert (copy.take(part), copy.ended, bytes(copy.row), copy.ids) == (True, True, b"row", [1, 2, 3, 4])
    assert copy.size == len(one.head) + len(one.said) + 3 + 4 * 8
    assert one.after(at, "a", "1")[1] == at


def test_ids_begin_anew_with_another_backend() -> None:
    """They are those of one ring's model only; a mirror that has the old ones forgets them."""
    one, copy, at = made(), Copy("r", 1, "a", "1"), Position()
    part, at = one.after(at, "a", "1")
    copy.take(part)
    one.add(b"data: 3\n\n", Said((), (), "", "elsewhere"))
    part, at = one.after(at, "a", "1")
    assert copy.take(part)
    assert (copy.begun().ids, copy.begun().ids_model, copy.begun().model_id) == ((), "", "elsewhere")
    one.add(b"data: 4\n\n", None)
    assert one.model_id == "elsewhere"


def test_a_part_that_does_not_fit() -> None:
    """Where something is missing nothing is taken; what came twice is there once."""
    one, copy = made(), Copy("r", 1, "a", "1")
    assert not copy.take(Part(id="r", term=1, maker="a", boot="1", said=b"x", said_at=5))
    assert copy.said == b""
    part, _ = one.after(Position(), "a", "1")
    assert copy.take(part)
    assert copy.take(part)
    assert (copy.said, copy.ids) == (one.said, one.ids)


def test_large_logs_travel_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy is usable when its head is whole, and begins after its last whole frame, without ids that say more."""
    monkeypatch.setattr(log, "MAX_PART", 8)
    one, copy, at = made(), Copy("r", 1, "a", "1"), Position()
    sizes = []
    while at.version != one.version:
        part, at = one.after(at, "a", "1")
        assert copy.take(part)
        sizes.append(len(part.head) + len(part.said))
        assert copy.usable == (len(copy.head) == len(one.head))
        if len(copy.said) == 14:
            assert (copy.begun().raw, copy.begun().ids) == (b"data: 1\n\n", ())
    assert sizes == [8, 8, 8, 4]
    assert copy.begun().raw == one.said
