"""`ledger verify`: recompute everything, beside a running server and without pinning the WAL.

Entries are read in id order, in chunks; they only ever grow, so what was read stays true. Figures
that change (balances, holds, the day's sums) are compared inside short snapshots of at most `CHUNK`
rows, each after catching up with what was written meanwhile. So a server that works on raises no
false alarm, and no read transaction lasts long.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import msgspec
import orjson

from sellapi.domain.credits import format_credits
from sellapi.domain.pricing import Prices, charge
from sellapi.domain.usage import Usage
from sellapi.storage.database import Database, Tx

__all__ = ["Found", "head_digest", "usage_of", "verify"]

CHUNK = 1_000
KEYS_CHUNK = 100
"""Fewer: a key of a busy account has thousands of daily rows."""
DAY_MS = 86_400_000
_DAILY = (
    "requests",
    "voided",
    "input_tokens",
    "output_tokens",
    "images",
    "charged",
    "cost",
    "loss",
)
_SIGNS = {
    "signup": 1, "sale": 1, "grant": 1, "charge_refund": 1,
    "sale_refund": -1, "deduct": -1, "charge": -1, "owed_payment": -1,
}  # fmt: skip


@dataclass(slots=True)
class Found:
    """The result; ``difference`` is the first one found, None when all is well."""

    accounts: int = 0
    entries: int = 0
    open_holds: int = 0
    requests: int = 0
    head: str = ""
    difference: str | None = None


class _Difference(Exception):
    """Ends the search at the first difference."""


@dataclass(slots=True)
class _State:
    """What was recomputed so far."""

    last_entry: int = 0
    digest: bytes = hashlib.sha256(b"sellapi ledger 1").digest()
    entries: int = 0
    accounts: dict[int, tuple[int, int]] = field(default_factory=dict)
    """account id -> (balance, owed)"""
    spent: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    """key id -> charges"""
    owners: dict[int, int] = field(default_factory=dict)
    """key id -> the account its charges stand in"""
    last_request: int = 0
    requests: int = 0
    unresolved: set[int] = field(default_factory=set)
    """row ids of requests that were held or swept when they were read"""
    newest_entry: dict[int, int] = field(default_factory=dict)
    """account id -> its last entry so far"""
    newest_request: dict[int, int] = field(default_factory=dict)
    """account id -> its last request so far"""
    days: dict[int, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0] * 8))
    prices: dict[int, Prices] = field(default_factory=dict)


_USAGE = msgspec.json.Decoder(Usage)


def usage_of(text: str | None) -> Usage:
    """A stored usage (buckets as JSON); unknown keys are ignored. Raises `ValueError`."""
    try:
        return _USAGE.decode(text) if text else Usage()
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None


@contextmanager
def _snapshot(database: Database) -> Iterator[Tx]:
    """All statements inside see one moment. Keep it short."""
    with database.read() as tx:
        tx.execute("BEGIN")
        try:
            yield tx
        finally:
            tx.execute("ROLLBACK")


def verify(database: Database, progress: Callable[[int, int], None] | None = None) -> Found:
    """Recompute balances, held, owed, running balances, keys, links, charges, daily sums, digest."""
    state, found = _State(), Found()
    try:
        with database.read() as tx:
            total = int(tx.value("SELECT max(id) FROM entries") or 0)
            total += int(tx.value("SELECT max(id) FROM requests") or 0)
        while _read_entries(database, state):
            if progress:
                progress(state.last_entry, total)
        while _read_requests(database, state):
            if progress:
                progress(state.last_entry + state.last_request, total)
        found.accounts, found.open_holds = _check_accounts(database, state)
        _check_days(database, state)
    except _Difference as difference:
        found.difference = str(difference)
    found.entries, found.requests = state.entries, state.requests
    found.accounts = found.accounts or len(state.accounts)
    found.head = state.digest.hex()
    return found


def head_digest(database: Database) -> str:
    """The digest over all entries there are now, without checking them."""
    state = _State()
    with database.read() as tx:
        while rows := tx.execute(
            f"SELECT {_DIGESTED} FROM entries e WHERE id > ? ORDER BY id LIMIT ?",
            (state.last_entry, CHUNK),
        ).fetchall():
            for row in rows:
                state.digest = _chain(state.digest, row)
            state.last_entry = rows[-1][0]
    return state.digest.hex()


# -- entries -----------------------------------------------------------------------------------

# Rows are tuples, taken apart by position: with ten million of them a dict each would be most of
# the time. The loops over entries and requests are the only places where that counts.
_DIGESTED = (
    "e.id, e.account_id, e.kind, e.amount, e.owed_change, e.balance_after, e.owed_after, e.key_id, "
    "e.request_id, e.pack_id, e.of_entry, e.cash_micro_usd, e.reference, e.reason, e.actor, "
    "e.created_ms"
)
_DIGESTED_COLUMNS = 16
_ENTRIES = f"""
SELECT {_DIGESTED}, e.previous, r.id, r.state, r.charge, r.account_id, r.key_id
FROM entries e LEFT JOIN requests r ON r.request_id = e.request_id
WHERE e.id > ? ORDER BY e.id LIMIT ?
"""
_SHOWN_AS_IS = re.compile(rb"[ -~]*").fullmatch


def _chain(digest: bytes, row: tuple[Any, ...]) -> bytes:
    """The next digest: SHA-256 of the last one and of the row as a JSON array in ASCII."""
    text = orjson.dumps(row)
    if not _SHOWN_AS_IS(text):  # orjson does not escape what is beyond ASCII
        text = json.dumps(row, ensure_ascii=True, separators=(",", ":")).encode("ascii")
    return hashlib.sha256(digest + text).digest()


def _read_entries(database: Database, state: _State, snapshot: Tx | None = None) -> int:
    """The next chunk of entries; returns how many there were."""
    with nullcontext(snapshot) if snapshot else database.read() as tx:
        rows = tx.execute(_ENTRIES, (state.last_entry, CHUNK)).fetchall()
        horizon = _horizon(tx)
        for row in rows:
            _check_entry(state, row, horizon)
            if row[2] not in ("charge", "signup", "grant"):
                _check_link(tx, row[0])
            state.digest = _chain(state.digest, row[:_DIGESTED_COLUMNS])
            state.last_entry = row[0]
    state.entries += len(rows)
    return len(rows)


def _horizon(tx: Tx) -> int:
    """Requests resolved before this time may have been pruned. Read after the rows it excuses."""
    return int(tx.value("SELECT pruned_before_ms FROM retention") or 0)


def _check_entry(state: _State, row: tuple[Any, ...], horizon: int) -> None:
    _, account, kind, amount, owed_change, balance_after, owed_after, key, request_id = row[:9]
    sign = _SIGNS.get(kind)
    if sign is None or amount * sign < 0:
        raise _Difference(f"{_named(row)}: amount {format_credits(amount)} has the wrong sign")
    balance, owed = state.accounts.get(account, (0, 0))
    balance += amount
    owed += owed_change
    if balance != balance_after or owed != owed_after:
        raise _Difference(
            f"{_named(row)}: says balance {format_credits(balance_after)} and owed "
            f"{format_credits(owed_after)}; the entries so far give {format_credits(balance)} "
            f"and {format_credits(owed)}"
        )
    state.accounts[account] = (balance, owed)
    previous, before = row[_DIGESTED_COLUMNS], state.newest_entry.get(account)
    if previous != before:
        raise _Difference(f"{_named(row)}: names {previous} as the entry before it, not {before}")
    state.newest_entry[account] = row[0]
    if kind == "charge":
        charged = owed_change - amount
        request, request_state, charge, request_account, request_key = row[_DIGESTED_COLUMNS + 1 :]
        if request_id is None:
            raise _Difference(f"{_named(row)}: names no request")
        if request is None:
            if row[_DIGESTED_COLUMNS - 1] >= horizon:
                raise _Difference(f"{_named(row)}: its request {request_id} does not exist")
        elif request_state != "settled" or charge != charged:
            raise _Difference(
                f"{_named(row)}: took {format_credits(charged)}, but request {request_id} is "
                f"{request_state} with a charge of {format_credits(charge)}"
            )
        elif request_account != account or request_key != key:
            raise _Difference(f"{_named(row)}: request {request_id} is another account's or key's")
        state.spent[key] += charged
        if state.owners.setdefault(key, account) != account:
            raise _Difference(f"{_named(row)}: key {key} has charges in another account too")


def _named(row: tuple[Any, ...]) -> str:
    return f"entry {row[0]} ({row[2]} of account {row[1]})"


_LINKED = """
SELECT e.id, e.account_id, e.kind, e.amount, e.owed_change, e.pack_id, e.of_entry, e.cash_micro_usd,
    o.kind AS of_kind, o.account_id AS of_account, o.amount AS of_amount, o.owed_change AS of_owed,
    o.pack_id AS of_pack, o.cash_micro_usd AS of_cash, p.credits AS pack_credits
