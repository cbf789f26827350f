"""Which sequences in the shards begin as a new prompt does: an index over blocks of tokens (ARCHITECTURE 3.7). Pure.

Every sequence that the shards hold is in it, running ones too. Finished ones stay until their memory is wanted, the
longest unused first. A scope (the API key's id) keeps callers apart: how much of a prompt was there already is told in
the usage, and would tell one what another has sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

INDEX_BLOCK = 16  # tokens; matches are found by whole blocks and then counted token by token


@dataclass(slots=True)
class Held:
    """A sequence in the shards. `tokens`: those whose keys and values are there for certain.

    `chunked`: so many of the first were computed in chunks whose borders do not depend on the company (reproducible).
    `user`: the ticket of the generation that still appends to it, 0 for a finished one.
    """

    sequence: int
    scope: str
    user: int = 0
    tokens: list[int] = field(default_factory=list)
    chunked: int = 0
    used: int = 0  # the larger, the later
    keys: list[int] = field(default_factory=list)  # of its whole blocks in the index


class PrefixCache:
    """Held sequences by their beginnings."""

    def __init__(self) -> None:
        self._held: dict[int, Held] = {}
        self._blocks: dict[int, dict[int, None]] = {}  # chain hash -> sequences, in order of arrival
        self._clock = 0

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, sequence: int, scope: str, user: int) -> None:
        """A sequence of a running generation."""
        self._clock += 1
        self._held[sequence] = Held(sequence, scope, user, used=self._clock)

    def extend(self, sequence: int, tokens: Sequence[int], length: int, chunked: int) -> None:
        """The first `length` of `tokens` are in the shards now: all that the sequence holds and that will stay true."""
        held = self._held[sequence]
        held.chunked = min(chunked, length)
        held.tokens.extend(tokens[len(held.tokens) : length])
        for start in range(len(held.keys) * INDEX_BLOCK, len(held.tokens) - INDEX_BLOCK + 1, INDEX_BLOCK):
            previous = held.keys[-1] if held.keys else hash(held.scope)
            key = hash((previous, *held.tokens[start : start + INDEX_BLOCK]))
            held.keys.append(key)
            self._blocks.setdefault(key, {})[sequence] = None

    def copy(self, source: int, target: int, user: int, length: int) -> None:
        """A generation goes on in a new sequence with the first `length` tokens of another."""
        held = self._held[source]
        keys = held.keys[: length // INDEX_BLOCK]
        for key in keys:
            self._blocks[key][target] = None
        self.touch(source)
        copied = Held(target, held.scope, user, held.tokens[:length], min(held.chunked, length), held.used, keys)
        self._held[target] = copied
        self.touch(target)

    def finish(self, sequence: int) -> None:
        """No generation appends to it any more."""
        held = self._held[sequence]
        self._clock += 1
        held.user, held.used = 0, self._clock

    def touch(self, sequence: int) -> None:
        """It has just been of use."""
        self._clock += 1
        self._held[sequence].used = self._clock

    def drop(self, sequence: int) -> None:
        for key in self._held.pop(sequence).keys:
            self._forget(key, sequence)

    def held(self, sequence: int) -> Held:
        return self._held[sequence]

    def idle(self) -> list[int]:
        """The finished sequences."""
        return [one.sequence for one in self._held.values() if not one.user]

    def oldest(self, spared: int = 0) -> int | None:
        """The finished sequence that has been of no use for longest, but not `spared`."""
        idle = (one for one in self._held.values() if not one.user and one.sequence != spared)
        found = min(idle, key=lambda one: one.used, default=None)
        return None if found is None else found.sequence

    def find(self, scope: str, tokens: Sequence[int]) -> Iterator[tuple[int, Held]]:
        """Sequences that begin with some of `tokens`, as (how many, which), the longest match first, of equals the
        finished one, then the one last used. The last token never counts: something must be computed.

        The cache must not change until the last one that is wanted was given.
        """
        most = len(tokens) - 1
        previous = hash(scope)
        levels: list[dict[int, None]] = []
        for start in range(0, most - INDEX_BLOCK + 1, INDEX_BLOCK):
            previous = hash((previous, *tokens[start : start + INDEX_BLOCK]))
            level = self._blocks.get(previous)
            if not level:
                break
            levels.append(level)
        seen: set[int] = set()
        for depth in range(len(levels), 0, -1):
            level = levels[depth - 1]
            if len(level) == len(seen):
                continue  # who matches further matches so far too
            start, end = depth * INDEX_BLOCK, min(most, (depth + 1) * INDEX_BLOCK)
            ranked = [
                (start + common_length(held.tokens[start:end], tokens[start:end], end - start), held)
                for held in (self._held[sequence] for sequence in level if sequence not in seen)
            ]
            ranked.sort(key=lambda match: (match[0], not match[1].user, match[1].used), reverse=True)
            for count, held in ranked:
                # Compared in full: two different chains may hash alike.
                if held.scope == scope and held.tokens[:start] == tokens[:start]:
                    yield count, held
            seen.update(level)

    def _forget(self, key: int, sequence: int) -> None:
        level = self._blocks.get(key)
        if level is not None:
            level.pop(sequence, None)
            if not level:
                del self._blocks[key]


def common_length(a: Sequence[int], b: Sequence[int], most: int) -> int:
    """How many of the first tokens are equal, `most` at most.

    >>> common_length([1, 2, 3], [1, 2, 4, 5], 9), common_length([1, 2], [1, 2], 1)
    (2, 1)
    """
    limit = min(len(a), len(b), most)
    if a[:limit] == b[:limit]:
        return limit
    low, high = 0, limit - 1  # a[:low] equal, a[:high + 1] not
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
