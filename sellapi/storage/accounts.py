"""Accounts, keys, packs and ledger entries as the operator sees them. Moves no credits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from peewee import JOIN, SQL, Tuple, fn

from sellapi.domain.keys import MintedKey
from sellapi.storage.chains import page_of_account
from sellapi.storage.database import Tx
from sellapi.storage.tables import Account, Entry, Key, KeySecret, Model, Pack, narrowed

__all__ = [
    "LATE_MS",
    "SORTS",
    "account",
    "account_page",
    "add_account",
    "add_key",
    "add_secret",
    "change_account",
    "change_key",
    "entry",
    "entry_page",
    "key",
    "key_page",
    "sales_standing",
]

# -- accounts ----------------------------------------------------------------------------------

SORTS: dict[str, Any] = {
    "id": Account.id,
    "email": Account.email,
    "balance": Account.balance,
    "owed": Account.owed,
    "created": Account.created_at,
}


def _accounts() -> Any:
    active = Key.select(fn.COUNT(Key.id)).where(
        (Key.account == Account.id) & (Key.status == "active")
    )
    return Account.select(Account, active.alias("active_keys"))


def account(tx: Tx, who: str) -> dict[str, Any] | None:
    """An account by e-mail, or by id (``12``; no longer than the database can count)."""
    if who.isascii() and who.isdigit() and len(who) < 19:
        return tx.one(_accounts().where(Account.id == int(who)))
    return tx.one(_accounts().where(Account.email == who))


def add_account(tx: Tx, email: str, name: str, now: int) -> int:
    return tx.insert(Account, {"email": email, "name": name, "created_at": now})


def emails(tx: Tx, ids: Iterable[int]) -> dict[int, str]:
    """What accounts are called now, by id; at most some hundred at once."""
    query = Account.select(Account.id, Account.email).where(Account.id.in_(list(ids)))
    return {row["id"]: row["email"] for row in tx.rows(query)}


def change_account(tx: Tx, account_id: int, values: dict[str, Any]) -> None:
    tx.update(Account, account_id, values)


def account_page(
    tx: Tx,
    *,
    search: str,
    tier: str | None,
    status: str | None,
    sort: str,
    descending: bool,
    after: tuple[Any, int] | None,
    limit: int,
) -> list[dict[str, Any]]:
    """Accounts by keyset: ``after`` is the (sort value, id) of the last row of the page before."""
    column, text = SORTS[sort], search.lower()
    here = Tuple(column, Account.id)
    # The page's ids first: otherwise keys are counted for every account that is sorted.
    page = narrowed(
        Account.select(Account.id),
        (text or None, fn.INSTR(Account.email, text) | fn.INSTR(fn.LOWER(Account.name), text)),
        (tier, Account.tier == tier),
        (status, Account.status == status),
        (after, here < after if descending else here > after),
    )
    order = (column.desc(), Account.id.desc()) if descending else (column, Account.id)
    page = page.order_by(*order).limit(limit)
    return tx.rows(_accounts().where(Account.id.in_(page)).order_by(*order))


def count(tx: Tx) -> int:
    """How many accounts there are, deleted ones aside."""
    return int(tx.value(Account.select(fn.COUNT(Account.id)).where(Account.status != "deleted")))


def end_pro(tx: Tx, account_id: int) -> None:
    """The last pack was refunded."""
    tx.run(Account.update(tier="free").where((Account.id == account_id) & (Account.tier == "pro")))


def forget_keys(tx: Tx, account_id: int, now: int) -> None:
    """Revoke a deleted user's keys and forget what they were called."""
    gone = {"status": "revoked", "revoked_at": fn.COALESCE(Key.revoked_at, now), "name": ""}
    tx.run(Key.update(gone).where(Key.account == account_id))


