"""The only file that moves credits.

Two-phase, as in TigerBeetle (docs.tigerbeetle.com/coding/two-phase-transfers): a request *holds*
credits and is then resolved exactly once, *settled* for the true charge or *voided*. Every function
takes a `Tx` inside a transaction and either does all of its work or, when it refuses, nothing.
Amounts are microcredits. Correctness rests on conditional updates; the CHECK constraints and
triggers of the schema say the same a second time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum

import msgspec

from sellapi.domain.credits import format_credits
from sellapi.errors import Refused
from sellapi.storage.database import Tx

__all__ = [
    "Delivery",
    "Entry",
    "Held",
    "HoldRequest",
    "Settled",
    "Settlement",
    "Short",
    "Stale",
    "credit",
    "debit",
    "hold",
    "mark_delivery",
    "settle",
    "standing",
    "sweep",
    "void",
]

DAY_MS = 86_400_000
BALANCE_MAX = 4 * 10**18
"""Microcredits of one account; twice as much would not fit into the database's integers."""


class Delivery(Enum):
    """Whether the answer of a charged request was handed to the socket."""

    PENDING = 0
    DELIVERED = 1
    UNDELIVERED = 2


class HoldRequest(msgspec.Struct, frozen=True):
    """A hold to be placed, with the versions of everything it was decided by."""

    request_id: str
    amount: int
    account_id: int
    account_version: int
    key_id: int
    key_version: int
    catalog_version: int
    instance_id: str
    model: str
    mode: str
    price_id: int
    streamed: bool
    bounded: bool
    created_ms: int
    retry_of: int | None = None
    image_size: str | None = None
    image_quality: str | None = None
    reserve: int = 0
    """Must be available besides ``amount``, but is not held (the quarter rule of money.md)."""
    valid_until: float | None = None
    """When the decision ends by itself: the key or its secret expires, a scheduled price begins."""


class Held(msgspec.Struct, frozen=True):
    """The hold stands; the account's figures after it."""

    balance: int
    held: int


class Stale(msgspec.Struct, frozen=True):
    """Key, account or catalog changed since the server read them: read again and decide anew."""


class Short(msgspec.Struct, frozen=True):
    """Not enough: the account's figures, and what is left under the key's own limit (or None)."""

    balance: int
    held: int
    owed: int
    key_left: int | None
    key_held: int = 0

    @property
    def available(self) -> int:
        """What a hold may take now."""
        free = 0 if self.owed else self.balance - self.held
        return free if self.key_left is None else max(0, min(free, self.key_left))


class Settlement(msgspec.Struct, frozen=True):
    """What a request turned out to cost, and everything its receipt will say."""

    request_id: str
    charge: int
    usage: str
    """Buckets as JSON."""
    usage_raw: str | None
    input_tokens: int
    output_tokens: int
    images: int
    estimated: bool
    bounded: bool
    provider: str
    upstream_id: str
    finished_ms: int
    first_byte_ms: int | None = None
    attempts: str | None = None
    cost: int = 0
    loss: int = 0
    http_status: int = 200
    error: str | None = None
    finish_reason: str | None = None
    undelivered: bool = False


class Settled(msgspec.Struct, frozen=True):
    """The charge stands. ``entry_id`` is None for a charge of nothing."""

    charge: int
    balance: int
    held: int
    owed: int
    entry_id: int | None
    repeated: bool = False


class Entry(msgspec.Struct, frozen=True):
    """A ledger entry as just written."""

    id: int
    account_id: int
    kind: str
    amount: int
    balance_after: int
    owed_after: int


# -- requests: hold, settle, void --------------------------------------------------------------

_HOLD_KEY = """
UPDATE keys SET held = held + ?1
WHERE id = ?2 AND version = ?3 AND (spend_limit IS NULL OR spent + held + ?6 <= spend_limit)
  AND EXISTS (SELECT 1 FROM accounts WHERE id = ?4 AND version = ?5 AND owed = 0
              AND balance - held >= ?6)
"""
_HOLD_ACCOUNT = """
UPDATE accounts SET held = held + ?1
WHERE id = ?2 AND version = ?3 AND owed = 0 AND balance - held >= ?1
RETURNING balance, held
"""
_HOLD_REQUEST = """
INSERT INTO requests (request_id, account_id, key_id, instance_id, model, mode, price_id, state,
    hold, streamed, bounded, retry_of, image_size, image_quality, created_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, 'held', ?, ?, ?, ?, ?, ?, ?)
"""
_WHY = """
SELECT a.version, a.balance, a.held, a.owed, k.version, k.spend_limit - k.spent - k.held, k.held
FROM accounts a, keys k WHERE a.id = ? AND k.id = ? AND k.account_id = a.id
"""


