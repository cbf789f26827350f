"""What is broken, how and when: the cells of the matrix, each a line of text by which it can be run again. Pure.

A cell reads VICTIM:HOW:MOMENT:ENGINES:STREAMS:MODE:MODEL:RING:TARGETS:SEED, for example
"follower-node:kill:t16:mlx:x8:exact:demo:cb:b:17". Nodes are a, b, c and d; clients talk to a, which is never killed
as a whole (its sockets would end with it). RING are the nodes that hold the model, the head first.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

NODES = "abcd"
API_NODE = "a"
PEERS = "bcd"
TOKENS = 64  # of each answer
VICTIMS = ("follower-runner", "head-runner", "follower-node", "head-node", "peer", "two-nodes")
HOWS = ("kill", "stop", "cut")  # SIGKILL, SIGSTOP, a link that swallows everything
MOMENTS = ("loading", "prefill", "first", "t16", "t32", "t48", "last", "recovery")
ENGINES = ("mlx", "tinygrad", "mixed")
STREAMS = (1, 8)
# exact: nodes of --reproducible, bytes are equal; plain: what was delivered stays, text may differ after a near tie.
MODES = ("exact", "plain")
MODELS = ("demo", "stories260K")
RINGS = ("ab", "ba", "bc", "cb", "cd", "ad", "da", "bcd", "dcb", "abc", "cab", "acd")


@dataclass(frozen=True, slots=True)
class Cell:
    """One disturbance of a ring that answers. `targets` are the nodes that are hit (or whose runner is)."""

    victim: str
    how: str
    moment: str
    engines: str
    streams: int
    mode: str
    model: str
    ring: str
    targets: str
    seed: int

    def __str__(self) -> str:
        parts = (self.victim, self.how, self.moment, self.engines, f"x{self.streams}", self.mode, self.model)
        return ":".join((*parts, self.ring, self.targets, str(self.seed)))

    @property
    def runner_only(self) -> bool:
        """The daemons live on."""
        return self.victim.endswith("-runner")

    @property
    def kills(self) -> int:
        """How many processes or nodes are hit."""
        return len(self.targets) + (self.moment == "recovery")

    @property
    def fleet(self) -> tuple[str, str]:
        """Cells of one fleet run on the same daemons."""
        return self.engines, self.mode

    @property
    def trigger(self) -> int:
        """Tokens that the first client has when it happens; 0 for moments before the first token."""
        fixed = {"loading": 0, "prefill": 0, "first": 1, "t16": 16, "t32": 32, "t48": 48, "last": TOKENS - 1}
        return fixed[self.moment] if self.moment in fixed else 8 + self.seed % 24

    def chance(self, what: str) -> random.Random:
        """The cell's own numbers, the same whenever it is run again."""
        return random.Random(f"{self}/{what}")


def parse(text: str) -> Cell:
    """The cell that `str` wrote. Raises `ValueError` naming the part that is none.

    >>> str(parse("peer:cut:first:mixed:x1:plain:demo:bc:d:3"))
    'peer:cut:first:mixed:x1:plain:demo:bc:d:3'
    """
    parts = text.split(":")
    if len(parts) != 10:
        raise ValueError(
            f"{text!r} is no cell: ten parts, VICTIM:HOW:MOMENT:ENGINES:xSTREAMS:MODE:MODEL:RING:TARGETS:SEED"
        )
    names = ("victim", "how", "moment", "engines", "streams", "mode", "model")
    allowed = (VICTIMS, HOWS, MOMENTS, ENGINES, tuple(f"x{one}" for one in STREAMS), MODES, MODELS)
    for name, value, known in zip(names, parts, allowed, strict=False):
        if value not in known:
            raise ValueError(f"{text!r}: {value!r} is no {name}: {', '.join(known)}")
    if not parts[9].isdigit():
        raise ValueError(f"{text!r}: the seed {parts[9]!r} is no number")
    victim, how, moment, engines, streams, mode, model, ring, targets, seed = parts
    cell = Cell(victim, how, moment, engines, int(streams[1:]), mode, model, ring, targets, int(seed))
    if fault := _fault(cell):
        raise ValueError(f"{text!r}: {fault}")
    return cell


def _fault(cell: Cell) -> str:
    """Why the parts do not go together; "" when they do."""
    ring, targets = cell.ring, cell.targets
    if len(ring) < 2 or len(set(ring)) != len(ring) or not set(ring) <= set(NODES):
        return f"the ring {ring!r} is not made of two or more of {NODES}"
    if cell.engines == "mixed" and len({one in "ac" for one in ring}) < 2:
        return "a mixed ring has a or c (MLX) and b or d (tinygrad)"
    if cell.runner_only:
        if cell.how == "cut":
            return "a runner has no link of its own"
        fits = set(ring[:1] if cell.victim == "head-runner" else ring[1:])
    elif cell.victim == "peer":
        fits = set(PEERS) - set(ring)
    elif cell.victim == "two-nodes":
        fits = set(PEERS)
    else:
        fits = set(ring[:1] if cell.victim == "head-node" else ring[1:]) - {API_NODE}
    wanted = 2 if cell.victim == "two-nodes" else 1
    if len(set(targets)) != wanted or len(targets) != wanted or not set(targets) <= fits:
        return f"{targets!r} is not {wanted} of {''.join(sorted(fits)) or 'no node'}"
    if cell.victim == "two-nodes" and not set(targets) & set(ring):
        return "neither of the two nodes is in the ring"
    return ""


def whole(seed: int, models: Sequence[str] = MODELS, links: bool = True) -> list[Cell]:
    """Every victim, way, moment, kind of ring and number of streams once; what else there is to choose is drawn."""
    cells = []
    for number, parts in enumerate(itertools.product(VICTIMS, HOWS, MOMENTS, ENGINES, STREAMS)):
        if parts[1] == "cut" and (parts[0].endswith("-runner") or not links):
            continue
        cells.append(_drawn(parts, random.Random(f"{seed}/{number}"), models))
    return cells


def _drawn(parts: tuple[str, str, str, str, int], chance: random.Random, models: Sequence[str]) -> Cell:
    mode = chance.choices(MODES, (3, 1))[0]
    model, number = chance.choice(models), chance.randrange(10_000)
    while True:
        victim = parts[0]
        targets = "".join(sorted(chance.sample(NODES, 2 if victim == "two-nodes" else 1)))
        cell = Cell(*parts, mode, model, chance.choice(RINGS), targets, number)
        if not _fault(cell):
            return cell


def drawn(seed: int, kills: int, models: Sequence[str] = MODELS, links: bool = True) -> list[Cell]:
    """Cells of at least so many kills: a fair sample of the whole, or the whole several times, by fleets."""
    found: list[Cell] = []
    for cell in _endless(seed, models, links):
        found.append(cell)
        kills -= cell.kills
        if kills <= 0:
            break
    return sorted(found, key=lambda cell: (ENGINES.index(cell.engines), MODES.index(cell.mode)))


def _endless(seed: int, models: Sequence[str], links: bool) -> Iterator[Cell]:
    for number in itertools.count(seed):
        cells = whole(number, models, links)
        random.Random(number).shuffle(cells)
        yield from cells
