"""What a finished call leaves behind."""

from __future__ import annotations

from pathlib import Path

from exo_node.metrics import Metrics
from exo_node.routing.call import AttemptRecord, Caller, CallRecord
from exo_node.routing.sinks import measure, spend_row
from exo_node.store import Store
from exo_node.types import Usage


async def test_what_is_written_down(tmp_path: Path) -> None:
    """The spend log has numbers and names but no prompt; odd names can be stored; the metrics have the same."""
    record = CallRecord(
        id="c", kind="chat", model="m", served_model="gpt-4o", backend="d", provider="openai", stream=False,
        caller=Caller("key-1", "\ud800" + "x" * 500), started=1.9e9, usage=Usage(3, 4), cost=0.25,
        body={"messages": [{"role": "user", "content": "planted-prompt"}]}, text="planted-answer",
        attempts=[AttemptRecord(backend="d", usage=Usage(3, 4), usage_estimated=True, cost=0.25)],
    )  # fmt: skip
    store = Store(tmp_path / "log.db")
    store.log_spend(spend_row(record, "node-a"))
    (row,) = await store.spend_rows()
    assert (row.cost, row.node, row.key_id, len(row.user), row.estimated) == (0.25, "node-a", "key-1", 200, True)
    assert row.attempts[0]["prompt_tokens"] == 3
    store.close()
    assert b"planted" not in store.path.read_bytes()  # closing wrote the -wal file back into it
    metrics = Metrics()
    measure(metrics, record)
    assert b'exo_cost_usd_total{backend="d",provider="openai"} 0.25' in metrics.render()[0]
