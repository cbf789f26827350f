"""A ring in one process without network: real workers and wire messages over `FakeEngine`, and a straight oracle."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import lru_cache, partial
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from exo_node.engine.base import EngineRow, LoadPlan
from exo_node.engine.fake import FakeEngine
from exo_node.ring.drafting import Drafter, Drafting
from exo_node.ring.events import Configure, Fence, Holdings, StepIn, Worker
from exo_node.ring.head_data import RingSetup
from exo_node.ring.keeping import surviving
from exo_node.ring.kv_account import BLOCK, Pool
from exo_node.ring.messages import Epoch, Kept
from exo_node.ring.sequences import Delta, Failed, Notice
from exo_node.ring.shard import ShardLogic
from exo_node.ring.stage import Stage
from exo_node.ring.workers import FollowerWorker, HeadWorker
from exo_node.transport.codec import StepFrame
from exo_node.types import Dtype, Shard

LAYERS, HIDDEN, VOCAB = 3, 4, 31
CONTEXT = 64
INSTANCE = "instance"


def engine(
    start: int, end: int, *, head: bool, slots: int, context: int = CONTEXT, max_chunk: int = CONTEXT
) -> FakeEngine:
    """A loaded fake engine for layers [start, end) of the tiny model."""
    fake = FakeEngine()
    fake.load(
        LoadPlan(
            config={"num_hidden_layers": LAYERS, "hidden_size": HIDDEN, "vocab_size": VOCAB},
            shard=Shard("fake", start, end, LAYERS),
            is_head=head,
            compute_dtype="float32",
            slots=slots,
            context=context,
            max_chunk=max_chunk,
            device="CPU",
        ),
        None,
        lambda done, total: None,
    )
    return fake


@lru_cache(maxsize=4096)
def oracle_logits(tokens: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Logits after `tokens` by the whole model in one pass."""
    whole = engine(0, LAYERS, head=True, slots=1)
    row = EngineRow(0, 0, len(tokens), np.asarray(tokens, np.int32), 1)
    return np.asarray(whole.logits(whole.forward([row], None))[0], np.float32)


@lru_cache(maxsize=4096)
def oracle_vector(tokens: tuple[int, ...], mode: str) -> bytes:
    """The mean or the last of the whole model's final hidden states, at length 1."""
    whole = engine(0, LAYERS, head=True, slots=1)
    states = whole.forward([EngineRow(0, 0, len(tokens), np.asarray(tokens, np.int32), len(tokens))], None)
    vector = states.astype(np.float64).mean(axis=0) if mode == "mean" else states[-1].astype(np.float64)
    return (vector / np.sqrt((vector**2).sum())).astype("<f4").tobytes()


@lru_cache(maxsize=4096)
def oracle(
    prompt: tuple[int, ...], max_tokens: int, stop_ids: frozenset[int], context: int = CONTEXT
) -> tuple[int, ...]:
    """The greedy answer to `prompt`, one straight loop without any ring."""
    generated: list[int] = []
    while len(generated) < max_tokens and len(prompt) + len(generated) < context:
        generated.append(int(np.argmax(oracle_logits(prompt + tuple(generated)))))
        if generated[-1] in stop_ids:
            break
    return tuple(generated)


def cuts(n_stages: int) -> list[tuple[int, int]]:
    """Layer ranges of 1 to 4 stages; a ring of 4 has a head without layers."""
    return {1: [(0, 3)], 2: [(0, 1), (1, 3)], 3: [(0, 1), (1, 2), (2, 3)], 4: [(0, 0), (0, 1), (1, 2), (2, 3)]}[
        n_stages
    ]


def stages(n_stages: int, pool: Pool) -> list[Stage]:
    """One `Stage` per shard, not configured yet; a glance at their clock takes a microsecond, work takes nothing."""
    clock = partial(next, count(step=1000))
    return [
        Stage(engine(start, end, head=index == 0, slots=pool.slots, context=pool.context), ShardLogic(pool), clock)
        for index, (start, end) in enumerate(cuts(n_stages))
    ]


class _Outlet:
    def __init__(self, ring: FakeRing, stage: int) -> None:
        self._ring, self._stage = ring, stage

    def send(self, epoch: Epoch, step: bytes) -> None:
        self._ring.hops[self._stage].append(step)

    def notify(self, epoch: Epoch, notices: Sequence[Notice]) -> None:
        for notice in notices:
            self._ring.notices.setdefault(notice.ticket, []).append(notice)