FROM entries e LEFT JOIN entries o ON o.id = e.of_entry LEFT JOIN packs p ON p.id = e.pack_id
WHERE e.id = ?
"""


def _check_link(tx: Tx, entry_id: int) -> None:
    """That a sale is of its pack, and a refund of the entry it names."""
    e = tx.one(_LINKED, (entry_id,))
    assert e is not None
    name = f"entry {e['id']} ({e['kind']} of account {e['account_id']})"
    if e["kind"] == "sale" and e["pack_credits"] != e["amount"]:
        raise _Difference(
            f"{name}: is not what pack {e['pack_id']} holds (packs never change once added)"
        )
    of_kind = {"sale_refund": "sale", "charge_refund": "charge"}.get(e["kind"])
    if of_kind is None:
        return
    moved = abs(e["amount"]) + e["owed_change"]
    undone = abs(e["of_amount"] or 0) + (e["of_owed"] or 0)
    if (e["of_kind"], e["of_account"], undone) != (of_kind, e["account_id"], moved):
        raise _Difference(f"{name}: does not undo {of_kind} entry {e['of_entry']} as it is")
    if of_kind == "sale" and (e["of_pack"], -e["of_cash"]) != (e["pack_id"], e["cash_micro_usd"]):
        raise _Difference(f"{name}: pack or cash differ from those of entry {e['of_entry']}")


# -- requests ----------------------------------------------------------------------------------

_REQUESTS = """
SELECT r.id, r.request_id, r.state, r.charge, r.delivery, r.created_ms, r.price_id, r.usage,
    r.image_size, r.image_quality, r.input_tokens, r.output_tokens, r.images, r.cost, r.loss,
    e.id, e.owed_change - e.amount, r.account_id, r.previous
