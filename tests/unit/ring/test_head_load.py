"""Head, followers and messages under load: many callers, shared beginnings, little memory, right and wrong drafts."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exo_node.ring.drafting import Drafter
from exo_node.ring.events import Cancel, Submit
from exo_node.ring.sequences import Delta, Failed, Job, Priority
from exo_node.ring.step_times import RingTimes
from exo_node.types import SamplingParams
from tests.unit.ring.fakering import CONTEXT, VOCAB, FakeRing, oracle

GREEDY = SamplingParams(temperature=0.0)
BASE = tuple((7 * i * i + i) % VOCAB for i in range(40))
PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")


class Guessing(Drafter):
    """Drafts that are right to a random depth, whatever the text."""

    def __init__(self, tokens: list[int], whole: tuple[int, ...], numbers: random.Random) -> None:
        super().__init__(tokens)
        self._mine, self._whole, self._numbers = tokens, whole, numbers

    def propose(self, room: int, rows: int, times: RingTimes) -> list[int]:
        coming = list(self._whole[len(self._mine) : len(self._mine) + self._numbers.randrange(5)])
        if coming and self._numbers.random() < 0.5:
            coming[-1] = (coming[-1] + 1) % VOCAB
        self._offered = len(coming[: max(0, room)])
        return coming[: max(0, room)]


class Load:
    """A ring and the jobs that come to it at random."""

    def __init__(self, numbers: random.Random, n_stages: int, **rules: Any) -> None:
        self.numbers = numbers
        self.ring = FakeRing(n_stages, max_chunk=numbers.choice([4, 16]), block=4, **rules)
        assert all(done.exception() is None for done in self.ring.configure(1))
        self.jobs: dict[int, Job] = {}
        self.cancelled: set[int] = set()

    @property
    def head(self) -> Any:
        return self.ring.head.head

    def submit(self) -> None:
        numbers, ticket = self.numbers, len(self.jobs) + 1
        shared = numbers.choice([0, 17, 25, 40])
        prompt = BASE[:shared] + tuple(numbers.randrange(VOCAB) for _ in range(numbers.randrange(1, 10)))
        if self.jobs and numbers.random() < 0.3:  # the next turn of a chat: what was said and answered, and more
            before = self.jobs[numbers.choice(sorted(self.jobs))]
            said = before.prompt + oracle(before.prompt, before.max_tokens, before.stop_ids)
            prompt = (*said, *prompt[-3:])[: CONTEXT - 8]
        client, priority = numbers.choice("ab"), numbers.choice(PRIORITIES)
        job = Job(
            request_id=str(ticket),
            prompt=prompt,
            max_tokens=numbers.randrange(1, 14),
            sampling=GREEDY,
            client=client,
            priority=priority,
            prompt_logprobs=0 if numbers.random() < 0.2 else None,
        )
        self.jobs[ticket] = job
        self.ring.head.handle(Submit(ticket, job))
        waiting = next((one for one in self.head._slots.waiting if one.ticket == ticket), None)
        if waiting is not None and waiting.drafter is not None:
            whole = prompt + oracle(prompt, 20, frozenset())
            waiting.drafter = Guessing(waiting.tokens, whole, numbers)

    def cancel(self) -> None:
        ticket = self.numbers.choice(sorted(self.jobs))
        self.cancelled.add(ticket)
        self.ring.head.handle(Cancel(ticket))

    def turn(self) -> None:
        """One random event; memory is never promised twice."""
        match self.numbers.random():
            case chance if chance < 0.08 and len(self.jobs) < 25:
                self.submit()
            case chance if chance < 0.1 and self.jobs:
                self.cancel()
            case chance if chance < 0.5:
                self.ring.head.advance()
            case _:
                self.ring.deliver(self.numbers.randrange(self.ring.n_stages))
        account = self.head.residents.account
        assert 0 <= account.free_tokens <= account.kv_tokens
        assert 0 <= account.free_slots <= self.ring.slots

    def finish(self) -> None:
        """Nothing new comes: every job that was not cancelled ends with exactly its text, and nothing else is held."""
        self.ring.settle(20_000)
        assert self.head.broken is None, self.head.broken
        assert (self.head.running, self.head.waiting) == (0, 0)
        for ticket, job in self.jobs.items():
            got, end = self.ring.tokens(ticket), self.ring.ended(ticket)
            wanted = oracle(job.prompt, job.max_tokens, job.stop_ids)
            assert got == wanted[: len(got)]
            assert ticket in self.cancelled or (isinstance(end, Delta) and got == wanted)
            assert not isinstance(end, Failed)
            read = [one.token for delta in self.ring.notices.get(ticket, ()) for one in getattr(delta, "prompt", ())]
            said = job.prompt[1:] if job.reads else ()
            assert tuple(read) == (said if ticket not in self.cancelled else said[: len(read)])
        account = self.head.residents.account
        assert set(self.ring.pools()) == {(account.sequences, account.cached_tokens)}
        assert account.free_slots + account.sequences == self.ring.slots
        assert not self.head._slots.waiting._flows


RULES = st.fixed_dictionaries(
    {
        "slots": st.integers(1, 4),
        "prefix_cache": st.booleans(),
        "speculation": st.booleans(),
        "reproducible": st.sampled_from([False, False, False, True]),
        "kv_tokens": st.sampled_from([0, CONTEXT, CONTEXT + 12, 2 * CONTEXT]),
        "depth": st.sampled_from([None, 2, 7]),
        "whole_tokens": st.sampled_from([0, 20]),
    }
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), n_stages=st.integers(1, 4), rules=RULES)
def test_every_answer_ends_with_its_own_text(seed: int, n_stages: int, rules: dict[str, Any]) -> None:
    """Whatever arrives and leaves: no starvation, no memory given twice, no token of another, nothing left behind."""
    load = Load(random.Random(seed), n_stages, **rules)
    for _ in range(400):
        load.turn()
    load.finish()


def test_load_meets_every_case() -> None:
    """The property above is worth something: hits, evictions, preemptions, right and wrong drafts occur."""
    met: Counter[str] = Counter()
    for seed in range(24):
        load = Load(
            random.Random(seed), 1 + seed % 3, slots=3, prefix_cache=True, speculation=True, kv_tokens=CONTEXT + 12
        )
        for _ in range(400):
            load.turn()
        load.finish()
        counts, prefixes = load.head.counts, load.head.residents.counts
        met += Counter(
            preempted=counts.preempted,
            right=counts.accepted,
            wrong=counts.drafted - counts.accepted,
            found=prefixes.found,
            evicted=prefixes.evicted,
        )
    assert min(met[name] for name in ("preempted", "right", "wrong", "found", "evicted")) > 20, met


@pytest.mark.parametrize("flood", ["normal", "high"])
def test_nobody_starves_beside_a_flood(flood: Priority) -> None:
    """One caller sends without end; another's one request, even of low priority, is answered meanwhile."""
    ring = FakeRing(1, slots=1, max_waiting=1000)
    ring.configure(1)
    for ticket in range(1, 200):
        ring.head.handle(
            Submit(ticket, Job(request_id=f"f{ticket}", prompt=(ticket % VOCAB, 3), max_tokens=4, priority=flood))
        )
    ring.head.handle(Submit(999, Job(request_id="x", prompt=(1, 2), max_tokens=4, client="other", priority="low")))
    while ring.ended(999) is None:
        assert ring.head.advance()
    served = sum(ring.ended(ticket) is not None for ticket in range(1, 200))
    assert served < 100


