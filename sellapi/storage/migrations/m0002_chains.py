"""Each account's requests and entries linked, newest first, instead of indexed by account.

An index by account has a page for every few accounts, and each hold or charge rewrites one of them:
with many busy accounts another one for each request. The account's own row is written anyway, so it
names its newest request and entry, and each of these names the one before it (``previous``, NULL for
the first).
"""

from __future__ import annotations

from typing import Any

__all__ = ["apply"]

_CHUNK = 10_000
_ADDED = """
ALTER TABLE requests ADD COLUMN previous INTEGER CHECK (previous < id);
ALTER TABLE entries ADD COLUMN previous INTEGER CHECK (previous < id);
ALTER TABLE accounts ADD COLUMN last_request INTEGER;
ALTER TABLE accounts ADD COLUMN last_entry INTEGER;
DROP TRIGGER entries_no_update
"""
_REMOVED = """
DROP INDEX requests_account;
DROP INDEX entries_account
"""
_APPEND_ONLY = """
CREATE TRIGGER entries_no_update BEFORE UPDATE ON entries
BEGIN SELECT RAISE(ABORT, 'entries is append-only'); END
"""
# A program of the first schema that is still open, a screen for example, must not tear a chain. An
# account's first entry has none before it, so this costs nothing where many are written.
_LINKED = """
CREATE TRIGGER entries_linked AFTER INSERT ON entries WHEN new.previous IS NULL
BEGIN
    SELECT RAISE(ABORT, 'an entry must name the one before it: use the newer sellapi')
        FROM accounts WHERE id = new.account_id AND last_entry < new.id;
    UPDATE accounts SET last_entry = new.id WHERE id = new.account_id;
END
"""


def apply(connection: Any) -> None:
    for statement in _ADDED.split(";"):
        connection.execute(statement)
    for table, newest in (("requests", "last_request"), ("entries", "last_entry")):
        last = _link(connection, table)
        connection.executemany(
            f"UPDATE accounts SET {newest} = ? WHERE id = ?",
            ((row, account) for account, row in last.items()),
        )
    for statement in _REMOVED.split(";"):
        connection.execute(statement)
    connection.execute(_APPEND_ONLY)
    connection.execute(_LINKED)


def _link(connection: Any, table: str) -> dict[int, int]:
    """Link the rows of a table, in order of id; returns each account's newest."""
    last: dict[int, int] = {}
    read = 0
    while rows := connection.execute(
        f"SELECT id, account_id FROM {table} WHERE id > ? ORDER BY id LIMIT ?", (read, _CHUNK)
    ).fetchall():
        links = []
        for id_, account in rows:
            if account in last:
                links.append((last[account], id_))
            last[account] = id_
        connection.executemany(f"UPDATE {table} SET previous = ? WHERE id = ?", links)
        read = rows[-1][0]
    return last