def sales_standing(tx: Tx, account_id: int) -> tuple[int, int]:
    """``(unrefunded packs, cash received less refunds in USD 1e-6)``."""
    # Plain SQL: the partial index wants the kinds as literals, and peewee binds what it compares.
    row = tx.execute(
        "SELECT coalesce(sum(kind = 'sale') - sum(kind = 'sale_refund'), 0), "
        "coalesce(sum(cash_micro_usd), 0) FROM entries INDEXED BY entries_account_acts "
        "WHERE account_id = ? AND kind <> 'charge' AND kind IN ('sale', 'sale_refund')",
        (account_id,),
    ).fetchone()
    return row[0], row[1]


# -- keys --------------------------------------------------------------------------------------


def _keys() -> Any:
    """Keys with their owner and what of their newest secret may be shown."""
    secrets = KeySecret.select().where(KeySecret.key == Key.id)
    newest = secrets.order_by(KeySecret.expires_at.is_null().desc(), KeySecret.created_at.desc())
    return Key.select(
        Key,
        Account.email,
        Account.status.alias("account_status"),
        newest.select(KeySecret.prefix).limit(1).alias("prefix"),
        newest.select(KeySecret.last4).limit(1).alias("last4"),
        secrets.select(fn.MAX(KeySecret.expires_at)).alias("old_secret_until"),
    ).join(Account)


def key(tx: Tx, key_id: int) -> dict[str, Any] | None:
    return tx.one(_keys().where(Key.id == key_id))


_SUMMED = 100
"""Keys summed by one statement: those of a busy account have thousands of rows each."""
_KEYS_CHARGED = """
SELECT key_id, sum(charged) FROM daily
WHERE account_id IN (SELECT account_id FROM keys WHERE id IN (SELECT value FROM json_each(?1)))
AND key_id IN (SELECT value FROM json_each(?1)) GROUP BY +key_id
"""
_KEYS_HOLDING = """
SELECT key_id, sum(hold) FROM requests WHERE delivery = 0 AND state = 'held' GROUP BY key_id
"""


