"""Accounts, keys, packs and ledger entries as the operator sees them. Moves no credits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sellapi.domain.keys import MintedKey
from sellapi.storage.database import Tx

__all__ = [
    "account",
    "account_page",
    "add_account",
    "add_key",
    "add_secret",
    "entry",
    "entry_page",
    "key",
    "key_page",
    "sales_standing",
    "set_columns",
]

# -- accounts ----------------------------------------------------------------------------------

_ACCOUNT = """
SELECT a.*, (SELECT count(*) FROM keys k WHERE k.account_id = a.id AND k.status = 'active')
    AS active_keys
FROM accounts a
"""
SORTS = {
    "id": "a.id",
    "email": "a.email",
    "balance": "a.balance",
    "owed": "a.owed",
    "created": "a.created_at",
}


def account(tx: Tx, who: str) -> dict[str, Any] | None:
    """An account by e-mail, or by id (``12``)."""
    if who.isascii() and who.isdigit():
        return tx.one(f"{_ACCOUNT} WHERE a.id = ?", (int(who),))
    return tx.one(f"{_ACCOUNT} WHERE a.email = ?", (who,))


def add_account(tx: Tx, email: str, name: str, now: int) -> int:
    cursor = tx.execute(
        "INSERT INTO accounts (email, name, created_at) VALUES (?, ?, ?)", (email, name, now)
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def set_columns(tx: Tx, table: str, row_id: int, values: dict[str, Any]) -> None:
    """Update named columns of one row; table and columns come from code, never from people."""
    if values:
        columns = ", ".join(f"{name} = ?" for name in values)
        tx.execute(f"UPDATE {table} SET {columns} WHERE id = ?", (*values.values(), row_id))


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
    column, direction, than = SORTS[sort], *(("DESC", "<") if descending else ("ASC", ">"))
    where, params = ["1 = 1"], []  # type: list[str], list[Any]
    if search:
        where.append("(instr(a.email, ?1) OR instr(lower(a.name), ?1))".replace("?1", "?"))
        params += [search.lower(), search.lower()]
    for name, value in (("tier", tier), ("status", status)):
        if value is not None:
            where.append(f"a.{name} = ?")
            params.append(value)
    if after is not None:
        where.append(f"({column}, a.id) {than} (?, ?)")
        params += after
    return tx.rows(
        f"{_ACCOUNT} WHERE {' AND '.join(where)} "
        f"ORDER BY {column} {direction}, a.id {direction} LIMIT ?",
        (*params, limit),
    )


def count(tx: Tx) -> int:
    """How many accounts there are, deleted ones aside."""
    return int(tx.value("SELECT count(*) FROM accounts WHERE status <> 'deleted'"))


def end_pro(tx: Tx, account_id: int) -> None:
    """The last pack was refunded."""
    tx.execute("UPDATE accounts SET tier = 'free' WHERE id = ? AND tier = 'pro'", (account_id,))


def forget_keys(tx: Tx, account_id: int, now: int) -> None:
    """Revoke a deleted user's keys and forget what they were called."""
    tx.execute(
        "UPDATE keys SET status = 'revoked', revoked_at = coalesce(revoked_at, ?), name = '' "
        "WHERE account_id = ?",
        (now, account_id),
    )


def sales_standing(tx: Tx, account_id: int) -> tuple[int, int]:
    """``(unrefunded packs, cash received less refunds in USD 1e-6)``."""
    row = tx.execute(
        "SELECT coalesce(sum(kind = 'sale') - sum(kind = 'sale_refund'), 0), "
        "coalesce(sum(cash_micro_usd), 0) FROM entries INDEXED BY entries_sales "
        "WHERE account_id = ? AND kind IN ('sale', 'sale_refund')",
        (account_id,),
    ).fetchone()
    return row[0], row[1]


# -- keys --------------------------------------------------------------------------------------

_KEY = """
SELECT k.*, a.email, a.status AS account_status,
    (SELECT prefix FROM key_secrets s WHERE s.key_id = k.id
     ORDER BY s.expires_at IS NULL DESC, s.created_at DESC LIMIT 1) AS prefix,
    (SELECT last4 FROM key_secrets s WHERE s.key_id = k.id
     ORDER BY s.expires_at IS NULL DESC, s.created_at DESC LIMIT 1) AS last4,
    (SELECT max(expires_at) FROM key_secrets s WHERE s.key_id = k.id) AS old_secret_until
FROM keys k JOIN accounts a ON a.id = k.account_id
"""


def key(tx: Tx, key_id: int) -> dict[str, Any] | None:
    return tx.one(f"{_KEY} WHERE k.id = ?", (key_id,))


