"""What of the KV outlives the loss of a stage (ARCHITECTURE 3.11): what every stage behind the lost one holds. Pure.

No numpy: the daemon that calls Fence and Configure uses this too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from exo_node.errors import InvalidRequest
from exo_node.ring.kv_account import KvAccount, Pool
from exo_node.ring.messages import Kept
from exo_node.transport.generated.exo.v1 import ring_pb2


def common_kept(holdings: Sequence[Sequence[Kept]], rollback_depth: int | None, whole_tokens: int) -> tuple[Kept, ...]:
    """The sequences that all stages can cut to one length, by ascending id; `holdings`: what each told at its fence.

    Stages stopped at different steps, so each sequence is cut to what the one with least of it holds. `rollback_depth`,
    `whole_tokens`: the smallest of these stages (`engine.base.LoadReport`). A sequence that one of them could not cut
    so far is left out.

    >>> common_kept([[Kept(1, 5, 5), Kept(2, 9, 9)], [Kept(2, 8, 8), Kept(3, 1, 1)]], None, 0)
    (Kept(sequence=2, length=8, most=9),)
    """
    if not holdings:
        return ()
    found: list[Kept] = []
    by_stage = [{one.sequence: one for one in held} for held in holdings]
    for sequence in sorted(set.intersection(*(set(held) for held in by_stage))):
        each = [held[sequence] for held in by_stage]
        one = Kept(sequence, min(held.length for held in each), max(held.most for held in each))
        account = KvAccount(Pool(1, one.most, 1, rollback_depth, whole_tokens))
        account.keep(one)
        cut = any(held.length > one.length for held in each)
        if not cut or account.can_cut(sequence, one.length):
            found.append(one)
    return tuple(found)


def kept_message(kept: Kept) -> ring_pb2.KeptSequence:
    return ring_pb2.KeptSequence(sequence=kept.sequence, length=kept.length, most=kept.most)


def read_kept(messages: Iterable[ring_pb2.KeptSequence]) -> tuple[Kept, ...]:
    """What a stage holds, or is to keep. Raises `InvalidRequest` where that cannot be."""
    kept = tuple(Kept(one.sequence, one.length, one.most) for one in messages)
    if any(later <= earlier for earlier, later in pairwise((0, *(one.sequence for one in kept)))):
        raise InvalidRequest("the sequences to keep do not ascend from 1", param="kept")
    for one in kept:
        if not 0 < one.length <= one.most:
            raise InvalidRequest(
                f"sequence {one.sequence} is to keep {one.length} of at most {one.most} tokens: 1 or more of them",
                param="kept",
            )
    return kept
