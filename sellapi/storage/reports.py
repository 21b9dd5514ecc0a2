"""Sums for screens and reports, from rolled-up or indexed rows only.

Figures that a partial index answers are plain SQL: the index wants its condition as a literal, and
peewee binds what it compares. So are sums by day, where a word decides which index is walked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from peewee import SQL, fn

from sellapi.storage.chains import page_of_account
from sellapi.storage.database import Tx
from sellapi.storage.tables import Account, Entry, Minute, Rejection, Request, narrowed

__all__ = ["account_since", "daily", "minutes", "requests_page", "standing", "top"]

FIGURES = (
    *("requests", "voided", "input_tokens", "output_tokens"),
    *("images", "charged", "cost", "loss"),
)
_SUMS = ", ".join(f"coalesce(sum({name}), 0) AS {name}" for name in FIGURES)
_DEAREST = "ORDER BY charged DESC, requests DESC"

# Days that are over stand summed up in `daily_models`; only the newest are added up here.
_BY_MODEL = f"""
SELECT day, model, {", ".join(FIGURES)} FROM daily_models
WHERE day >= ?1 AND day < (SELECT summed_before_day FROM retention)
UNION ALL
SELECT day, model, {_SUMS} FROM daily
WHERE day >= max(?1, (SELECT summed_before_day FROM retention)) GROUP BY day, model
"""
# `+`: an order by the account's index would walk the whole table for the sake of a few days.
_BY_OWNER = f"""
SELECT {{name}} AS name, account_id, {", ".join(FIGURES)} FROM (
    SELECT account_id, key_id, {_SUMS} FROM daily WHERE day >= ?1 {{among}} GROUP BY +{{group}}
) s JOIN accounts a ON a.id = s.account_id {_DEAREST}, name
"""
# Sorting all owners with all their figures takes five times as long as finding the dearest first.
_DEAREST_OWNERS = """
WITH dearest AS (
    SELECT account_id, key_id FROM daily WHERE day >= ?1 GROUP BY +{group}
    ORDER BY sum(charged) DESC, sum(requests) DESC LIMIT ?2
)
"""
_OWNERS = {
    "user": ("account_id", "a.email"),
    "key": ("key_id", "printf('key %d of %s', s.key_id, a.email)"),
}
_REPORTS = {
    "day": f"SELECT date(day * 86400, 'unixepoch') AS name, {_SUMS} FROM ({_BY_MODEL}) "
    "GROUP BY day ORDER BY day LIMIT ?2",
    "model": f"SELECT model AS name, {_SUMS} FROM ({_BY_MODEL}) GROUP BY model "
    f"{_DEAREST}, name LIMIT ?2",
}
SETTLES_S = 3_600
GROUPS = ("model", "user", "key", "day")
"""What rows are summed by."""


def daily(tx: Tx, since_day: int, by: str, *, limit: int | None = None) -> list[dict[str, Any]]:
    """Sums by group since a UTC day, the dearest first (days in order)."""
    if by in _REPORTS:
        return tx.rows(_REPORTS[by], (since_day, -1 if limit is None else limit))
    group, name = _OWNERS[by]
    if limit is None:
        return tx.rows(_BY_OWNER.format(group=group, name=name, among=""), (since_day,))
    among = "AND account_id IN (SELECT account_id FROM dearest) "
    among += f"AND {group} IN (SELECT {group} FROM dearest)"
    sql = _DEAREST_OWNERS.format(group=group)
    sql += _BY_OWNER.format(group=group, name=name, among=among)
    return tx.rows(sql, (since_day, limit))


def daily_total(tx: Tx, since_day: int) -> dict[str, Any]:
    row = tx.one(f"SELECT 'total' AS name, {_SUMS} FROM ({_BY_MODEL})", (since_day,))
    assert row is not None
    return row


def total_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The total of all rows of `daily`, without asking for it."""
    return {"name": "total"} | {name: sum(row[name] for row in rows) for name in FIGURES}


def sum_up(tx: Tx, now: int) -> bool:
    """Sum up by model the next day that is over; whether there was one.

    Days before ``retention.summed_before_day`` are summed up, and what is still settled in one of
    them is added by the ledger. A day waits `SETTLES_S` before, for the sake of a clock set back.
    """
    before = (now - SETTLES_S) // 86_400
    done = int(tx.value("SELECT summed_before_day FROM retention"))
    if done > before:
        # The clock was set back by more than that: today is summed up already, and what is
        # settled today is not added (see ledger). Those days are summed up again in their time.
        tx.execute("DELETE FROM daily_models WHERE day >= ?", (before,))
        tx.execute("UPDATE retention SET summed_before_day = ?", (before,))
    if done >= before:
        return False
    day = tx.value("SELECT min(day) FROM daily WHERE day >= ?", (done,))
    if day is None or day >= before:
        tx.execute("UPDATE retention SET summed_before_day = ?", (before,))
        return False
    tx.execute(
        f"INSERT INTO daily_models (day, model, {', '.join(FIGURES)}) "
        f"SELECT day, model, {_SUMS} FROM daily WHERE day = ? GROUP BY model",
        (day,),
    )
    tx.execute("UPDATE retention SET summed_before_day = ?", (day + 1,))
    return True


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
        f"SELECT date(day * 86400, 'unixepoch') AS name, {_SUMS} FROM daily "
        "WHERE account_id = ? AND day >= ? GROUP BY day ORDER BY day",
        (account_id, since_day),
    )