def with_sums(tx: Tx, keys: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keys with what each was ``charged`` and is ``holding``.

    (Their columns ``spent`` and ``held`` say the same while a key has a limit, and 0 otherwise.)
    """
    charged: dict[int, int] = {}
    for start in range(0, len(keys), _SUMMED):
        ids = json.dumps([k["id"] for k in keys[start : start + _SUMMED]])
        charged.update(tx.execute(_KEYS_CHARGED, (ids,)).fetchall())
    holding = dict(tx.execute(_KEYS_HOLDING).fetchall())
    return [
        {**k, "charged": charged.get(k["id"], 0), "holding": holding.get(k["id"], 0)} for k in keys
    ]


def key_page(
    tx: Tx, *, account_id: int | None, before: int | None, limit: int
) -> list[dict[str, Any]]:
    """Keys newest first."""
    query = narrowed(_keys(), (account_id, Key.account == account_id), (before, Key.id < before))
    return tx.rows(query.order_by(Key.id.desc()).limit(limit))


def add_key(tx: Tx, account_id: int, values: dict[str, Any], now: int) -> int:
    """Insert a key row; ``values`` are its own columns."""
    return tx.insert(Key, {"account_id": account_id, "created_at": now, **values})


def change_key(tx: Tx, key_id: int, values: dict[str, Any]) -> None:
    tx.update(Key, key_id, values)


def add_secret(tx: Tx, key_id: int, minted: MintedKey, now: int) -> None:
    """Store what a key is found and shown by; its secret is not among it."""
    shown = {"prefix": minted.prefix, "last4": minted.last4, "created_at": now}
    tx.insert(KeySecret, {"digest": minted.digest, "key_id": key_id, **shown})


def end_secrets(tx: Tx, key_id: int, at: int) -> None:
    """Let the secrets a key has now end at a time, unless they end sooner."""
    ends, mine = KeySecret.expires_at, KeySecret.key == key_id
    tx.run(KeySecret.update(expires_at=at).where(mine & (ends.is_null() | (ends > at))))
    tx.run(KeySecret.delete().where(mine & (ends < at - 86_400 * 30)))


def unknown_slugs(tx: Tx, slugs: Sequence[str]) -> list[str]:
    """Which of these are no model's slug."""
    known = {row["slug"] for row in tx.rows(Model.select(Model.slug))}
    return [s for s in slugs if s not in known]


# -- entries -----------------------------------------------------------------------------------


def _entries() -> Any:
    entries = Entry.select(Entry, Account.email, Pack.slug.alias("pack"))
    return entries.join(Account).switch(Entry).join(Pack, JOIN.LEFT_OUTER)


def entry(
    tx: Tx, *, entry_id: int | None = None, reference: str | None = None
) -> dict[str, Any] | None:
    """An entry by id or by reference."""
    if entry_id is not None:
        return tx.one(_entries().where(Entry.id == entry_id))
    return tx.one(_entries().where(Entry.reference == reference))


def refund_of(tx: Tx, entry_id: int) -> dict[str, Any] | None:
    """The entry that refunds another."""
    return tx.one(_entries().where(Entry.of_entry == entry_id))


def entries_of_requests(tx: Tx, request_ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Entries by request, in order; at most some hundred requests at once."""
    found: dict[str, list[dict[str, Any]]] = {request_id: [] for request_id in request_ids}
    for row in tx.rows(_entries().where(Entry.request_id.in_(request_ids)).order_by(Entry.id)):
        found[row["request_id"]].append(row)
    return found


def standing_after(tx: Tx, entry_row: dict[str, Any]) -> tuple[int, int]:
    """``(balance, owed)`` right after an act: past the payment of what was owed, if it made one."""
    # It was written right behind it, in the same transaction.
    paid = tx.one(Entry.select().where(Entry.id == entry_row["id"] + 1))
    if (
        paid
        and paid["kind"] == "owed_payment"
        and paid["previous"] == entry_row["id"]
        and paid["reason"].endswith(f"from entry {entry_row['id']}")
    ):
        return paid["balance_after"], paid["owed_after"]
    return entry_row["balance_after"], entry_row["owed_after"]


LATE_MS = 3_600_000
"""How much later than an entry's time it may be written: a settlement waits for a disk, a clock is
set back. By so much at most the order of ids differs from that of times."""


def _first_since(tx: Tx, since_ms: int | None) -> int:
    """An id below which all entries are older: found by halves, since ids follow time.

    Not strictly, see `LATE_MS`.
    """
    if since_ms is None:
        return 0
    low, high = 0, int(tx.value("SELECT max(id) FROM entries") or 0) + 1
    while low < high:
        middle = (low + high) // 2
        at = tx.value("SELECT created_ms FROM entries WHERE id >= ? ORDER BY id LIMIT 1", (middle,))
        if at is not None and at < since_ms - LATE_MS:
            low = middle + 1
        else:
            high = middle
    return low


def entry_page(
    tx: Tx,
    *,
    account_id: int | None = None,
    kind: str | None = None,
    since_ms: int | None = None,
    before: int | None = None,
    after: int | None = None,
    limit: int,
) -> list[dict[str, Any]]:
    """Entries newest first; oldest first when ``after`` is given."""
    first = max(_first_since(tx, since_ms), (after or 0) + 1)
    act = None if kind == "charge" else kind
    query = narrowed(
        _entries(),
        (kind, Entry.kind == kind),
        (act, Entry.kind != SQL("'charge'")),  # a literal, for their partial index
        (since_ms, Entry.created_ms >= since_ms),
    )
    tail = after is not None
    if account_id is not None and act is None:
        span: dict[str, Any] = {"before": before, "after": first - 1, "oldest_first": tail}
        return page_of_account(tx, query, Entry, account_id, **span, limit=limit)
    query = narrowed(
        query,
        (account_id, Entry.account == account_id),
        (before, Entry.id < before),
        (first if first > 1 else None, Entry.id >= first),
    )
    return tx.rows(query.order_by(Entry.id if tail else Entry.id.desc()).limit(limit))
