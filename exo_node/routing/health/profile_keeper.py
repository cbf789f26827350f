"""Keeps the latency profile over restarts, and lets the nodes of a cluster learn from one another.

What is told to peers, and taken from them, are rows of providers that everybody reaches alike: never rings, servers on
one's own machine, or what was measured through another peer. Only this node's own measurements are in the rows, so that
nothing that came from a peer goes back.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from exo_node.errors import ExoError, StoreError
from exo_node.routing.health.latency import BINS, MEMORY_HALF_S, Fit
from exo_node.routing.health.profile import LOCAL_SERVERS, Profile, prior_of
from exo_node.transport.generated.exo.v1 import node_pb2 as pb

if TYPE_CHECKING:
    from exo_node.store import Store

log = logging.getLogger("exo.routing")

PERIOD_S = 30.0
FIRST_S = 3.0  # after the start: peers have been found by then
ASK_TIMEOUT_S = 5.0
PEER_WEIGHT = 0.5  # of a peer's measurement in a prior, at most: its way to the provider is not ours
KEPT_S = 7 * 86400.0  # older rows say nothing any more (they halve every 2 hours)
_AGES = frozenset({"age_s", "itl_age_s"})
_NUMBERS = ("level", "var", "samples", "gap_s", "itl_s", "itl_n")
_FIT = 11  # numbers of `Track.as_dict`'s fit
_LONGEST_S = 36000.0
_LARGEST = 1e15  # the fit's largest honest sums (200 samples, 128k tokens, 1 ms) are 1e13

Row = Mapping[str, Any]


class Peer(Protocol):
    """An authenticated connection to another daemon (transport/client.py)."""

    async def call(self, method: str, request: Any, timeout: float) -> Any: ...


class ProfileKeeper:
    """`load` once before the first request; await `run` in a task that its owner cancels (it saves at its end).

    `peers` gives the live ones by node id. `clock` is the profile's, `wall` goes on while the node is off.
    """

    def __init__(
        self,
        profile: Profile,
        store: Store,
        node_id: str,
        peers: Callable[[], Mapping[str, Peer]],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._profile, self._store, self._node_id, self._peers = profile, store, node_id, peers
        self._clock, self._wall, self._sleep = clock, wall, sleep
        self._saved: dict[str, Row] = {}  # rows in the store, without their ages
        self._complained: set[str] = set()

    async def load(self) -> None:
        """Take over what the store has; estimates are older by the time that has passed since. Never raises for what
        is in the file: without it the profile starts with its priors."""
        try:
            found = await self._store.load_profile(self._node_id)
        except StoreError as e:
            log.warning("%s (nothing is known of backends' latency yet)", e.message)
            return
        now, wall = self._clock(), self._wall()
        useless: list[str] = []
        here: set[str] = set()
        for name, kept in sorted(found.items(), key=lambda item: _bin(item[1])):
            stored = _stored(kept)
            if stored is None:
                log.warning("a row of the stored latency profile is malformed and forgotten: %s", name[:200])
                useless.append(name)
                continue
            row, at = stored
            elapsed = max(0.0, wall - at)
            if row["bin"] == -1:
                age = min(age for age in (row["age_s"], row["itl_age_s"], math.inf) if age is not None)
                if elapsed + age <= KEPT_S:
                    here.add(row["backend"])
            if row["backend"] not in here:
                useless.append(name)
                continue
            self._profile.load([row], now, elapsed)
            self._saved[name] = _without_ages(row)
        if useless:
            self._store.forget_profile(self._node_id, useless)

    def save(self) -> None:
        """Write the rows that have changed since the last time. Returns at once."""
        rows = {f"{row['backend']} {row['bin']}": row for row in self._profile.snapshot(self._clock())}
        at = self._wall()
        changed = {n: {"at": at, "row": r} for n, r in rows.items() if _without_ages(r) != self._saved.get(n)}
        gone = self._saved.keys() - rows.keys()
        if changed:
            self._store.save_profile(self._node_id, changed)
        if gone:
            self._store.forget_profile(self._node_id, gone)
        self._saved = {name: _without_ages(row) for name, row in rows.items()}

    async def run(self) -> None:
        """Save and ask peers every 30 s, until cancelled."""
        try:
            await self._sleep(FIRST_S)
            while True:
                self.save()
                await self.collect()
                await self._sleep(PERIOD_S)
        finally:
            self.save()

    async def collect(self) -> None:
        """Ask every peer for its rows; the best-founded row of a provider's model becomes part of its prior here."""
        told: list[list[Row]] = []

        async def ask(node_id: str, peer: Peer) -> None:
            try:
                answer = await peer.call("CollectProfile", pb.CollectProfileRequest(), ASK_TIMEOUT_S)
            except ExoError as e:  # gone, too slow, or without external models
                log.debug("node %s told nothing of its latency profile: %s", node_id, e.message)
                return
            told.append(self._read(node_id, answer.rows_json))

        async with asyncio.TaskGroup() as group:
            for node_id, peer in self._peers().items():
                group.create_task(ask(node_id, peer))
        best: dict[tuple[str, str], tuple[float, Row]] = {}
        for row in (one for rows in told for one in rows if _shareable(one)):
            weight = 0.5 ** (max(0.0, row["age_s"] or 0.0) / MEMORY_HALF_S)
            name = (row["provider"], row["model"])
            if name not in best or weight * row["samples"] > best[name][0] * best[name][1]["samples"]:
                best[name] = (weight, row)
        for weight, row in best.values():
            self._profile.merge([row], PEER_WEIGHT * weight)

    def rows(self) -> list[dict[str, Any]]:
        """What peers may know (`RelayHost`'s rows): by provider and model; ids of deployments stay here."""
        rows = self._profile.snapshot(self._clock())
        return [{name: row[name] for name in row if name != "backend"} for row in rows if _shareable(row)]

    def _read(self, node_id: str, raw: bytes) -> list[Row]:
        """A peer's rows, without the malformed ones; the log says so once, until the peer is well again."""
        try:
            rows = json.loads(raw)
        except (ValueError, RecursionError):
            rows = None
        if not isinstance(rows, list):
            rows, faults = [], ["it is no JSON list"]
        else:
            faults = [fault for row in rows if (fault := fault_of(row))]
        if not faults:
            self._complained.discard(node_id)
        elif node_id not in self._complained:
            self._complained.add(node_id)
            log.warning("node %s: %d malformed rows in its latency profile are left out: %s",
                        node_id, len(faults), faults[0])  # fmt: skip
        return [row for row in rows if not fault_of(row)]