def last_request_ms(tx: Tx, account_id: int) -> int | None:
    newest = Account.select(Account.last_request).where(Account.id == account_id)
    value = tx.value(Request.select(Request.created_ms).where(Request.id == newest))
    return None if value is None else int(value)


def acts_since(tx: Tx, since_ms: int, kinds: Sequence[str]) -> dict[str, tuple[int, int]]:
    """``{kind: (amount, cash)}`` of entries of these kinds, none of them charges, since a time."""
    return {
        row[0]: (row[1], row[2])
        for row in tx.execute(
            "SELECT kind, sum(amount), sum(cash_micro_usd) FROM entries INDEXED BY entries_acts "
            "WHERE kind <> 'charge' AND kind IN (SELECT value FROM json_each(?)) "
            "AND created_ms >= ? GROUP BY kind",
            (json.dumps(kinds), since_ms),
        )
    }


def standing(tx: Tx) -> dict[str, int]:
    """What all accounts have, hold and owe; open holds; living users."""
    living = fn.COALESCE(fn.SUM(Account.status != "deleted"), 0).alias("users")
    totals = (
        fn.COALESCE(fn.SUM(column), 0).alias(column.name)
        for column in (Account.balance, Account.held, Account.owed)
    )
    row = tx.one(Account.select(*totals, living))
    assert row is not None
    return {**row, "open_holds": open_holds(tx)}


def outstanding(tx: Tx) -> tuple[int, int]:
    """``(balance, owed)`` of all accounts: half the work of `standing`."""
    row = tx.execute("SELECT coalesce(sum(balance), 0), coalesce(sum(owed), 0) FROM accounts")
    balance, owed = row.fetchone()
    return balance, owed


def open_holds(tx: Tx) -> int:
    return int(tx.value("SELECT count(*) FROM requests WHERE delivery = 0 AND state = 'held'") or 0)


def newest_entry_ms(tx: Tx) -> int:
    """The latest time among the newest entries; 0 when there are none."""
    newest = Entry.select(Entry.created_ms).order_by(Entry.id.desc()).limit(100)
    return max((row["created_ms"] for row in tx.rows(newest)), default=0)


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
    rows = tx.rows(Minute.select().where(Minute.minute >= since_minute).order_by(Minute.minute))
    rejected: dict[int, dict[str, int]] = {}
    for row in tx.rows(Rejection.select().where(Rejection.minute >= since_minute)):
        rejected.setdefault(row["minute"], {})[row["kind"]] = row["count"]
    return rows, rejected


# -- requests ----------------------------------------------------------------------------------


def _requests() -> Any:
    refund = Entry.select(SQL("1")).where(
        (Entry.request_id == Request.request_id) & (Entry.kind == "charge_refund")
    )
    return Request.select(Request, Account.email, fn.EXISTS(refund).alias("refunded")).join(Account)


_UNCHARGED = [SQL("'voided'"), SQL("'swept'")]
_HELD = "SELECT id FROM requests INDEXED BY requests_open WHERE delivery = 0 AND state = 'held'"


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
    few = undelivered or state in ("held", "voided", "swept")
    query = narrowed(
        _requests(),
        # Literals, for the partial indexes: few rows are held, undelivered or uncharged.
        (undelivered or None, Request.delivery == SQL("2")),
        (state == "held" or None, Request.id.in_(SQL(f"({_HELD})"))),
        (state in ("voided", "swept") or None, Request.state.in_(_UNCHARGED)),
        (model, Request.model == model),
        (state, Request.state == state),
    )
    if account_id is not None and not few:
        tail = after is not None
        span: dict[str, Any] = {"before": before, "after": after or 0, "oldest_first": tail}
        return page_of_account(tx, query, Request, account_id, **span, limit=limit)
    query = narrowed(
        query,
        (account_id, Request.account == account_id),
        (before, Request.id < before),
        (after, Request.id > after),
    )
    order = Request.id if after is not None else Request.id.desc()
    return tx.rows(query.order_by(order).limit(limit))


def request(tx: Tx, request_id: str) -> dict[str, Any] | None:
    return tx.one(_requests().where(Request.request_id == request_id))


def requests_by_id(tx: Tx, ids: Sequence[int]) -> list[dict[str, Any]]:
    """The rows with these ids that exist, in order of id; at most some hundred at once."""
    return tx.rows(_requests().where(Request.id.in_(ids)).order_by(Request.id))


def last_request_id(tx: Tx) -> int:
    return int(tx.value(Request.select(fn.MAX(Request.id))) or 0)
