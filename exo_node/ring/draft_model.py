"""A second, small model that guesses ahead for a large one: whole, on the head's engine thread (ARCHITECTURE 3.8).

Its guesses are the likeliest tokens, drawn one by one; the sampler checks them as it checks n-gram drafts, so a text
never depends on them. Each generation that it helps has a slot of its own; one that finds none free goes without.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from exo_node.engine.base import EngineRow, ShardEngine
from exo_node.ring.drafting import DEEPEST, Drafter, Trust
from exo_node.ring.scheduler import FIRST_SLICE, GAP, LEAST_SLICE
from exo_node.ring.step_times import RingTimes, StepTimes

log = logging.getLogger("exo.runner")

SHORT = 2  # tokens of a pass whose time counts as that of one: the newest, and one that the pass before could not know
TRIALS = 3
SETTLED = 16  # tokens for which a generation has not wanted guesses: it may want some again soon, but others do now


class DraftModel:
    """A loaded draft model and its slots."""

    def __init__(
        self,
        engine: ShardEngine,
        *,
        slots: int,
        context: int,
        max_chunk: int,
        vocab_size: int,
        target_vocab_size: int,
        rollback_depth: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`engine` holds all layers, of `vocab_size` tokens; the first `target_vocab_size` of them at most are guessed.
        `rollback_depth`: as the engine reported it."""
        self.slots, self.context, self.max_chunk, self.vocab_size = slots, context, max_chunk, vocab_size
        self.rollback_depth = rollback_depth
        self.deepest = DEEPEST if rollback_depth is None else min(DEEPEST, rollback_depth + 1)
        self._engine = engine
        self._guessed = min(vocab_size, target_vocab_size)
        self._clock = clock
        self._free = list(reversed(range(slots)))
        self._times = StepTimes()

    @property
    def token_s(self) -> float:
        """Seconds that one guessed token takes; 0 where it was not measured yet."""
        return self._times.of(1)

    @property
    def free_slots(self) -> int:
        return len(self._free)

    def measure(self) -> None:
        """Learn what a token takes before any request, the least of a few, the first of which may warm something up;
        and what a slice of a text does."""
        took = []
        for position in range(min(TRIALS, self.context)):
            started = self._clock()
            self._pass(0, position, [0])
            took.append(self._clock() - started)
        self._engine.truncate(0, 0)
        self._times.add(1, min(took))
        tokens = min(FIRST_SLICE, self.max_chunk, self.context)
        started = self._clock()
        self._pass(0, 0, [0] * tokens)
        self._times.add(tokens, self._clock() - started)
        self._engine.truncate(0, 0)

    def slice(self, rows: int, times: RingTimes) -> int:
        """How much of a text to read with a step, of whose `rows` each that has a slot may have as much to read: as
        slices of prompts (scheduler.slice_budget) they may make it `GAP` times as long, all together."""
        if not times.known:
            return min(FIRST_SLICE, self.max_chunk)
        spare = (GAP - 1) * times.slowest(rows) / min(rows, self.slots)
        fitting = bisect_right(range(1, self.max_chunk + 1), spare, key=self._times.of)
        return max(min(LEAST_SLICE, self.max_chunk), fitting)

    def drafter(self, tokens: list[int]) -> ModelDrafter:
        """Drafts for the generation with these tokens, which grow."""
        return ModelDrafter(tokens, self)

    def take(self) -> int | None:
        """An empty slot; None where there is none."""
        return self._free.pop() if self._free else None

    def give(self, slot: int) -> None:
        """A slot that is wanted no more."""
        self.cut(slot, 0)
        self._free.append(slot)

    def cut(self, slot: int, length: int) -> None:
        """Forget all past the first `length` tokens of a slot."""
        self._guard(lambda: self._engine.truncate(slot, length))

    def next(self, slot: int, position: int, tokens: Sequence[int]) -> int | None:
        """Feed `tokens` to a slot that holds `position`, at most `max_chunk`: the likeliest next one. None: it failed,
        and there are no more guesses of this model."""
        started = self._clock()
        found: int | None = self._guard(lambda: self._pass(slot, position, tokens))
        if found is not None:
            self._times.add(1 if len(tokens) <= SHORT else len(tokens), self._clock() - started)
        return found

    def _pass(self, slot: int, position: int, tokens: Sequence[int]) -> int:
        row = EngineRow(slot, position, len(tokens), np.asarray(tokens, np.int32), 1)
        scores = self._engine.logits(self._engine.forward([row], None))[0]
        return int(np.argmax(scores[: self._guessed]))

    def _guard(self, call: Callable[[], Any]) -> Any:
        """Guesses are never worth a generation: an engine that raises (whatever its framework does) is left alone."""
        if not self.deepest:
            return None
        try:
            return call()
        except Exception as error:
            self.deepest = 0
            log.warning(
                "the draft model failed, nothing is guessed with it any more: %s: %s", type(error).__name__, error
            )
            return None


