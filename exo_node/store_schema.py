"""The tables of `node-shared.db`, as steps from one `user_version` to the next."""

from __future__ import annotations

import sqlite3

from exo_node.errors import StoreError

# Step i brings a database from version i to i + 1. A step that was released is never changed.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE api_keys (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, hash BLOB NOT NULL UNIQUE, created REAL NOT NULL,
        admin INTEGER NOT NULL, models TEXT NOT NULL,
        rpm INTEGER, tpm INTEGER, user_rpm INTEGER, user_tpm INTEGER, budget REAL, period TEXT
    );
    CREATE TABLE spend (
        id TEXT NOT NULL, at REAL NOT NULL, kind TEXT NOT NULL, model TEXT NOT NULL, served_model TEXT NOT NULL,
        backend TEXT NOT NULL, provider TEXT NOT NULL, node TEXT NOT NULL, key_id TEXT NOT NULL, user TEXT NOT NULL,
        stream INTEGER NOT NULL, status INTEGER NOT NULL, error_code TEXT NOT NULL,
        prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,
        cost REAL NOT NULL, estimated INTEGER NOT NULL, cached INTEGER NOT NULL, continued INTEGER NOT NULL,
        ttft_s REAL, total_s REAL NOT NULL, attempts TEXT NOT NULL
    );
    CREATE INDEX spend_at ON spend (at);
    CREATE TABLE spent (
        kind TEXT NOT NULL, subject TEXT NOT NULL, period TEXT NOT NULL, node TEXT NOT NULL, usd REAL NOT NULL,
        PRIMARY KEY (kind, subject, period, node)
    ) WITHOUT ROWID;
    CREATE TABLE profile (
        node TEXT NOT NULL, name TEXT NOT NULL, data TEXT NOT NULL, PRIMARY KEY (node, name)
    ) WITHOUT ROWID;
    CREATE TABLE cache (key TEXT PRIMARY KEY, value BLOB NOT NULL, expires REAL NOT NULL, used REAL NOT NULL);
    CREATE INDEX cache_used ON cache (used);
    """,
    "ALTER TABLE spend ADD COLUMN cost_known INTEGER NOT NULL DEFAULT 1",
    """
    CREATE TABLE responses (
        id TEXT PRIMARY KEY, owner TEXT NOT NULL, node TEXT NOT NULL, created REAL NOT NULL, previous TEXT,
        input BLOB NOT NULL, response BLOB NOT NULL, events BLOB
    );
    CREATE INDEX responses_created ON responses (created);
    """,
    """
    CREATE TABLE files (
        id TEXT PRIMARY KEY, owner TEXT NOT NULL, purpose TEXT NOT NULL, filename TEXT NOT NULL,
        bytes INTEGER NOT NULL, created REAL NOT NULL, expires REAL
    );
    CREATE TABLE batches (
        id TEXT PRIMARY KEY, owner TEXT NOT NULL, status TEXT NOT NULL, created REAL NOT NULL, expires REAL NOT NULL,
        input_id TEXT NOT NULL, output_id TEXT NOT NULL, error_id TEXT NOT NULL, batch TEXT NOT NULL
    );
    CREATE INDEX batches_status ON batches (status);
    """,
    """
    CREATE TABLE new_keys (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, hash BLOB NOT NULL UNIQUE, created REAL NOT NULL,
        scopes TEXT NOT NULL, models TEXT NOT NULL,
        rpm INTEGER, tpm INTEGER, user_rpm INTEGER, user_tpm INTEGER, budget REAL, period TEXT, expires REAL
    );
    INSERT INTO new_keys
        SELECT id, name, hash, created, CASE WHEN admin THEN 'admin' ELSE 'use' END, models,
        rpm, tpm, user_rpm, user_tpm, budget, period, NULL FROM api_keys;
    DROP TABLE api_keys;
    ALTER TABLE new_keys RENAME TO api_keys;
    CREATE TABLE audit (
        id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, node TEXT NOT NULL, key_id TEXT NOT NULL,
        key_name TEXT NOT NULL, address TEXT NOT NULL, act TEXT NOT NULL, what TEXT NOT NULL, status INTEGER NOT NULL,
        error_code TEXT NOT NULL
    );
    CREATE INDEX audit_at ON audit (at);
    """,
    "ALTER TABLE api_keys ADD COLUMN concurrency INTEGER",
    """
    ALTER TABLE responses ADD COLUMN asker TEXT NOT NULL DEFAULT '';
    ALTER TABLE responses ADD COLUMN term INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE responses ADD COLUMN mirror TEXT NOT NULL DEFAULT '';
    """,
    "CREATE TABLE deleted_responses (id TEXT PRIMARY KEY, asker TEXT NOT NULL, at REAL NOT NULL)",
)


def migrate(connection: sqlite3.Connection, where: str) -> None:
    """Bring the database to this version; safe when several processes do it at once.

    Raises `StoreError` for one that a newer exo-node wrote.
    """
    version = _version(connection)
    if version == len(MIGRATIONS):
        return
    if version > len(MIGRATIONS):
        raise StoreError(f"{where}: written by a newer exo-node (version {version}); update this one")
    connection.execute("BEGIN EXCLUSIVE")
    try:
        version = _version(connection)  # another process may have been here while we waited
        for step in MIGRATIONS[version:]:
            for statement in step.split(";"):
                if statement.strip():
                    connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
