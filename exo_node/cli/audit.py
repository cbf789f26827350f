"""`exo audit`: who changed what the nodes of this machine do. Works on the database alone, so after their end too."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from exo_node import values
from exo_node.cli.parser import Parsed, Parser
from exo_node.cli.table import table
from exo_node.errors import ConfigurationError

if TYPE_CHECKING:
    from exo_node.store_audit import AuditRow

OK = 200


def arguments(parser: Parser, verb: str) -> None:
    parser.add_argument("--since", metavar="TIME", help="from here on: 2026-11-21, 7d, 24h, ... (default: 30d)")
    parser.add_argument("--limit", metavar="N", help="rows at most (100)")
    parser.add_argument("--json", action="store_true", default=False, help="what GET /v1/audit says")


def run(parsed: Parsed, verb: str) -> int:
    from exo_node.api.pages import point_in_time
    from exo_node.errors import InvalidRequest

    own = vars(parsed.own)
    try:
        since = point_in_time("--since", own.get("since") or "30d", time.time())
        limit = values.integer(1, 100_000)(own.get("limit") or 100)
    except InvalidRequest as e:
        raise ConfigurationError(e.message) from e
    except ValueError as e:
        raise ConfigurationError(f"--limit: {e}") from e
    rows = asyncio.run(_rows(parsed.settings().home, since, limit))
    if own["json"]:
        print(json.dumps({"object": "list", "data": [asdict(row) for row in rows]}, indent=2))
    elif rows:
        print(table(("AT", "WHO", "FROM", "NODE", "ACT", "WHAT", "RESULT"), [_shown(row) for row in rows]))
    else:
        print("nothing was changed in that time")
    return 0


async def _rows(home: Path, since: float, limit: int) -> list[AuditRow]:
    from exo_node.store import Store, store_path
    from exo_node.store_audit import AuditTable

    store = Store(store_path(home))
    try:
        return await AuditTable(store).rows(since=since, limit=limit)
    finally:
        await asyncio.to_thread(store.close)


def _shown(row: AuditRow) -> list[str]:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row.at))
    result = str(row.status) + (f" {row.error_code}" if row.error_code else "")
    return [at, row.key_name or row.key_id or "-", row.address or "-", row.node or "-", row.act, row.what, result]


def note(home: Path, act: str, what: str) -> None:
    """Keep what this command has done. A database that cannot be written is told, and undoes nothing."""
    from exo_node.store import Store, store_path
    from exo_node.store_audit import AuditRow, AuditTable

    store = Store(store_path(home))
    AuditTable(store).note(
        AuditRow(at=time.time(), node="", key_id="", key_name=_me(), address="", act=act, what=what, status=OK)
    )
    store.close()


def _me() -> str:
    import pwd

    try:
        return f"user {pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:  # a container's user without a name
        return f"user {os.getuid()}"
