"""Which node mirrors which answer, and which of several nodes is right about one. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

# What a node has of an answer, best last: a row whose maker is gone, a copy that may become an answer, an answer that
# has ended, one that is being made.
State = Literal["", "stale", "copy", "ended", "made"]
_RANK: Mapping[str, int] = {"": 0, "stale": 1, "copy": 2, "ended": 3, "made": 4}


def mirrors(ident: str, nodes: Iterable[str]) -> list[str]:
    """`nodes` in the order in which they are to mirror the answer: rendezvous hashing, so that every node comes to the
    same order and the loss of one moves nothing but its own."""
    return sorted(nodes, key=lambda node: blake2b(f"{ident}/{node}".encode(), digest_size=8).digest(), reverse=True)


@dataclass(frozen=True, slots=True)
class Has:
    """A node's word: the higher term is right, and of equal ones who knows more."""

    state: State = ""
    term: int = 0


NOTHING = Has()


def best(said: Mapping[str, Has]) -> str:
    """The node to ask; "" where nobody has it."""
    known = {node: has for node, has in said.items() if has.state}
    if not known:
        return ""
    return max(known, key=lambda node: (known[node].term, _RANK[known[node].state], node))
