"""How long the queue is in seconds, held against the waits that a real head then gives."""

from __future__ import annotations

import itertools
import random
import statistics
from dataclasses import dataclass, field, replace

import pytest

from exo_node.errors import Overloaded
from exo_node.ring.backlog import SHARE, UNKNOWN_S, Backlog, check_room
from exo_node.ring.head import Head
from exo_node.ring.head_data import RingSetup
from exo_node.ring.kv_account import Pool
from exo_node.ring.messages import Epoch, Report
from exo_node.ring.sequences import Delta, Failed, Generation, Job, TokenChoice, Want
from exo_node.ring.waiting import WaitingQueue

STOP = 9
DEEP = 8  # waiting requests: from here on the queue's length is told to somebody
POOL = Pool(slots=1, context=600, max_chunk=64)
SETUP = RingSetup(
    epoch=Epoch(1, "c"), n_stages=1, slots=4, context=1024, max_chunk=256, vocab_size=100, vector_bytes=16,
    max_waiting=10_000, prefix_cache=True,
)  # fmt: skip


@dataclass
class Load:
    """A head under simulated load: `estimates` and the `waits` that came true, by ticket."""

    seed: int
    clients: int = 1
    slots: int = 4
    estimates: dict[int, float] = field(default_factory=dict)
    waits: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.head = Head(replace(SETUP, slots=self.slots))
        self.now = 0.0
        self.lengths: dict[int, int] = {}
        self.made: dict[int, int] = {}
        self.arrived: dict[int, float] = {}
        # A device of some speed: a step costs what reading the weights costs, and each token a little more.
        self.base, self.per_token = self.rng.uniform(0.005, 0.05), self.rng.uniform(0.0001, 0.001)
        self.typical = self.rng.uniform(10, 50)

    def submit(self, ticket: int) -> None:
        rng = self.rng
        self.lengths[ticket] = max(1, min(400, round(rng.lognormvariate(0.0, 0.7) * self.typical)))
        prompt = tuple(rng.randrange(10, 90) for _ in range(rng.randrange(5, 120)))
        most = rng.choice((900, 900, 64))
        client = f"key-{rng.randrange(self.clients)}" if self.clients > 1 else ""
        job = Job(request_id=f"r{ticket}", prompt=prompt, max_tokens=most, stop_ids=frozenset({STOP}), client=client)
        slots = self.head._slots
        if len(slots.waiting) >= DEEP:
            told = self.head._backlog.wait(job, slots.waiting, slots.running.values(), self.head.times.trip, self.now)
            if told is not None:
                self.estimates[ticket] = told
        self.arrived[ticket], self.made[ticket] = self.now, 0
        assert self.head.submit(ticket, job, self.now) == []

    def step(self) -> bool:
        """One step of the device; False when there is nothing to do."""
        head = self.head
        outgoing = head.next_step(self.now)
        if outgoing is None:
            return False
        begun = self.now
        self.now += self.base + self.per_token * sum(row.length for row in outgoing.step.rows)
        entry = head._flight.steps[0]
        report = Report(0, 0, round((self.now - begun) * 1e6), 0, *entry.pools[0])
        for want in head.home(outgoing.step.number, [report], self.now):
            assert isinstance(want, Want)
            self.made[want.ticket] += 1
            token = STOP if self.made[want.ticket] >= self.lengths[want.ticket] else self.rng.randrange(10, 90)
            delta, _ = head.token(want.ticket, TokenChoice(token), self.now)
            if self.made[want.ticket] == 1:
                self.waits[want.ticket] = delta.queue_us / 1e6
        head.measured([report], self.now - begun, 0.0)
        return True

    def run(self, arrivals: list[float]) -> None:
        """Until all that arrive (at these seconds) are served."""
        todo = iter(enumerate(arrivals, 1))
        coming = next(todo, None)
        while True:
            while coming is not None and coming[1] <= self.now:
                self.submit(coming[0])
                coming = next(todo, None)
            if not self.step():
                if coming is None:
                    return
                self.now = max(self.now, coming[1])

    def pace(self) -> float:
        """Seconds between arrivals that would keep the device just busy."""
        return self.base * self.typical * 1.28 / self.slots

    def errors(self) -> list[float]:
        """Of the waits that were any."""
        told = [(one, self.waits[ticket]) for ticket, one in self.estimates.items() if self.waits[ticket] > self.base]
        return [abs(one - real) / real for one, real in told]


def arrivals(load: Load, pattern: str, count: int) -> list[float]:
    rng, pace = load.rng, load.pace()
    match pattern:
        case "steady":  # half as many again as can be served
            gaps = [rng.expovariate(1.5 / pace) for _ in range(count)]
        case "bursts":  # twenty at once, then silence
            gaps = [0.0 if i % 20 else pace * 14 for i in range(count)]
        case _:  # all of it at once, after a few that tell how fast it is
            gaps = [pace * 4 if i < 16 else 0.0 for i in range(count)]
    return list(itertools.accumulate(gaps))


@pytest.mark.parametrize("pattern", ["steady", "bursts", "flood"])
def test_the_wait_that_is_told_comes_true(pattern: str) -> None:
    """The median error over devices, lengths and arrivals is at most 30 % of the real wait."""
    errors: list[float] = []
    for seed in range(6):
        load = Load(seed, clients=1 + seed % 3, slots=(2, 4, 8)[seed % 3])
        load.run(arrivals(load, pattern, 70))
        errors += load.errors()
    assert len(errors) > 50
    assert statistics.median(errors) <= 0.30, statistics.quantiles(errors, n=10)


