"""The latency profile: what every backend was seen to do, and what an unknown one may be expected to do.

Pure: times come in as `now` (any monotonic clock), nothing is read or written elsewhere. `snapshot` gives rows for the
store and for other nodes, one per (backend, model, prompt-length bin) and one of all lengths; `load` and `merge` take
them. The estimates themselves are in `latency.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from exo_node.routing.health.latency import BINS, LOOK_GAP_S, Fit, Prior, Track
from exo_node.routing.plan import Candidate

# Seconds before anything is measured: time to the first token, per 1000 prompt tokens, per request in flight, between
# tokens. Rough medians of public measurements; only their order matters, and that none is 0.
PRIORS: Mapping[str, Prior] = {
    "ring": Prior(0.25, 0.5, 0.1, 0.05),
    "cloud": Prior(0.6, 0.05, 0.0, 0.02),
    "groq": Prior(0.3, 0.02, 0.0, 0.004),
    "cerebras": Prior(0.3, 0.02, 0.0, 0.002),
    "local server": Prior(0.3, 0.3, 0.05, 0.04),
}
LOCAL_SERVERS = frozenset({"ollama", "ollama_chat", "vllm", "hosted_vllm", "lm_studio", "llamafile", "exo"})
PEER_HOP_S = 0.005
FAILURE_PRICE_S = 1.0  # a failure costs at least its wait and a second try elsewhere
NOT_LATENCY = frozenset({"bad_request", "content_filter", "context", "cancelled", "auth", "not_found", "rate_limited"})
LOOK_SHARE = 0.05  # of all requests may go somewhere only to learn,
LOOK_BURST = 3.0  # at most this many in a row
SECOND_LOOK_S = 25.0  # after this long a backend that is a little slower is given the benefit of the doubt:
HOPE = 0.6  # it may have become this much faster
UNMEASURED_HOPE = 0.4
HEDGE_SAMPLES = 20
REMEMBERED = 1024  # backends, and peers' models; more are asked only by someone who tries names out
OVERDUE = 2.0  # standard deviations past which a request that waits is a sign


@dataclass(slots=True)
class _Seen:
    """One backend: its track, who it is, what is on its way."""

    track: Track
    kind: str
    provider: str
    model: str
    in_flight: int = 0
    # When those started that have heard nothing yet, and their prompt's length; oldest first.
    waiting: dict[object, tuple[float, int | None]] = field(default_factory=dict)
    loads: dict[object, int] = field(default_factory=dict)  # in flight beside it when it started
    minute: int = -1
    tokens: int = 0


class Profile:
    """Latency of every backend. Implements `plan.ProfileView`; the adapter writes to it.

    `started`, `observe_ttft`, `observe_failure` and `ended` may share a `key` (any hashable that names the attempt);
    with it and its prompt's length, a request that waits for too long is a sign before it has ended.
    """

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}  # who was asked last stands last
        self._shared: dict[tuple[str, str], tuple[Fit, float, float]] = {}
        self._looks = LOOK_BURST
        self._last = ""

    # reading

    def ttft(self, candidate: Candidate, prompt_tokens: int, now: float) -> float:
        """Predicted seconds to the first token, with what is in flight there."""
        seen = self._of(candidate)
        usual = seen.track.usual(prompt_tokens, seen.in_flight, now)
        return usual * (math.exp(self._level(seen, now)) + seen.track.premium(now))

    def itl(self, candidate: Candidate, now: float) -> float:
        """Predicted seconds between tokens."""
        return self._of(candidate).track.itl_now(now)

    def p95_ttft(self, candidate: Candidate, prompt_tokens: int, now: float) -> float | None:
        """The time that 95 % of answers' first tokens keep; None with fewer than 20 in the last minutes."""
        seen = self._of(candidate)
        ratio = seen.track.ratios.quantile(0.95, now, HEDGE_SAMPLES)
        return None if ratio is None else ratio * seen.track.usual(prompt_tokens, seen.in_flight, now)

    def in_flight(self, backend: str) -> int:
        seen = self._seen.get(backend)
        return seen.in_flight if seen else 0

    def known(self, candidate: Candidate, now: float) -> float:
        """0..1: how much of the estimate is measurement; halves every 10 minutes without a look."""
        track = self._of(candidate).track
        if not track.samples:
            return 0.0
        return track.samples / (track.samples + 3) * float(0.5 ** (max(0.0, now - track.seen) / 600))

    def due(self, candidate: Candidate, prompt_tokens: int, now: float) -> float | None:
        """The seconds to the first token that it may well have by now, if it is time to look at it again, else None.

        Never two looks at once, and at most 1 in 20 requests goes somewhere only to learn.
        """
        seen = self._of(candidate)
        track = seen.track
        if seen.waiting or self._looks < 1:
            return None
        usual = track.usual(prompt_tokens, seen.in_flight, now)
        if not track.samples:
            return None if now - track.looked < LOOK_GAP_S[0] else usual * UNMEASURED_HOPE
        age: float = now - max(track.seen, track.looked)
        if age < track.gap:
            return None
        hoped = min(usual, track.prior.ttft(prompt_tokens, seen.in_flight))
        if age >= SECOND_LOOK_S:
            hoped = min(hoped, HOPE * self.ttft(candidate, prompt_tokens, now), HOPE * usual)
        return hoped + usual * track.premium(now)

    def flying(self) -> dict[str, int]:
        """Attempts in flight at each backend that was measured or is being asked."""
        return {name: seen.in_flight for name, seen in self._seen.items() if seen.in_flight or seen.track.samples}

    def tokens_this_minute(self, backend: str, now: float) -> int:
        """Tokens of prompts and answers there in the running minute (usage-based routing)."""
        seen = self._seen.get(backend)
        return seen.tokens if seen and seen.minute == int(now // 60) else 0

    # writing

    def started(
        self, backend: str, now: float | None = None, key: object = None, prompt_tokens: int | None = None
    ) -> None:
        """An attempt goes to `backend`; `ended` must follow.

        `prompt_tokens` of a streamed request: its silence is then a sign before it ends. A plain answer is silent until
        it is complete, so it leaves this out.
        """
        self._seen[backend] = seen = self._seen.pop(backend, None) or self._make(backend, "", "", "")
        self._looks = min(LOOK_BURST, self._looks + LOOK_SHARE)
        if now is not None:
            looks_again = now - max(seen.track.seen, seen.track.looked) >= seen.track.gap
            if looks_again and self._last not in ("", backend):
                self._looks = max(0.0, self._looks - 1)
            seen.track.looked = now
            if key is not None:
                seen.waiting[key] = (now, prompt_tokens)
        if key is not None:
            seen.loads[key] = seen.in_flight
        self._last = backend
        seen.in_flight += 1

    def ended(self, backend: str, key: object = None) -> None:
        """The attempt that `started` announced is over, however."""
        seen = self._seen.get(backend)
        if seen is None:
            return  # forgotten meanwhile
        seen.in_flight = max(0, seen.in_flight - 1)
        seen.waiting.pop(key, None)
        seen.loads.pop(key, None)

    def observe_ttft(
        self, candidate: Candidate, prompt_tokens: int, ttft_s: float, now: float, key: object = None
    ) -> None:
        """The first content came `ttft_s` after the request was sent."""
        seen = self._of(candidate)
        seen.waiting.pop(key, None)
        load = seen.loads.get(key, max(0, seen.in_flight - 1))
        full = candidate.capacity is not None and load >= candidate.capacity
        seen.track.see(prompt_tokens, load, ttft_s, now, full=full)

    def observe_itl(self, candidate: Candidate, itl_s: float, tokens: int, now: float) -> None:
        """Mean seconds between the tokens of one answer with `tokens` tokens."""
        seen = self._of(candidate)
        if tokens > 1:
            seen.track.see_itl(itl_s, tokens, now)

    def used(self, candidate: Candidate, tokens: int, now: float) -> None:
        """An attempt used so many, of prompt and answer together."""
        seen = self._of(candidate)
        minute = int(now // 60)
        seen.tokens = tokens if seen.minute != minute else seen.tokens + tokens
        seen.minute = minute

    def observe_failure(
        self, candidate: Candidate, cause: str, waited_s: float, now: float, key: object = None
    ) -> None:
        """An attempt failed after `waited_s`.

        Counts as latency, unless the request, the key or a rate limit is to blame (those are the breaker's).
        """
        seen = self._of(candidate)
        seen.waiting.pop(key, None)
        if cause in NOT_LATENCY:
            return
        usual = seen.track.usual(0, 0, now)
        seen.track.see(0, 0, waited_s + max(FAILURE_PRICE_S, 2 * usual), now, full=True)

    def forget(self, backend: str) -> None:
        """The backend is gone."""
        self._seen.pop(backend, None)

    # rows

    def snapshot(self, now: float) -> list[dict[str, Any]]:
        """JSON-able rows; ages are relative to `now`. Row `bin` -1 holds all lengths, the others one bin's factor."""
        rows: list[dict[str, Any]] = []
        for backend, seen in self._seen.items():
            track = seen.track
            if not track.samples and not track.itl_n:
                continue
            who = {"backend": backend, "kind": seen.kind, "provider": seen.provider, "model": seen.model}
            rows.append({**who, "bin": -1, **track.as_dict(now)})
            for i, (n, factor) in enumerate(track.bins):
                if n:
                    rows.append({**who, "bin": i, "samples": n, "factor": factor})
        return rows

    def load(self, rows: Iterable[Mapping[str, Any]], now: float, elapsed_s: float = 0.0) -> None:
        """Take over rows that `snapshot` made `elapsed_s` ago (a restart). Raises `ValueError` for a malformed row."""
        for row in sorted(rows, key=lambda row: int(row.get("bin", -1))):
            try:
                backend, index = str(row["backend"]), int(row["bin"])
                if index == -1:
                    seen = self._make(backend, str(row["kind"]), str(row["provider"]), str(row["model"]))
                    seen.track.restore(dict(row), now, elapsed_s)
                elif index <= len(BINS) and (known := self._seen.get(backend)) is not None:
                    known.track.bins[index] = [float(row["samples"]), float(row["factor"])]
            except (KeyError, TypeError, IndexError) as e:
                raise ValueError(f"not a row of the latency profile ({e!r}): {dict(row)}") from e

    def merge(self, rows: Iterable[Mapping[str, Any]], weight: float) -> None:
        """A peer's rows become the prior of the same provider and model here; `weight` 0..1 says how far.

        Rings and servers on a peer's own machine are not taken: they are other machines.
        """
        for row in rows:
            provider, model = str(row["provider"]), str(row["model"])
            if int(row["bin"]) != -1 or row["kind"] == "ring" or provider in LOCAL_SERVERS:
                continue
            theirs = Track(prior_of(str(row["kind"]), provider))
            theirs.restore(dict(row), 0.0, 0.0)
            trust = weight * theirs.samples / (theirs.samples + 3)
            self._shared.pop((provider, model), None)
            if len(self._shared) >= REMEMBERED:
                del self._shared[next(iter(self._shared))]
            self._shared[provider, model] = (theirs.fit, theirs.itl_now(0.0), trust)
            for seen in self._seen.values():
                if (seen.provider, seen.model) == (provider, model):
                    seen.track.reprior(self._prior(seen.kind, provider, model))

    # parts

    def _level(self, seen: _Seen, now: float) -> float:
        """The track's fast level, moved by the oldest request that should have been answered by now."""
        level = seen.track.level_now(now)
        oldest = next(((begun, prompt) for begun, prompt in seen.waiting.values() if prompt is not None), None)
        if oldest is None:
            return level
        begun, prompt = oldest
        late = math.log(max(now - begun, 1e-6) / seen.track.usual(prompt, seen.in_flight, now))
        return level + 0.9 * (late - level) if late - level > OVERDUE * seen.track.spread else level

    def _prior(self, kind: str, provider: str, model: str) -> Prior:
        own = prior_of(kind, provider)
        shared = self._shared.get((provider, model)) if kind != "ring" else None
        if shared is None:
            return own
        fit, itl, trust = shared
        a, b, c = fit.solve(own)
        mix = [mine + trust * (theirs - mine) for mine, theirs in
               ((own.base, a), (own.per_1k, b), (own.per_request, c), (own.itl, itl))]  # fmt: skip
        return Prior(*mix)

    def _make(self, backend: str, kind: str, provider: str, model: str) -> _Seen:
        old = self._seen.get(backend)
        seen = _Seen(Track(self._prior(kind, provider, model)), kind, provider, model)
        if old is not None:  # what is in flight stays in flight
            seen.in_flight, seen.waiting, seen.loads = old.in_flight, old.waiting, old.loads
        elif len(self._seen) >= REMEMBERED:
            idle = next((name for name, one in self._seen.items() if not one.in_flight), None)
            self._seen.pop(idle or "", None)
        self._seen[backend] = seen
        return seen

    def _of(self, candidate: Candidate) -> _Seen:
        seen = self._seen.get(candidate.backend)
        if seen is None or not seen.kind:
            seen = self._make(candidate.backend, candidate.kind, candidate.provider, candidate.model)
        return seen


def prior_of(kind: str, provider: str) -> Prior:
    """What to expect of a backend that nobody has measured."""
    if kind == "ring":
        return PRIORS["ring"]
    prior = PRIORS.get(provider, PRIORS["local server"] if provider in LOCAL_SERVERS else PRIORS["cloud"])
    if kind == "peer":
        return Prior(prior.base + PEER_HOP_S, prior.per_1k, prior.per_request, prior.itl)
    return prior
