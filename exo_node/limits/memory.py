"""When a machine's memory runs short, and what that means. Pure decisions with hysteresis; bytes."""

from __future__ import annotations

from typing import Final, Literal

Level = Literal["ok", "low", "critical"]
LEVELS: Final[tuple[Level, ...]] = ("ok", "low", "critical")

LOOK_S: Final = 1.0  # between two looks: reading it takes a tenth of a millisecond
# Of the memory that is to stay free: below `LOW` times it what is kept for later is given up, below it nothing new is
# begun. Each ends only well above, so that what was given back does not at once invite what needed it.
LOW: Final = 2.0
LOW_ENDS, CRITICAL_ENDS = 2.5, 1.5
MOST, SHARE = 512 * 2**20, 50  # of a machine's memory, one part in 50 stays free, and no more than this


def floor_of(total: int, wanted: int | None) -> int:
    """Bytes that stay free: what `--min-free-memory` says, else by the machine's size."""
    return min(MOST, total // SHARE) if wanted is None else wanted


class MemoryWatch:
    """`level` after each `look`. "low": give up what is kept for later. "critical": begin nothing new."""

    def __init__(self, floor: int) -> None:
        self.floor = floor
        self.free = 0
        self.level: Level = "ok"

    def look(self, free: int) -> bool:
        """Whether the level has changed, now that `free` bytes are."""
        before, self.free = self.level, free
        if free < self.floor * (CRITICAL_ENDS if before == "critical" else 1.0):
            self.level = "critical"
        elif free < self.floor * (LOW if before == "ok" else LOW_ENDS):
            self.level = "low"
        else:
            self.level = "ok"
        return self.level != before

    def row(self) -> dict[str, int | str]:
        """For status pages."""
        return {"level": self.level, "free": self.free, "min_free": self.floor}

    def words(self) -> str:
        """For logs and errors.

        >>> watch = MemoryWatch(512 * 2**20)
        >>> (watch.look(300 * 2**20), watch.words())
        (True, '300 MiB of memory are free, 512 MiB are to stay free (--min-free-memory)')
        """
        return (
            f"{self.free // 2**20} MiB of memory are free, {self.floor // 2**20} MiB are to stay free "
            "(--min-free-memory)"
        )
