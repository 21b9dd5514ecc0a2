"""The only file that moves credits.

Two-phase, as in TigerBeetle (docs.tigerbeetle.com/coding/two-phase-transfers): a request *holds*
credits and is then resolved exactly once, *settled* for the true charge or *voided*. Every function
takes a `Tx` inside a transaction and either does all of its work or, when it refuses, nothing.
Amounts are microcredits. Correctness rests on conditional updates; the CHECK constraints and
triggers of the schema say the same a second time.

What every request needs is written for many at once (`hold_all`, `settle_all`, `mark_all`): one
statement reads where all of them stand, they are decided in order on those figures, and one
conditional statement a table writes the outcome. If it finds other figures than were read it raises
`Moved`, and nothing of it may be committed.

An account's requests and entries are a chain: its row names the newest, each names the one before
(m0002_chains). So ids are given here, where the order is known.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from itertools import chain
from operator import attrgetter
from typing import Any

import msgspec

from sellapi.domain.credits import format_credits
from sellapi.domain.holds import Priced
from sellapi.errors import DatabaseUnavailable, Refused
from sellapi.storage.database import Tx

__all__ = [
    "Delivery",
    "Entry",
    "Held",
    "HoldRequest",
    "Moved",
    "Settled",
    "Settlement",
    "Short",
    "Stale",
    "credit",
    "debit",
    "hold",
    "hold_all",
    "mark_all",
    "mark_delivery",
    "settle",
    "settle_all",
    "sweep",
    "void",
]

DAY_MS = 86_400_000
BALANCE_MAX = 4 * 10**18
"""Microcredits of one account; twice as much would not fit into the database's integers."""


class Moved(DatabaseUnavailable):
    """Figures changed between reading and writing them: roll back, and try again."""


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
    affordable: Callable[[int], Priced | None] | None = None
    """For an answer without a stated limit: what to hold when so much is available, None for
    nothing. Asked inside the transaction if the amount was bounded before, or is too much."""


class Held(msgspec.Struct, frozen=True):
    """The hold stands; the account's figures after it."""

    balance: int
    held: int
    priced: Priced | None = None
    """What is held instead of the amount asked for, by `HoldRequest.affordable`."""


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
    """The charge stands."""

    charge: int
    balance: int
    held: int
    owed: int
    repeated: bool = False


class Entry(msgspec.Struct, frozen=True):
    """A ledger entry as just written."""

    id: int
    account_id: int
    kind: str
    amount: int
    balance_after: int
    owed_after: int


# -- many rows by one statement ----------------------------------------------------------------

_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_ROWS = _SIZES[-1]
"""Rows one statement takes; more are written by several."""


class _Many:
    """A statement that takes many rows of parameters, as ``v (column1, column2, …)``.

    Its text ends in ``FROM`` and goes on behind the rows. One is prepared for each of `_SIZES` and
    filled up with rows of 0, which must match nothing: so the driver's statement cache serves.
    (None and bool would cost the driver half a microsecond each: it looks for adapters of them.)

    ``OR FAIL`` where no trigger or foreign key forbids it: whoever runs these rolls all of it back, so
    SQLite need not keep a copy of every page a statement touches to undo that one alone.

    Every call into SQLite lets go of the interpreter's lock, and a busy event loop gives it back
    late. Rows bound this way also cost the least by themselves: 6 us for each of 32 settlements,
    against 9 by ``executemany`` and 13 by ``json_each`` (SQLite 3.40).
    """

    def __init__(self, columns: int, head: str, tail: str) -> None:
        row = f"({', '.join('?' * columns)})"
        self._texts = {
            size: f"{head} (VALUES {', '.join([row] * size)}) AS v {tail}" for size in _SIZES
        }
        self._nothing = (0,) * columns

    def run(self, tx: Tx, rows: Sequence[tuple[Any, ...]]) -> int:
        """Returns how many rows were written."""
        written = 0
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS]
            size = _SIZES[bisect_left(_SIZES, len(part))]
            bound = list(chain.from_iterable(part))
            bound.extend(self._nothing * (size - len(part)))
            written += _bind(tx, self._texts[size], bound).rowcount
        return written

    def run_exactly(self, tx: Tx, rows: Sequence[tuple[Any, ...]]) -> None:
        """Raises `Moved` unless every row was written."""
        written = self.run(tx, rows)
        if written != len(rows):
            raise Moved(
                f"the database was changed by another writer meanwhile: {written} of {len(rows)} "
                "rows were as read; try again in a moment"
            )


