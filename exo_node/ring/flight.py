"""The steps that are under way, and whether what comes home is what was sent. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from exo_node.errors import RingBroken
from exo_node.ring.messages import Report, Row


@dataclass(frozen=True, slots=True)
class Flown:
    """A step that was sent. `pools`: (sequences, tokens) that each stage must hold after it; they differ after a loss.
    `n_tokens`: 0 where its times are not to be learned from."""

    rows: tuple[tuple[Row, int], ...]  # with the ticket
    pools: tuple[tuple[int, int], ...]
    n_bytes: int
    n_tokens: int
    decodes: bool
    sent: float


class Flight:
    """The account of the steps of one epoch in a ring of `n_stages`."""

    def __init__(self, n_stages: int) -> None:
        self.steps: deque[Flown] = deque()  # under way, the oldest first
        self.newest = 0  # number of the step that was sent last
        self.home = 0  # number of the step that came home last
        self.home_tokens = 0  # of that step
        self.n_bytes = 0  # under way
        self.decode_steps = 0  # of those under way, with decode rows
        self._stages = list(range(n_stages))

    def __len__(self) -> int:
        return len(self.steps)

    def send(self, flown: Flown) -> None:
        self.newest += 1
        self.steps.append(flown)
        self.n_bytes += flown.n_bytes
        self.decode_steps += flown.decodes

    def land(self, number: int, reports: Sequence[Report]) -> Flown:
        """Step `number` has come round. Raises `RingBroken` where a stage's report differs from the account."""
        if number != self.home + 1 or not self.steps:
            raise RingBroken(f"step {number} came home where step {self.home + 1} was due")
        self.home = number
        flown = self.steps.popleft()
        self.home_tokens = flown.n_tokens
        self.n_bytes -= flown.n_bytes
        self.decode_steps -= flown.decodes
        stages = [report.stage for report in reports]
        if stages != self._stages:
            raise RingBroken(f"step {number} was reported by stages {stages} of {len(self._stages)}")
        for report in reports:
            pool = flown.pools[report.stage]
            if (report.sequences, report.cached_tokens) != pool:
                raise RingBroken(
                    f"after step {number} stage {report.stage} holds {report.sequences} sequences with "
                    f"{report.cached_tokens} tokens, the head counts {pool[0]} with {pool[1]}"
                )
        return flown

    def clear(self) -> None:
        """Nothing of what is under way counts any more."""
        self.steps.clear()
        self.n_bytes = self.decode_steps = 0
