"""How long a request would wait for a slot, and who may still queue for one. Pure; seconds.

What is known: how many tokens the latest answers really had, what a prompt's token and an answer's token cost a request
that holds a slot beside others, and what runs and waits now. The rest is arithmetic: each that waits takes the slot
that is free first, in the order of `WaitingQueue`. Requests that come later and go first are not foreseen.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from exo_node.errors import Overloaded
from exo_node.ring.kv_account import KvAccount, Pool
from exo_node.ring.sequences import Generation, Job, Priority
from exo_node.ring.waiting import WaitingQueue

KEPT: Final = 64  # of the latest requests: enough for a mean, few enough to follow a change of use
PACED: Final = 16  # of them tell how fast it goes: a machine that others use too changes that within seconds
ASSUMED: Final = 256  # tokens of an answer, while none has ended
SHARE: Final = 2  # one API key may fill one part in so many of the queue
FRESH_S: Final = 0.25  # 256 that wait take a millisecond to add up
UNKNOWN_S: Final = 5.0  # until a full queue may have moved, while not one token has come yet


class Backlog:
    """What the requests of one model took. Tell it of each first token and of each end."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._memory = KvAccount(pool).kv_tokens
        self._lengths: deque[int] = deque(maxlen=KEPT)  # tokens of answers that ended
        self._prompts: deque[tuple[float, int]] = deque(maxlen=PACED)  # (seconds, tokens) to the first token
        self._told: tuple[float, dict[tuple[str, Priority], float | None]] = (-math.inf, {})  # at that time
        self._answers: deque[tuple[float, int, int]] = deque(maxlen=PACED)  # (seconds, tokens) after it, in company of

    def first_token(self, generation: Generation, now: float) -> None:
        """The prompt of a generation is done."""
        generation.first_at = now
        if generation.admitted is not None:
            self._prompts.append((now - generation.admitted, len(generation.job.prompt)))

    def ended(self, generation: Generation, now: float, company: int) -> None:
        """It is over; with itself there were so many with a slot."""
        if generation.admitted is None or not generation.job.draws:
            return
        self._lengths.append(generation.n_generated)
        if generation.first_at is not None:
            self._answers.append((now - generation.first_at, _after_first(generation), company))

    def told(
        self,
        job: Job,
        waiting: WaitingQueue,
        running: Iterable[Generation],
        step: Callable[[int], float],
        now: float,
    ) -> float | None:
        """`wait`, a moment old at most: who is refused often must not keep the ring from its work."""
        if now - self._told[0] > FRESH_S:
            self._told = now, {}
        known, key = self._told[1], (job.client, job.priority)
        if key not in known:
            known[key] = self.wait(job, waiting, running, step, now)
        return known[key]

    def wait(
        self,
        job: Job,
        waiting: WaitingQueue,
        running: Iterable[Generation],
        step: Callable[[int], float],
        now: float,
    ) -> float | None:
        """Until a new request like `job` would have a slot; None while nothing is known of this model's speed.

        `step`: what a step of so many tokens takes (0: not known), for those that were alone lately and will not be.
        """
        running = list(running)
        lengths = Lengths(self._lengths, (one.n_generated for one in running if one.job.draws))

        def left(one: Generation) -> float:
            return self._left(one, lengths)

        places = self._places([*waiting, *running], left)
        pace = self._pace(running, places, step, now)
        if pace is None:
            return None
        prompt_token, token = pace
        free = [
            (0.0 if one.decoding else (one.prefill - one.sent) * prompt_token) + left(one) * token for one in running
        ]
        free += [0.0] * (places - len(free))  # more came than one step has let in yet
        heapq.heapify(free)
        for one in waiting.before(job.client, job.priority, left, running):
            took = one.prefill * prompt_token + left(one) * token
            heapq.heappush(free, heapq.heappop(free) + took)
        return free[0]

    def _pace(
        self, running: list[Generation], places: int, step: Callable[[int], float], now: float
    ) -> tuple[float, float] | None:
        """Seconds that a token of a prompt and one of an answer take a request, where all `places` are taken."""
        spans = [
            *self._answers,
            *((now - one.first_at, _after_first(one), len(running)) for one in running if one.first_at is not None),
        ]
        spans = [one for one in spans if one[1] > 0]
        if not self._prompts and not spans:
            return None
        tokens = sum(one[1] for one in spans)
        token = sum(one[0] for one in spans) / tokens if tokens else 0.0
        prompts = sum(one[1] for one in self._prompts)
        to_first = sum(one[0] for one in self._prompts) - token * len(self._prompts)
        if tokens:
            company = sum(one[1] * one[2] for one in spans) / tokens
            before, then = step(max(1, round(company))), step(places)
            token *= then / before if 0 < before < then else 1.0
        return (max(0.0, to_first) / prompts if prompts else 0.0), token

    def _places(self, generations: list[Generation], left: Callable[[Generation], float]) -> int:
        """How many of their kind fit into slots and memory at once; at least one."""
        block = self._pool.block
        blocks = sum(math.ceil((len(one.tokens) + left(one)) / block) for one in generations)
        fit = self._memory * len(generations) // max(1, blocks * block)
        return max(1, min(self._pool.slots, fit))

    def _left(self, generation: Generation, lengths: Lengths) -> float:
        """Tokens that it will probably still make."""
        job, made = generation.job, generation.n_generated
        if not job.draws:
            return 0.0
        most = min(job.max_tokens, self._pool.context - len(job.prompt))
        return lengths.rest(made, most)