def _bind(tx: Tx, text: str, values: Sequence[Any]) -> Any:
    """Execute; text that has no UTF-8 form (a provider's lone surrogates) is stored with ``?``.

    A charge must not fail by the words that stand beside it.
    """
    try:
        return tx.execute(text, values)
    except UnicodeEncodeError:  # raised while binding: nothing was executed yet
        storable = [
            value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
            for value in values
        ]
        return tx.execute(text, storable)


# -- requests: hold ----------------------------------------------------------------------------


class _Account(msgspec.Struct, array_like=True):
    """Where an account stands; counted on while a batch is decided."""

    id: int
    version: int
    balance: int
    held: int
    owed: int
    last: int | None
    """Its newest request."""
    more: int = 0
    """What the batch holds."""


class _Key(msgspec.Struct, array_like=True):
    """Where a key stands."""

    id: int
    version: int
    left: int | None
    """Microcredits under the key's own limit; None without one, then nothing is counted."""
    held: int
    account: _Account
    more: int = 0


# `sqlite_sequence`, not the highest id: an id never comes back, though its row may be pruned.
_STANDING = """
SELECT (SELECT version FROM catalog_state),
    coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'requests'), 0),
    json_group_array(json_array(
        k.id, k.version, k.spend_limit - k.spent - k.held, k.held,
        json_array(a.id, a.version, a.balance, a.held, a.owed, a.last_request)))
FROM json_each(?) AS asked JOIN keys AS k ON k.id = asked.value
JOIN accounts AS a ON a.id = k.account_id
"""
_READ_KEYS = msgspec.json.Decoder(list[_Key])
_BY_ID = attrgetter("id")
_HOLD_KEYS = _Many(
    3,
    "UPDATE OR FAIL keys SET held = held + v.column3 FROM",
    "WHERE id = v.column1 AND version = v.column2 AND spent + held + v.column3 <= spend_limit",
)
_HOLD_ACCOUNTS = _Many(
    4,
    "UPDATE OR FAIL accounts SET held = held + v.column3, last_request = v.column4 FROM",
    "WHERE id = v.column1 AND version = v.column2 AND owed = 0 AND balance - held >= v.column3",
)
_HOLD_REQUESTS = _Many(
    16,
    "INSERT INTO requests (request_id, account_id, key_id, instance_id, model, mode, price_id, "
    "state, hold, streamed, bounded, retry_of, image_size, image_quality, created_ms, id, "
    "previous) SELECT column1, column2, column3, column4, column5, column6, column7, 'held', "
    "column8, column9, column10, nullif(column11, 0), nullif(column12, ''), "
    "nullif(column13, ''), column14, column15, nullif(column16, 0) FROM",
    "WHERE column1 <> 0",
)
_STALE = Stale()


def hold(tx: Tx, h: HoldRequest) -> Held | Stale | Short:
    """`hold_all` for one."""
    return hold_all(tx, [h])[0]


def hold_all(tx: Tx, requests: Sequence[HoldRequest]) -> list[Held | Stale | Short]:
    """Hold what each asks for, in order, or nothing for it.

    Checks key and account by the versions they were read at (a change of status, expiry, allowlist,
    limit or tier raises the version), the times that end by themselves, the catalog's version, what
    the account owes and has, and the key's own limit (spent + held).
    """
    catalog_version, newest, keys = _standing(tx, requests)
    now = time.time()
    results: list[Held | Stale | Short] = []
    rows: list[tuple[Any, ...]] = []
    for h in requests:
        key = keys.get(h.key_id)
        if key is None or catalog_version != h.catalog_version or _outdated(h, key, now):
            results.append(_STALE)
            continue
        result, amount, bounded = _decide(h, key)
        results.append(result)
        if isinstance(result, Held):
            newest += 1
            link = (newest, key.account.last or 0)
            key.account.last = newest
            rows.append(_hold_row(h, amount, bounded=bounded) + link)
    if rows:
        _hold_sums(tx, {row[2]: keys[row[2]] for row in rows}.values())
        _HOLD_REQUESTS.run_exactly(tx, rows)
    return results


