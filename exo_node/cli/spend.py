"""`exo spend`: what calls have cost, from the running node's spend log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from exo_node.cli.nodes import require_node
from exo_node.cli.parser import Parsed, Parser
from exo_node.cli.table import table
from exo_node.errors import ConfigurationError
from exo_node.store_spend import GROUPS

CALL = "call"
WORDS = (
    ("since", "TIME", "from here on: 2026-11-21, 7d, 24h, ... (default: 30d)"),
    ("until", "TIME", "up to here, a day with all of it (default: now)"),
    ("key", "KEY", "only calls with this API key (its name or id)"),
    ("model", "MODEL", "only calls of this model"),
    ("limit", "N", "rows at most (100)"),
)


def arguments(parser: Parser, verb: str) -> None:
    for name, metavar, about in WORDS:
        parser.add_argument(f"--{name}", metavar=metavar, help=about)
    choices = (*GROUPS, CALL)
    parser.add_argument("--by", default="day", metavar="WHAT", help=f"{', '.join(choices)} (default: day, in UTC)")
    parser.add_argument("--json", action="store_true", default=False, help="what GET /v1/spend says")
    parser.add_node()


def run(parsed: Parsed, verb: str) -> int:
    own = vars(parsed.own)
    by = own["by"]
    if by not in (*GROUPS, CALL):
        raise ConfigurationError(f"--by: one of {', '.join((*GROUPS, CALL))}, not {by!r}")
    asked = {"since": "30d", **{name: own[name] for name, _, _ in WORDS if name in own}}
    if by != CALL:
        asked["group_by"] = by
    client = require_node(parsed, parsed.settings())
    try:
        found = client.call("GET", f"/v1/spend?{urlencode(asked)}")
    finally:
        client.close()
    if parsed.own.json:
        print(json.dumps(found, indent=2))
    else:
        print(of_calls(found["data"], found["total"]) if by == CALL else of_groups(by, found["data"], found["total"]))
    return 0


def of_groups(by: str, rows: Sequence[dict[str, Any]], total: dict[str, Any]) -> str:
    """Sums as a table, those of all calls in its last line."""
    shown = [[_label(by, row), *_sums(row)] for row in rows]
    header = [by.upper(), "CALLS", "FAILED", "CACHED", "TOKENS IN", "OUT", "USD", ""]
    return table(header, [*shown, ["all", *_sums(total)]])


def of_calls(rows: Sequence[dict[str, Any]], total: dict[str, Any]) -> str:
    """A line a call, the newest first."""
    from datetime import UTC, datetime

    shown = [
        [
            datetime.fromtimestamp(row["at"], UTC).strftime("%Y-%m-%d %H:%M:%S"),
            row["served_model"] or row["model"],
            row["backend"] or "-",
            row["key_name"] or row["key_id"] or "-",
            row["user"] or "-",
            str(row["prompt_tokens"]),
            str(row["completion_tokens"]),
            _usd(row["cost"]),
            ", ".join(_remarks(row)),
        ]
        for row in rows
    ]
    header = ["AT (UTC)", "MODEL", "BACKEND", "KEY", "USER", "TOKENS IN", "OUT", "USD", ""]
    return f"{table(header, shown)}\n{len(rows)} of {total['requests']} calls, {total['cost']:.6f} USD in all"


def _label(by: str, row: dict[str, Any]) -> str:
    if by == "key":
        return str(row["key_name"] or row["key"] or "-")
    return str(row[by] or "-")


def _sums(row: dict[str, Any]) -> list[str]:
    counts = [str(row[name]) for name in ("requests", "failed", "cached", "prompt_tokens", "completion_tokens")]
    notes = [f"{row['estimated']} estimated"] if row["estimated"] else []
    if row["unpriced"]:
        notes.append(f"{row['unpriced']} without a known price")
    unknown = not row["cost"] and row["unpriced"]
    return [*counts, _usd(None if unknown else row["cost"]), ", ".join(notes)]


def _remarks(row: dict[str, Any]) -> list[str]:
    found = [f"failed: {row['error_code'] or row['status']}"] if row["status"] >= 400 else []
    found += [word for word in ("cached", "continued", "estimated") if row[word]]
    return found if row["cost_known"] else [*found, "price not known"]


def _usd(cost: float | None) -> str:
    return "?" if cost is None else f"{cost:.6f}"
