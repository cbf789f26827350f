"""The log of an answer that is made in the background, and its copy on a second node. Pure.

The log is the request and the chat's frames that the answer was made of: whoever feeds them to a new encoder has the
very same events, and a backend can go on after them. Bytes and ids travel in order, each part saying where it belongs.

`term` says who is right when two nodes have an answer. Its high part counts the nodes that have made it, one after the
other; its low part the mirrors that its maker chose, so that a copy that was left behind is known by it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from exo_node.routing.call import Begun, Said

MAX_PART = 512 * 1024  # bytes of one part: a gRPC message takes 4 MB
_MAKER = 1 << 20
FIRST_TERM = _MAKER


def next_maker(term: int) -> int:
    """The term of who takes over from `term`, above all that its maker may come to."""
    return (term // _MAKER + 1) * _MAKER


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A piece of a log. Each of `head`, `said`, `ids` and `row` begins at its `..._at`; `head` and `row` are whole when
    they have their `..._size` (`row` 0: the answer has not ended). `ids` from 0 on replace those before."""

    id: str
    term: int
    maker: str
    boot: str
    head: bytes = b""
    head_at: int = 0
    head_size: int = 0
    said: bytes = b""
    said_at: int = 0
    ids: tuple[int, ...] = ()
    ids_at: int = 0
    ids_model: str = ""
    model_id: str = ""
    row: bytes = b""
    row_at: int = 0
    row_size: int = 0


@dataclass(slots=True)
class Position:
    """How much of a log the mirror has."""

    head: int = 0
    said: int = 0
    ids: int = 0
    row: int = 0
    version: int = -1  # of the log, where that is all of it
    resets: int = 0


@dataclass(slots=True)
class ResponseLog:
    """What the maker keeps. `head`: the request and whatever a new maker needs; `row`: the stored response, once it has
    ended. `version` counts its changes; 0 is the head alone."""

    id: str
    head: bytes
    term: int = FIRST_TERM
    said: bytearray = field(default_factory=bytearray)
    ids: list[int] = field(default_factory=list)
    ids_model: str = ""
    model_id: str = ""
    row: bytes = b""
    version: int = 0
    resets: int = 0  # how often the ids began anew

    def add(self, raw: bytes, said: Said | None) -> None:
        """Frames, and of whom all frames so far are."""
        self.version += 1
        self.said += raw
        if said is None:
            return
        self.model_id = said.model_id
        if said.ids_model != self.ids_model:
            self.ids, self.ids_model = [], said.ids_model
            self.resets += 1
        known, before = len(self.ids), len(said.before)
        self.ids += said.more[known - before :] if known >= before else [*said.before[known:], *said.more]

    def end(self, row: bytes) -> None:
        self.version += 1
        self.row = row

    def after(self, at: Position, maker: str, boot: str) -> tuple[Part, Position]:
        """The next piece for a mirror that has `at`, and what it then has."""
        room = MAX_PART
        head = self.head[at.head : at.head + room]
        room -= len(head)
        said = bytes(self.said[at.said : at.said + room])
        room -= len(said)
        row = self.row[at.row : at.row + room]
        ids_at = at.ids if at.resets == self.resets else 0
        ids = tuple(self.ids[ids_at:])
        then = Position(
            at.head + len(head), at.said + len(said), ids_at + len(ids), at.row + len(row), resets=self.resets
        )
        if (then.head, then.said, then.row) == (len(self.head), len(self.said), len(self.row)):
            then.version = self.version
        part = Part(
            id=self.id, term=self.term, maker=maker, boot=boot, head=head, head_at=at.head, head_size=len(self.head),
            said=said, said_at=at.said, ids=ids, ids_at=ids_at, ids_model=self.ids_model, model_id=self.model_id,
            row=row, row_at=at.row, row_size=len(self.row),
        )  # fmt: skip
        return part, then


@dataclass(slots=True)
class Copy:
    """What the mirror has of a log."""

    id: str
    term: int
    maker: str
    boot: str
    head: bytearray = field(default_factory=bytearray)
    head_size: int = -1
    said: bytearray = field(default_factory=bytearray)
    ids: list[int] = field(default_factory=list)
    ids_model: str = ""
    model_id: str = ""
    row: bytearray = field(default_factory=bytearray)
    row_size: int = 0
    heard: float = 0.0  # when its last part came, on its mirror's clock

    def take(self, part: Part) -> bool:
        """False where something before the part is missing, and nothing of it is taken."""
        held = (len(self.head), len(self.said), len(self.ids), len(self.row))
        if any(at > has for at, has in zip((part.head_at, part.said_at, part.ids_at, part.row_at), held, strict=True)):
            return False
        self.head[part.head_at :] = part.head
        self.said[part.said_at :] = part.said
        self.ids[part.ids_at :] = part.ids
        self.row[part.row_at :] = part.row
        self.head_size, self.row_size = part.head_size, part.row_size
        self.ids_model, self.model_id = part.ids_model, part.model_id
        return True

    @property
    def usable(self) -> bool:
        """Whether somebody could go on from it."""
        return len(self.head) == self.head_size

    @property
    def ended(self) -> bool:
        return self.row_size > 0 and len(self.row) == self.row_size

    @property
    def size(self) -> int:
        """Bytes, about."""
        return len(self.head) + len(self.said) + len(self.row) + 8 * len(self.ids)

    def begun(self) -> Begun:
        """Up to the last whole frame."""
        end = self.said.rfind(b"\n\n")
        whole = bytes(self.said[: end + 2]) if end >= 0 else b""
        ids = tuple(self.ids) if len(whole) == len(self.said) else ()
        return Begun(whole, ids, self.ids_model if ids else "", self.model_id)