class Lengths:
    """How long answers are: those that ended, and those that run and are this long already (as Kaplan and Meier)."""

    def __init__(self, ended: Iterable[int], running: Iterable[int]) -> None:
        counts = sorted([*((length, 1) for length in ended), *((length, 0) for length in running)])
        self._steps: list[tuple[int, float]] = []  # (length, share of answers that are longer), where it changes
        share, at_risk = 1.0, len(counts)
        for length, group in itertools.groupby(counts, key=lambda one: one[0]):
            ends = [end for _, end in group]
            if any(ends):
                share *= 1 - sum(ends) / at_risk
                self._steps.append((length, share))
            at_risk -= len(ends)
        self._known: dict[tuple[int, int], float] = {}

    def rest(self, made: int, most: int) -> float:
        """Tokens that an answer of `made` will probably still have, with `most` of them allowed in all."""
        found = self._known.get((made, most))
        if found is None:
            found = self._known[made, most] = self._rest(made, most)
        return found

    def _rest(self, made: int, most: int) -> float:
        alive = next((share for length, share in reversed(self._steps) if length <= made), 1.0)
        if not self._steps or alive <= 0.0:  # nothing is known of one so long: as much again
            return float(max(0, min(most, max(ASSUMED, 2 * made) if not self._steps else 2 * made) - made))
        total, at, share = 0.0, made, alive
        for length, after in self._steps:
            if length <= made:
                continue
            total += (min(length, most) - at) * share
            at, share = min(length, most), after
            if at == most:
                break
        # The longest of all ran on: whatever is left of the curve, it is as long as the longest known.
        return (total + share * max(0, min(most, 2 * at) - at) * (share > 0)) / alive


def check_room(
    job: Job,
    most: int,
    waiting: WaitingQueue,
    running: Iterable[Generation],
    backlog: Backlog,
    step: Callable[[int], float],
    now: float,
    free: int = 0,
) -> None:
    """Raises `Overloaded` where the queue is full, or the part of it that one API key may fill is. `free` of those in
    it are let in with the next step, and do not count.

    An answer that goes on (a ring that was set up anew) always finds a place: it had one.
    """
    if job.generated or job.attempt:
        return
    count = len(waiting) - free
    own = waiting.of(job.client) - free if job.client else 0
    share = max(1, most // SHARE)
    if count < most and own < share:
        return
    wait = backlog.told(job, waiting, running, step, now)
    wait = UNKNOWN_S if wait is None else wait
    when = f"they will have their turn in about {max(1, round(wait))} s: try again then"
    if count >= most:
        raise Overloaded(
            f"{count} requests wait for this model already, and no more may (--max-waiting {most}); {when}, ask for "
            "another model, or load this one on more nodes",
            retry_after=wait,
        )
    raise Overloaded(
        f"{own} requests of this API key wait for this model already, and one key may fill {share} of {most} places "
        f"(--max-waiting); {when}, or send fewer at once",
        code="key_queue_full",
        retry_after=wait,
    )


def _after_first(generation: Generation) -> int:
    """Tokens that it has made after its first here."""
    return generation.n_generated - len(generation.job.generated) - 1
