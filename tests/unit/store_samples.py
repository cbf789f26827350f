"""A database for tests of what holds it."""

from __future__ import annotations

import sqlite3


def tables(db: sqlite3.Connection, where: str) -> None:
    """One table with one number a row."""
    if not db.execute("SELECT 1 FROM sqlite_master").fetchall():
        db.execute("CREATE TABLE t (n INTEGER)")