def _standing(tx: Tx, requests: Sequence[HoldRequest]) -> tuple[int, int, dict[int, _Key]]:
    """``(the catalog's version, the newest request, the keys asked for by id)``.

    Keys of one account share it.
    """
    ids = msgspec.json.encode({h.key_id for h in requests}).decode()
    catalog_version, newest, text = tx.execute(_STANDING, (ids,)).fetchone()
    keys = {key.id: key for key in _READ_KEYS.decode(text)}
    accounts: dict[int, _Account] = {}
    for key in keys.values():
        key.account = accounts.setdefault(key.account.id, key.account)
    return catalog_version, newest, keys


def _outdated(h: HoldRequest, key: _Key, now: float) -> bool:
    """Whether a request was decided by what is no longer so, or the decision ended by itself."""
    account = key.account
    return (
        key.version != h.key_version
        or account.version != h.account_version
        or account.id != h.account_id
        or (h.valid_until is not None and now >= h.valid_until)
    )


def _decide(h: HoldRequest, key: _Key) -> tuple[Held | Short, int, bool]:
    """``(result, microcredits held, whether they bound the answer)``; counted on when it stands."""
    account, amount, bounded, priced = key.account, h.amount, h.bounded, None
    fits = _fits(key, amount + h.reserve)
    if h.affordable is not None and not account.owed and (bounded or not fits):
        priced = h.affordable(_short(key).available)
        fits = priced is not None and _fits(key, priced.hold)
        if priced is not None:
            amount, bounded = priced.hold, priced.bounded
    if not fits:
        return _short(key), 0, False
    account.held += amount
    account.more += amount
    if key.left is not None:
        key.left -= amount
        key.held += amount
        key.more += amount
    return Held(account.balance, account.held, priced), amount, bounded


def _fits(key: _Key, amount: int) -> bool:
    account = key.account
    return (
        not account.owed
        and account.balance - account.held >= amount
        and (key.left is None or key.left >= amount)
    )


def _short(key: _Key) -> Short:
    account = key.account
    return Short(account.balance, account.held, account.owed, key.left, key.held)


def _hold_row(h: HoldRequest, amount: int, *, bounded: bool) -> tuple[Any, ...]:
    """As `_HOLD_REQUESTS` binds it, without ``(id, previous)``."""
    return (
        h.request_id,
        h.account_id,
        h.key_id,
        h.instance_id,
        h.model,
        h.mode,
        h.price_id,
        amount,
        +h.streamed,
        +bounded,
        h.retry_of or 0,
        h.image_size or "",
        h.image_quality or "",
        h.created_ms,
    )


def _hold_sums(tx: Tx, keys: Iterable[_Key]) -> None:
    """Write what a batch holds, by key and by account, if all stand as they were read."""
    by_id = sorted(keys, key=_BY_ID)
    limited = [(key.id, key.version, key.more) for key in by_id if key.left is not None]
    _HOLD_KEYS.run_exactly(tx, limited)
    accounts = sorted({key.account.id: key.account for key in by_id}.values(), key=_BY_ID)
    _HOLD_ACCOUNTS.run_exactly(tx, [(a.id, a.version, a.more, a.last) for a in accounts])


# -- requests: settle, void, deliver -----------------------------------------------------------


class _Owner(msgspec.Struct, array_like=True):
    """Where the account of a request stands, and what a batch changes of it."""

    id: int
    balance: int
    held: int
    owed: int
    last: int | None
    """Its newest entry."""
    released: int = 0
    paid: int = 0
    debt: int = 0


