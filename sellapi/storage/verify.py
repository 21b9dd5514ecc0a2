"""`ledger verify`: recompute everything, beside a running server and without pinning the WAL.

Entries are read in id order, in chunks; they only ever grow, so what was read stays true. Figures
that change (balances, holds, the day's sums) are compared inside short snapshots of at most `CHUNK`
rows, each after catching up with what was written meanwhile. So a server that works on raises no
false alarm, and no read transaction lasts long.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from sellapi.domain.credits import format_credits
from sellapi.domain.pricing import Prices, charge
from sellapi.domain.usage import TOKEN_BUCKETS, Usage
from sellapi.storage.database import Database, Tx

__all__ = ["Found", "head_digest", "usage_of", "verify"]

CHUNK = 1_000
DAY_MS = 86_400_000
_DIGESTED = (
    "id", "account_id", "kind", "amount", "owed_change", "balance_after", "owed_after", "key_id",
    "request_id", "pack_id", "of_entry", "cash_micro_usd", "reference", "reason", "actor",
    "created_ms",
)  # fmt: skip
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
    days: dict[int, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0] * 8))
    prices: dict[int, Prices] = field(default_factory=dict)


def usage_of(text: str | None) -> Usage:
    """A stored usage (buckets as JSON); unknown keys are ignored."""
    data = json.loads(text) if text else {}
    known = (*TOKEN_BUCKETS, "images")
    return Usage(**{name: data[name] for name in known if name in data})


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
        while rows := _entry_rows(tx, state.last_entry):
            for row in rows:
                state.digest = _chain(state.digest, row)
            state.last_entry = rows[-1]["id"]
    return state.digest.hex()


# -- entries -----------------------------------------------------------------------------------

_ENTRIES = """
SELECT e.*, r.id AS row_id, r.state, r.charge, r.account_id AS request_account,
    r.key_id AS request_key, o.kind AS of_kind, o.account_id AS of_account, o.amount AS of_amount,
    o.owed_change AS of_owed, o.request_id AS of_request, o.pack_id AS of_pack,
    o.cash_micro_usd AS of_cash, p.credits AS pack_credits
