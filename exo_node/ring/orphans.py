"""Sequences that some stages have kept over the loss of others, until the request that each belongs to is back. Pure.

And what the stages hold of them that lost them: nothing at first, then as much as was computed again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from exo_node.ring.kv_account import KvAccount
from exo_node.ring.messages import Kept

ORPHAN_S = 60.0  # how long a kept sequence waits for its request: one that comes back does so within seconds


class Orphans:
    """By sequence id; those whose request has come back last."""

    def __init__(self, kept: Sequence[Kept], kept_from: int) -> None:
        self.until = math.inf  # when they are given up
        self._kept_from = kept_from
        self._waiting: dict[int, None] = {one.sequence: None for one in kept}
        # Of orphans, and of adopted ones until they have caught up: tokens that the stages hold that lost them, and the
        # first of these stages.
        self._behind = {one.sequence: (0, one.lost_from) for one in kept} if kept_from else {}

    def __contains__(self, sequence: int) -> bool:
        return sequence in self._waiting

    def __iter__(self) -> Iterator[int]:
        """The first is the first to be given up."""
        return iter(tuple(self._waiting))

    def claim(self, sequence: int) -> None:
        """Its request has come back: of all it is the last to be given up."""
        if sequence in self._waiting:
            del self._waiting[sequence]
            self._waiting[sequence] = None

    def expired(self, now: float) -> list[int]:
        """Those whose request has not come back in time; time runs from the first question."""
        if now >= self.until:
            self.until = math.inf
            return [*self._waiting]
        if self._waiting:
            self.until = min(self.until, now + ORPHAN_S)
        return []

    def adopt(self, sequence: int) -> int:
        """Its request goes on in it. Returns the first stage that lost it."""
        del self._waiting[sequence]
        return self._behind.get(sequence, (0, 0))[1]

    def computed(self, sequence: int, length: int) -> None:
        """The stages that lost an adopted one hold so much of it again."""
        self._behind[sequence] = length, self._behind[sequence][1]

    def leave(self, sequence: int) -> bool:
        """It is no more, or all stages hold the same of it. Returns whether some held less."""
        self._waiting.pop(sequence, None)
        return self._behind.pop(sequence, None) is not None

    def missing(self, stage: int, account: KvAccount) -> tuple[int, int]:
        """(sequences, tokens) that a stage has less than the account says."""
        if not self._behind:
            return 0, 0  # as in nearly every step
        lost = [
            (held, account.length(sequence) - held)
            for sequence, (held, lost_from) in self._behind.items()
            if lost_from <= stage < self._kept_from
        ]
        return sum(not held for held, _ in lost), sum(tokens for _, tokens in lost)
