"""Old request rows are removed; their sums by day were kept all along, the ledger is untouched."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sellapi.storage.database import Database, Tx

__all__ = ["Pruned", "count", "prune"]

CHUNK_MIN, CHUNK_MAX = 50, 1_000
CHUNK_S = 0.02
"""How long a chunk should take: a running server's requests wait behind it for the write lock."""
PAUSE_S = 0.005
"""Between chunks, so that a running server's writer gets its turn."""


class Pruned(NamedTuple):
    """How many rows were removed, and how many old ones stayed (see `prune`)."""

    removed: int
    stayed: int


def prune(
    database: Database, before_ms: int, progress: Callable[[int, int], None] | None = None
) -> Pruned:
    """Remove requests resolved before a time, oldest first.

    The horizon is written first: whoever verifies meanwhile knows that rows below it may be gone.
    Rows that still hold credits stay, however old, and with them whatever is newer of their account:
    its requests are a chain, which must not be torn.
    """
    with database.transaction() as tx:
        tx.execute("UPDATE retention SET pruned_before_ms = max(pruned_before_ms, ?)", (before_ms,))
        last_id = int(tx.value("SELECT max(id) FROM requests") or 0)
    cursor = removed = stayed = 0
    size = CHUNK_MIN
    staying: set[int] = set()
    while cursor < last_id:
        begun = time.monotonic()
        with database.transaction() as tx:
            rows = _chunk(tx, before_ms, cursor, size)
            if not rows:
                break
            going, left = _parted(rows, before_ms, staying)
            tx.connection.executemany("DELETE FROM requests WHERE id = ?", going)
            removed += len(going)
            stayed += left
            cursor = rows[-1][0]
        took = time.monotonic() - begun
        size = max(CHUNK_MIN, min(CHUNK_MAX, size * 2, int(size * CHUNK_S / took)))
        if progress:
            progress(cursor, last_id)
        time.sleep(PAUSE_S)
    return Pruned(removed, stayed)


def count(database: Database, before_ms: int) -> Pruned:
    """How many rows `prune` would remove and leave; it only looks, and keeps nobody waiting."""
    cursor = removed = stayed = 0
    staying: set[int] = set()
    while True:
        with database.read() as tx:
            rows = _chunk(tx, before_ms, cursor, CHUNK_MAX)
        if not rows:
            return Pruned(removed, stayed)
        going, left = _parted(rows, before_ms, staying)
        removed += len(going)
        stayed += left
        cursor = rows[-1][0]


_Row = tuple[int, int, int, bool]
"""Id, creation, account, and whether it was resolved before the time asked for."""


def _chunk(tx: Tx, before_ms: int, cursor: int, size: int) -> Sequence[_Row]:
    """The next rows behind a cursor; none once all are too young."""
    rows: list[Any] = tx.execute(
        "SELECT id, created_ms, account_id, state <> 'held' AND delivery <> 0 "
        "AND coalesce(finished_ms, created_ms) < ? FROM requests "
        "WHERE id > ? ORDER BY id LIMIT ?",
        (before_ms, cursor, size),
    ).fetchall()
    return rows if rows and min(row[1] for row in rows) < before_ms else ()


def _parted(
    rows: Sequence[_Row], before_ms: int, staying: set[int]
) -> tuple[list[tuple[int]], int]:
    """The ids that go, and how many old rows stay. ``staying`` gathers accounts of which one does."""
    going, left = [], 0
    for id_, created_ms, account_id, old in rows:
        if not old:
            staying.add(account_id)
        if account_id not in staying:
            going.append((id_,))
        elif created_ms < before_ms:
            left += 1
    return going, left