def fault_of(row: Any) -> str:
    """Why `row` is none of `Profile.snapshot`'s; "" when it is one (`backend` may be missing)."""
    if not isinstance(row, dict):
        return f"a row is a {type(row).__name__}"
    for name in ("kind", "provider", "model"):
        if not isinstance(row.get(name), str):
            return f"{name} is no text"
    index = row.get("bin")
    if not isinstance(index, int) or isinstance(index, bool) or not -1 <= index <= len(BINS):
        return "bin is out of range"
    names = _NUMBERS if index == -1 else ("samples", "factor")
    for name in names:
        if not _is_number(row.get(name)):
            return f"{name} is no number"
    if row["samples"] < 0:
        return "samples is negative"
    if index != -1:
        return "" if abs(row["factor"]) <= 10 else "factor is out of range"
    return _fault_of_track(row)


def _fault_of_track(row: Row) -> str:
    fit = row.get("fit")
    if not isinstance(fit, list) or len(fit) != _FIT or not all(_is_number(v) and abs(v) <= _LARGEST for v in fit):
        return f"fit is not {_FIT} numbers"
    if min(fit[0], fit[3], fit[5], fit[9], fit[10]) < 0:
        return "fit is no sum of squares"
    for name in _AGES:
        age = row.get(name, "missing")
        if age is not None and not (_is_number(age) and age >= 0):
            return f"{name} is no age"
    if not 0 < row["var"] <= 100 or abs(row["level"]) > 50 or min(row["gap_s"], row["itl_s"], row["itl_n"]) < 0:
        return "var, level, gap_s, itl_s or itl_n is out of range"
    try:
        line = Fit(fit[:6], fit[6:9], fit[9], fit[10]).solve(prior_of(row["kind"], row["provider"]))
    except ArithmeticError:
        return "fit has no solution"
    return "" if all(0 <= seconds <= _LONGEST_S for seconds in line) else "fit gives no times"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e300  # NaN is not


def _shareable(row: Row) -> bool:
    """Whether it says anything of use to another node: a provider's model, asked directly."""
    external = row["kind"] == "deployment" and bool(row["provider"]) and row["provider"] not in LOCAL_SERVERS
    return external and row["bin"] == -1 and row["samples"] > 0


def _without_ages(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in _AGES}


def _stored(kept: Any) -> tuple[Row, float] | None:
    """A row of the store and when it was taken; None where it is malformed."""
    if not isinstance(kept, dict):
        return None
    row, at = kept.get("row"), kept.get("at")
    if not isinstance(row, dict) or fault_of(row) or not isinstance(row.get("backend"), str):
        return None
    return (row, float(at)) if isinstance(at, int | float) and _is_number(at) else None


def _bin(kept: Any) -> int:
    """Rows of all lengths come first: the others are parts of them."""
    row = kept.get("row") if isinstance(kept, dict) else None
    index = row.get("bin") if isinstance(row, dict) else None
    return index if isinstance(index, int) else -1
