"""Who is next for a slot: fair queueing over callers (a virtual counter of served tokens each). Pure.

Each caller (API key) at each priority has a queue of its own and a counter of the tokens served to it over its weight;
the queue with the smallest counter goes first, so nobody waits for more than the others' fair share, and none starves:
a low priority is a small weight. A caller of whom nothing waits begins at the smallest counter of those that wait, or
at its own where that is larger: idling saves nothing up and forgives nothing. (As VTC, Sheng et al. 2023.)
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from exo_node.ring.sequences import RANKS, Generation, Priority

WEIGHTS: Final[dict[Priority, float]] = {"high": 8.0, "normal": 4.0, "low": 0.25}
OVERTAKE: Final = 256.0  # on the counters: 2,048 tokens of a high priority
PROMPT_SHARE: Final = 0.25  # of what a generated token counts: a prompt's tokens are computed many at a time


@dataclass(slots=True)
class _Flow:
    counter: float = 0.0
    queue: deque[Generation] = field(default_factory=deque)
    running: int = 0


class WaitingQueue:
    """Generations that wait for a slot; and, to be fair, what those that run are given."""

    def __init__(self) -> None:
        self._flows: dict[tuple[str, Priority], _Flow] = {}
        self._last = _Flow()  # whose turn it was last
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Generation]:
        return (one for flow in self._flows.values() for one in flow.queue)

    def add(self, generation: Generation, *, first: bool = False) -> None:
        """At the end of its caller's queue; `first`: before all others of it (it had a slot already)."""
        key = generation.job.client, generation.job.priority
        flow = self._flows.setdefault(key, _Flow())
        if not flow.queue and not first:
            flow.counter = max(flow.counter, self._floor())
        flow.queue.appendleft(generation) if first else flow.queue.append(generation)
        self._length += 1

    def turns(self) -> Iterator[Generation]:
        """Whose turn it is; then who may go before that one while there is no place for it: the more urgent, for a
        while. (A long prompt of low priority may need more memory than is free for long.)"""
        waiting = [(flow.counter, RANKS[key[1]], flow) for key, flow in self._flows.items() if flow.queue]
        waiting.sort(key=lambda one: one[0])
        urgent = len(RANKS)
        for counter, rank, flow in waiting:
            if rank < urgent and counter <= waiting[0][0] + OVERTAKE:
                urgent = rank
                yield flow.queue[0]

    def of(self, client: str) -> int:
        """How many of a caller's wait, of all priorities."""
        return sum(len(flow.queue) for key, flow in self._flows.items() if key[0] == client)

    def before(
        self,
        client: str,
        priority: Priority,
        left: Callable[[Generation], float],
        running: Iterable[Generation],
    ) -> Iterator[Generation]:
        """Who would have a slot before a new one of that caller, about in that order, if each were served the tokens
        that are `left` of it, those that run too."""
        counters = {key: flow.counter for key, flow in self._flows.items()}
        mine = client, priority
        if mine not in self._flows or not self._flows[mine].queue:
            counters[mine] = max(counters.get(mine, 0.0), self._floor())
        for one in running:
            counters[one.job.client, one.job.priority] += left(one) / WEIGHTS[one.job.priority]
        lines = {key: iter(flow.queue) for key, flow in self._flows.items() if flow.queue or key == mine}
        lines.setdefault(mine, iter(()))
        order = [(counters[key], rank, key) for rank, key in enumerate(lines)]
        heapq.heapify(order)
        while order:
            counter, rank, key = heapq.heappop(order)
            if (following := next(lines[key], None)) is not None:
                yield following
                served = following.prefill * PROMPT_SHARE + left(following)
                heapq.heappush(order, (counter + served / WEIGHTS[key[1]], rank, key))
            elif key == mine:
                return

    def start(self, generation: Generation) -> None:
        """It has a slot now."""
        flow = self._flows[generation.job.client, generation.job.priority]
        flow.queue.remove(generation)
        flow.running += 1
        self._last = flow
        self._length -= 1

    def charge(self, generation: Generation, tokens: float) -> None:
        """So many generated tokens' worth was served to a running generation."""
        key = generation.job.client, generation.job.priority
        self._flows[key].counter += tokens / WEIGHTS[generation.job.priority]

    def stop(self, generation: Generation) -> None:
        """It has given its slot back."""
        self._flows[generation.job.client, generation.job.priority].running -= 1
        self._tidy()

    def remove(self, generation: Generation) -> None:
        """It waits no longer."""
        self._flows[generation.job.client, generation.job.priority].queue.remove(generation)
        self._length -= 1
        self._tidy()

    def clear(self) -> None:
        self._flows.clear()
        self._last = _Flow()
        self._length = 0

    def _floor(self) -> float:
        """Where one begins of whom nothing waits. While nobody waits there is a slot for each, and whoever was given
        one has had it at nobody's expense: the others are where the last one is."""
        return min((one.counter for one in self._flows.values() if one.queue), default=self._last.counter)

    def _tidy(self) -> None:
        """Forget callers with nothing left, but for those that were served more than who comes now would begin with:
        as long as there is anybody whom that concerns."""
        if not any(one.queue or one.running for one in self._flows.values()):
            self.clear()
            return
        floor = self._floor()
        for key, one in list(self._flows.items()):
            if not one.queue and not one.running and one.counter <= floor:
                del self._flows[key]
