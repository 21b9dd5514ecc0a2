"""An account's requests and entries, along their chain (see the migration m0002_chains).

The account names its newest row, each row the one before it. So a page costs as many look-ups as it
has rows, wherever it begins; only to find rows by something else must more of the chain be walked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sellapi.storage.database import Tx
from sellapi.storage.tables import Account, Entry, Request

__all__ = ["page_of_account"]

_CHUNK = 500
"""Ids looked up at once."""
_NEWEST: dict[Any, Any] = {Request: Account.last_request, Entry: Account.last_entry}
# Plain SQL: peewee joins a walk as its second table, and SQLite goes on with one of those to its end
# before it looks at the limit.
_WALK = """
WITH RECURSIVE walk (id) AS (
    SELECT ?1 UNION ALL
    SELECT t.previous FROM walk JOIN {table} t ON t.id = walk.id WHERE walk.id > ?2
) SELECT id FROM walk WHERE id > ?2 LIMIT ?3
"""


def page_of_account(
    tx: Tx,
    query: Any,
    table: type[Request | Entry],
    account_id: int,
    *,
    before: int | None = None,
    after: int = 0,
    oldest_first: bool = False,
    limit: int,
) -> list[dict[str, Any]]:
    """The first rows of an account that a query on ``table`` finds, newest first.

    ``before`` and ``after`` are the ids they lie between. To come oldest first, all that is newer
    than ``after`` is walked.
    """
    if limit < 1:
        return []
    if before is not None:
        query = query.where(table.id < before)
    start = _start(tx, table, account_id, before)
    chunks = _walk(tx, table, start, after, min(limit, _CHUNK))
    if oldest_first:
        ids = [id_ for chunk in chunks for id_ in chunk][::-1]
        chunks = (ids[first : first + _CHUNK] for first in range(0, len(ids), _CHUNK))
    order = table.id if oldest_first else table.id.desc()
    found: list[dict[str, Any]] = []
    for chunk in chunks:
        rows = query.where(table.id.in_(chunk)).order_by(order).limit(limit - len(found))
        found += tx.rows(rows)
        if len(found) >= limit:
            break
    return found


def _start(tx: Tx, table: type[Request | Entry], account_id: int, before: int | None) -> int | None:
    """The newest row that may be on the page; None when there is none."""
    if before is not None:
        row = tx.one(table.select(table.previous, table.account).where(table.id == before))
        if row is not None and row["account_id"] == account_id:
            return None if row["previous"] is None else int(row["previous"])
    newest = tx.value(Account.select(_NEWEST[table]).where(Account.id == account_id))
    return None if newest is None else int(newest)


def _walk(
    tx: Tx, table: type[Request | Entry], start: int | None, after: int, size: int
) -> Iterator[list[int]]:
    """Ids from a row on, down to ``after`` or to what was pruned; in chunks, the first of a size."""
    sql = _WALK.format(table=table._meta.table_name)  # noqa: SLF001 - peewee's documented metadata
    while start is not None:
        ids = [row[0] for row in tx.execute(sql, (start, after, size))]
        if ids:
            yield ids
        if len(ids) < size:
            return
        size = _CHUNK
        start = tx.value(table.select(table.previous).where(table.id == ids[-1]))
