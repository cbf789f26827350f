"""What of the KV outlives the loss of a stage: what those that are left hold (ARCHITECTURE 3.11). Pure.

No numpy: the daemon that calls Fence and Configure uses this too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

from exo_node.errors import InvalidRequest
from exo_node.ring.kv_account import KvAccount, Pool
from exo_node.ring.messages import Kept
from exo_node.transport.generated.exo.v1 import ring_pb2


def surviving(
    holdings: Sequence[Sequence[Kept] | None], rollback_depth: int | None, whole_tokens: int
) -> tuple[tuple[Kept, ...], int]:
    """What is kept, by ascending id, and from which stage on (`ConfigureRequest.kept`, `kept_from`).

    `holdings`: what each stage told at its fence, None for one that is lost or new. `rollback_depth`, `whole_tokens`:
    the smallest of those that told (`engine.base.LoadReport`). Stages stopped at different steps, so each sequence is
    cut to what the one with least of it holds; one that a stage could not cut so far is left out.

    >>> surviving([None, [Kept(1, 5, 5), Kept(2, 9, 9)], [Kept(2, 8, 8), Kept(3, 1, 1)]], None, 0)
    ((Kept(sequence=2, length=8, most=9, logged=0, lost_from=0),), 1)
    """
    by_stage = [None if held is None else {one.sequence: one for one in held} for held in holdings]
    lost = [stage for stage, held in enumerate(by_stage) if held is None]
    lost_from, kept_from = (lost[0], lost[-1] + 1) if lost else (0, 0)
    behind = [held for held in by_stage[kept_from:] if held is not None]
    before = [held for held in by_stage[:lost_from] if held is not None]
    found: list[Kept] = []
    for sequence in sorted(set().union(*behind, *before)):
        after = [held.get(sequence) for held in behind]
        each = [*after, *(held.get(sequence) for held in before)]
        whole = _cut(each, rollback_depth, whole_tokens) if before else None
        logged = each[-1].logged if whole is not None and each[-1] is not None else 0
        if whole is not None and logged >= whole.length:
            found.append(replace(whole, lost_from=lost_from))
        elif (part := _cut(after, rollback_depth, whole_tokens)) is not None:
            found.append(part)
    return tuple(found), kept_from


def _cut(each: Sequence[Kept | None], rollback_depth: int | None, whole_tokens: int) -> Kept | None:
    """One sequence as all of these stages can keep it."""
    held = [one for one in each if one is not None]
    if not held or len(held) < len(each):
        return None
    cut = Kept(held[0].sequence, min(one.length for one in held), max(one.most for one in held))
    account = KvAccount(Pool(1, cut.most, 1, rollback_depth, whole_tokens))
    account.keep(cut)
    possible = all(one.length == cut.length for one in held) or account.can_cut(cut.sequence, cut.length)
    return cut if possible else None


def kept_message(kept: Kept) -> ring_pb2.KeptSequence:
    return ring_pb2.KeptSequence(
        sequence=kept.sequence, length=kept.length, most=kept.most, logged=kept.logged, lost_from=kept.lost_from
    )


def read_kept(messages: Iterable[ring_pb2.KeptSequence]) -> tuple[Kept, ...]:
    """What a stage holds, or is to keep. Raises `InvalidRequest` where that cannot be."""
    kept = tuple(Kept(one.sequence, one.length, one.most, one.logged, one.lost_from) for one in messages)
    if any(later <= earlier for earlier, later in pairwise((0, *(one.sequence for one in kept)))):
        raise InvalidRequest("the sequences to keep do not ascend from 1", param="kept")
    for one in kept:
        if not 0 < one.length <= one.most:
            raise InvalidRequest(
                f"sequence {one.sequence} is to keep {one.length} of at most {one.most} tokens: 1 or more of them",
                param="kept",
            )
    return kept