def test_callers_share_evenly() -> None:
    """Of two callers of one priority, the one with fifty requests waiting gets no more than the one with ten."""
    ring = FakeRing(1, slots=2, max_waiting=1000)
    ring.configure(1)
    for ticket in range(1, 61):
        client = "busy" if ticket <= 50 else "quiet"
        ring.head.handle(
            Submit(ticket, Job(request_id=str(ticket), prompt=(3, ticket % VOCAB), max_tokens=4, client=client))
        )
    while sum(ring.ended(ticket) is not None for ticket in range(51, 61)) < 10:
        assert ring.head.advance()
    assert sum(ring.ended(ticket) is not None for ticket in range(1, 51)) <= 14


def test_a_second_turn_computes_its_new_tokens_only() -> None:
    """What the shards still hold of a chat is not computed again, and the first delta says how much that was."""
    ring = FakeRing(2, slots=2, max_chunk=64, prefix_cache=True)
    ring.configure(1)
    first = Job(request_id="1", prompt=BASE[:30], max_tokens=6, sampling=GREEDY)
    ring.head.handle(Submit(1, first))
    ring.settle()
    again = (*BASE[:30], *ring.tokens(1), 5, 6, 7)
    ring.head.handle(Submit(2, Job(request_id="2", prompt=again, max_tokens=6, sampling=GREEDY)))
    ring.settle()
    assert ring.tokens(2) == oracle(again, 6, frozenset())
    first_delta = ring.notices[2][0]
    assert isinstance(first_delta, Delta)
    assert first_delta.cached == 35  # the last token of an answer has never been through the layers


def test_what_one_caller_sent_is_not_told_to_another() -> None:
    """A prompt's beginning is found again within one API key only."""
    ring = FakeRing(1, slots=3, max_chunk=64, prefix_cache=True)
    ring.configure(1)
    for ticket, client in ((1, "a"), (2, "b"), (3, "a")):
        ring.head.handle(Submit(ticket, Job(request_id=str(ticket), prompt=BASE, max_tokens=2, client=client)))
        ring.settle()
    cached = [notices[0].cached for notices in ring.notices.values() if isinstance(notices[0], Delta)]
    assert cached == [0, 0, 39]