class _Request(msgspec.Struct, array_like=True):
    """A request as it stands."""

    id: int
    request_id: str
    state: str
    key_id: int
    hold: int
    charge: int
    model: str
    created_ms: int
    owner: _Owner


class _Taken(msgspec.Struct):
    """A charge that is decided, and the account's figures after it."""

    settlement: Settlement
    request: _Request
    release: int
    paid: int
    balance: int
    owed: int


_STATES = """
SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'entries'), 0),
    json_group_array(json_array(
        r.id, r.request_id, r.state, r.key_id, r.hold, r.charge, r.model, r.created_ms,
        json_array(a.id, a.balance, a.held, a.owed, a.last_entry)))
FROM json_each(?) AS asked JOIN requests AS r ON r.request_id = asked.value
JOIN accounts AS a ON a.id = r.account_id
"""
_READ_REQUESTS = msgspec.json.Decoder(list[_Request])
_TAKE = _Many(
    20,
    "UPDATE requests SET state = 'settled', charge = v.column2, usage = v.column3, "
    "usage_raw = nullif(v.column4, ''), input_tokens = v.column5, output_tokens = v.column6, "
    "images = v.column7, estimated = v.column8, bounded = v.column9, provider = v.column10, "
    "upstream_id = v.column11, finished_ms = v.column12, first_byte_ms = nullif(v.column13, -1), "
    "attempts = v.column14, cost = v.column15, loss = v.column16, "
    "http_status = nullif(v.column17, 0), error = nullif(v.column18, ''), "
    "finish_reason = nullif(v.column19, ''), "
    f"delivery = iif(v.column20, {Delivery.UNDELIVERED.value}, {Delivery.PENDING.value}) FROM",
    "WHERE id = v.column1 AND state IN ('held', 'swept')",
)
_SETTLE_ACCOUNTS = _Many(
    8,
    "UPDATE OR FAIL accounts SET held = held - v.column5, balance = balance - v.column6, "
    "owed = owed + v.column7, last_entry = nullif(v.column8, 0) FROM",
    # As it was read: the entries say the balance after each.
    "WHERE id = v.column1 AND balance = v.column2 AND held = v.column3 AND owed = v.column4",
)
_SETTLE_KEYS = _Many(
    3,
    "UPDATE OR FAIL keys SET held = held - v.column2, spent = spent + v.column3 FROM",
    "WHERE id = v.column1 AND spend_limit IS NOT NULL",
)
_CHARGES = _Many(
    10,
    "INSERT INTO entries (account_id, kind, amount, owed_change, balance_after, owed_after, "
    "key_id, request_id, created_ms, id, previous) SELECT column1, 'charge', column2, column3, "
    "column4, column5, column6, column7, column8, column9, nullif(column10, 0) FROM",
    "WHERE column1 <> 0",
)
_ENTRY = """
INSERT INTO entries (account_id, kind, amount, owed_change, balance_after, owed_after, key_id,
    request_id, pack_id, of_entry, cash_micro_usd, reference, reason, actor, created_ms, previous)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, (SELECT last_entry FROM accounts WHERE id = ?))
"""
_ADD_SUMS = """
    requests = requests + excluded.requests, voided = voided + excluded.voided,
    input_tokens = input_tokens + excluded.input_tokens,
    output_tokens = output_tokens + excluded.output_tokens, images = images + excluded.images,
    charged = charged + excluded.charged, cost = cost + excluded.cost, loss = loss + excluded.loss
"""
_DAILY = _Many(
    12,
    "INSERT OR FAIL INTO daily (day, model, account_id, key_id, requests, voided, input_tokens, "
    "output_tokens, images, charged, cost, loss) SELECT * FROM",
    f"WHERE column2 <> 0 ON CONFLICT (day, model, account_id, key_id) DO UPDATE SET {_ADD_SUMS}",
)
_DAY_OVER = _Many(
    10,
    "INSERT INTO daily_models (day, model, requests, voided, input_tokens, output_tokens, images, "
    "charged, cost, loss) SELECT * FROM",
    "WHERE column2 <> 0 AND column1 < (SELECT summed_before_day FROM retention) "
    f"ON CONFLICT (day, model) DO UPDATE SET {_ADD_SUMS}",
)