FROM entries e LEFT JOIN requests r ON r.request_id = e.request_id
LEFT JOIN entries o ON o.id = e.of_entry LEFT JOIN packs p ON p.id = e.pack_id
WHERE e.id > ? ORDER BY e.id LIMIT ?
"""


def _entry_rows(tx: Tx, after: int) -> list[dict[str, Any]]:
    return tx.rows(_ENTRIES, (after, CHUNK))


def _chain(digest: bytes, row: dict[str, Any]) -> bytes:
    text = json.dumps([row[name] for name in _DIGESTED], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(digest + text.encode("ascii")).digest()


def _read_entries(database: Database, state: _State, snapshot: Tx | None = None) -> int:
    """The next chunk of entries; returns how many there were."""
    with nullcontext(snapshot) if snapshot else database.read() as tx:
        rows, horizon = _entry_rows(tx, state.last_entry), _horizon(tx)
    for row in rows:
        _check_entry(state, row, horizon)
        state.digest = _chain(state.digest, row)
        state.last_entry = row["id"]
        state.entries += 1
    return len(rows)


def _horizon(tx: Tx) -> int:
    """Requests resolved before this time may have been pruned. Read after the rows it excuses."""
    return int(tx.value("SELECT pruned_before_ms FROM retention") or 0)


def _check_entry(state: _State, e: dict[str, Any], horizon: int) -> None:
    name = f"entry {e['id']} ({e['kind']} of account {e['account_id']})"
    sign = _SIGNS.get(e["kind"])
    if sign is None or e["amount"] * sign < 0:
        raise _Difference(f"{name}: amount {format_credits(e['amount'])} has the wrong sign")
    balance, owed = state.accounts.get(e["account_id"], (0, 0))
    balance, owed = balance + e["amount"], owed + e["owed_change"]
    if (balance, owed) != (e["balance_after"], e["owed_after"]):
        raise _Difference(
            f"{name}: says balance {format_credits(e['balance_after'])} and owed "
            f"{format_credits(e['owed_after'])}; the entries so far give {format_credits(balance)} "
            f"and {format_credits(owed)}"
        )
    state.accounts[e["account_id"]] = (balance, owed)
    if e["kind"] == "charge":
        _check_charge_link(e, name, horizon)
        state.spent[e["key_id"]] += e["owed_change"] - e["amount"]
        if state.owners.setdefault(e["key_id"], e["account_id"]) != e["account_id"]:
            raise _Difference(f"{name}: key {e['key_id']} has charges in another account too")
    elif e["kind"] == "sale" and e["pack_credits"] != e["amount"]:
        raise _Difference(
            f"{name}: is not what pack {e['pack_id']} holds (packs never change once added)"
        )
    elif e["kind"] in ("sale_refund", "charge_refund"):
        _check_refund_link(e, name)


def _check_charge_link(e: dict[str, Any], name: str, horizon: int) -> None:
    charged = e["owed_change"] - e["amount"]
    if e["request_id"] is None:
        raise _Difference(f"{name}: names no request")
    if e["row_id"] is None:
        if e["created_ms"] >= horizon:
            raise _Difference(f"{name}: its request {e['request_id']} does not exist")
        return
    if e["state"] != "settled" or e["charge"] != charged:
        raise _Difference(
            f"{name}: took {format_credits(charged)}, but request {e['request_id']} is "
            f"{e['state']} with a charge of {format_credits(e['charge'])}"
        )
    if (e["request_account"], e["request_key"]) != (e["account_id"], e["key_id"]):
        raise _Difference(f"{name}: request {e['request_id']} is another account's or key's")


def _check_refund_link(e: dict[str, Any], name: str) -> None:
    of_kind = {"sale_refund": "sale", "charge_refund": "charge"}[e["kind"]]
    moved = abs(e["amount"]) + e["owed_change"]
    undone = abs(e["of_amount"] or 0) + (e["of_owed"] or 0)
    if (e["of_kind"], e["of_account"], undone) != (of_kind, e["account_id"], moved):
        raise _Difference(f"{name}: does not undo {of_kind} entry {e['of_entry']} as it is")
    if of_kind == "sale" and (e["of_pack"], -e["of_cash"]) != (e["pack_id"], e["cash_micro_usd"]):
        raise _Difference(f"{name}: pack or cash differ from those of entry {e['of_entry']}")


# -- requests ----------------------------------------------------------------------------------

_REQUESTS = """
SELECT r.*, e.id AS entry_id, e.amount AS entry_amount, e.owed_change AS entry_owed
FROM requests r LEFT JOIN entries e ON e.request_id = r.request_id AND e.kind = 'charge'
"""


def _read_requests(database: Database, state: _State, snapshot: Tx | None = None) -> int:
    """The next chunk of requests; returns how many there were."""
    with nullcontext(snapshot) if snapshot else database.read() as tx:
        rows = tx.rows(
            f"{_REQUESTS} WHERE r.id > ? ORDER BY r.id LIMIT ?", (state.last_request, CHUNK)
        )
        _load_prices(tx, state, rows)
    for row in rows:
        state.last_request = row["id"]
        state.requests += 1
        if row["state"] in ("held", "swept"):
            state.unresolved.add(row["id"])
        _check_request(state, row)
    return len(rows)


def _load_prices(tx: Tx, state: _State, rows: list[dict[str, Any]]) -> None:
    for price_id in {row["price_id"] for row in rows} - state.prices.keys():
        text = tx.value("SELECT prices FROM prices WHERE id = ?", (price_id,))
        if text is None:
            continue
        try:
            state.prices[price_id] = Prices.from_json(json.loads(text))
        except (ValueError, TypeError) as error:
            raise _Difference(f"price version {price_id} cannot be read ({error})") from None


def _check_request(state: _State, r: dict[str, Any]) -> None:
    name = f"request {r['request_id']}"
    if r["state"] != "settled":
        if r["charge"] or r["entry_id"] is not None:
            raise _Difference(f"{name}: is {r['state']} and yet was charged")
        if r["state"] == "held" and r["delivery"] != 0:
            raise _Difference(f"{name}: is held and yet marked as delivered")
        if r["state"] == "voided":
            day = state.days[r["created_ms"] // DAY_MS]
            day[1] += 1
            day[7] += r["loss"]
        return
    entered = 0 if r["entry_id"] is None else r["entry_owed"] - r["entry_amount"]
    if entered != r["charge"]:
        raise _Difference(
            f"{name}: was charged {format_credits(r['charge'])}, its ledger entry says "
            f"{format_credits(entered)}"
        )
    prices = state.prices.get(r["price_id"])
    if prices is None:
        raise _Difference(f"{name}: its price version {r['price_id']} does not exist")
    try:
        usage = usage_of(r["usage"])
    except (ValueError, TypeError) as error:
        raise _Difference(f"{name}: its usage cannot be read ({error})") from None
    right = charge(
        prices,
        usage,
        size=r["image_size"] or "auto",
        quality=r["image_quality"] or "auto",
    )
    if right != r["charge"]:
        raise _Difference(
            f"{name}: was charged {format_credits(r['charge'])}, its usage at price version "
            f"{r['price_id']} comes to {format_credits(right)}"
        )
    day = state.days[r["created_ms"] // DAY_MS]
    figures = (1, 0, r["input_tokens"], r["output_tokens"], r["images"], r["charge"], r["cost"])
    for index, value in enumerate((*figures, r["loss"])):
        day[index] += value


# -- figures that change -----------------------------------------------------------------------


def _catch_up(database: Database, state: _State) -> None:
    """Read what was written meanwhile, until less than a chunk is left for a snapshot."""
    while _read_entries(database, state) >= CHUNK:
        pass


def _check_accounts(database: Database, state: _State) -> tuple[int, int]:
    """Compare accounts and keys, a chunk per snapshot; returns (accounts, open holds)."""
    accounts = holds = last = last_key = 0
    while True:
        _catch_up(database, state)
        with _snapshot(database) as tx:
            _read_entries(database, state, tx)
            rows = tx.rows(
                "SELECT id, balance, held, owed FROM accounts WHERE id > ? ORDER BY id LIMIT ?",
                (last, CHUNK),
            )
            if not rows:
                break
            held, _, count = _open_holds(tx, "account_id", last, rows[-1]["id"])
        ids = {a["id"] for a in rows}
        for account in state.accounts:
            if last < account <= rows[-1]["id"] and account not in ids:
                raise _Difference(f"account {account} has entries and does not exist")
        for a in rows:
            _check_account(state, a, held.get(a["id"], 0))
        last = rows[-1]["id"]
        accounts += len(rows)
        holds += count
    gone = [account for account in state.accounts if account > last]
    if gone:
        raise _Difference(f"account {gone[0]} has entries and does not exist")
    while True:
        _catch_up(database, state)
        with _snapshot(database) as tx:
            _read_entries(database, state, tx)
            rows = tx.rows(
                "SELECT id, account_id, spent, held FROM keys WHERE id > ? ORDER BY id LIMIT ?",
                (last_key, CHUNK),
            )
            if not rows:
                _no_keys_beyond(state, last_key)
                return accounts, holds
            held, _, _ = _open_holds(tx, "key_id", last_key, rows[-1]["id"])
        ids = {k["id"] for k in rows}
        for key in state.owners:
            if last_key < key <= rows[-1]["id"] and key not in ids:
                raise _Difference(f"key {key} has charges and does not exist")
        for k in rows:
            _check_key(state, k, held.get(k["id"], 0))
        last_key = rows[-1]["id"]


def _open_holds(tx: Tx, column: str, after: int, to: int) -> tuple[dict[int, int], int, int]:
    """Open holds by account or key in an id range: ``(sums, total, count)``.

    All open requests stand in one small partial index, whatever the size of the table.
    """
    sums: dict[int, int] = defaultdict(int)
    count = 0
    for owner, amount in tx.execute(
        f"SELECT {column}, hold FROM requests WHERE delivery = 0 AND state = 'held' "
        f"AND {column} > ? AND {column} <= ?",
        (after, to),
    ):
        sums[owner] += amount
        count += 1
    return sums, sum(sums.values()), count


def _check_account(state: _State, a: dict[str, Any], held: int) -> None:
    balance, owed = state.accounts.get(a["id"], (0, 0))
    for what, says, is_so in (
        ("balance", a["balance"], balance),
        ("owed", a["owed"], owed),
        ("held", a["held"], held),
    ):
        if says != is_so:
            by = "open holds" if what == "held" else "entries"
            raise _Difference(
                f"account {a['id']}: {what} says {format_credits(says)}, its {by} give "
                f"{format_credits(is_so)}"
            )


def _no_keys_beyond(state: _State, last: int) -> None:
    gone = [key for key in state.owners if key > last]
    if gone:
        raise _Difference(f"key {gone[0]} has charges and does not exist")


def _check_key(state: _State, k: dict[str, Any], held: int) -> None:
    if state.owners.get(k["id"], k["account_id"]) != k["account_id"]:
        raise _Difference(
            f"key {k['id']}: belongs to account {k['account_id']}, its charges stand in account "
            f"{state.owners[k['id']]}"
        )
    spent = state.spent.get(k["id"], 0)
    if (k["spent"], k["held"]) != (spent, held):
        raise _Difference(
            f"key {k['id']}: says {format_credits(k['spent'])} spent and {format_credits(k['held'])} "
            f"held, its requests give {format_credits(spent)} and {format_credits(held)}"
        )


def _check_days(database: Database, state: _State) -> None:
    """Compare the daily sums with the requests, where requests still exist."""
    while _read_requests(database, state) >= CHUNK:
        pass
    with _snapshot(database) as tx:
        while _read_requests(database, state, tx):
            pass
        _recheck_unresolved(tx, state)
        horizon = _horizon(tx)
        _check_summaries(tx)
        sums = {
            row[0]: list(row[1:])
            for row in tx.execute(
                f"SELECT day, {', '.join(f'sum({c})' for c in _DAILY)} FROM daily GROUP BY day"
            )
        }
    for day in sorted(state.days.keys() | sums.keys()):
        kept, counted = sums.get(day, [0] * 8), state.days.get(day, [0] * 8)
        pruned = day * DAY_MS < horizon
        for name, says, is_so in zip(_DAILY, kept, counted, strict=True):
            if says < is_so or (says != is_so and not pruned):
                raise _Difference(
                    f"day {day} (days since 1970): the sums say {name} {says}, the requests give "
                    f"{is_so}"
                )


def _check_summaries(tx: Tx) -> None:
    """The summaries of days that are over are the sums of their daily rows."""
    names = ", ".join(_DAILY)
    daily = (
        f"SELECT day, model, {', '.join(f'sum({c})' for c in _DAILY)} FROM daily "
        "WHERE day < (SELECT summed_before_day FROM retention) GROUP BY day, model"
    )
    kept = f"SELECT day, model, {names} FROM daily_models"
    for first, second in ((daily, kept), (kept, daily)):
        row = tx.execute(f"SELECT day, model FROM ({first} EXCEPT {second}) LIMIT 1").fetchone()
        if row is not None:
            raise _Difference(
                f"day {row[0]} (days since 1970): the summary of model {row[1]} is not the sum of "
                "its rows"
            )


def _recheck_unresolved(tx: Tx, state: _State) -> None:
    """Requests that were open when they were read may be resolved now, and in the sums."""
    open_ids = sorted(state.unresolved)
    for start in range(0, len(open_ids), 500):
        ids = open_ids[start : start + 500]
        rows = tx.rows(
            f"{_REQUESTS} WHERE r.id IN (SELECT value FROM json_each(?)) "
            "AND r.state NOT IN ('held', 'swept')",
            (json.dumps(ids),),
        )
        _load_prices(tx, state, rows)
        for row in rows:
            _check_request(state, row)
