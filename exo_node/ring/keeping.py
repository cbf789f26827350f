"""What of the KV outlives the loss of a stage: what every stage behind the lost one holds (ARCHITECTURE 3.11). Pure."""

from __future__ import annotations

from collections.abc import Sequence

from exo_node.ring.kv_account import KvAccount, Pool
from exo_node.ring.messages import Kept


def common_kept(holdings: Sequence[Sequence[Kept]], pool: Pool) -> tuple[Kept, ...]:
    """The sequences that all stages can cut to one length, by ascending id; `holdings`: what each told at its fence.

    Stages stopped at different steps, so each sequence is cut to what the one with least of it holds. `pool` is the
    smallest of these stages: a sequence that one of them could not cut so far is left out.

    >>> common_kept([[Kept(1, 5, 5), Kept(2, 9, 9)], [Kept(2, 8, 8), Kept(3, 1, 1)]], Pool(4, 64, 8))
    (Kept(sequence=2, length=8, most=9),)
    """
    if not holdings:
        return ()
    found: list[Kept] = []
    by_stage = [{one.sequence: one for one in held} for held in holdings]
    for sequence in sorted(set.intersection(*(set(held) for held in by_stage))):
        each = [held[sequence] for held in by_stage]
        one = Kept(sequence, min(held.length for held in each), max(held.most for held in each))
        account = KvAccount(pool)
        account.keep(one)
        cut = any(held.length > one.length for held in each)
        if one.length and (not cut or account.can_cut(sequence, one.length)):
            found.append(one)
    return tuple(found)