FROM requests r LEFT JOIN entries e ON e.request_id = r.request_id AND e.kind = 'charge'
"""
_PRICE = 6
"""Where the price version stands in a row."""


def _read_requests(database: Database, state: _State, snapshot: Tx | None = None) -> int:
    """The next chunk of requests; returns how many there were."""
    with nullcontext(snapshot) if snapshot else database.read() as tx:
        rows = tx.execute(
            f"{_REQUESTS} WHERE r.id > ? ORDER BY r.id LIMIT ?", (state.last_request, CHUNK)
        ).fetchall()
        _load_prices(tx, state, rows)
        for row in rows:
            _check_place(tx, state, row)
    for row in rows:
        state.last_request = row[0]
        if row[2] in ("held", "swept"):
            state.unresolved.add(row[0])
        _check_request(state, row)
    state.requests += len(rows)
    return len(rows)


def _check_place(tx: Tx, state: _State, row: tuple[Any, ...]) -> None:
    """That a request names the one before it of its account, unless that one was pruned."""
    account, previous = row[-2:]
    before = state.newest_request.get(account)
    state.newest_request[account] = row[0]
    if previous != before and not _pruned_since(tx, before, previous):
        raise _Difference(
            f"request {row[1]}: names {previous} as the request before it, not {before}"
        )


def _pruned_since(tx: Tx, seen: int | None, named: int | None) -> bool:
    """Whether a request that is named where another was seen last may have been pruned since.

    Of an account's requests the oldest go first: so the one that was seen must be gone too.
    """
    return (
        named is not None
        and named > (seen or 0)
        and not tx.value("SELECT 1 FROM requests WHERE id IN (?, ?)", (named, seen))
        and _horizon(tx) > 0
    )


def _load_prices(tx: Tx, state: _State, rows: list[tuple[Any, ...]]) -> None:
    for price_id in {row[_PRICE] for row in rows} - state.prices.keys():
        text = tx.value("SELECT prices FROM prices WHERE id = ?", (price_id,))
        if text is None:
            continue
        try:
            state.prices[price_id] = Prices.from_json(json.loads(text))
        except (ValueError, TypeError) as error:
            raise _Difference(f"price version {price_id} cannot be read ({error})") from None


def _check_request(state: _State, row: tuple[Any, ...]) -> None:
    _, request_id, is_, charged, delivery, created_ms, price_id, usage_text, size, quality = row[
        :10
    ]
    inputs, outputs, images, cost, loss, entry, entered = row[10:17]
    name = f"request {request_id}"
    if is_ != "settled":
        if charged or entry is not None:
            raise _Difference(f"{name}: is {is_} and yet was charged")
        if is_ == "held" and delivery != 0:
            raise _Difference(f"{name}: is held and yet marked as delivered")
        if is_ == "voided":
            day = state.days[created_ms // DAY_MS]
            day[1] += 1
            day[7] += loss
        return
    if (entered or 0) != charged:
        raise _Difference(
            f"{name}: was charged {format_credits(charged)}, its ledger entry says "
            f"{format_credits(entered or 0)}"
        )
    prices = state.prices.get(price_id)
    if prices is None:
        raise _Difference(f"{name}: its price version {price_id} does not exist")
    try:
        usage = usage_of(usage_text)
    except (ValueError, TypeError) as error:
        raise _Difference(f"{name}: its usage cannot be read ({error})") from None
    right = charge(prices, usage, size=size or "auto", quality=quality or "auto")
    if right != charged:
        raise _Difference(
            f"{name}: was charged {format_credits(charged)}, its usage at price version "
            f"{price_id} comes to {format_credits(right)}"
        )
    day = state.days[created_ms // DAY_MS]
    day[0] += 1
    day[2] += inputs
    day[3] += outputs
    day[4] += images
    day[5] += charged
    day[6] += cost
    day[7] += loss


# -- figures that change -----------------------------------------------------------------------


def _catch_up(database: Database, state: _State) -> None:
    """Read what was written meanwhile, until less than a chunk is left for a snapshot."""
    while _read_entries(database, state) >= CHUNK or _read_requests(database, state) >= CHUNK:
        pass


def _check_accounts(database: Database, state: _State) -> tuple[int, int]:
    """Compare accounts and keys, a chunk per snapshot; returns (accounts, open holds)."""
    seen: set[int] = set()
    holds = 0
    for rows, held, count in _chunks(database, state, _ACCOUNTS, "account_id"):
        for row in rows:
            _check_account(state, row[:4], held.get(row[0], 0))
            _check_newest(database, state, row)
        seen.update(row[0] for row in rows)
        holds += count
    for account in state.accounts.keys() - seen:
        raise _Difference(f"account {account} has entries and does not exist")
    keys: set[int] = set()
    charged: dict[tuple[int, ...], int] = {}
    for rows, held, _ in _chunks(database, state, _KEYS, "key_id", KEYS_CHUNK, charged):
        for row in rows:
            _check_key(state, row, held.get(row[0], 0))
            if charged.get(row[:2], 0) != state.spent.get(row[0], 0):
                raise _Difference(
                    f"key {row[0]}: its daily sums say {format_credits(charged.get(row[:2], 0))} "
                    f"charged, its entries give {format_credits(state.spent.get(row[0], 0))}"
                )
        keys.update(row[0] for row in rows)
    for key in state.owners.keys() - keys:
        raise _Difference(f"key {key} has charges and does not exist")
    return len(seen), holds


_ACCOUNTS = (
    "SELECT id, balance, held, owed, last_entry, last_request FROM accounts "
    "WHERE id > ? ORDER BY id LIMIT ?"
)
_KEYS = (
    "SELECT id, account_id, spend_limit IS NOT NULL, spent, held FROM keys "
    "WHERE id > ? ORDER BY id LIMIT ?"
)


_KEYS_CHARGED = """
SELECT key_id, account_id, sum(charged) FROM daily
WHERE account_id IN (SELECT account_id FROM keys WHERE id > ?1 AND id <= ?2)
AND key_id > ?1 AND key_id <= ?2 GROUP BY 1, 2
"""


def _chunks(
    database: Database,
    state: _State,
    sql: str,
    column: str,
    size: int = CHUNK,
    charged: dict[tuple[int, ...], int] | None = None,
) -> Iterator[tuple[list[tuple[int, ...]], dict[int, int], int]]:
    """``(rows, what each holds by open requests, how many those are)``, up to date by entries.

    ``charged`` is filled, for keys, with the daily sums by (key, account).

    Ids only grow: whatever an entry names by the last, empty chunk was among the rows, or is gone.
    """
    last = 0
    while True:
        _catch_up(database, state)
        with _snapshot(database) as tx:
            while _read_entries(database, state, tx) or _read_requests(database, state, tx):
                pass
            rows = tx.execute(sql, (last, size)).fetchall()
            if not rows:
                return
            held, count = _open_holds(tx, column, last, rows[-1][0])
            if charged is not None:
                sums = tx.execute(_KEYS_CHARGED, (last, rows[-1][0]))
                charged.clear()
                charged.update({(key, account): total for key, account, total in sums})
        last = rows[-1][0]
        yield rows, held, count


def _open_holds(tx: Tx, column: str, after: int, to: int) -> tuple[dict[int, int], int]:
    """Open holds by account or key in an id range: ``(sums, count)``.

    All open requests stand in one small partial index, whatever the size of the table.
    """
    sums: dict[int, int] = defaultdict(int)
    count = 0
    for owner, amount in tx.execute(
        f"SELECT {column}, hold FROM requests INDEXED BY requests_open "
        f"WHERE delivery = 0 AND state = 'held' AND {column} > ? AND {column} <= ?",
        (after, to),
    ):
        sums[owner] += amount
        count += 1
    return sums, count


def _check_account(state: _State, row: tuple[int, ...], open_holds: int) -> None:
    id_, *figures = row
    balance, owed = state.accounts.get(id_, (0, 0))
    right = (balance, open_holds, owed)
    for what, says, is_so in zip(("balance", "held", "owed"), figures, right, strict=True):
        if says != is_so:
            by = "open holds" if what == "held" else "entries"
            raise _Difference(
                f"account {id_}: {what} says {format_credits(says)}, its {by} give "
                f"{format_credits(is_so)}"
            )


def _check_newest(database: Database, state: _State, row: tuple[int, ...]) -> None:
    id_, entry, request = row[0], *row[4:]
    newest = state.newest_entry.get(id_)
    if entry != newest:
        raise _Difference(f"account {id_}: names {entry} as its newest entry, not {newest}")
    newest = state.newest_request.get(id_)
    if request == newest:
        return
    with database.read() as tx:
        if not _pruned_since(tx, newest, request):
            raise _Difference(f"account {id_}: names {request} as its newest request, not {newest}")


def _check_key(state: _State, row: tuple[int, ...], open_holds: int) -> None:
    id_, account, limited, says_spent, says_held = row
    if state.owners.get(id_, account) != account:
        raise _Difference(
            f"key {id_}: belongs to account {account}, its charges stand in account "
            f"{state.owners[id_]}"
        )
    counted = (state.spent.get(id_, 0), open_holds) if limited else (0, 0)
    if (says_spent, says_held) != counted:
        raise _Difference(
            f"key {id_}: says {format_credits(says_spent)} spent and {format_credits(says_held)} "
            f"held, {'its requests give' if limited else 'without a limit it would be'} "
            f"{format_credits(counted[0])} and {format_credits(counted[1])}"
        )


def _check_days(database: Database, state: _State) -> None:
    """Compare the daily sums with the requests, where requests still exist."""
    _catch_up(database, state)
    with _snapshot(database) as tx:
        while _read_requests(database, state, tx):
            pass
        _recheck_unresolved(tx, state)
        horizon = _horizon(tx)
        sums = _days_kept(tx)
    for day in sorted(state.days.keys() | sums.keys()):
        kept, counted = sums.get(day, [0] * 8), state.days.get(day, [0] * 8)
        pruned = day * DAY_MS < horizon
        for name, says, is_so in zip(_DAILY, kept, counted, strict=True):
            if says < is_so or (says != is_so and not pruned):
                raise _Difference(
                    f"day {day} (days since 1970): the sums say {name} {says}, the requests give "
                    f"{is_so}"
                )


def _days_kept(tx: Tx) -> dict[int, list[int]]:
    """The daily sums by day; the summaries of days that are over are the sums of their rows."""
    columns, adding = ", ".join(_DAILY), ", ".join(f"sum({name})" for name in _DAILY)
    summaries = {
        row[:2]: row[2:] for row in tx.execute(f"SELECT day, model, {columns} FROM daily_models")
    }
    before = int(tx.value("SELECT summed_before_day FROM retention") or 0)
    kept: dict[int, list[int]] = {}
    wrong: list[tuple[int, str]] = []
    for day, model, *figures in tx.execute(
        f"SELECT day, model, {adding} FROM daily GROUP BY day, model"
    ):
        kept[day] = [a + b for a, b in zip(kept.get(day, [0] * 8), figures, strict=True)]
        if day < before and summaries.pop((day, model), None) != tuple(figures):
            wrong.append((day, model))
    for day, model in (*wrong, *summaries):
        raise _Difference(
            f"day {day} (days since 1970): the summary of model {model} is not the sum of its rows"
        )
    return kept


def _recheck_unresolved(tx: Tx, state: _State) -> None:
    """Requests that were open when they were read may be resolved now, and in the sums."""
    open_ids = sorted(state.unresolved)
    for start in range(0, len(open_ids), 500):
        ids = open_ids[start : start + 500]
        rows = tx.execute(
            f"{_REQUESTS} WHERE r.id IN (SELECT value FROM json_each(?)) "
            "AND r.state NOT IN ('held', 'swept')",
            (json.dumps(ids),),
        ).fetchall()
        _load_prices(tx, state, rows)
        for row in rows:
            _check_request(state, row)
