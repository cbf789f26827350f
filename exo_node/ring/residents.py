"""Which sequences are in the shards, and who has to leave when memory is wanted (ARCHITECTURE 3.5 to 3.7). Pure.

Joins the account of the pools to the prefix cache. What is decided here becomes the operations of the next step.

After a loss some stages have kept sequences that the others have not: orphans, until the request that each belongs to
comes back and adopts it. The account is what the stages hold that kept them, which is never less than what the others
hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from exo_node.ring.kv_account import KvAccount, Pool
from exo_node.ring.messages import Copy, Drop, Kept, Op, Rename
from exo_node.ring.orphans import Orphans
from exo_node.ring.prefix_cache import Held, PrefixCache
from exo_node.ring.sequences import Generation

RESERVED = -1  # a generation's sequence while it has a slot and no row has been sent
LEAST_MATCH = 16  # tokens: a shorter common beginning is not worth a copy


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRules(Pool):
    """The smallest pool of the ring, and what may be done with it.

    `prefix_cache`: finished sequences stay for later prompts. `reproducible`: only what was computed in chunks of
    `max_chunk`, as it would be again, may be used again. `kept`, `kept_from`: what is left of the epoch before
    (`messages.Kept`). `next_sequence`: the smallest id that was never used.
    """

    prefix_cache: bool = False
    reproducible: bool = False
    kept: tuple[Kept, ...] = ()
    kept_from: int = 0
    next_sequence: int = 1


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
        self._next_sequence = rules.next_sequence
        self._ops: list[Op] = []
        self.orphans = Orphans(rules.kept, rules.kept_from)
        self._pledged: dict[int, int] = {}  # by ticket: tokens of memory that rows of the step being made will take
        self._pledges = 0  # their sum
        self._spares = False
        for one in rules.kept:
            self.account.keep(one)
        # The ring may be a smaller one than before.
        for one in rules.kept:
            if one.length > rules.context or self.account.free_slots < 0 or self.account.free_tokens < 0:
                self._give_up(one.sequence)

    def pool(self, stage: int) -> tuple[int, int]:
        """(sequences, tokens) that a stage holds once the newest step has run."""
        sequences, tokens = self.orphans.missing(stage, self.account)
        return self.account.sequences - sequences, self.account.cached_tokens - tokens

    def expire(self, now: float) -> None:
        """Give up the orphans whose request has not come back in time."""
        for sequence in self.orphans.expired(now):
            self._give_up(sequence)

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
        mine = generation.job.sequence
        right = self._right(generation) if mine in self.orphans else 0
        if mine in self.orphans and not right:
            self._give_up(mine)
        idle = [one for one in (*self._prefixes.idle(), *self.orphans) if one != mine]
        wanted = (account.growth(mine, generation.prefill) if right else account.charge(generation.prefill)) + promised
        if wanted + reserve > account.free_tokens + sum(account.charge(account.length(one)) for one in idle):
            return False
        if account.free_slots < 1 and not idle and not right:
            return False  # asked again at every step: nothing is looked up for it
        if right:
            self._adopt(generation, right)
        elif not self._find(generation):
            if not self._room(0):
                return False
            generation.sequence, generation.sent = RESERVED, 0
            account.reserved += 1
        if generation.admitted is None:  # one that comes back finds its own
            self.counts.asked += generation.prefill
            self.counts.found += generation.sent
        return True

    def room_without(self, running: Iterable[Generation]) -> int:
        """Tokens of memory that would be free without these, and without all that has finished."""
        account = self.account
        gone = (*self._prefixes.idle(), *self.orphans, *(one.sequence for one in running))
        return account.free_tokens + sum(account.charge(account.length(one)) for one in gone)

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
        if length <= generation.kept:
            self.orphans.computed(generation.sequence, length)
        else:
            self.orphans.leave(generation.sequence)
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
        generation.kept = 0
        whole = not self.orphans.leave(sequence)
        worth = self.rules.prefix_cache and not self._spares and whole
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
            self._take(generation, length, held.sequence)
            return True
        return False

    def _right(self, generation: Generation) -> int:
        """So many tokens of the generation's orphan are its own and of use; 0: none.

        A token that is known was drawn when all before it but the last were in every stage, or came with the prompt;
        what a stage has computed of them is never written over with anything else, only cut off, by rows that go on
        with drafts behind the newest token. So all is right that lies before the last known token; what lies there or
        behind it may be of drafts, or of tokens that were drawn and never arrived.
        """
        sequence, rules = generation.job.sequence, self.rules
        held = self.account.length(sequence)
        length = min(held, len(generation.tokens) - 1)
        if rules.reproducible and length < len(generation.job.prompt):
            length -= length % rules.max_chunk  # a chunk is computed as a whole
        possible = not generation.job.reads and (length == held or self.account.can_cut(sequence, length))
        return length if possible else 0

    def _adopt(self, generation: Generation, length: int) -> None:
        sequence = generation.job.sequence
        generation.sequence, generation.kept, generation.sent = sequence, length, 0
        generation.lost_from = self.orphans.adopt(sequence)
        if self.rules.prefix_cache:
            self._prefixes.hold(sequence, generation.job.client, generation.ticket)
        if not self.rules.kept_from:  # no stage has lost anything
            generation.sent = length
            if self.rules.prefix_cache:
                self._extend(generation, length)

    def _take(self, generation: Generation, length: int, source: int) -> None:
        """Go on in a finished sequence, under an id of its own: an id is one request's for ever."""
        sequence = self._new_id()
        self._ops.append(Rename(sequence, source, length))
        self.account.rename(sequence, source, length)
        self._prefixes.copy(source, sequence, generation.ticket, length)
        self._prefixes.drop(source)
        generation.sequence, generation.sent = sequence, length

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
        that branches off leaves the other branch to others while there is room, or can be made of what has been of no
        use for longer."""
        if held.user:
            return True
        if len(held.tokens) - count < LEAST_MATCH:
            return False
        account = self.account
        older = [one for one in self._prefixes.idle() if self._prefixes.held(one).used < held.used]
        tokens = account.free_tokens + sum(account.charge(account.length(one)) for one in older)
        return account.free_slots + len(older) > 0 and account.charge(count) + self._pledges <= tokens

    def _evict(self, spared: int = 0) -> bool:
        """Give up the finished sequence that has been of no use for longest; then the orphan that nobody claims."""
        oldest = self._prefixes.oldest(spared)
        if oldest is None:
            orphan = next(iter(self.orphans), None)
            if orphan is not None:
                self._give_up(orphan)
            return orphan is not None
        self._prefixes.drop(oldest)
        self._ops.append(Drop(oldest))
        self.account.drop(oldest)
        self.counts.evicted += 1
        return True

    def _give_up(self, orphan: int) -> None:
        self.orphans.leave(orphan)
        self._ops.append(Drop(orphan))
        self.account.drop(orphan)