_Day = tuple[int, str, int, int]
"""``(days since 1970, model, account, key)``"""
_Sums = tuple[int, ...]
"""``(requests, voided, input tokens, output tokens, images, charged, cost, loss)``"""


def settle(tx: Tx, s: Settlement) -> Settled:
    """`settle_all` for one."""
    return settle_all(tx, [s])[0]


def settle_all(tx: Tx, settlements: Sequence[Settlement]) -> list[Settled]:
    """Charge requests, in order, each once.

    The hold is released and the charge taken; what it exceeds the hold by comes from what is
    available, the rest becomes ``owed``. A request whose hold was swept meanwhile is charged all the
    same. A request that is already settled changes nothing (``repeated``).
    """
    newest, requests = _states(tx, settlements)
    results: list[Settled] = []
    taken: list[_Taken] = []
    for s in settlements:
        r = requests[s.request_id]
        owner = r.owner
        repeated = r.state not in ("held", "swept")
        if not repeated:
            taken.append(_take(s, r))
        results.append(Settled(r.charge, owner.balance, owner.held, owner.owed, repeated))
    if taken:
        _write_charges(tx, taken, newest)
    return results


def _settled_row(s: Settlement, request: int) -> tuple[Any, ...]:
    """A settlement as `_TAKE` binds it, of the request with this row id."""
    return (
        request,
        s.charge,
        s.usage,
        s.usage_raw or "",
        s.input_tokens,
        s.output_tokens,
        s.images,
        +s.estimated,
        +s.bounded,
        s.provider,
        s.upstream_id,
        s.finished_ms,
        -1 if s.first_byte_ms is None else s.first_byte_ms,
        s.attempts,
        s.cost,
        s.loss,
        s.http_status or 0,
        s.error or "",
        s.finish_reason or "",
        +s.undelivered,
    )


def _states(tx: Tx, settlements: Sequence[Settlement]) -> tuple[int, dict[str, _Request]]:
    """``(the newest entry, the requests by id)``; those of one account share it.

    Raises `LookupError` for one not held.
    """
    ids = {s.request_id for s in settlements}
    newest, text = tx.execute(_STATES, (msgspec.json.encode(ids).decode(),)).fetchone()
    requests = {r.request_id: r for r in _READ_REQUESTS.decode(text)}
    owners: dict[int, _Owner] = {}
    for r in requests.values():
        r.owner = owners.setdefault(r.owner.id, r.owner)
    if len(requests) < len(ids):
        raise LookupError(f"no request {min(ids - requests.keys())} was held")
    return newest, requests


def _take(s: Settlement, r: _Request) -> _Taken:
    """Decide a charge: what of it is paid, the rest is owed; counted on."""
    owner = r.owner
    release = r.hold if r.state == "held" else 0
    paid = s.charge
    if s.charge > release:
        paid = min(s.charge, release + owner.balance - owner.held)
    owner.held -= release
    owner.balance -= paid
    owner.owed += s.charge - paid
    owner.released += release
    owner.paid += paid
    owner.debt += s.charge - paid
    r.state, r.charge = "settled", s.charge
    return _Taken(s, r, release, paid, owner.balance, owner.owed)


