"""Sums for screens and reports, from rolled-up or indexed rows only."""

from __future__ import annotations

from typing import Any

from sellapi.storage.database import Tx

__all__ = ["account_since", "daily", "minutes", "requests_page", "standing", "top"]

_SUMS = """
coalesce(sum(d.requests), 0) AS requests, coalesce(sum(d.voided), 0) AS voided,
coalesce(sum(d.input_tokens), 0) AS input_tokens, coalesce(sum(d.output_tokens), 0) AS output_tokens,
coalesce(sum(d.images), 0) AS images, coalesce(sum(d.charged), 0) AS charged,
coalesce(sum(d.cost), 0) AS cost, coalesce(sum(d.loss), 0) AS loss
"""
GROUPS = {
    "model": "d.model",
    "user": "a.email",
    "key": "'key ' || d.key_id || ' of ' || a.email",
    "day": "date(d.day * 86400, 'unixepoch')",
}


def daily(tx: Tx, since_day: int, by: str, *, limit: int | None = None) -> list[dict[str, Any]]:
    """Sums by group since a UTC day, the dearest first (days in order)."""
    group = {"model": "d.model", "user": "d.account_id", "key": "d.key_id", "day": "d.day"}[by]
    order = "d.day" if by == "day" else "charged DESC, requests DESC, name"
    return tx.rows(
        f"SELECT {GROUPS[by]} AS name, {_SUMS} FROM daily d "
        "JOIN accounts a ON a.id = d.account_id "
        f"WHERE d.day >= ? GROUP BY {group} ORDER BY {order} LIMIT ?",
        (since_day, -1 if limit is None else limit),
    )


def daily_total(tx: Tx, since_day: int) -> dict[str, Any]:
    row = tx.one(f"SELECT 'total' AS name, {_SUMS} FROM daily d WHERE d.day >= ?", (since_day,))
    assert row is not None
    return row


def account_since(tx: Tx, account_id: int, since_day: int) -> tuple[int, int]:
    """``(charged, requests)`` of an account since a UTC day."""
    row = tx.execute(
        "SELECT coalesce(sum(charged), 0), coalesce(sum(requests), 0) FROM daily "
        "WHERE account_id = ? AND day >= ?",
        (account_id, since_day),
    ).fetchone()
    return row[0], row[1]


def account_days(tx: Tx, account_id: int, since_day: int) -> list[dict[str, Any]]:
    """An account's sums by day."""
    return tx.rows(
        f"SELECT {GROUPS['day']} AS name, {_SUMS} FROM daily d "
        "WHERE d.account_id = ? AND d.day >= ? GROUP BY d.day ORDER BY d.day",
        (account_id, since_day),
    )


def last_request_ms(tx: Tx, account_id: int) -> int | None:
    value = tx.value(
        "SELECT created_ms FROM requests WHERE account_id = ? ORDER BY id DESC LIMIT 1",
        (account_id,),
    )
    return None if value is None else int(value)


def acts_since(tx: Tx, since_ms: int) -> dict[str, tuple[int, int]]:
    """``{kind: (amount, cash)}`` of entries other than charges, since a time."""
    return {
        row[0]: (row[1], row[2])
        for row in tx.execute(
            "SELECT kind, sum(amount), sum(cash_micro_usd) FROM entries "
            "WHERE kind <> 'charge' AND created_ms >= ? GROUP BY kind",
            (since_ms,),
        )
    }


def standing(tx: Tx) -> dict[str, int]:
    """What all accounts have, hold and owe; open holds; living users."""
    row = tx.one(
        "SELECT coalesce(sum(balance), 0) AS balance, coalesce(sum(held), 0) AS held, "
        "coalesce(sum(owed), 0) AS owed, coalesce(sum(status <> 'deleted'), 0) AS users "
        "FROM accounts"
    )
    assert row is not None
    return {**row, "open_holds": open_holds(tx)}


def open_holds(tx: Tx) -> int:
    return int(tx.value("SELECT count(*) FROM requests WHERE delivery = 0 AND state = 'held'") or 0)


def newest_entry_ms(tx: Tx) -> int:
    """The latest time among the newest entries; 0 when there are none."""
    return int(
        tx.value(
            "SELECT max(created_ms) FROM "
            "(SELECT created_ms FROM entries ORDER BY id DESC LIMIT 100) AS newest"
        )
        or 0
    )


def holds_by_instance(tx: Tx) -> dict[str, int]:
    """How many open holds each server process has."""
    return dict(
        tx.execute(
            "SELECT instance_id, count(*) FROM requests WHERE delivery = 0 AND state = 'held' "
            "GROUP BY instance_id"
        ).fetchall()
    )


def undelivered(tx: Tx) -> int:
    """Charged answers that were lost on their way and not refunded yet."""
    return int(
        tx.value(
            "SELECT count(*) FROM requests r WHERE delivery = 2 AND NOT EXISTS (SELECT 1 FROM "
            "entries e WHERE e.request_id = r.request_id AND e.kind = 'charge_refund')"
        )
    )


def top(tx: Tx, day: int, by: str, limit: int) -> list[dict[str, Any]]:
    """The dearest users or models since a UTC day."""
    return daily(tx, day, by, limit=limit)


def minutes(tx: Tx, since_minute: int) -> tuple[list[dict[str, Any]], dict[int, dict[str, int]]]:
    """``(rows by minute, rejections by minute and kind)`` since a minute (unix time / 60)."""
    rows = tx.rows("SELECT * FROM minutes WHERE minute >= ? ORDER BY minute", (since_minute,))
    rejected: dict[int, dict[str, int]] = {}
    for minute, kind, count in tx.execute(
        "SELECT minute, kind, count FROM rejections WHERE minute >= ?", (since_minute,)
    ):
        rejected.setdefault(minute, {})[kind] = count
    return rows, rejected


# -- requests ----------------------------------------------------------------------------------

_REQUEST = """
SELECT r.*, a.email, EXISTS (SELECT 1 FROM entries e WHERE e.request_id = r.request_id
    AND e.kind = 'charge_refund') AS refunded
FROM requests r JOIN accounts a ON a.id = r.account_id
"""


def requests_page(
    tx: Tx,
    *,
    account_id: int | None = None,
    model: str | None = None,
    state: str | None = None,
    undelivered: bool = False,
    before: int | None = None,
    after: int | None = None,
    limit: int,
) -> list[dict[str, Any]]:
    """Requests newest first; oldest first when ``after`` is given."""
    where, params = ["1 = 1"], []  # type: list[str], list[Any]
    if undelivered:
        where.append("r.delivery = 2")
    for clause, value in (
        ("r.account_id = ?", account_id),
        ("r.model = ?", model),
        ("r.state = ?", state),
        ("r.id < ?", before),
        ("r.id > ?", after),
    ):
        if value is not None:
            where.append(clause)
            params.append(value)
    order = "ASC" if after is not None else "DESC"
    return tx.rows(
        f"{_REQUEST} WHERE {' AND '.join(where)} ORDER BY r.id {order} LIMIT ?", (*params, limit)
    )


def request(tx: Tx, request_id: str) -> dict[str, Any] | None:
    return tx.one(f"{_REQUEST} WHERE r.request_id = ?", (request_id,))


def last_request_id(tx: Tx) -> int:
    return int(tx.value("SELECT max(id) FROM requests") or 0)
