"""Targets and the loop over their cases: blocks of a seed, what was found in them by its signature."""

from __future__ import annotations

import faulthandler
import hashlib
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import hypothesis
from hypothesis import strategies as st

from exo_node.errors import ExoError

ROOT = Path(__file__).resolve().parents[2]
GROWTH_MB = 600  # of the process in one block


class Finding(AssertionError):
    """An answer that should not be."""


class _Hang(BaseException):
    """A case that did not end; no `except Exception` on its way is to swallow it."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """One border. `example` is drawn by hypothesis; `spread` makes `each` inputs of it with a Random, the first as it
    was drawn; `check(world, input)` raises for a finding, `ExoError`s are allowed. `world` is made once a block.
    """

    name: str
    share: int  # of a thousand cases
    example: st.SearchStrategy[Any]
    spread: Callable[[Any, Random], Iterator[Any]]
    check: Callable[[Any, Any], None]
    each: int = 10
    case_s: float = 10.0  # of CPU time, and six times as long by the clock: then a case hangs; a fifth of it is slow
    world: Callable[[], AbstractContextManager[Any]] = nullcontext

    @property
    def group(self) -> str:
        return self.name.partition(".")[0]


@dataclass
class Found:
    """One kind of failure: the smallest input that showed it."""

    signature: str
    target: str
    seed: int
    input: str
    trace: str
    count: int = 1


@dataclass
class Block:
    """What a block of cases came to."""

    target: str
    seed: int
    cases: int = 0
    seconds: float = 0.0
    peak_mb: int = 0
    found: dict[str, Found] = field(default_factory=dict)


def block_seed(seed: int, target: str, number: int) -> int:
    """The seed of the block `number` of a target: the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed} {target} {number}".encode()).digest()[:6], "big")


def run_block(target: Target, seed: int, cases: int, *, limits: bool = True) -> Block:
    """`cases` inputs of `target` (a few more or fewer). `limits`: a clock for each, in the main thread only."""
    block = Block(target.name, seed)
    started, before = time.monotonic(), _peak_mb()
    left = cases

    with target.world() as world:

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=max(1, -(-cases // target.each)),
            database=None,
            deadline=None,
            phases=(hypothesis.Phase.generate,),
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(target.example, st.integers(0, 2**48))
        def examples(example: Any, salt: int) -> None:
            nonlocal left
            inputs = target.spread(example, Random(salt))
            for _ in range(min(left, target.each)):
                left -= 1
                block.cases += 1
                one = None
                try:
                    one = next(inputs)
                    _timed(target, world, one, limits)
                except StopIteration:
                    return
                except ExoError as error:
                    _note(block, one, _told(error))
                except (Exception, _Hang) as error:
                    _note(block, one, error)

        examples()
    block.seconds = time.monotonic() - started
    block.peak_mb = _peak_mb()
    if block.peak_mb - before > GROWTH_MB:
        _note(block, f"{before} MB before", Finding(f"memory grew by more than {GROWTH_MB} MB"))
    return block


def _timed(target: Target, world: Any, one: Any, limits: bool) -> None:
    started = time.process_time()
    if limits:
        signal.signal(signal.SIGALRM, _alarm)
        signal.setitimer(signal.ITIMER_REAL, 6 * target.case_s, 1.0)  # again, where the first is lost in a callback
        faulthandler.dump_traceback_later(12 * target.case_s, exit=True)  # what no signal can interrupt
    try:
        target.check(world, one)
    finally:
        if limits:
            signal.setitimer(signal.ITIMER_REAL, 0)
            faulthandler.cancel_dump_traceback_later()
            took = time.process_time() - started
            if took > target.case_s / 5 and sys.exc_info()[0] is not _Hang:
                raise Finding(f"slow: over {target.case_s / 5:g} s") from Finding(f"{took:.1f} s")


def _alarm(signum: int, frame: Any) -> None:
    raise _Hang("no end")


def _told(error: ExoError) -> BaseException | None:
    """An error of ours is an answer, unless it shows more than it should."""
    if "Traceback (most" in error.message or 'File "' in error.message or str(ROOT / "exo_node") in error.message:
        return Finding(f"{type(error).__name__} shows our code")
    if len(error.message) > 20_000:
        return Finding(f"{type(error).__name__} is {len(error.message) // 10_000}0,000 characters long")
    return None


def _note(block: Block, one: Any, error: BaseException | None) -> None:
    if error is None:
        return
    trace = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in trace if "/exo_node/" in frame.filename]
    at = f"{Path(ours[-1].filename).name}:{ours[-1].name}" if ours else ""
    said = "" if not isinstance(error, Finding | _Hang) else f" {' '.join(str(error).split())[:120]}"
    signature = f"{block.target} {type(error).__name__}{said} {at}".strip()
    shown = repr(one)
    found = block.found.get(signature)
    if found is None:
        text = "".join(traceback.format_exception(error)[-12:])[-3000:]
        block.found[signature] = Found(signature, block.target, block.seed, shown[:20_000], text)
    else:
        found.count += 1
        if len(shown) < len(found.input):
            found.input = shown


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