def _write_charges(tx: Tx, taken: list[_Taken], newest: int) -> None:
    _TAKE.run_exactly(tx, [_settled_row(t.settlement, t.request.id) for t in taken])
    keys: dict[int, tuple[int, int]] = {}
    entries: list[tuple[Any, ...]] = []
    days: dict[_Day, _Sums] = {}
    for t in taken:
        s, r, account_id = t.settlement, t.request, t.request.owner.id
        released, spent = keys.get(r.key_id, (0, 0))
        keys[r.key_id] = (released + t.release, spent + s.charge)
        if s.charge:
            amounts = (account_id, -t.paid, s.charge - t.paid, t.balance, t.owed)
            newest += 1
            link = (newest, r.owner.last or 0)
            r.owner.last = newest
            entries.append((*amounts, r.key_id, s.request_id, s.finished_ms, *link))
        sums = (1, 0, s.input_tokens, s.output_tokens, s.images, s.charge, s.cost, s.loss)
        _add(days, (r.created_ms // DAY_MS, r.model, account_id, r.key_id), sums)
    _settle_owners(tx, {t.request.owner.id: t.request.owner for t in taken}.values())
    _SETTLE_KEYS.run(tx, [(key, *sums) for key, sums in sorted(keys.items())])
    _CHARGES.run_exactly(tx, entries)
    _add_to_days(tx, days)


def _settle_owners(tx: Tx, owners: Iterable[_Owner]) -> None:
    rows = []
    for a in sorted(owners, key=_BY_ID):
        before = (a.balance + a.paid, a.held + a.released, a.owed - a.debt)
        rows.append((a.id, *before, a.released, a.paid, a.debt, a.last or 0))
    _SETTLE_ACCOUNTS.run_exactly(tx, rows)


def _add(days: dict[Any, _Sums], day: Any, more: _Sums) -> None:
    sums = days.get(day)
    days[day] = more if sums is None else tuple(map(int.__add__, sums, more))


def _add_to_days(tx: Tx, days: dict[_Day, _Sums]) -> None:
    """Add to the sums of the days requests began on, and to the summaries of those that have one."""
    _DAILY.run_exactly(tx, [(*day, *sums) for day, sums in days.items()])
    today = time.time() // 86_400
    over: dict[tuple[int, str], _Sums] = {}
    for (day, model, _, _), sums in days.items():
        if day != today:
            _add(over, (day, model), sums)
    _DAY_OVER.run(tx, [(*day, *sums) for day, sums in over.items()])


def _add_to_day(tx: Tx, day: int, model: str, who: tuple[int, int], figures: _Sums) -> None:
    _add_to_days(tx, {(day, model, *who): figures})


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
    account_id = figures[0]
    entry_id = tx.execute(_ENTRY, (*figures, *details, now_ms, account_id)).lastrowid
    assert entry_id is not None
    tx.execute("UPDATE accounts SET last_entry = ? WHERE id = ?", (entry_id, account_id))
    return entry_id


_STATE = "SELECT state FROM requests WHERE request_id = ?"
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
    told = (now_ms, http_status, error, attempts, provider, upstream_id, loss, request_id)
    account_id, key_id, amount, model, created_ms = _bind(tx, _VOID, told).fetchall()[0]
    if before[0] == "held":
        _release(tx, account_id, key_id, amount)
    figures = (0, 1, 0, 0, 0, 0, 0, loss)
    _add_to_day(tx, created_ms // DAY_MS, model, (account_id, key_id), figures)
    return True


def _release(tx: Tx, account_id: int, key_id: int, amount: int) -> None:
    if amount:
        tx.execute("UPDATE accounts SET held = held - ? WHERE id = ?", (amount, account_id))
        tx.execute(
            "UPDATE keys SET held = held - ? WHERE id = ? AND spend_limit IS NOT NULL",
            (amount, key_id),
        )


_MARK = _Many(
    2,
    "UPDATE OR FAIL requests SET delivery = v.column2 FROM",
    "WHERE request_id = v.column1 AND delivery = 0 AND state = 'settled'",
)


def mark_all(tx: Tx, marks: Sequence[tuple[str, Delivery]]) -> list[None]:
    """Say whether the last bytes of charged answers were handed to the socket; the first says it.

    Each is ``(request id, delivery)``.
    """
    said: dict[str, int] = {}
    for request_id, delivery in marks:
        said.setdefault(request_id, delivery.value)
    _MARK.run(tx, list(said.items()))
    return [None] * len(marks)


def mark_delivery(tx: Tx, request_id: str, delivery: Delivery) -> None:
    """`mark_all` for one."""
    mark_all(tx, [(request_id, delivery)])


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
