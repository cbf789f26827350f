"""Prometheus metrics of this node. `prometheus_client` (2 MB) is imported when somebody looks or much has come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric

# Seconds: from a cached or local first token to an answer of several minutes.
TTFT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
DURATION_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)
WAITING = 1000  # times that wait to be told
# Backends with labels of their own; all others together are `OTHER`. Those that never answered may be half of them: who
# makes names up for a wildcard takes neither memory without end nor the places of real ones.
NAMED, OTHER = 300, "other"
BREAKER_STATES = ("closed", "half_open", "open")
# Of each ring whose head is here: what it holds now, and what it has counted since it was last set up.
RING_NOW = {
    "running": "Requests that hold a slot.",
    "waiting": "Requests that wait for a slot.",
    "kv_tokens": "Tokens that the smallest KV pool holds.",
    "kv_tokens_used": "Tokens of it that are taken, by finished prompts that are kept too.",
    "micro_batches": "Parts into which the decoding requests are cut.",
}
RING_COUNTED = {
    "tokens": "Tokens generated.",
    "prompt_tokens": "Prompt tokens of the requests that got a slot.",
    "prefix_hit_tokens": "Of these, found in the KV pools.",
    "evictions": "Finished prompts given up for memory.",
    "preemptions": "Running requests sent back to the queue.",
    "drafted_tokens": "Tokens guessed ahead.",
    "accepted_tokens": "Of these, right.",
}
# Of the node itself.
NODE_NOW = {
    "answering": "Answers that are being made or sent.",
    "memory_free_bytes": "Memory of the machine (or container) that is free.",
    "memory_min_free_bytes": "Memory that is to stay free (--min-free-memory).",
    "memory_pressure": "0: enough memory; 1: nothing is kept for later; 2: no request and no model is taken.",
}
NODE_COUNTED = {"slow_readers": "Clients that were cut off because they took nothing of their stream (--send-timeout)."}


class Metrics:
    """Fed with plain values. Labels are backends, providers and kinds, and no more than `NAMED` backends."""

    def __init__(self) -> None:
        self._table: _Table | None = None
        self._named = {"", "cache"}  # nobody, and the response cache
        # Counted here and told to the counters when somebody looks: seven of them for a call cost more than its row.
        self._calls: dict[tuple[str, str, str, int, bool], int] = {}
        self._used: dict[tuple[str, str], list[float]] = {}  # prompt tokens, completion tokens, USD
        self._tries: dict[tuple[str, str], int] = {}
        self._cache_asked: dict[bool, int] = {}
        self._refusals: dict[str, int] = {}
        self._times: list[tuple[str, str, str, bool, float | None, float]] = []

    def finished(
        self,
        *,
        kind: str,
        backend: str,
        provider: str,
        status: int,
        stream: bool,
        ttft_s: float | None,
        total_s: float,
        prompt_tokens: int,
        completion_tokens: int,
        cost: float,
        cached: bool,
        attempts: Iterable[tuple[str, str]] = (),
    ) -> None:
        """One finished request; `attempts` are (backend, cause), cause "" for the one that answered. Cost in USD."""
        if backend not in self._named and not self._name(backend, answered=status < 400):
            backend = provider = OTHER
        call = (kind, backend, provider, status, stream)
        self._calls[call] = self._calls.get(call, 0) + 1
        self._times.append((kind, backend, provider, stream, ttft_s, total_s))
        if len(self._times) >= WAITING:
            self._tell_times(self._get())
        if not cached:
            used = self._used.get((backend, provider))
            if used is None:
                used = self._used[backend, provider] = [0, 0, 0.0]
            used[0] += prompt_tokens
            used[1] += completion_tokens
            used[2] += max(0.0, cost)
        for tried, cause in attempts:
            known = tried in self._named or self._name(tried, answered=not cause)
            one = (tried if known else OTHER, cause)
            self._tries[one] = self._tries.get(one, 0) + 1

    def cache(self, hit: bool) -> None:
        """The response cache was asked."""
        self._cache_asked[hit] = self._cache_asked.get(hit, 0) + 1

    def refused(self, code: str) -> None:
        """A key, limit or budget refused a request; `code` is the error's."""
        self._refusals[code] = self._refusals.get(code, 0) + 1

    def in_flight(self, requests: int, backends: Mapping[str, int] | None = None) -> None:
        """How many requests run now, and how many at each backend, in place of all told before."""
        table = self._get()
        table.running.set(requests)
        table.running_at.clear()
        for backend, count in (backends or {}).items():
            table.running_at.labels(backend).set(count)

    def breakers(self, states: Mapping[str, str]) -> None:
        """Backend -> "closed", "half_open" or "open", in place of all told before."""
        table = self._get()
        table.breaker.clear()
        for backend, state in states.items():
            for one in BREAKER_STATES:
                table.breaker.labels(backend, one).set(one == state)

    def rings(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """What the heads of rings report, in place of all told before: `instance`, `model`, and by `RING_NOW`'s and
        `RING_COUNTED`'s names what they count, some of it in `scheduling`."""
        self._get().rings.rows = [{**row, **row.get("scheduling", {})} for row in rows]

    def node(self, facts: Mapping[str, float]) -> None:
        """What the node says of itself, by `NODE_NOW`'s and `NODE_COUNTED`'s names, in place of all told before."""
        self._get().rings.facts = facts

    def render(self) -> tuple[bytes, str]:
        """What `/metrics` answers, and its content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        table = self._get()
        self._count(table)
        return generate_latest(table.registry), CONTENT_TYPE_LATEST

    def _name(self, backend: str, *, answered: bool) -> bool:
        """Give a backend labels of its own, if there is room."""
        if len(self._named) >= (NAMED if answered else NAMED // 2):
            return False
        self._named.add(backend)
        return True

    def _count(self, table: _Table) -> None:
        """Tell the counters what has come since the last time."""
        for (kind, backend, provider, status, stream), n in self._calls.items():
            table.requests.labels(kind, backend, provider, str(status), _mode(stream)).inc(n)
        for (backend, provider), (prompt, completion, cost) in self._used.items():
            table.tokens.labels(backend, provider, "prompt").inc(prompt)
            table.tokens.labels(backend, provider, "completion").inc(completion)
            table.cost.labels(backend, provider).inc(cost)
        for (backend, cause), n in self._tries.items():
            table.attempts.labels(backend, cause or "ok").inc(n)
        for hit, n in self._cache_asked.items():
            table.cache.labels("hit" if hit else "miss").inc(n)
        for code, n in self._refusals.items():
            table.refused.labels(code).inc(n)
        self._calls, self._used, self._tries, self._cache_asked, self._refusals = {}, {}, {}, {}, {}
        self._tell_times(table)

    def _tell_times(self, table: _Table) -> None:
        for kind, backend, provider, stream, ttft_s, total_s in self._times:
            if ttft_s is not None:
                table.of_ttft(kind, backend, provider).observe(ttft_s)
            table.of_duration(kind, backend, provider, _mode(stream)).observe(total_s)
        self._times.clear()

    def _get(self) -> _Table:
        if self._table is None:
            self._table = _Table()
        return self._table


class _Table:
    """The metrics themselves, in a registry of their own (with the process's memory and CPU time)."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

        self.registry: CollectorRegistry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.rings = _Rings()
        self.registry.register(self.rings)

        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(name, about, labels, registry=self.registry)

        def gauge(name: str, about: str, *labels: str) -> Gauge:
            return Gauge(name, about, labels, registry=self.registry)

        def histogram(name: str, about: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, about, labels, buckets=buckets, registry=self.registry)

        where = ("kind", "backend", "provider")
        self.requests = counter("exo_requests", "Finished requests.", *where, "status", "mode")
        self.ttft = histogram("exo_ttft_seconds", "Time to the first content.", TTFT_BUCKETS, *where)
        self.duration = histogram("exo_duration_seconds", "Time to the end.", DURATION_BUCKETS, *where, "mode")
        self.tokens = counter("exo_tokens", "Tokens read and written.", "backend", "provider", "direction")
        self.cost = counter("exo_cost_usd", "Money spent.", "backend", "provider")
        self.attempts = counter("exo_attempts", "Tries of backends by how they ended.", "backend", "cause")
        self.cache = counter("exo_response_cache", "Questions to the response cache.", "result")
        # Looking the children up by their labels costs more than all that is done with them.
        self.of_duration = cache(self.duration.labels)
        self.of_ttft = cache(self.ttft.labels)
        self.refused = counter("exo_refused", "Requests refused by a key, a limit or a budget.", "code")
        self.running = gauge("exo_in_flight", "Requests that run now.")
        self.running_at = gauge("exo_backend_in_flight", "Requests that run now, by backend.", "backend")
        self.breaker = gauge("exo_breaker_state", "1 for the state that a breaker is in.", "backend", "state")


class _Rings:
    """A collector, of the node's own figures too: the counters are the rings' own and begin anew with them."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, Any]] = []
        self.facts: Mapping[str, float] = {}

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for kind, names in ((GaugeMetricFamily, RING_NOW), (CounterMetricFamily, RING_COUNTED)):
            for name, about in names.items():
                family = kind(f"exo_ring_{name}", about, labels=("model", "instance"))
                for row in self.rows:
                    family.add_metric((row["model"], row["instance"]), row.get(name, 0))
                yield family
        for kind, names in ((GaugeMetricFamily, NODE_NOW), (CounterMetricFamily, NODE_COUNTED)):
            for name, about in names.items():
                yield kind(f"exo_{name}", about, value=self.facts.get(name, 0))


def _mode(stream: bool) -> str:
    return "stream" if stream else "plain"
