"""What `/v1/router/stats` and `/metrics` are made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.routing.cache_samples import make_call
from tests.unit.routing.front_parts import front

GROUPS = """\
model_list:
  - model_name: paid
    litellm_params: {model: openai/gpt-4o, api_key: planted-key-0123456789, api_base: "http://127.0.0.1:9/v1"}
"""


async def test_rows_and_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Document 004's keys name groups and healthy deployments; a served call is in both; no key is in either."""
    async with front(tmp_path, monkeypatch, GROUPS) as (made, _):
        await made.serve(make_call(model="demo"))
        rows = made.stats()
        assert (rows["model_list"], rows["healthy_deployments"]) == (["paid"], ["openai/gpt-4o"])
        assert rows["routing_strategy"] == rows["strategy"] == "latency"
        assert rows["requests"] == {"requests": 1, "failed": 0, "continued": 0, "in_flight": 0}
        assert b'backend="ring:demo"' in made.render_metrics((), {})[0]
        assert "planted" not in str(rows)
