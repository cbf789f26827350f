"""A ring on a simulated clock: the real head, and stages that are nothing but times. For `interference.py`.

Each stage serves one step at a time, in order; a hop is a delay. A stage takes `times[i](tokens)` seconds for a step.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from exo_node.ring.head import Head
from exo_node.ring.head_data import Outgoing, RingSetup
from exo_node.ring.messages import Epoch, Report
from exo_node.ring.sequences import Job, TokenChoice, Want

Time = Callable[[int], float]


@dataclass
class RingWorld:
    """`times`: seconds of each stage for a step of so many tokens. `hop`: seconds from one stage to the next."""

    times: Sequence[Time]
    hop: float = 0.0
    slots: int = 64
    context: int = 8192
    max_chunk: int = 256
    reproducible: bool = False
    stamps: dict[int, list[float]] = field(default_factory=dict)  # by ticket: when each token came

    def __post_init__(self) -> None:
        self.now = 0.0
        setup = RingSetup(
            epoch=Epoch(1, "w"),
            n_stages=len(self.times),
            slots=self.slots,
            context=self.context,
            max_chunk=self.max_chunk,
            vocab_size=32000,
            vector_bytes=4096,
            reproducible=self.reproducible,
        )
        self.head = Head(setup)
        self._free = [0.0] * len(self.times)  # when each stage can take the next step
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), what))

    def submit(self, ticket: int, prompt: int, tokens: int) -> None:
        """A generation of `tokens` after a prompt of as many different tokens as are asked for."""
        ids = tuple((ticket * 7919 + index * 31) % 31999 for index in range(prompt))
        self.head.submit(ticket, Job(request_id=str(ticket), prompt=ids, max_tokens=tokens), self.now)
        self.stamps[ticket] = []

    def run(self, until: float = float("inf")) -> None:
        """Until nothing is left to do, or that time."""
        self._advance()
        while self._events and self._events[0][0] <= until:
            self.now, _, what = heapq.heappop(self._events)
            what()
            self._advance()

    def _advance(self) -> None:
        # The head computes its own stage: it looks at what has come home before it begins another step.
        while self.now >= self._free[0] and (outgoing := self.head.next_step(self.now)) is not None:
            self._send(outgoing)
        if self.now < self._free[0]:
            self.at(self._free[0], lambda: None)

    def _send(self, outgoing: Outgoing) -> None:
        tokens = sum(row.length for row in outgoing.step.rows)
        account = self.head.residents.account
        held = account.sequences, account.cached_tokens
        begun = arrives = self.now
        reports: list[Report] = []
        for index, time_of in enumerate(self.times):
            start = max(arrives, self._free[index])
            busy = time_of(tokens) if tokens else 0.0
            self._free[index] = start + busy
            reports.append(Report(index, round((start - arrives) * 1e6), round(busy * 1e6), 0, *held))
            arrives = start + busy + self.hop
        if len(self.times) == 1:
            arrives -= self.hop
        self.at(arrives, lambda: self._home(outgoing.step.number, reports, arrives - begun))

    def _home(self, number: int, reports: list[Report], trip: float) -> None:
        for want in self.head.home(number, reports, self.now):
            assert isinstance(want, Want)
            self.head.token(want.ticket, TokenChoice(want.position % 31999), self.now)
            self.stamps[want.ticket].append(self.now)
        self.head.measured(reports, trip, 0.0)


def gaps(stamps: Sequence[float], start: float = 0.0, end: float = float("inf")) -> list[float]:
    """Seconds between tokens, of those that came in [start, end]."""
    return [b - a for a, b in itertools.pairwise(stamps) if start <= b <= end]