class FakeRing:
    """Workers joined by `hops`: `hops[i]` holds what stage i has sent and the next stage has not got yet."""

    def __init__(
        self,
        n_stages: int,
        *,
        slots: int = 2,
        max_chunk: int = 4,
        wire: Dtype = "float32",
        max_waiting: int = 64,
        depth: int | None = None,
        make_drafter: Callable[[list[int]], Drafting] = Drafter,
        **rules: Any,
    ) -> None:
        """`rules`: more fields of `RingSetup`. `depth`: how far stages can roll back. `make_drafter`: as of `Head`."""
        self.rules = {"rollback_depth": depth, **rules}
        self.n_stages, self.slots, self.max_chunk, self.wire, self.max_waiting = (
            n_stages,
            slots,
            max_chunk,
            wire,
            max_waiting,
        )
        self.hops: list[deque[bytes]] = [deque() for _ in range(n_stages)]
        self.notices: dict[int, list[Notice]] = {}
        memory = rules.get("kv_tokens", 0), rules.get("block", BLOCK)
        self._pool = Pool(slots, CONTEXT, max_chunk, depth, rules.get("whole_tokens", 0), *memory)
        self._make_drafter = make_drafter
        self.workers: list[Worker] = [self._worker(index) for index in range(n_stages)]

    @property
    def head(self) -> HeadWorker:
        head = self.workers[0]
        assert isinstance(head, HeadWorker)
        return head

    def _worker(self, index: int) -> Worker:
        stage, outlet = stages(self.n_stages, self._pool)[index], _Outlet(self, index)
        if index:
            return FollowerWorker(INSTANCE, stage, outlet)
        return HeadWorker(INSTANCE, stage, outlet, self._make_drafter)

    def fence(self, counter: int) -> list[Holdings]:
        """Every stage, in order; steps that are under way stay under way."""
        done: list[Future[Holdings]] = [Future() for _ in self.workers]
        for worker, future in zip(self.workers, done, strict=True):
            worker.stage.cutoff = Epoch(counter, "c")
            worker.handle(Fence(Epoch(counter, "c"), future))
        return [future.result(timeout=0) for future in done]

    def recover(self, counter: int, lost: int | None = None) -> int:
        """Go on as a new epoch with a fresh stage `lost`, if any; the stages behind it keep what they all hold. Returns
        how many sequences."""
        if lost is not None:
            self.workers[lost] = self._worker(lost)
        holdings = self.fence(counter)
        held = [None if stage == lost else one.held for stage, one in enumerate(holdings)]
        kept, kept_from = surviving(held, self._pool.rollback_depth, self._pool.whole_tokens)
        highest = max(one.highest for one in holdings)
        done = self.configure(counter, kept=kept, kept_from=kept_from, next_sequence=highest + 1)
        assert [future.exception(timeout=0) for future in done] == [None] * self.n_stages
        return len(kept)

    def configure(
        self,
        counter: int,
        coordinator: str = "c",
        kept: tuple[Kept, ...] = (),
        kept_from: int = 0,
        next_sequence: int = 1,
    ) -> list[Future[None]]:
        """Start an epoch on every stage, followers first; steps that are under way stay under way."""
        epoch = Epoch(counter, coordinator)
        setup = RingSetup(
            epoch=epoch,
            n_stages=self.n_stages,
            slots=self.slots,
            context=CONTEXT,
            max_chunk=self.max_chunk,
            vocab_size=VOCAB,
            vector_bytes=HIDDEN * 4,
            max_waiting=self.max_waiting,
            kept=kept,
            kept_from=kept_from if kept else 0,
            next_sequence=next_sequence,
            **self.rules,
        )
        done: list[Future[None]] = []
        for stage in reversed(range(self.n_stages)):
            future: Future[None] = Future()
            self.workers[stage].handle(
                Configure(
                    epoch,
                    stage,
                    self.n_stages,
                    self.wire,
                    setup if stage == 0 else None,
                    future,
                    kept=kept,
                    kept_from=kept_from,
                )
            )
            done.append(future)
        return done

    def deliver(self, hop: int) -> bool:
        """The oldest step on `hop` reaches the next stage; False when there is none."""
        if not self.hops[hop]:
            return False
        self.workers[(hop + 1) % self.n_stages].handle(StepIn(StepFrame.from_bytes(self.hops[hop].popleft()), 0))
        return True

    def settle(self, limit: int = 5000) -> None:
        """Deliver and compute until nothing moves."""
        for _ in range(limit):
            moved = any([self.deliver(hop) for hop in reversed(range(self.n_stages))])
            if not self.head.advance() and not moved:
                return
        raise AssertionError("the ring never comes to rest")

    def tokens(self, ticket: int) -> tuple[int, ...]:
        """What the caller has got so far; checks that every index is the next one."""
        got: list[int] = []
        for notice in self.notices.get(ticket, []):
            if isinstance(notice, Delta) and notice.choice is not None:
                assert notice.index == len(got)
                got.append(notice.choice.token)
        return tuple(got)

    def ended(self, ticket: int) -> Notice | None:
        """The last notice if it ends the generation."""
        last = self.notices.get(ticket, [None])[-1]
        over = isinstance(last, Failed) or (isinstance(last, Delta) and last.finish is not None)
        return last if over else None

    def sequence(self, ticket: int) -> int:
        """Where the caller was told its KV is; 0 = nowhere yet."""
        told = (notice.sequence for notice in self.notices.get(ticket, []) if isinstance(notice, Delta))
        return next((one for one in reversed([*told]) if one), 0)

    def pools(self) -> list[tuple[int, int]]:
        """(sequences, cached tokens) of every stage."""
        return [(worker.stage.logic.sequences, worker.stage.logic.cached_tokens) for worker in self.workers]
