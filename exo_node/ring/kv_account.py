"""The head's account of the KV pools (ARCHITECTURE 3.5): it alone allocates, and every stage holds the same. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from exo_node.ring.messages import Kept

BLOCK = 256  # tokens by which a sequence's memory grows (the MLX engine's step; tinygrad's is there from the start)


@dataclass(frozen=True, slots=True)
class Pool:
    """The KV pool of one shard, or the smallest of a ring: `slots` sequences of at most `context` tokens, rows of at
    most `max_chunk` tokens.

    `rollback_depth`, `whole_tokens`: see `engine.base.LoadReport`. `kv_tokens`: what its memory holds in blocks of
    `block` tokens (0: `slots` whole contexts).
    """

    slots: int
    context: int
    max_chunk: int
    rollback_depth: int | None = None
    whole_tokens: int = 0
    kv_tokens: int = 0
    block: int = BLOCK


class KvAccount:
    """Slots and tokens of a pool. Lengths are what every stage holds once the newest step has run."""

    def __init__(self, pool: Pool) -> None:
        """At least one whole sequence fits, whatever `pool` says; `slots` whole ones are the most that is ever used."""
        whole = pool.slots * pool.context
        self.kv_tokens = max(min(pool.kv_tokens or whole, whole), pool.context)
        self._slots, self._context, self._block = pool.slots, pool.context, pool.block
        self._depth, self._whole = pool.rollback_depth, pool.whole_tokens
        self._lengths: dict[int, int] = {}
        self._most: dict[int, int] = {}  # tokens that a sequence has held
        self.cached_tokens = 0
        self.charged_tokens = 0  # of whole blocks
        self.reserved = 0  # slots of sequences that no shard knows yet

    @property
    def sequences(self) -> int:
        """Those that the shards hold."""
        return len(self._lengths)

    @property
    def free_slots(self) -> int:
        return self._slots - len(self._lengths) - self.reserved

    @property
    def free_tokens(self) -> int:
        return self.kv_tokens - self.charged_tokens

    def charge(self, length: int) -> int:
        """Tokens of memory that a sequence of `length` takes.

        >>> [KvAccount(Pool(slots=1, context=1000, max_chunk=64)).charge(length) for length in (1, 900)]
        [256, 1000]
        """
        return min(self._context, -(-length // self._block) * self._block)

    def length(self, sequence: int) -> int:
        """0 for a sequence that no stage holds."""
        return self._lengths.get(sequence, 0)

    def most(self, sequence: int) -> int:
        """Tokens that the sequence has held at most."""
        return self._most.get(sequence, 0)

    def can_cut(self, sequence: int, length: int) -> bool:
        """Whether every stage still has what the sequence needs to go on from its first `length` tokens."""
        most = self._most.get(sequence, 0)
        return self._depth is None or most <= self._whole or most - length <= self._depth

    def growth(self, sequence: int, length: int) -> int:
        """Tokens of memory that a sequence needs more, to hold `length`."""
        held = self._lengths.get(sequence)
        if held is None:
            return self.charge(length)
        if (held - 1) // self._block == (length - 1) // self._block:
            return 0  # as for nearly every row of every step
        return self.charge(length) - self.charge(held)

    def hold(self, sequence: int, length: int) -> None:
        """The sequence, perhaps a new one, holds `length` tokens now."""
        held = self._lengths.get(sequence)
        self.charged_tokens += self.growth(sequence, length)
        self.cached_tokens += length - (held or 0)
        self._lengths[sequence] = length
        self._most[sequence] = max(length, self._most.get(sequence, 0))

    def copy(self, target: int, source: int, length: int) -> None:
        """A new sequence holds the first `length` tokens of another: the stages have no more of it than of that."""
        self.hold(target, length)
        self._most[target] = self._most[source]

    def rename(self, target: int, source: int, length: int) -> None:
        """What a sequence holds, cut to `length`, is another's, and it is no more."""
        most = self._most[source]
        self.drop(source)
        self.keep(Kept(target, length, most))

    def keep(self, kept: Kept) -> None:
        """A sequence that this account does not know yet is in the stages."""
        self.hold(kept.sequence, kept.length)
        self._most[kept.sequence] = kept.most

    def drop(self, sequence: int) -> None:
        del self._most[sequence]
        held = self._lengths.pop(sequence)
        self.cached_tokens -= held
        self.charged_tokens -= self.charge(held)
