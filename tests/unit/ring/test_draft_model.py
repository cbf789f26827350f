"""Drafts of a second model: right and wrong ones give the text that there would be without."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from exo_node.engine.base import EngineRow, Hidden, LoadPlan
from exo_node.engine.fake import FakeEngine
from exo_node.ring.draft_model import SETTLED, DraftModel
from exo_node.ring.drafting import RETRY
from exo_node.ring.events import Cancel, Submit
from exo_node.ring.messages import Report
from exo_node.ring.sequences import Job
from exo_node.ring.step_times import RingTimes
from exo_node.types import SamplingParams, Shard
from tests.unit.ring.fakering import CONTEXT, HIDDEN, LAYERS, VOCAB, FakeRing, oracle

GREEDY = SamplingParams(temperature=0.0)
UNKNOWN = RingTimes(1)


class Timed(FakeEngine):
    """Takes a millisecond a token, by its own clock."""

    now = 0.0

    def forward(self, rows: Sequence[EngineRow], hidden: Hidden | None) -> npt.NDArray[np.float32]:
        self.now += sum(row.length for row in rows) / 1000
        return super().forward(rows, hidden)


def draft_model(
    fake: FakeEngine | None = None,
    *,
    layers: int = LAYERS,
    slots: int = 2,
    vocab: int = VOCAB,
    max_chunk: int = 4,
    depth: int | None = None,
    **more: Any,
) -> DraftModel:
    """The tiny model itself, or with other layers or tokens another one. It takes no time."""
    fake = fake or FakeEngine()
    config = {"num_hidden_layers": layers, "hidden_size": HIDDEN, "vocab_size": vocab, **more}
    fake.load(
        LoadPlan(
            config=config, shard=Shard("d", 0, layers, layers), is_head=True, compute_dtype="float32", slots=slots,
            context=CONTEXT, max_chunk=max_chunk, device="CPU",
        ),
        None,
        lambda done, total: None,
    )  # fmt: skip
    return DraftModel(
        fake, slots=slots, context=CONTEXT, max_chunk=max_chunk, vocab_size=vocab, target_vocab_size=VOCAB,
        rollback_depth=depth, clock=lambda: 0.0,
    )  # fmt: skip


def ring_with(model: DraftModel, n_stages: int = 1, **rules: Any) -> FakeRing:
    ring = FakeRing(n_stages, slots=4, make_drafter=model.drafter, speculation=True, **rules)
    ring.configure(1)
    ring.settle()
    return ring


def ask(ring: FakeRing, ticket: int, prompt: Sequence[int], max_tokens: int = 30, **more: Any) -> None:
    job = Job(request_id=str(ticket), prompt=tuple(prompt), max_tokens=max_tokens, **{"sampling": GREEDY, **more})
    ring.head.handle(Submit(ticket, job))


@pytest.mark.parametrize("n_stages", [1, 3])
@pytest.mark.parametrize("depth", [None, 0, 2])
@pytest.mark.parametrize("layers", [LAYERS, 2])
def test_the_text_is_as_without(n_stages: int, depth: int | None, layers: int) -> None:
    """Right and wrong guesses, more requests than draft slots, any rollback: the greedy text; all slots come back."""
    model = draft_model(layers=layers, depth=depth)
    ring = ring_with(model, n_stages)
    prompts = [tuple(range(1, 2 + length)) for length in (0, 3, 8, 11)]
    for ticket, prompt in enumerate(prompts):
        ask(ring, ticket, prompt)
    ring.settle()
    assert [ring.tokens(ticket) for ticket in range(4)] == [oracle(one, 30, frozenset()) for one in prompts]
    assert ring.head.head is not None
    counts = ring.head.head.counts
    assert counts.drafted > 0
    if layers == LAYERS:
        assert counts.accepted > counts.drafted / 2
    assert model.free_slots == model.slots


def test_a_seeded_text_is_as_without() -> None:
    """What is drawn does not follow the guesses."""
    texts = []
    for model in (draft_model(), draft_model(layers=1), draft_model(slots=0)):
        ring = ring_with(model)
        ask(ring, 1, (1, 2, 3), sampling=SamplingParams(seed=5))
        ring.settle()
        texts.append(ring.tokens(1))
    assert len(texts[0]) == 30
    assert len(set(texts)) == 1


def test_slots_come_back() -> None:
    """From one that is cancelled, that another sends back to its queue, and from a ring that is set up anew."""
    model = draft_model(slots=4)
    ring = ring_with(model, kv_tokens=CONTEXT + 12, block=4)
    for ticket in range(1, 5):
        ask(ring, ticket, range(1, 10), client=str(ticket))
    for _ in range(12):
        ring.head.advance()
    assert model.free_slots < model.slots
    ring.head.handle(Cancel(1))
    ring.settle()
    assert ring.head.head is not None
    assert ring.head.head.counts.preempted > 0
    assert [ring.tokens(one) for one in (2, 3, 4)] == [oracle(tuple(range(1, 10)), 30, frozenset())] * 3
    assert model.free_slots == model.slots
    ask(ring, 5, range(1, 6))
    for _ in range(6):
        ring.head.advance()
    assert model.free_slots == model.slots - 1
    ring.configure(2)
    assert model.free_slots == model.slots


def test_without_a_free_slot_there_are_no_model_drafts() -> None:
    """The first has them, the second when the first has ended; its own repetitions it has at once."""
    model = draft_model(slots=1, max_chunk=8)
    first, second = model.drafter([1, 2, 3]), model.drafter([4, 5, 6])
    assert first.propose(3, 1, UNKNOWN) == list(oracle((1, 2, 3), 3, frozenset()))
    assert second.propose(3, 1, UNKNOWN) == []
    assert model.drafter([1, 2, 7, 1, 2]).propose(1, 1, UNKNOWN) == [7]
    first.rest()
    assert second.propose(3, 1, UNKNOWN) == list(oracle((4, 5, 6), 3, frozenset()))


def test_who_has_given_up_guessing_leaves_its_slot_to_others() -> None:
    """Where all slots are taken, one whose guesses have not been worth it for some tokens does not keep its own."""
    model = draft_model(slots=1, layers=1, max_chunk=CONTEXT)
    first, second = model.drafter([1]), model.drafter([2])
    while draft := first.propose(8, 1, UNKNOWN):
        first.settle(len(draft))
    assert second.propose(8, 1, UNKNOWN) == []
    for _ in range(SETTLED):
        first.propose(8, 1, UNKNOWN)
    assert second.propose(8, 1, UNKNOWN)


def test_a_text_that_has_outgrown_the_draft_model_leaves_its_slot_to_others() -> None:
    """The ring may hold longer texts than the draft model: one of those is never guessed for again."""
    model = draft_model(slots=1, max_chunk=CONTEXT)
    tokens = [1]
    first, second = model.drafter(tokens), model.drafter([2])
    assert first.propose(8, 1, UNKNOWN)
    tokens.extend([*[3] * (CONTEXT - 3), 4, 5])
    assert first.propose(8, 1, UNKNOWN) == []
    assert second.propose(8, 1, UNKNOWN)


def test_a_slot_is_kept_where_others_are_free() -> None:
    """Nobody wants it, and the text that it holds need not be read again."""
    model = draft_model(slots=2, layers=1, max_chunk=CONTEXT)
    first = model.drafter([1])
    while draft := first.propose(8, 1, UNKNOWN):
        first.settle(len(draft))
    for _ in range(SETTLED + 1):
        first.propose(8, 1, UNKNOWN)
    assert model.free_slots == 1


def test_a_long_prompt_is_read_a_chunk_at_a_time() -> None:
    """No step waits for more than one chunk of the draft model; the draft comes when it has read all."""
    tokens = list(range(1, 11))
    drafter = draft_model(max_chunk=4).drafter(tokens)
    assert [drafter.propose(3, 1, UNKNOWN) for _ in range(2)] == [[], []]
    assert drafter.propose(3, 1, UNKNOWN) == list(oracle(tuple(tokens), 3, frozenset()))


@pytest.mark.parametrize(("rows", "reads"), [(1, [16]), (2, [8, 8, 8])])
def test_reading_a_text_makes_no_step_much_longer(rows: int, reads: list[int]) -> None:
    """A step of 21 ms has 16.8 ms for it, of all its rows together; here a token takes a millisecond. What is then left
    to read goes with the draft."""
    times = RingTimes(1)
    for size in (1, 16, CONTEXT):
        times.add(size, [Report(0, 0, 21_000, 0, 1, 1)], 0.021, 0.0)
    engine = Timed()
    model = draft_model(engine, max_chunk=CONTEXT)
    model._clock = lambda: engine.now
    model.measure()
    drafter = model.drafter(list(range(1, 30)))
    begun, took = engine.now, []
    while not drafter.propose(1, rows, times):
        took.append(round(1000 * (engine.now - begun)))
        begun = engine.now
    assert took == reads


def test_wrong_guesses_turn_it_off() -> None:
    """Depth follows acceptance, and it looks again, ever more rarely."""
    tokens = [1]
    drafter = draft_model(layers=1, max_chunk=CONTEXT).drafter(tokens)
    while draft := drafter.propose(8, 1, UNKNOWN):
        drafter.settle(len(draft))
    found = [len(drafter.propose(8, 1, UNKNOWN)) for _ in range(3 * RETRY - 1)]
    assert [at for at, length in enumerate(found, 2) if length] == [RETRY, 3 * RETRY]
    assert {length for length in found if length} == {2}


def test_guesses_that_take_as_long_as_the_model_are_not_worth_it() -> None:
    """Seconds per guessed token are measured at the start and counted."""
    times = RingTimes(1)
    for size in (1, 9, 16):
        times.add(size, [Report(0, 0, 20_000, 0, 1, 1)], 0.02, 0.0)
    for seconds, worth in ((0.001, True), (0.02, False)):
        model = draft_model()
        model._clock = (seconds * at for at in count()).__next__
        model.measure()
        assert model.token_s == pytest.approx(seconds)
        assert bool(model.drafter([1, 2, 3]).propose(8, 1, times)) is worth


@pytest.mark.parametrize(("vocab", "largest"), [(VOCAB - 6, VOCAB - 7), (VOCAB + 20, VOCAB - 1)])
def test_other_numbers_of_tokens(vocab: int, largest: int) -> None:
    """Only what both models have is guessed; after a token that the draft model lacks there are no guesses."""
    model = draft_model(vocab=vocab, slots=1)
    for start in range(1, 9):
        drafter = model.drafter([start, 3])
        assert max(drafter.propose(6, 1, UNKNOWN)) <= largest
        drafter.rest()
    ring = ring_with(model)
    ask(ring, 1, (1, VOCAB - 1))
    ring.settle()
    assert ring.tokens(1) == oracle((1, VOCAB - 1), 30, frozenset())
    if vocab < VOCAB:
        assert model.drafter([1, VOCAB - 1]).propose(3, 1, UNKNOWN) == []
    assert model.free_slots == 1


def test_a_draft_model_that_fails_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    """The generation goes on without it, and the log says so once."""
    model = draft_model(fake_fail_at=9)
    ring = ring_with(model, 2)
    ask(ring, 1, (1, 2, 3))
    ring.settle()
    assert ring.tokens(1) == oracle((1, 2, 3), 30, frozenset())
    assert [record.message.count("fake failure") for record in caplog.records] == [1]