def key_page(
    tx: Tx, *, account_id: int | None, before: int | None, limit: int
) -> list[dict[str, Any]]:
    """Keys newest first."""
    where, params = ["1 = 1"], []  # type: list[str], list[Any]
    for clause, value in (("k.account_id = ?", account_id), ("k.id < ?", before)):
        if value is not None:
            where.append(clause)
            params.append(value)
    return tx.rows(
        f"{_KEY} WHERE {' AND '.join(where)} ORDER BY k.id DESC LIMIT ?", (*params, limit)
    )


def add_key(tx: Tx, account_id: int, values: dict[str, Any], now: int) -> int:
    """Insert a key row; ``values`` are its own columns."""
    columns = ["account_id", "created_at", *values]
    cursor = tx.execute(
        f"INSERT INTO keys ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
        (account_id, now, *values.values()),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def add_secret(tx: Tx, key_id: int, minted: MintedKey, now: int) -> None:
    """Store what a key is found and shown by; its secret is not among it."""
    tx.execute(
        "INSERT INTO key_secrets (digest, key_id, prefix, last4, created_at) VALUES (?, ?, ?, ?, ?)",
        (minted.digest, key_id, minted.prefix, minted.last4, now),
    )


def end_secrets(tx: Tx, key_id: int, at: int) -> None:
    """Let the secrets a key has now end at a time, unless they end sooner."""
    tx.execute(
        "UPDATE key_secrets SET expires_at = ? WHERE key_id = ? "
        "AND (expires_at IS NULL OR expires_at > ?)",
        (at, key_id, at),
    )
    tx.execute(
        "DELETE FROM key_secrets WHERE key_id = ? AND expires_at IS NOT NULL AND expires_at < ?",
        (key_id, at - 86_400 * 30),
    )


def unknown_slugs(tx: Tx, slugs: Sequence[str]) -> list[str]:
    """Which of these are no model's slug."""
    known = {
        row[0]
        for row in tx.execute(
            "SELECT slug FROM models WHERE slug IN (SELECT value FROM json_each(?))",
            (json.dumps(list(slugs)),),
        )
    }
    return [s for s in slugs if s not in known]


# -- entries -----------------------------------------------------------------------------------

_ENTRY = """
SELECT e.*, a.email, p.slug AS pack FROM entries e
JOIN accounts a ON a.id = e.account_id LEFT JOIN packs p ON p.id = e.pack_id
"""


def entry(
    tx: Tx, *, entry_id: int | None = None, reference: str | None = None
) -> dict[str, Any] | None:
    """An entry by id or by reference."""
    if entry_id is not None:
        return tx.one(f"{_ENTRY} WHERE e.id = ?", (entry_id,))
    return tx.one(f"{_ENTRY} WHERE e.reference = ?", (reference,))


def refund_of(tx: Tx, entry_id: int) -> dict[str, Any] | None:
    """The entry that refunds another."""
    return tx.one(f"{_ENTRY} WHERE e.of_entry = ?", (entry_id,))


def entries_of_request(tx: Tx, request_id: str) -> list[dict[str, Any]]:
    return tx.rows(f"{_ENTRY} WHERE e.request_id = ? ORDER BY e.id", (request_id,))


def standing_after(tx: Tx, entry_row: dict[str, Any]) -> tuple[int, int]:
    """``(balance, owed)`` right after an act: past the payment of what was owed, if it made one."""
    paid = tx.one(
        "SELECT * FROM entries WHERE account_id = ? AND id > ? ORDER BY id LIMIT 1",
        (entry_row["account_id"], entry_row["id"]),
    )
    if (
        paid
        and paid["kind"] == "owed_payment"
        and paid["reason"].endswith(f"from entry {entry_row['id']}")
    ):
        return paid["balance_after"], paid["owed_after"]
    return entry_row["balance_after"], entry_row["owed_after"]


def entry_page(
    tx: Tx,
    *,
    account_id: int | None = None,
    kind: str | None = None,
    since_ms: int | None = None,
    until_ms: int | None = None,
    before: int | None = None,
    after: int | None = None,
    limit: int,
) -> list[dict[str, Any]]:
    """Entries newest first; oldest first when ``after`` is given."""
    where, params = ["1 = 1"], []  # type: list[str], list[Any]
    for clause, value in (
        ("e.account_id = ?", account_id),
        ("e.kind = ?", kind),
        ("e.created_ms >= ?", since_ms),
        ("e.created_ms < ?", until_ms),
        ("e.id < ?", before),
        ("e.id > ?", after),
    ):
        if value is not None:
            where.append(clause)
            params.append(value)
    order = "ASC" if after is not None else "DESC"
    return tx.rows(
        f"{_ENTRY} WHERE {' AND '.join(where)} ORDER BY e.id {order} LIMIT ?", (*params, limit)
    )
