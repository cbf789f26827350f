"""Prompt-lookup drafts: what followed the last time that the newest tokens were seen (ARCHITECTURE 3.8). Pure.

A draft is only a guess of what the sampler will draw: a wrong one costs its part of a step and changes nothing.
"""

from __future__ import annotations

from typing import Final, Protocol

from exo_node.ring.scheduler import draft_depth
from exo_node.ring.step_times import RingTimes

GRAMS: Final = (4, 2)  # lengths of what is looked up, the longer first
DEEPEST: Final = 8
HOPEFUL: Final = 0.7  # acceptance that a generation begins with
MEMORY: Final = 0.15  # weight of the newest draft in the acceptance
RETRY: Final = 48  # tokens after which one that has given up looks again, twice as many each time that it is no use
RAREST: Final = 768
ENTERED: Final = 512  # tokens looked into at a time, under 0.5 ms: a long prompt's are over several steps


class Drafting(Protocol):
    """Guesses for one generation, whose tokens it was given as a list that grows."""

    def propose(self, room: int, rows: int, times: RingTimes) -> list[int]:
        """Up to `room` tokens that may come next; `rows` sequences share the step. Empty where it would not pay."""
        ...

    def settle(self, unused: int | None) -> None:
        """All but the last `unused` tokens of the last proposal were right; None: it was not sent."""
        ...

    def rest(self) -> None:
        """The generation has ended, or waits for a slot: give up what is held for it. `propose` may follow."""
        ...


class Trust:
    """How often the guesses of one kind are right for one generation, and how many are worth sending because of it."""

    def __init__(self) -> None:
        self.acceptance = HOPEFUL
        self.drafted = self.accepted = 0
        self.idle = 0  # chances let go by since it has given up
        self._patience = RETRY
        self._offered = 0

    def depth(self, deepest: int, rows: int, times: RingTimes, token_s: float = 0.0) -> int:
        """How many tokens to guess, at most `deepest`; see `scheduler.draft_depth`. 0 where it would not pay: then two
        now and then, the rarer the longer it has not."""
        depth = draft_depth(self.acceptance, rows, deepest, times, token_s)
        if depth:
            self.idle, self._patience = 0, RETRY
            return depth
        self.idle += 1
        if self.idle < self._patience:
            return 0
        self.idle = 0
        self._patience = min(2 * self._patience, RAREST)
        return min(2, deepest)

    def offer(self, drafted: int) -> None:
        """So many tokens are proposed now."""
        self._offered = drafted

    def settle(self, unused: int | None) -> None:
        """All but the last `unused` tokens of the last offer were right; None: it was not sent."""
        drafted, self._offered = self._offered, 0
        if not drafted or unused is None:
            return
        accepted = drafted - unused
        self.drafted += drafted
        self.accepted += accepted
        if accepted:
            self._patience = RETRY
        for _ in range(accepted):
            self.acceptance += MEMORY * (1.0 - self.acceptance)
        if unused:  # the first of them was wrong, the others say nothing
            self.acceptance -= MEMORY * self.acceptance


class Drafter:
    """Drafts for one generation. Fed with every token, it knows where each pair and quadruple was last followed."""

    def __init__(self, tokens: list[int]) -> None:
        """`tokens` is the generation's own list, which grows."""
        self.trust = Trust()
        self._tokens = tokens
        self._known = 0  # tokens that have been entered as what follows something
        self._after: dict[tuple[int, ...], int] = {}

    def propose(self, room: int, rows: int, times: RingTimes) -> list[int]:
        """Up to `room` tokens that may come next; `rows` sequences share the step. Empty where it would not pay."""
        if room < 1:
            return []
        self._enter()
        start = self._find() if self._known == len(self._tokens) else None
        if start is None:
            return []
        # Where the text runs in a loop the draft runs on in itself.
        tokens = self._tokens
        draft: list[int] = []
        for at in range(start, start + self.trust.depth(min(DEEPEST, room), rows, times)):
            draft.append(tokens[at] if at < len(tokens) else draft[at - len(tokens)])
        self.trust.offer(len(draft))
        return draft

    def settle(self, unused: int | None) -> None:
        """All but the last `unused` tokens of the draft were right; None: it was not sent."""
        self.trust.settle(unused)

    def rest(self) -> None:
        """See `Drafting`: nothing is held."""

    def _enter(self) -> None:
        tokens, begin = self._tokens, self._known
        self._known = end = min(begin + ENTERED, len(tokens))
        if end - begin == 1 and begin >= max(GRAMS):  # the newest token, as nearly always
            for gram in GRAMS:
                self._after[tuple(tokens[begin - gram : begin])] = begin
            return
        for gram in GRAMS:
            first = min(max(begin, gram), end)
            behind = zip(
                *(tokens[max(0, first - back) : max(0, end - back)] for back in range(gram, 0, -1)), strict=True
            )
            self._after.update(zip(behind, range(first, end), strict=False))

    def _find(self) -> int | None:
        tokens = self._tokens
        for gram in GRAMS:
            if len(tokens) > gram and (found := self._after.get(tuple(tokens[-gram:]))) is not None:
                return found
        return None
