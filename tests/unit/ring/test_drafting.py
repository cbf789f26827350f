"""Prompt-lookup drafts."""

from __future__ import annotations

from exo_node.ring.drafting import ENTERED, RETRY, Drafter
from exo_node.ring.messages import Report
from exo_node.ring.step_times import RingTimes

UNKNOWN = RingTimes(1)


def flat_times() -> RingTimes:
    """A device on which nine tokens take as long as one."""
    times = RingTimes(1)
    for tokens in (1, 9, 16):
        times.add(tokens, [Report(0, 0, 20_000, 0, 1, 1)], 0.02, 0.0)
    return times


def test_what_followed_the_same_tokens_before_is_proposed() -> None:
    """The longer match wins; where nothing matches there is no draft."""
    assert Drafter([1, 2, 3, 4, 5, 6, 9, 2, 3]).propose(8, 1, UNKNOWN) == [4, 5, 6]
    assert Drafter([8, 2, 3, 4, 5, 1, 2, 3, 4, 7, 8, 2, 3, 4]).propose(1, 1, UNKNOWN) == [5]
    assert Drafter([1, 2, 3, 4]).propose(8, 1, UNKNOWN) == []


def test_a_loop_is_drafted_on() -> None:
    """A draft may go on in itself."""
    draft = Drafter([1, 2, 1, 2, 1]).propose(8, 1, flat_times())
    assert len(draft) > 4
    assert draft == [2, 1, 2, 1, 2, 1, 2, 1][: len(draft)]


def test_tokens_that_come_later_are_known_too() -> None:
    """The list grows under the drafter."""
    tokens = [1, 2, 3]
    drafter = Drafter(tokens)
    assert drafter.propose(4, 1, UNKNOWN) == []
    tokens += [9, 1, 2]
    assert drafter.propose(4, 1, UNKNOWN) == [3, 9, 1]


def test_there_is_no_draft_without_room() -> None:
    """The last token of an answer needs none."""
    assert Drafter([1, 2, 1, 2]).propose(0, 1, UNKNOWN) == []


def test_wrong_drafts_turn_it_off_and_it_looks_again_later() -> None:
    """Depth follows acceptance; once off, one short draft a while later may turn it on again."""
    drafter = Drafter([1, 2, 1, 2, 1])
    while draft := drafter.propose(8, 1, UNKNOWN):
        drafter.settle(len(draft))
    assert drafter.trust.accepted == 0 < drafter.trust.drafted
    tries = [drafter.propose(8, 1, UNKNOWN) for _ in range(RETRY)]
    assert [len(one) for one in tries if one] == [2]
    for _ in range(30):
        drafter.settle(0)
        drafter.trust.offer(2)
    assert len(drafter.propose(8, 1, UNKNOWN)) == 3


def test_many_rows_on_a_busy_device_do_not_draft() -> None:
    """Where a step takes as long as it has tokens, a guess costs what it gains."""
    times = RingTimes(1)
    for tokens in (1, 8, 16, 64):
        times.add(tokens, [Report(0, 0, 5_000 * tokens, 0, 1, 1)], 0.005 * tokens, 0.0)
    assert Drafter([1, 2, 1, 2, 1]).propose(8, 8, times) == []


def test_a_long_prompt_is_looked_into_piece_by_piece() -> None:
    """No step waits for all of it; once it is known, what was said in it is found as in a short one."""
    tokens = [*range(100, 100 + 2 * ENTERED), 7, 8, 9, 100, 101]
    drafter = Drafter(tokens)
    tries = [drafter.propose(8, 1, UNKNOWN) for _ in range(4)]
    assert tries == [[], [], [102, 103, 104], [102, 103, 104]]