def hold(tx: Tx, h: HoldRequest) -> Held | Stale | Short:
    """Hold ``h.amount``: all or nothing.

    Checks key and account by the versions they were read at (a change of status, expiry, allowlist,
    limit or tier raises the version), the times that end by themselves, the catalog's version, what
    the account owes and has, and the key's own limit (spent + held).
    """
    if _outdated(tx, h):
        return Stale()
    needed = h.amount + h.reserve
    done = tx.execute(
        _HOLD_KEY, (h.amount, h.key_id, h.key_version, h.account_id, h.account_version, needed)
    )
    if done.rowcount != 1:
        return standing(tx, h)
    row = tx.execute(_HOLD_ACCOUNT, (h.amount, h.account_id, h.account_version)).fetchall()
    if not row:  # another machine was quicker between the two statements: undo both, ask again
        tx.execute("UPDATE keys SET held = held - ? WHERE id = ?", (h.amount, h.key_id))
        return Stale()
    tx.execute(
        _HOLD_REQUEST,
        (
            h.request_id,
            h.account_id,
            h.key_id,
            h.instance_id,
            h.model,
            h.mode,
            h.price_id,
            h.amount,
            h.streamed,
            h.bounded,
            h.retry_of,
            h.image_size,
            h.image_quality,
            h.created_ms,
        ),
    )
    return Held(*row[0])


def _outdated(tx: Tx, h: HoldRequest) -> bool:
    """Whether prices may have changed since they were read, or the decision ended by itself."""
    return tx.catalog_version != h.catalog_version or (
        h.valid_until is not None and time.time() >= h.valid_until
    )


def standing(tx: Tx, h: HoldRequest) -> Stale | Short:
    """The figures a hold is decided by, as they are now; `Stale` when versions moved."""
    if _outdated(tx, h):
        return Stale()
    row = tx.execute(_WHY, (h.account_id, h.key_id)).fetchone()
    if row is None:
        return Stale()
    account_version, balance, held, owed, key_version, key_left, key_held = row
    if (account_version, key_version) != (h.account_version, h.key_version):
        return Stale()
    return Short(balance, held, owed, key_left, key_held)


_TAKE = """
UPDATE requests SET state = 'settled', charge = ?, usage = ?, usage_raw = ?, input_tokens = ?,
    output_tokens = ?, images = ?, estimated = ?, bounded = ?, provider = ?, upstream_id = ?,
    finished_ms = ?, first_byte_ms = ?, attempts = ?, cost = ?, loss = ?, http_status = ?,
    error = ?, finish_reason = ?, delivery = ?
WHERE request_id = ? AND state IN ('held', 'swept')
RETURNING account_id, key_id, hold, model, created_ms
"""
_STATE = "SELECT state, hold FROM requests WHERE request_id = ?"
_SETTLE_ACCOUNT = """
UPDATE accounts SET held = held - ?1, balance = balance - ?2 WHERE id = ?3
RETURNING balance, held, owed
"""
_SETTLE_KEY = "UPDATE keys SET held = held - ?, spent = spent + ? WHERE id = ?"
_ENTRY = """
INSERT INTO entries (account_id, kind, amount, owed_change, balance_after, owed_after, key_id,
    request_id, pack_id, of_entry, cash_micro_usd, reference, reason, actor, created_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_ADD_SUMS = """
    requests = requests + excluded.requests, voided = voided + excluded.voided,
    input_tokens = input_tokens + excluded.input_tokens,
    output_tokens = output_tokens + excluded.output_tokens, images = images + excluded.images,
    charged = charged + excluded.charged, cost = cost + excluded.cost, loss = loss + excluded.loss
"""
_DAILY = f"""
INSERT INTO daily (day, model, account_id, key_id, requests, voided, input_tokens, output_tokens,
    images, charged, cost, loss)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (day, model, account_id, key_id) DO UPDATE SET {_ADD_SUMS}
"""
_DAY_OVER = f"""
INSERT INTO daily_models (day, model, requests, voided, input_tokens, output_tokens, images,
    charged, cost, loss)
SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10
WHERE ?1 < (SELECT summed_before_day FROM retention)
ON CONFLICT (day, model) DO UPDATE SET {_ADD_SUMS}
"""


def settle(tx: Tx, s: Settlement) -> Settled:
    """Charge a request, once.

    The hold is released and the charge taken; what it exceeds the hold by comes from what is
    available, the rest becomes ``owed``. A request whose hold was swept meanwhile is charged all the
    same. A request that is already settled changes nothing (``repeated``).
    """
    before = tx.execute(_STATE, (s.request_id,)).fetchone()
    if before is None:
        raise LookupError(f"no request {s.request_id} was held")
    if before[0] not in ("held", "swept"):
        return _settled_before(tx, s.request_id)
    delivery = Delivery.UNDELIVERED if s.undelivered else Delivery.PENDING
    account_id, key_id, held, model, created_ms = tx.execute(
        _TAKE,
        (
            s.charge,
            s.usage,
            s.usage_raw,
            s.input_tokens,
            s.output_tokens,
            s.images,
            s.estimated,
            s.bounded,
            s.provider,
            s.upstream_id,
            s.finished_ms,
            s.first_byte_ms,
            s.attempts,
            s.cost,
            s.loss,
            s.http_status,
            s.error,
            s.finish_reason,
            delivery.value,
            s.request_id,
        ),
    ).fetchall()[0]
    release = held if before[0] == "held" else 0
    paid = s.charge
    if s.charge > release:
        available = tx.execute(
            "SELECT balance - held FROM accounts WHERE id = ?", (account_id,)
        ).fetchone()[0]
        paid = min(s.charge, release + available)
    balance, held_now, owed = tx.execute(_SETTLE_ACCOUNT, (release, paid, account_id)).fetchall()[0]
    debt = s.charge - paid
    if debt:
        owed = tx.execute(
            "UPDATE accounts SET owed = owed + ? WHERE id = ? RETURNING owed", (debt, account_id)
        ).fetchall()[0][0]
    tx.execute(_SETTLE_KEY, (release, s.charge, key_id))
    entry_id = None
    if s.charge:
        entry_id = _write_entry(
            tx,
            (account_id, "charge", -paid, debt, balance, owed),
            key_id=key_id,
            request_id=s.request_id,
            now_ms=s.finished_ms,
        )
    figures = (1, 0, s.input_tokens, s.output_tokens, s.images, s.charge, s.cost, s.loss)
    _add_to_day(tx, created_ms // DAY_MS, model, (account_id, key_id), figures)
    return Settled(s.charge, balance, held_now, owed, entry_id)


def _add_to_day(
    tx: Tx, day: int, model: str, who: tuple[int, int], figures: tuple[int, ...]
) -> None:
    """Add to the sums of the day a request began on, and to its summary when it has one by now."""
    tx.execute(_DAILY, (day, model, *who, *figures))
    if day != time.time() // 86_400:
        tx.execute(_DAY_OVER, (day, model, *figures))


def _write_entry(
    tx: Tx,
    figures: tuple[int, str, int, int, int, int],
    *,
    now_ms: int,
    key_id: int | None = None,
    request_id: str | None = None,
    pack_id: int | None = None,
    of_entry: int | None = None,
    cash_micro_usd: int = 0,
    reference: str | None = None,
    reason: str = "",
    actor: str = "",
) -> int:
    """Append ``(account, kind, amount, owed change, balance after, owed after)``; returns its id."""
    details = (key_id, request_id, pack_id, of_entry, cash_micro_usd, reference, reason, actor)
    entry_id = tx.execute(_ENTRY, (*figures, *details, now_ms)).lastrowid
    assert entry_id is not None
    return entry_id


def _settled_before(tx: Tx, request_id: str) -> Settled:
    row = tx.execute(
        "SELECT r.charge, a.balance, a.held, a.owed, e.id FROM requests r "
        "JOIN accounts a ON a.id = r.account_id "
        "LEFT JOIN entries e ON e.request_id = r.request_id AND e.kind = 'charge' "
        "WHERE r.request_id = ?",
        (request_id,),
    ).fetchone()
    charge, balance, held, owed, entry_id = row
    return Settled(charge, balance, held, owed, entry_id, repeated=True)


_VOID = """
UPDATE requests SET state = 'voided', delivery = 1, finished_ms = ?, http_status = ?, error = ?,
    attempts = ?, provider = ?, upstream_id = ?, loss = ?
