"""Whether an engine, or a ring, still gets on (ARCHITECTURE 3.12): judged by what is finished, never by being slow.

Transports answer pings however an engine fares; so a step may take ten times what such a step takes, and two seconds at
least. Pure: the engine's thread tells `Turns` what it is at, a thread that looks on asks `ProgressWatch` now and then.
"""

from __future__ import annotations

from dataclasses import dataclass

FACTOR = 10.0
# What has no measure yet may compile (Metal's kernels) or read its weights from disk.
UNKNOWN_S = 120.0
FADING = 0.9  # of the slowest of its kind, with each one that is done

Use = tuple[str, int]  # what an engine is asked for, and its size: the bits of its number of tokens


class Turns:
    """What one thread is at. Written by it alone; every look from another thread is at one whole value."""

    def __init__(self) -> None:
        self.number = 0  # of the turn that runs, or ran last
        self.busy = False
        self._began = 0.0
        self._uses: list[Use] = []
        self._slowest: dict[Use, float] = {}

    def begin(self, now: float) -> None:
        """A turn begins: an event is handled, or a piece of work done."""
        self._uses = []
        self._began = now
        self.number += 1
        self.busy = True

    def uses(self, kind: str, tokens: int) -> None:
        """This turn asks the engine for work on so many tokens; for none it is no measure of anything."""
        if tokens:
            self._uses.append((kind, (tokens - 1).bit_length()))

    def end(self, now: float) -> None:
        """The turn is done. An engine may put one use's work off to the next: each of them counts with the whole."""
        self.busy = False
        took = now - self._began
        for use in self._uses:
            self._slowest[use] = max(took, FADING * self._slowest.get(use, 0.0))

    def predicted(self) -> float | None:
        """Seconds that the turn under way should take at most; None where the like was never done."""
        uses = self._uses.copy()
        if not uses:  # nothing of the kind yet, a draft model's work perhaps: as long as anything here takes
            return max(list(self._slowest.values()), default=None)
        known = [self._slowest[use] for use in uses if use in self._slowest]
        return max(known) if len(known) == len(uses) else None


@dataclass(frozen=True, slots=True)
class Awaited:
    """The oldest step under way in a ring: its number and what its trip should take, None where that is not known."""

    number: int
    predicted: float | None


@dataclass(frozen=True, slots=True)
class Hang:
    """What does not get on: our own engine, or the stages behind us, with the step that they keep."""

    seconds: float
    step: int | None  # None: our own engine


class Stalled:
    """For how long one thing has stayed as it is; None is nothing, and does not stall."""

    def __init__(self) -> None:
        self._what: object = None
        self._seconds = 0.0

    def look(self, what: object, passed: float) -> float:
        """What it is now, and the seconds since the look before. Returns those for which it has been so."""
        self._seconds = self._seconds + passed if what is not None and what == self._what else 0.0
        self._what = what
        return self._seconds


class ProgressWatch:
    """Looks at one engine's thread, and on the head at the ring behind it, every `period` seconds."""

    def __init__(self, turns: Turns, silence: float, period: float) -> None:
        """`silence`: seconds that anything may take, whatever is predicted."""
        self._turns = turns
        self._silence = silence
        self._period = period
        self._looked: float | None = None
        self._engine = Stalled()
        self._ring = Stalled()

    def look(self, now: float, awaited: Awaited | None = None) -> Hang | None:
        """What hangs, if anything does.

        Time in which nobody looked (this process was stopped, or had no core) counts as one period: it was no one's.
        """
        passed = 0.0 if self._looked is None else min(now - self._looked, self._period)
        self._looked = now
        turns = self._turns
        stalled = self._engine.look(turns.number if turns.busy else None, passed)
        if stalled > allowed(turns.predicted(), self._silence):
            return Hang(stalled, None)
        if turns.busy:
            passed = 0.0  # what has come home may wait for our own engine
        stalled = self._ring.look(None if awaited is None else awaited.number, passed)
        # A stage that hangs knows it first, and says which it is.
        if awaited is not None and stalled > allowed(awaited.predicted, self._silence) + self._silence / 2:
            return Hang(stalled, awaited.number)
        return None


def allowed(predicted: float | None, silence: float) -> float:
    """Seconds after which what was to take `predicted` hangs.

    >>> allowed(0.05, 2.0), allowed(3.0, 2.0), allowed(None, 2.0)
    (2.0, 30.0, 120.0)
    """
    return max(silence, UNKNOWN_S if predicted is None else FACTOR * predicted)
