"""Which sequences are in the shards, and who has to leave when memory is wanted (ARCHITECTURE 3.5 to 3.7). Pure.

Joins the account of the pools to the prefix cache. What is decided here becomes the operations of the next step.
"""

from __future__ import annotations

from dataclasses import dataclass

from exo_node.ring.kv_account import KvAccount, Pool
from exo_node.ring.messages import Copy, Drop, Op
from exo_node.ring.prefix_cache import Held, PrefixCache
from exo_node.ring.sequences import Generation

RESERVED = -1  # a generation's sequence while it has a slot and no row has been sent
LEAST_MATCH = 16  # tokens: a shorter common beginning is not worth a copy


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRules(Pool):
    """The smallest pool of the ring, and what may be done with it.

    `prefix_cache`: finished sequences stay for later prompts. `reproducible`: only what was computed in chunks of
    `max_chunk`, as it would be again, may be used again.
    """

    prefix_cache: bool = False
    reproducible: bool = False


@dataclass(slots=True)
class PrefixCounts:
    """Since the epoch began: prompt tokens asked for, of those found in the shards, sequences given up for memory."""

    asked: int = 0
    found: int = 0
    evicted: int = 0


class Residents:
    """Sequences in the shards: running ones, and finished ones that may be of use again."""

    def __init__(self, rules: PoolRules) -> None:
        self.rules = rules
        self.account = KvAccount(rules)
        self.counts = PrefixCounts()
        self._prefixes = PrefixCache()
        self._next_sequence = 1
        self._ops: list[Op] = []
        self._pledged: dict[int, int] = {}  # by ticket: tokens of memory that rows of the step being made will take
        self._pledges = 0  # their sum
        self._spares = False

    @property
    def has_ops(self) -> bool:
        return bool(self._ops)

    def take_ops(self) -> tuple[Op, ...]:
        """What the next step tells the shards."""
        ops, self._ops = tuple(self._ops), []
        return ops

    def admit(self, generation: Generation, promised: int, reserve: int) -> bool:
        """Give the generation a slot, with as much of its tokens as the shards hold already; False: no room.

        `promised`: tokens of memory that other admitted prompts still need; `reserve`: to be left for those that run.
        """
        account = self.account
        idle = self._prefixes.idle()
        wanted = account.charge(generation.prefill) + promised + reserve
        if wanted > account.free_tokens + sum(account.charge(account.length(one)) for one in idle):
            return False
        if account.free_slots < 1 and not idle:
            return False  # asked again at every step: nothing is looked up for it
        if not self._find(generation):
            if not self._room(0):
                return False
            generation.sequence, generation.sent = RESERVED, 0
            account.reserved += 1
        if generation.admitted is None:  # one that comes back finds its own
            self.counts.asked += generation.prefill
            self.counts.found += generation.sent
        return True

    def look_again(self, generation: Generation) -> int:
        """Before the first row of an admitted prompt: what others have brought into the shards since its admission is
        not computed twice (a shared beginning that arrives many times at once). Returns tokens found."""
        if generation.sequence != RESERVED:
            return 0
        self.account.reserved -= 1
        if not self._find(generation):
            self.account.reserved += 1
            return 0
        if not generation.back:
            self.counts.found += generation.sent
        return generation.sent

    def spare(self, spares: bool) -> None:
        """Whether memory is short: then nothing of finished generations is kept, and what is there goes."""
        self._spares = spares
        while spares and self._prefixes.oldest() is not None:
            self._evict()

    def begin_step(self) -> None:
        """A new step is being made: room that was made for another is free if that was not sent."""
        self._pledged.clear()
        self._pledges = 0

    def grow(self, generation: Generation, length: int) -> bool:
        """Make room for the sequence to hold `length` tokens with this step, at the expense of finished ones only."""
        growth = self.account.growth(generation.sequence, length)
        others = self._pledges - self._pledged.get(generation.ticket, 0)
        while growth + others > self.account.free_tokens:
            if not self._evict():
                return False
        self._pledged[generation.ticket] = max(0, growth)
        self._pledges = others + max(0, growth)
        return True

    def sent(self, generation: Generation, length: int) -> None:
        """The sequence holds `length` tokens once the step that is being made has run."""
        if generation.sequence == RESERVED:
            # Ids ascend at their first use, and prompts do not begin in the order of their admission.
            self.account.reserved -= 1
            generation.sequence = self._new_id()
            if self.rules.prefix_cache:
                self._prefixes.hold(generation.sequence, generation.job.client, generation.ticket)
        self.account.hold(generation.sequence, length)
        if self.rules.prefix_cache and length <= generation.prefill:
            self._extend(generation, length)

    def release(self, generation: Generation) -> None:
        """The generation is over, or gives its place up: keep what it leaves if that may be of use."""
        sequence, generation.sequence = generation.sequence, 0
        self._pledges -= self._pledged.pop(generation.ticket, 0)
        if sequence == RESERVED:
            self.account.reserved -= 1
            return
        kept = min(generation.sent, len(generation.tokens))
        worth = self.rules.prefix_cache and not self._spares
        if worth and not generation.job.reads and kept >= LEAST_MATCH:
            generation.sequence = sequence
            self._extend(generation, kept)
            generation.sequence = 0
            self._prefixes.finish(sequence)
            return
        if self.rules.prefix_cache:
            self._prefixes.drop(sequence)
        self._ops.append(Drop(sequence))
        self.account.drop(sequence)

    def _find(self, generation: Generation) -> bool:
        """Give the generation a sequence that begins as its tokens do, if one can be had; counts on a slot for it."""
        found = self._match(generation)
        if found is None:
            return False
        length, held = found
        if self._is_copied(*found) and self._room(self.account.charge(length) + self._pledges, held.sequence):
            self._copy(generation, *found)
            return True
        if not held.user:
            generation.sequence, generation.sent = held.sequence, length
            self._prefixes.take(held.sequence, generation.ticket, length)
            return True
        return False

    def _extend(self, generation: Generation, length: int) -> None:
        chunk = self.rules.max_chunk
        chunked = min(length, len(generation.job.prompt)) // chunk * chunk
        self._prefixes.extend(generation.sequence, generation.tokens, length, chunked)

    def _copy(self, generation: Generation, length: int, source: Held) -> None:
        sequence = self._new_id()
        self._ops.append(Copy(sequence, source.sequence, length))
        self.account.copy(sequence, source.sequence, length)
        generation.sequence, generation.sent = sequence, length
        self._prefixes.copy(source.sequence, sequence, generation.ticket, length)

    def _new_id(self) -> int:
        self._next_sequence += 1
        return self._next_sequence - 1

    def _room(self, tokens: int, spared: int = 0) -> bool:
        """A free slot and memory for `tokens`, at the expense of finished sequences but `spared`."""
        account = self.account
        while account.free_slots < 1 or account.free_tokens < tokens:
            if not self._evict(spared):
                return False
        return True

    def _match(self, generation: Generation) -> tuple[int, Held] | None:
        """The longest beginning of the generation's tokens that can be had, and where."""
        if not self.rules.prefix_cache or generation.job.reads:
            return None
        best: tuple[int, Held] | None = None
        for count, held in self._prefixes.find(generation.job.client, generation.tokens):
            if best is not None and count <= best[0]:
                break
            if self.rules.reproducible:
                count = min(count, held.chunked) // self.rules.max_chunk * self.rules.max_chunk
            count = min(count, self.account.length(held.sequence))
            to_be_had = self.account.can_cut(held.sequence, count)
            if to_be_had and count >= LEAST_MATCH and (best is None or count > best[0]):
                best = count, held
        return best

    def _is_copied(self, count: int, held: Held) -> bool:
        """Whether a match is copied rather than taken over: a sequence that goes on where it ended needs no copy, one
        that branches off leaves the other branch to others while there is room."""
        if held.user:
            return True
        account = self.account
        room = account.free_slots > 0 and account.charge(count) <= account.free_tokens
        return room and len(held.tokens) - count >= LEAST_MATCH

    def _evict(self, spared: int = 0) -> bool:
        """Give up the finished sequence that has been of no use for longest."""
        oldest = self._prefixes.oldest(spared)
        if oldest is None:
            return False
        self._prefixes.drop(oldest)
        self._ops.append(Drop(oldest))
        self.account.drop(oldest)
        self.counts.evicted += 1
        return True