WHERE request_id = ? AND state IN ('held', 'swept')
RETURNING account_id, key_id, hold, model, created_ms
"""


def void(
    tx: Tx,
    request_id: str,
    *,
    now_ms: int,
    http_status: int | None = None,
    error: str | None = None,
    attempts: str | None = None,
    provider: str | None = None,
    upstream_id: str | None = None,
    loss: int = 0,
) -> bool:
    """Return a hold untouched; False when there is none (never placed, or already resolved)."""
    before = tx.execute(_STATE, (request_id,)).fetchone()
    if before is None or before[0] not in ("held", "swept"):
        return False
    account_id, key_id, amount, model, created_ms = tx.execute(
        _VOID,
        (now_ms, http_status, error, attempts, provider, upstream_id, loss, request_id),
    ).fetchall()[0]
    if before[0] == "held":
        _release(tx, account_id, key_id, amount)
    figures = (0, 1, 0, 0, 0, 0, 0, loss)
    _add_to_day(tx, created_ms // DAY_MS, model, (account_id, key_id), figures)
    return True


def _release(tx: Tx, account_id: int, key_id: int, amount: int) -> None:
    if amount:
        tx.execute("UPDATE accounts SET held = held - ? WHERE id = ?", (amount, account_id))
        tx.execute("UPDATE keys SET held = held - ? WHERE id = ?", (amount, key_id))


def mark_delivery(tx: Tx, request_id: str, delivery: Delivery) -> None:
    """Say whether the last byte of a charged answer was handed to the socket."""
    tx.execute(
        "UPDATE requests SET delivery = ? WHERE request_id = ? AND delivery = 0 "
        "AND state = 'settled'",
        (delivery.value, request_id),
    )


def sweep(tx: Tx, instance_id: str, *, now_ms: int, limit: int = 500) -> int:
    """Give back the holds of a dead instance and mark its unfinished answers, oldest first.

    Returns how many requests were touched; call again while it returns ``limit``.
    """
    rows = tx.execute(
        "SELECT request_id, state, account_id, key_id, hold FROM requests "
        "WHERE instance_id = ? AND delivery = 0 AND state <> 'swept' ORDER BY id LIMIT ?",
        (instance_id, limit),
    ).fetchall()
    for request_id, state, account_id, key_id, amount in rows:
        if state == "held":
            tx.execute(
                "UPDATE requests SET state = 'swept', delivery = 1, finished_ms = ?, error = ? "
                "WHERE request_id = ? AND state = 'held'",
                (now_ms, "the server stopped before the answer was settled", request_id),
            )
            _release(tx, account_id, key_id, amount)
        else:
            mark_delivery(tx, request_id, Delivery.UNDELIVERED)
    return len(rows)


# -- acts of people: credit and debit ----------------------------------------------------------


def credit(
    tx: Tx,
    account_id: int,
    kind: str,
    amount: int,
    *,
    now_ms: int,
    actor: str,
    reason: str = "",
    reference: str | None = None,
    pack_id: int | None = None,
    cash_micro_usd: int = 0,
    of_entry: int | None = None,
    request_id: str | None = None,
) -> Entry:
    """Add credits; what the account owes is paid first, by an entry of its own."""
    assert amount >= 0
    found = tx.execute(
        "UPDATE accounts SET balance = balance + ?1 WHERE id = ?2 AND balance <= ?3 - ?1 "
        "RETURNING balance, owed",
        (amount, account_id, BALANCE_MAX),
    ).fetchall()
    if not found:
        raise Refused(f"no account takes more than {format_credits(BALANCE_MAX)} credits")
    balance, owed = found[0]
    entry_id = _write_entry(
        tx,
        (account_id, kind, amount, 0, balance, owed),
        now_ms=now_ms,
        request_id=request_id,
        pack_id=pack_id,
        of_entry=of_entry,
        cash_micro_usd=cash_micro_usd,
        reference=reference,
        reason=reason,
        actor=actor,
    )
    payment = min(owed, amount)
    if payment:
        balance, owed = tx.execute(
            "UPDATE accounts SET balance = balance - ?1, owed = owed - ?1 WHERE id = ?2 "
            "RETURNING balance, owed",
            (payment, account_id),
        ).fetchall()[0]
        _write_entry(
            tx,
            (account_id, "owed_payment", -payment, -payment, balance, owed),
            now_ms=now_ms,
            reason=f"pays what was owed, from entry {entry_id}",
            actor=actor,
        )
    return Entry(entry_id, account_id, kind, amount, balance, owed)


def debit(
    tx: Tx,
    account_id: int,
    kind: str,
    amount: int,
    *,
    now_ms: int,
    actor: str,
    allow_debt: bool = False,
    reason: str = "",
    reference: str | None = None,
    pack_id: int | None = None,
    cash_micro_usd: int = 0,
    of_entry: int | None = None,
) -> Entry:
    """Take credits back: at most what is available; with ``allow_debt`` the rest becomes owed.

    Raises `Refused` when it is more than available.
    """
    assert amount >= 0
    available = tx.execute(
        "SELECT balance - held FROM accounts WHERE id = ?", (account_id,)
    ).fetchone()[0]
    if amount > available and not allow_debt:
        raise Refused(
            f"only {format_credits(available)} credits are available, "
            f"{format_credits(amount)} cannot be taken; --allow-debt records the rest as owed"
        )
    taken = min(amount, available)
    debt = amount - taken
    balance, owed = tx.execute(
        "UPDATE accounts SET balance = balance - ?, owed = owed + ? WHERE id = ? "
        "RETURNING balance, owed",
        (taken, debt, account_id),
    ).fetchall()[0]
    entry_id = _write_entry(
        tx,
        (account_id, kind, -taken, debt, balance, owed),
        now_ms=now_ms,
        pack_id=pack_id,
        of_entry=of_entry,
        cash_micro_usd=cash_micro_usd,
        reference=reference,
        reason=reason,
        actor=actor,
    )
    return Entry(entry_id, account_id, kind, -taken, balance, owed)


Operation = Callable[[Tx], object]
