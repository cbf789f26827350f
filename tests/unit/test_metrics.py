"""Prometheus metrics."""

from __future__ import annotations

import subprocess
import sys

from prometheus_client.parser import text_string_to_metric_families

from exo_node.metrics import NAMED, OTHER, WAITING, Metrics


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    raw, content_type = metrics.render()
    assert content_type.startswith("text/plain")
    return {
        (one.name, frozenset(one.labels.items())): one.value
        for family in text_string_to_metric_families(raw.decode())
        for one in family.samples
    }


def find(metrics: Metrics, name: str, **labels: str) -> float | None:
    found = [value for (n, said), value in samples(metrics).items() if n == name and frozenset(labels.items()) <= said]
    return sum(found) if found else None


def finish(metrics: Metrics, *, cached: bool = False, status: int = 200) -> None:
    metrics.finished(
        kind="chat", backend="openai/1", provider="openai", status=status, stream=True, ttft_s=0.2, total_s=1.0,
        prompt_tokens=10, completion_tokens=5, cost=0.25, cached=cached,
        attempts=[("groq/1", "timeout"), ("openai/1", "")],
    )  # fmt: skip


def test_a_finished_request_is_counted() -> None:
    """Requests, times, tokens, money and tries by cause, each under its labels."""
    metrics = Metrics()
    finish(metrics)
    finish(metrics, status=502)
    assert find(metrics, "exo_requests_total", backend="openai/1", status="200", mode="stream") == 1
    assert find(metrics, "exo_requests_total") == 2
    assert find(metrics, "exo_ttft_seconds_bucket", le="0.25") == 2
    assert find(metrics, "exo_duration_seconds_sum", provider="openai") == 2.0
    assert find(metrics, "exo_tokens_total", direction="prompt") == 20
    assert find(metrics, "exo_cost_usd_total") == 0.5
    assert find(metrics, "exo_attempts_total", backend="groq/1", cause="timeout") == 2
    assert find(metrics, "exo_attempts_total", backend="openai/1", cause="ok") == 2


def test_made_up_names_get_no_labels_without_end() -> None:
    """Past the first hundreds they are counted together; a backend that answers still gets labels of its own."""
    metrics = Metrics()

    def ask(backend: str, status: int, cause: str) -> None:
        metrics.finished(
            kind="chat", backend=backend if status == 200 else "", provider="openai", status=status, stream=False,
            ttft_s=None, total_s=1.0, prompt_tokens=1, completion_tokens=1, cost=0.0, cached=False,
            attempts=[(backend, cause)],
        )  # fmt: skip

    for i in range(3 * NAMED):
        ask(f"auto:openai/made-up-{i}", 404, "not_found")
    ask("openai/real", 200, "")
    labels = {dict(labels).get("backend") for name, labels in samples(metrics) if name == "exo_attempts_total"}
    assert len(labels) <= NAMED // 2 + 2
    assert find(metrics, "exo_attempts_total", cause="not_found") == 3 * NAMED
    assert find(metrics, "exo_requests_total", backend="openai/real", status="200") == 1
    for i in range(2 * NAMED):
        ask(f"takes-any/{i}", 200, "")
    labels = {dict(labels).get("backend") for name, labels in samples(metrics) if name == "exo_duration_seconds_count"}
    assert len(labels) <= NAMED + 1
    assert (find(metrics, "exo_requests_total", backend=OTHER, provider=OTHER) or 0) > NAMED


def test_a_cached_answer_costs_nothing() -> None:
    """An answer from the cache is a request, but its tokens and money are not counted again."""
    metrics = Metrics()
    finish(metrics, cached=True)
    metrics.cache(True)
    metrics.cache(False)
    assert find(metrics, "exo_requests_total") == 1
    assert find(metrics, "exo_cost_usd_total") is None
    assert find(metrics, "exo_response_cache_total", result="hit") == 1


def test_states_are_as_told_last() -> None:
    """Breakers that are gone leave the page; what runs and what was refused is there."""
    metrics = Metrics()
    metrics.breakers({"a": "open", "b": "closed"})
    metrics.breakers({"a": "half_open"})
    metrics.in_flight(1, {"gone": 1})
    metrics.in_flight(3, {"a": 2})
    assert find(metrics, "exo_backend_in_flight", backend="gone") is None
    metrics.refused("budget_exceeded")
    assert find(metrics, "exo_breaker_state", backend="a", state="half_open") == 1
    assert find(metrics, "exo_breaker_state", backend="a", state="open") == 0
    assert find(metrics, "exo_breaker_state", backend="b") is None
    assert find(metrics, "exo_in_flight") == 3
    assert find(metrics, "exo_backend_in_flight", backend="a") == 2
    assert find(metrics, "exo_refused_total", code="budget_exceeded") == 1


def test_importing_it_imports_no_client() -> None:
    """A daemon that has served nothing has not loaded prometheus_client, sqlite3 or redis."""
    code = (
        "import sys, exo_node.metrics, exo_node.store, exo_node.limits.gate\n"
        "exo_node.metrics.Metrics()\n"
        "print({'prometheus_client', 'sqlite3', 'redis'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_much_is_told_before_anybody_looks() -> None:
    """Times do not wait without end, and none is lost on the way."""
    metrics = Metrics()
    for _ in range(2 * WAITING + 3):
        finish(metrics)
    assert len(metrics._times) < WAITING
    assert find(metrics, "exo_duration_seconds_count") == 2 * WAITING + 3


def test_rings() -> None:
    """What each ring's head reports, by model and instance; one that is gone is told no more."""
    metrics = Metrics()
    scheduling = {"kv_tokens": 512, "prompt_tokens": 20, "prefix_hit_tokens": 16, "micro_batches": 2}
    metrics.rings([{"model": "demo", "instance": "i", "running": 3, "tokens": 7, "scheduling": scheduling}])
    assert find(metrics, "exo_ring_running", model="demo", instance="i") == 3
    assert find(metrics, "exo_ring_kv_tokens") == 512
    assert find(metrics, "exo_ring_tokens_total") == 7
    assert find(metrics, "exo_ring_prompt_tokens_total") == 20
    assert find(metrics, "exo_ring_prefix_hit_tokens_total") == 16
    assert find(metrics, "exo_ring_preemptions_total") == 0
    metrics.rings([])
    assert find(metrics, "exo_ring_running") is None


def test_the_node_itself() -> None:
    """How full it is, and how many clients were cut off."""
    metrics = Metrics()
    metrics.node({"answering": 2, "memory_pressure": 1, "slow_readers": 3})
    assert find(metrics, "exo_answering") == 2
    assert find(metrics, "exo_memory_pressure") == 1
    assert find(metrics, "exo_slow_readers_total") == 3
