"""Sums for screens and reports, from rolled-up or indexed rows only.

Figures that a partial index answers are plain SQL: the index wants its condition as a literal, and
peewee binds what it compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peewee import SQL, Value, fn

from sellapi.storage.database import Tx
from sellapi.storage.tables import Account, Daily, Entry, Minute, Rejection, Request, narrowed

__all__ = ["account_since", "daily", "minutes", "requests_page", "standing", "top"]

_DAY = fn.DATE(Daily.day * 86_400, "unixepoch")
GROUPS = {
    "model": (Daily.model, Daily.model),
    "user": (Daily.account, Account.email),
    "key": (Daily.key_id, fn.PRINTF("key %d of %s", Daily.key_id, Account.email)),
    "day": (Daily.day, _DAY),
}
"""What rows are summed by, and what the sums are called."""


def _total(column: Any) -> Any:
    return fn.COALESCE(fn.SUM(column), 0).alias(column.name)


def _sums(name: Any, since_day: int) -> Any:
    """Daily sums since a UTC day, of all rows until they are grouped."""
    columns = (
        *(Daily.requests, Daily.voided, Daily.input_tokens, Daily.output_tokens),
        *(Daily.images, Daily.charged, Daily.cost, Daily.loss),
    )
    sums = Daily.select(name.alias("name"), *(_total(column) for column in columns))
    return sums.where(Daily.day >= since_day)


def daily(tx: Tx, since_day: int, by: str, *, limit: int | None = None) -> list[dict[str, Any]]:
    """Sums by group since a UTC day, the dearest first (days in order)."""
    group, name = GROUPS[by]
    query = _sums(name, since_day).join(Account).group_by(group).limit(limit)
    if by == "day":
        return tx.rows(query.order_by(Daily.day))
    return tx.rows(query.order_by(SQL("charged DESC, requests DESC, name")))


def daily_total(tx: Tx, since_day: int) -> dict[str, Any]:
    row = tx.one(_sums(Value("total"), since_day))
    assert row is not None
    return row


def account_since(tx: Tx, account_id: int, since_day: int) -> tuple[int, int]:
    """``(charged, requests)`` of an account since a UTC day."""
    row = tx.one(_sums(Value("total"), since_day).where(Daily.account == account_id))
    assert row is not None
    return row["charged"], row["requests"]


def account_days(tx: Tx, account_id: int, since_day: int) -> list[dict[str, Any]]:
    """An account's sums by day."""
    mine = _sums(_DAY, since_day).where(Daily.account == account_id)
    return tx.rows(mine.group_by(Daily.day).order_by(Daily.day))


def last_request_ms(tx: Tx, account_id: int) -> int | None:
    mine = Request.select(Request.created_ms).where(Request.account == account_id)
    value = tx.value(mine.order_by(Request.id.desc()).limit(1))
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
    living = fn.COALESCE(fn.SUM(Account.status != "deleted"), 0).alias("users")
    totals = (_total(Account.balance), _total(Account.held), _total(Account.owed))
    row = tx.one(Account.select(*totals, living))
    assert row is not None
    return {**row, "open_holds": open_holds(tx)}


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
    query = narrowed(
        _requests(),
        (undelivered or None, Request.delivery == SQL("2")),  # a literal, for its partial index
        (account_id, Request.account == account_id),
        (model, Request.model == model),
        (state, Request.state == state),
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
