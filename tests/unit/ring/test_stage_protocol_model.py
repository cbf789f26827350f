"""The rules of `shard.py` as a state machine: stages driven by hand, without a head.

What breaks a rule ends the epoch, and nothing is ever trimmed in silence (ARCHITECTURE 3.3).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from exo_node.ring.keeping import surviving
from exo_node.ring.kv_account import Pool
from exo_node.ring.messages import Copy, Drop, Epoch, Op, Row, Step
from exo_node.ring.stage import Stage, output_offsets
from exo_node.types import Dtype
from tests.unit.ring.fakering import CONTEXT, VOCAB, oracle_logits, stages

TOKENS = st.integers(0, VOCAB - 1)


class StageMachine(RuleBasedStateMachine):
    """Legal and illegal steps by hand: every legal output equals the oracle's, every illegal step ends the epoch."""

    @initialize(n_stages=st.integers(1, 4), depth=st.sampled_from([None, 2]))
    def build(self, n_stages: int, depth: int | None) -> None:
        self.pool = Pool(slots=3, context=CONTEXT, max_chunk=6, rollback_depth=depth, whole_tokens=8)
        self.chain: list[Stage] = stages(n_stages, self.pool)
        self.counter = 0
        self.reset()

    def reset(self) -> None:
        self.counter += 1
        for index, stage in enumerate(self.chain):
            stage.configure(Epoch(self.counter, "c"), index, len(self.chain), "bfloat16")
        self.live: dict[int, tuple[int, ...]] = {}
        self.most: dict[int, int] = {}  # tokens that each has held
        self.number = 0
        self.next_id = 1

    @rule(data=st.data(), lost=st.integers(-1, 3), wire=st.sampled_from(["bfloat16", "float32", "float16"]))
    def recover(self, data: st.DataObject, lost: int, wire: Dtype) -> None:
        """A stage is lost, or only a link (-1). The others keep some sequences, perhaps cut, or those behind it do; the
        rest compute them again, a piece of this and a piece of that, and then all hold the same."""
        if lost >= len(self.chain):
            return
        if lost >= 0:
            self.chain[lost] = stages(len(self.chain), self.pool)[lost]
        self.counter += 1
        epoch = Epoch(self.counter, "c")
        told = [stage.fence(epoch) for stage in self.chain]
        held = [None if stage == lost else one for stage, one in enumerate(told)]
        found, kept_from = surviving(held, self.pool.rollback_depth, self.pool.whole_tokens)
        assert kept_from == lost + 1
        kept = []
        for one in found:
            if data.draw(st.integers(0, 3)):
                cut = data.draw(st.integers(max(1, self.shortest(one.sequence)), one.length))
                lost_from = one.lost_from if kept_from == len(self.chain) or data.draw(st.booleans()) else 0
                kept.append(replace(one, length=cut, lost_from=lost_from))
        for index, stage in enumerate(self.chain):
            stage.configure(epoch, index, len(self.chain), wire, kept=kept, kept_from=lost + 1)
        self.number = 0
        self.live = {one.sequence: self.live[one.sequence][: one.length] for one in kept}
        for index, stage in enumerate(self.chain):
            mine = [one.length for one in kept if one.is_held(index, kept_from)]
            assert (stage.logic.sequences, stage.logic.cached_tokens) == (len(mine), sum(mine))
        first = {one.sequence: one.lost_from for one in kept}
        missing = dict.fromkeys(self.live, 0) if lost >= 0 else {}
        while missing:
            sequence = data.draw(st.sampled_from(sorted(missing)))
            begin, tokens = missing.pop(sequence), self.live[sequence]
            end = begin + data.draw(st.integers(1, min(self.pool.max_chunk, len(tokens) - begin)))
            row = Row(sequence, begin, end - begin, 0, False, first[sequence], lost)
            done = self.run_ring((), [(row, tokens[begin:end])])
            assert done.failure is None, done.failure
            assert done.hidden is None or not done.hidden.shape[0], "what nobody wants came home"
            if end < len(tokens):
                missing[sequence] = end

    def run_ring(self, ops: tuple[Op, ...], rows: list[tuple[Row, tuple[int, ...]]], number: int | None = None) -> Any:
        """The step after the last stage."""
        step = Step(Epoch(self.counter, "c"), number or self.number + 1, ops, tuple(row for row, _ in rows))
        self.number += 1
        result = self.chain[0].run(step, [tokens for _, tokens in rows])
        for stage in self.chain[1:]:
            result = stage.run(result.step)
        return result.step

    def row(self, sequence: int, position: int, length: int, *, rollback: bool = False) -> Row:
        return Row(sequence, position, length, 1, rollback, 0, len(self.chain) - 1)

    def check(self, done: Step, rows: list[tuple[Row, tuple[int, ...]]]) -> None:
        assert done.failure is None, done.failure
        if rows:
            assert done.hidden is not None
            logits = self.chain[0].logits(done.hidden)
            for offset, (row, _) in zip(output_offsets([row for row, _ in rows]), rows, strict=True):
                assert np.array_equal(logits[offset], oracle_logits(self.live[row.sequence]))
        expected = (len(self.live), sum(map(len, self.live.values())))
        assert {(stage.logic.sequences, stage.logic.cached_tokens) for stage in self.chain} == {expected}

    @rule(data=st.data())
    def legal(self, data: st.DataObject) -> None:
        """Any mixture of drops, copies, continuations, rollbacks and new sequences."""
        ops: list[Op] = []
        if self.live and data.draw(st.integers(0, 3)) == 3:
            sequence = data.draw(st.sampled_from(sorted(self.live)))
            ops.append(Drop(sequence))
            del self.live[sequence]
        if self.live and len(self.live) < self.pool.slots and data.draw(st.booleans()):
            source = data.draw(st.sampled_from(sorted(self.live)))
            length = data.draw(st.integers(max(1, self.shortest(source)), len(self.live[source])))
            ops.append(Copy(self.next_id, source, length))
            self.live[self.next_id], self.most[self.next_id] = self.live[source][:length], self.most[source]
            self.next_id += 1
        rows: list[tuple[Row, tuple[int, ...]]] = []
        for sequence in data.draw(st.lists(st.sampled_from(sorted(self.live)), unique=True)) if self.live else []:
            cached = self.live[sequence]
            position = data.draw(st.integers(self.shortest(sequence), len(cached)))
            self.append(data, rows, sequence, cached[:position], rollback=position < len(cached))
        if len(self.live) < self.pool.slots and data.draw(st.integers(0, 3)) < 3:
            self.append(data, rows, self.next_id, (), rollback=False)
            self.next_id += 1
        self.check(self.run_ring(tuple(ops), rows), rows)

    def append(
        self, data: st.DataObject, rows: list[Any], sequence: int, prefix: tuple[int, ...], *, rollback: bool
    ) -> None:
        room = min(self.pool.max_chunk, CONTEXT - len(prefix))
        if room == 0:
            return
        tokens = tuple(data.draw(st.lists(TOKENS, min_size=1, max_size=room)))
        rows.append((self.row(sequence, len(prefix), len(tokens), rollback=rollback), tokens))
        self.live[sequence] = prefix + tokens
        self.most[sequence] = max(self.most.get(sequence, 0), len(self.live[sequence]))

    def shortest(self, sequence: int) -> int:
        """To how many tokens it can be cut."""
        depth, most = self.pool.rollback_depth, self.most[sequence]
        return 0 if depth is None or most <= self.pool.whole_tokens else max(0, most - depth)

    @precondition(lambda self: self.number >= 5)  # else most epochs would end before anything is cached
    @rule(data=st.data())
    def illegal(self, data: st.DataObject) -> None:
        """Each is refused by the first stage that sees it, and so is everything after it, until a new epoch."""
        some = max(self.live, key=lambda one: len(self.live[one]), default=0)
        cached = len(self.live.get(some, ()))
        used = max(stage.logic.highest for stage in self.chain)
        dead = sorted(set(range(1, used + 1)) - set(self.live))
        shortest = self.shortest(some) if some else 0
        kinds = {
            "gap": True,
            "repeat": self.number > 0,
            "position": some > 0,
            "reuse": bool(dead) and len(self.live) < self.pool.slots,
            "drop": True,
            "copy": some > 0 and len(self.live) < self.pool.slots,
            "depth": shortest > 0,
            "full": len(self.live) == self.pool.slots,
            "twice": len(self.live) < self.pool.slots,
        }
        ops: tuple[Op, ...] = ()
        rows: list[tuple[Row, tuple[int, ...]]] = []
        number: int | None = None
        match data.draw(st.sampled_from([kind for kind, possible in kinds.items() if possible])):
            case "gap":
                number = self.number + 2
            case "repeat":
                number = self.number
            case "position":
                wrong = data.draw(st.integers(0, CONTEXT - 1).filter(lambda one: one != cached))
                rows = [(self.row(some, wrong, 1), (1,))]
            case "reuse":
                rows = [(self.row(data.draw(st.sampled_from(dead)), 0, 1), (1,))]
            case "drop":
                ops = (Drop(self.next_id),)
            case "copy":
                ops = (Copy(self.next_id, some, cached + 1),)
            case "depth":
                rows = [(self.row(some, shortest - 1, 1, rollback=True), (1,))]
            case "full":
                rows = [(self.row(self.next_id, 0, 1), (1,))]
            case _:
                rows = [(self.row(self.next_id, 0, 1), (1,)), (self.row(self.next_id, 1, 1), (1,))]
        assert self.run_ring(ops, rows, number).failure is not None
        assert self.run_ring((), []).failure is not None, "the epoch went on after a broken rule"
        self.reset()


TestStages = StageMachine.TestCase
TestStages.settings = settings(max_examples=150, stateful_step_count=50, deadline=None, derandomize=True)