class ModelDrafter:
    """Drafts for one generation: its own repetitions where they are worth it, which cost nothing, else the model's."""

    def __init__(self, tokens: list[int], model: DraftModel) -> None:
        self.trust = Trust()
        self._grams = Drafter(tokens)
        self._tokens = tokens
        self._model = model
        self._slot: int | None = None
        self._sure = 0  # tokens of the generation that the slot holds,
        self._guesses: list[int] = []  # and what it holds behind them
        self._begun = 0  # depth of a draft for which the slot still has to catch up
        self._foreign = False  # a token came that the model does not have
        self._by_model = False

    def propose(self, room: int, rows: int, times: RingTimes) -> list[int]:
        """See `Drafting`."""
        draft = self._grams.propose(room, rows, times)
        self._by_model = not draft
        if not draft:
            draft = self._guess(room, rows, times)
            self.trust.offer(len(draft))
        return draft

    def settle(self, unused: int | None) -> None:
        """See `Drafting`."""
        (self.trust if self._by_model else self._grams).settle(unused)

    def rest(self) -> None:
        """See `Drafting`: the slot goes to another."""
        if self._slot is not None:
            self._model.give(self._slot)
        self._slot, self._sure, self._guesses, self._begun = None, 0, [], 0

    def _guess(self, room: int, rows: int, times: RingTimes) -> list[int]:
        model, known = self._model, len(self._tokens)
        if known >= model.context:
            self.rest()  # the text is longer than the slot: it is of use to others only
            return []
        deepest = min(room, model.deepest, model.context - known)
        if deepest < 1 or self._foreign or (self._slot is None and not model.free_slots):
            return []
        depth = min(self._begun or self.trust.depth(deepest, rows, times, model.token_s), deepest)
        if not depth:
            if self.trust.idle >= SETTLED and not model.free_slots:
                self.rest()  # where a slot is free again when it looks again, it reads its text anew
            return []
        if self._slot is None:
            self._slot = model.take()
        assert self._slot is not None
        self._cut(self._slot)
        behind = known - self._sure
        new = self._tokens[self._sure : self._sure + (behind if behind <= SHORT else model.slice(rows, times))]
        if max(new) >= model.vocab_size:
            self._foreign = True
            self.rest()
            return []
        found = model.next(self._slot, self._sure, new)
        self._sure += len(new)
        # One slice of a long prompt at a time: others wait for this step.
        self._begun = depth if self._sure < known else 0
        if self._begun:
            return []
        draft: list[int] = []
        while found is not None:
            draft.append(found)
            if len(draft) == depth:
                break
            found = model.next(self._slot, self._sure + len(self._guesses), [found])
            self._guesses.append(draft[-1])
        return draft

    def _cut(self, slot: int) -> None:
        """Leave in the slot what is the generation's own, less its newest token: what follows that one is wanted."""
        held = self._sure + len(self._guesses)
        for guess in self._guesses:
            if self._sure == len(self._tokens) or self._tokens[self._sure] != guess:
                break
            self._sure += 1
        self._sure = min(self._sure, len(self._tokens) - 1)
        self._guesses = []
        back, limit = held - self._sure, self._model.rollback_depth
        if limit is not None and back > limit:
            self._sure = 0
        if held != self._sure:
            self._model.cut(slot, self._sure)
