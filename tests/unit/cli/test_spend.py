"""`exo spend`."""

from __future__ import annotations

import json

import pytest

from exo_node.cli.main import dispatch
from exo_node.cli.spend import of_calls, of_groups
from exo_node.store_spend import NOTHING
from tests.unit.api.scripted import END, ScriptedBackend
from tests.unit.api.scripted_routing import ScriptedRouting
from tests.unit.cli.conftest import StartNode

SUMS = {**NOTHING, "requests": 3, "failed": 1, "prompt_tokens": 10, "completion_tokens": 20, "cost": 0.25}


def test_spend(start_node: StartNode, capsys: pytest.CaptureFixture[str]) -> None:
    """A table by day unless told otherwise; --json has what the API says; mistakes are told in one line."""
    routing = ScriptedRouting()
    routing.spent = [{"day": "2026-11-21", **SUMS}]
    start_node(ScriptedBackend([END]), routing=routing)
    assert dispatch(["spend", "--since", "7d", "--key", "ci"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["DAY", "CALLS", "FAILED", "CACHED", "TOKENS", "IN", "OUT", "USD"]
    assert lines[1] == ["2026-11-21", "3", "1", "0", "10", "20", "0.250000"]
    assert lines[2][:2] == ["all", "1"]
    (query, by), *_ = routing.asked
    assert (query.key_id, by, query.since > 0) == ("ci", "day", True)
    assert dispatch(["spend", "--json", "--by", "day"]) == 0
    assert json.loads(capsys.readouterr().out)["data"] == routing.spent
    assert dispatch(["spend", "--by", "moon"]) == 2
    assert "--by: one of day, key" in capsys.readouterr().err
    assert dispatch(["spend", "--since", "soon"]) == 1
    assert "since: must be a date" in capsys.readouterr().err


def test_what_is_not_exact_is_said() -> None:
    """Estimates and prices that nobody knows stand beside the sum, never as 0."""
    unknown = {**SUMS, "model": "x", "cost": 0.0, "unpriced": 3}
    partly = {**SUMS, "model": "", "unpriced": 1, "estimated": 2}
    lines = of_groups("model", [unknown, partly], partly).splitlines()
    assert lines[1].split(maxsplit=7)[5:] == ["20", "?", "3 without a known price"]
    assert lines[2].startswith("-      3")
    assert lines[2].endswith("0.250000  2 estimated, 1 without a known price")


def test_calls() -> None:
    """A line a call: who asked what, who answered, what went wrong."""
    call = {
        "at": 1795262400.0, "model": "fast", "served_model": "", "backend": "", "key_name": "", "key_id": "key-1",
        "user": "", "prompt_tokens": 3, "completion_tokens": 4, "cost": None, "cost_known": False, "status": 504,
        "error_code": "upstream_timeout", "cached": False, "continued": False, "estimated": True,
    }  # fmt: skip
    _, line, end = of_calls([call], {**NOTHING, "requests": 9}).splitlines()
    assert line.split(maxsplit=9) == [
        "2026-11-21", "12:00:00", "fast", "-", "key-1", "-", "3", "4", "?",
        "failed: upstream_timeout, estimated, price not known",
    ]  # fmt: skip
    assert end == "1 of 9 calls, 0.000000 USD in all"