def unknown(tokens: int) -> float:
    """What a step takes."""
    return 0.0


def waiting_for(*jobs: Job) -> WaitingQueue:
    queue = WaitingQueue()
    for ticket, job in enumerate(jobs, 1):
        queue.add(Generation.start(ticket, job, 0.0))
    return queue


def job(name: str, client: str = "", **fields: object) -> Job:
    return replace(Job(request_id=name, prompt=(1, 2, 3), max_tokens=8, client=client), **fields)  # type: ignore[arg-type]


def test_a_full_queue_says_whose_fault_it_is_and_when_to_come_back() -> None:
    """One key fills half of it at most; all together the whole; nobody is told anything while there is room."""
    backlog = Backlog(POOL)
    own = waiting_for(job("a", "k"), job("b", "k"))
    check_room(job("c", "other"), 4, own, (), backlog, unknown, 0.0)
    with pytest.raises(Overloaded, match=r"2 requests of this API key wait .* may fill 2 of 4") as refused:
        check_room(job("c", "k"), 4, own, (), backlog, unknown, 0.0)
    assert (refused.value.code, refused.value.status, refused.value.retry_after) == ("key_queue_full", 429, UNKNOWN_S)
    nameless = waiting_for(*(job(str(i)) for i in range(3)))
    check_room(job("c"), 4, nameless, (), backlog, unknown, 0.0)  # without keys there is nobody to be fair to
    full = waiting_for(*(job(str(i), str(i)) for i in range(4)))
    with pytest.raises(Overloaded, match=r"4 requests wait .*--max-waiting 4") as refused:
        check_room(job("c"), 4, full, (), backlog, unknown, 0.0)
    assert refused.value.code == "queue_full"
    assert SHARE == 2


def test_one_for_whom_a_slot_is_free_does_not_wait() -> None:
    """Many that come at once to an idle model are let in with the next step: only those beyond its slots queue."""
    head = Head(replace(SETUP, slots=4, max_waiting=2))
    refused = [bool(head.submit(ticket, job(f"r{ticket}", "k"), 0.0)) for ticket in range(1, 8)]
    assert refused == [False] * 5 + [True] * 2, "four slots, and half of two places for one key"
    assert not head.submit(9, job("other", "o"), 0.0)
    assert head.next_step(0.0) is not None
    assert (head.running, head.waiting) == (4, 2)
    (refusal,) = head.submit(10, job("late", "p"), 0.0)
    assert isinstance(refusal, Failed)
    assert "2 requests wait" in refusal.error.message


def test_a_slot_without_memory_is_not_free() -> None:
    """Who finds no memory waits, however many slots there are."""
    head = Head(replace(SETUP, slots=4, max_waiting=2, kv_tokens=1024))
    long = tuple(range(10, 90)) * 10
    for ticket in range(1, 3):
        assert not head.submit(ticket, job(f"r{ticket}", str(ticket), prompt=long), 0.0)
    assert head.next_step(0.0) is not None
    assert (head.running, head.waiting) == (1, 1)
    assert not head.submit(3, job("r3", "3", prompt=long), 0.0)
    assert head.submit(4, job("r4", "4", prompt=long), 0.0)


def test_an_answer_that_goes_on_always_finds_a_place() -> None:
    """A ring that was set up anew takes back what it had, however many wait."""
    full = waiting_for(job("a"), job("b"))
    check_room(job("c", generated=(5,)), 2, full, (), Backlog(POOL), unknown, 0.0)
    check_room(job("c", attempt=1), 2, full, (), Backlog(POOL), unknown, 0.0)


def served(length: int, seconds: float) -> Generation:
    one = Generation.start(9, job("x", max_tokens=500), 0.0)
    one.admitted, one.n_generated = 0.0, length
    return one


def test_the_arithmetic_of_a_queue() -> None:
    """Ten tokens at a tenth of a second each, two before the new one, one slot: two seconds and what still runs."""
    backlog = Backlog(POOL)
    for _ in range(3):
        one = served(11, 1.0)
        backlog.first_token(one, 0.0)
        backlog.ended(one, 1.0, 1)
    running = Generation.start(7, job("r", max_tokens=500), 0.0)
    running.admitted = running.first_at = 5.0
    running.n_generated, running.sent = 6, running.prefill  # five after its first, in half a second
    queue = waiting_for(job("a", max_tokens=500), job("b", max_tokens=500))
    queue.add(running)
    queue.start(running)
    assert backlog.wait(job("c"), queue, [running], unknown, 5.5) == pytest.approx(0.5 + 2 * 1.1)
    assert Backlog(POOL).wait(job("c"), queue, [running], unknown, 5.5) is not None  # its own pace is known
    assert Backlog(POOL).wait(job("c"), queue, [], unknown, 5.5) is None


def test_a_head_refuses_with_the_wait() -> None:
    """The notice of a refused request carries it; a ring at work knows better than the first guess."""
    load = Load(3, slots=2)
    load.head = Head(replace(SETUP, slots=2, max_waiting=12))
    for ticket in range(1, 13):
        load.submit(ticket)
    for _ in range(40):
        load.step()
    extra, refused = 100, None
    while refused is None:
        extra += 1
        load.lengths[extra], load.made[extra] = 5, 0
        found = load.head.submit(extra, job(f"r{extra}"), load.now)
        refused = next((one for one in found if isinstance(one, Failed)), None)
    assert not any(isinstance(one, Delta) for one in found)
    assert isinstance(refused.error, Overloaded)
    assert refused.error.retry_after not in (None, UNKNOWN_S)
