"""The ring's protocol under every disturbance that we can think of (ARCHITECTURE 3.3), as a state machine.

It drives the real head, followers and wire messages through a network that delays, doubles, loses and reorders.
Whatever happens, no wrong token is ever delivered.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from exo_node.errors import PeerUnavailable
from exo_node.ring.events import Cancel, Lost, StepIn, Submit
from exo_node.ring.messages import Epoch
from exo_node.ring.prompt_reading import scored
from exo_node.ring.sequences import Failed, Job, Pooling, Priority
from exo_node.transport.codec import StepFrame
from exo_node.types import Dtype, SamplingParams
from tests.unit.ring.fakering import CONTEXT, VOCAB, FakeRing, oracle, oracle_logits, oracle_vector

TOKENS = st.integers(0, VOCAB - 1)
LONG = tuple((7 * i * i + i) % VOCAB for i in range(40))  # many prompts begin with some of it
PROMPTS = st.builds(
    lambda shared, own: LONG[:shared] + tuple(own),
    st.sampled_from([0, 0, 18, 33, 40]),
    st.lists(TOKENS, min_size=1, max_size=14),
)
GREEDY = SamplingParams(temperature=0.0)


class RingMachine(RuleBasedStateMachine):
    """Head and followers as they run; only the network and the order of events are ours."""

    @initialize(
        n_stages=st.integers(1, 4),
        peaceful=st.booleans(),
        first=st.lists(st.integers(1, 14), min_size=1, max_size=3),
        slots=st.integers(1, 3),
        wire=st.sampled_from(["float32", "float16", "bfloat16"]),
        keeps=st.booleans(),
        drafts=st.booleans(),
        reproducible=st.sampled_from([False, False, True]),
        kv_tokens=st.sampled_from([0, 0, CONTEXT, CONTEXT + 8]),
        depth=st.sampled_from([None, 1, 9]),
        whole_tokens=st.sampled_from([0, 12]),
    )
    def build(
        self,
        n_stages: int,
        slots: int,
        wire: Dtype,
        peaceful: bool,
        first: list[int],
        keeps: bool,
        drafts: bool,
        **rules: Any,
    ) -> None:
        self.peaceful = peaceful  # half of all runs see no fault, so that their ends can be checked in full
        self.keeps = keeps
        self.ring = FakeRing(n_stages, slots=slots, wire=wire, block=4, prefix_cache=keeps, speculation=drafts, **rules)
        self.counter = 1
        self.jobs: dict[int, Job] = {}
        self.cancelled: set[int] = set()
        self.past: list[bytes] = []  # of epochs that are over
        self.fault = ""
        assert all(done.exception() is None for done in self.ring.configure(1))
        # the first jobs come with the machine: most runs that hypothesis draws would do nothing but wait for one
        for length in first:
            self.submit(tuple(range(1, length + 1)), 14, frozenset(), 0)

    @rule(prompt=PROMPTS, reading=st.sampled_from(["mean", "last", "scores"]))
    def read(self, prompt: tuple[int, ...], reading: str) -> None:
        """A job that ends with its prompt."""
        ticket = len(self.jobs) + 1
        scores = 2 if reading == "scores" else None
        pooling = None if reading == "scores" else Pooling("last" if reading == "last" else "mean")
        job = Job(request_id=str(ticket), prompt=prompt, max_tokens=0, prompt_logprobs=scores, pooling=pooling)
        self.jobs[ticket] = job
        self.ring.head.handle(Submit(ticket, job))

    @invariant()
    def never_more_memory_than_there_is(self) -> None:
        head = self.ring.head.head
        assert head is not None
        account = head.residents.account
        assert 0 <= account.free_tokens <= account.kv_tokens
        assert account.free_slots >= 0

    @rule(
        prompt=PROMPTS, max_tokens=st.integers(1, 12), stop=st.frozensets(TOKENS, max_size=2), resume=st.integers(0, 5),
        scores=st.booleans(), client=st.sampled_from("ab"), priority=st.sampled_from(["high", "normal", "low"]),
    )  # fmt: skip
    def submit(
        self,
        prompt: tuple[int, ...],
        max_tokens: int,
        stop: frozenset[int],
        resume: int,
        scores: bool = False,
        client: str = "",
        priority: Priority = "normal",
    ) -> None:
        ticket = len(self.jobs) + 1
        before = () if scores else oracle(prompt, max_tokens, stop)[:resume]
        job = Job(
            request_id=str(ticket),
            prompt=prompt,
            generated=before,
            max_tokens=max_tokens,
            stop_ids=stop,
            sampling=GREEDY,
            prompt_logprobs=0 if scores else None,
            client=client,
            priority=priority,
        )
        self.jobs[ticket] = job
        self.ring.head.handle(Submit(ticket, job))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        running = [ticket for ticket in self.jobs if self.ring.ended(ticket) is None]
        ticket = data.draw(st.sampled_from(running or sorted(self.jobs)))
        self.cancelled.add(ticket)
        self.ring.head.handle(Cancel(ticket))

    @rule()
    def compute(self) -> None:
        self.ring.head.advance()

    @rule(rounds=st.integers(1, 6), late=st.integers(0, 3))
    def run(self, rounds: int, late: int) -> None:
        """The ring turns for a while; hop `late` is left out, so that steps pile up there."""
        for _ in range(rounds):
            self.ring.head.advance()
            for hop in range(self.ring.n_stages):
                if hop != late:
                    self.ring.deliver(hop)

    @rule(hop=st.integers(0, 3), count=st.integers(1, 3))
    def deliver(self, hop: int, count: int) -> None:
        for _ in range(count):
            self.ring.deliver(hop % self.ring.n_stages)

    @precondition(lambda self: not self.peaceful and not self.fault)
    @rule(hop=st.integers(0, 3))
    def double(self, hop: int) -> None:
        queue = self.ring.hops[hop % self.ring.n_stages]
        if queue:
            queue.insert(1, queue[0])
            self.fault = "doubled"

    @precondition(lambda self: not self.peaceful and not self.fault)
    @rule(hop=st.integers(0, 3))
    def reorder(self, hop: int) -> None:
        queue = self.ring.hops[hop % self.ring.n_stages]
        if len(queue) > 1:
            queue[0], queue[1] = queue[1], queue[0]
            self.fault = "reordered"

    @precondition(lambda self: not self.peaceful and not self.fault)
    @rule(hop=st.integers(0, 3))
    def lose(self, hop: int) -> None:
        queue = self.ring.hops[hop % self.ring.n_stages]
        if queue:
            self.past.append(queue.popleft())
            self.fault = "lost"

    @precondition(lambda self: not self.peaceful and not self.fault)
    @rule(hop=st.integers(0, 3))
    def break_stream(self, hop: int) -> None:
        """The stage behind a hop is told that its upstream is gone."""
        stage = (hop % self.ring.n_stages + 1) % self.ring.n_stages
        if self.ring.n_stages > 1:
            error = PeerUnavailable("stage x is gone")
            self.ring.workers[stage].handle(Lost(Epoch(self.counter, "c"), hop, error))
            self.fault = "broken"

    @precondition(lambda self: self.past)
    @rule(data=st.data())
    def stale(self, data: st.DataObject) -> None:
        """A step of an epoch that is over has no effect."""
        frame = StepFrame.from_bytes(data.draw(st.sampled_from(self.past)))
        if frame.message.epoch.counter == self.counter:
            return
        stage = data.draw(st.integers(0, self.ring.n_stages - 1))
        before = self.ring.pools(), [len(hop) for hop in self.ring.hops]
        self.ring.workers[stage].handle(StepIn(frame, 0))
        assert (self.ring.pools(), [len(hop) for hop in self.ring.hops]) == before

    @rule()
    def configure_stale(self) -> None:
        """An epoch that is not larger is refused and changes nothing."""
        before = self.ring.pools()
        assert all(done.exception() is not None for done in self.ring.configure(self.counter, "b"))
        assert self.ring.pools() == before

    @precondition(lambda self: self.fault or (self.ring.head.head is not None and self.ring.head.head.steps >= 8))
    @rule()
    def new_epoch(self) -> None:
        self.reconfigure()

    @rule(
        data=st.data(), rounds=st.integers(0, 12), late=st.integers(0, 4), lost=st.integers(-1, 3), twice=st.booleans()
    )
    def recover(self, data: st.DataObject, rounds: int, late: int, lost: int, twice: bool) -> None:
        """A stage is lost, or a link (-1), perhaps two after each other; what stages have kept is used again by the
        requests that come back, whose last tokens may have been lost on their way."""
        self.run(rounds, 4)
        self.run(1, late)
        before = [ticket for ticket in self.jobs if self.ring.ended(ticket) is None and ticket not in self.cancelled]
        for stage in (lost, 0)[: 1 + twice]:
            for hop in self.ring.hops:
                self.past.extend(hop)
                hop.clear()
            self.counter += 1
            self.ring.recover(self.counter, stage if 0 <= stage < self.ring.n_stages else None)
        self.fault = ""
        for ticket in before:
            if self.ring.ended(ticket) is None:  # its connection went with the head
                self.ring.notices.setdefault(ticket, []).append(Failed(ticket, PeerUnavailable("stage 0 is gone")))
            if data.draw(st.integers(0, 4)) < 4:
                self.resume(ticket, data.draw(st.sampled_from([0, 0, 0, 1, 2, 5])))

    def resume(self, ticket: int, missed: int) -> None:
        job, new = self.jobs[ticket], self.new_tokens(ticket)
        known = new[: max(len(new) - missed, min(1, len(new)))] if job.prompt_logprobs is None else []
        sequence = self.ring.sequence(ticket) if known else job.sequence
        again = replace(job, generated=job.generated + tuple(known), attempt=job.attempt + 1, sequence=sequence)
        self.jobs[len(self.jobs) + 1] = again
        self.ring.head.handle(Submit(len(self.jobs), again))

    def reconfigure(self) -> None:
        for hop in self.ring.hops:
            self.past.extend(hop)
            hop.clear()
        self.counter += 1
        self.fault = ""
        assert all(done.exception() is None for done in self.ring.configure(self.counter))
        assert set(self.ring.pools()) == {(0, 0)}
        # every generation of the old epoch has ended, with its text or with an error
        assert all(self.ring.ended(ticket) or ticket in self.cancelled for ticket in self.jobs)

    @invariant()
    def never_a_wrong_token(self) -> None:
        for ticket, job in self.jobs.items():
            got = job.generated + tuple(self.new_tokens(ticket))
            wanted = oracle(job.prompt, job.max_tokens, job.stop_ids) if job.draws else ()
            assert got == wanted[: len(got)]
            told = [choice for notice in self.ring.notices.get(ticket, []) for choice in getattr(notice, "prompt", ())]
            for at, choice in enumerate(told):
                logits = oracle_logits(job.prompt[: at + 1])[None]
                assert [choice] == scored(logits, job.prompt[at + 1 : at + 2], job.prompt_logprobs or 0)
            end = self.ring.ended(ticket)
            if end is not None and not isinstance(end, Failed):
                assert got == wanted
                assert len(told) == (0 if job.prompt_logprobs is None else len(job.prompt) - 1)
                vector = b"" if job.pooling is None else oracle_vector(job.prompt, job.pooling.mode)
                assert end.vector == vector

    def new_tokens(self, ticket: int) -> list[int]:
        """Like FakeRing.tokens, with indexes that begin after the resumed tokens."""
        got: list[int] = []
        for notice in self.ring.notices.get(ticket, []):
            choice = getattr(notice, "choice", None)
            if choice is not None:
                assert notice.index == len(self.jobs[ticket].generated) + len(got)  # type: ignore[union-attr]
                got.append(choice.token)
        return got

    def teardown(self) -> None:
        if not hasattr(self, "ring"):
            return
        self.ring.settle()
        self.never_a_wrong_token()
        head = self.ring.head.head
        assert head is not None
        head.residents.expire(1e18)  # nobody comes back any more
        self.ring.settle()
        if self.fault in ("doubled", "reordered", "broken"):
            assert head.broken is not None, f"a step was {self.fault} and nobody noticed"
        if not self.fault:
            assert head.broken is None
        if head.broken is None and not self.fault:
            assert self.keeps or set(self.ring.pools()) == {(0, 0)}, "a slot was not given back"
            assert head.running == head.waiting == 0
            account = head.residents.account
            assert set(self.ring.pools()) == {(account.sequences, account.cached_tokens)}
            assert account.free_slots + account.sequences == self.ring.slots
            assert all(self.ring.ended(ticket) or ticket in self.cancelled for ticket in self.jobs)
        # whatever happened, the next epoch works
        self.reconfigure()
        self.submit((1, 2, 3), 4, frozenset(), 0)
        self.ring.settle()
        self.never_a_wrong_token()
        assert not isinstance(self.ring.ended(len(self.jobs)), Failed | None)


TestRing = RingMachine.TestCase
TestRing.settings = settings(max_examples=100, stateful_step_count=50, deadline=None, derandomize=True)
