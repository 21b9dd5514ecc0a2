"""A shop that has been open for a year: users, keys, requests, entries, day by day, consistently.

Each day is one transaction and follows from its number alone, so an interrupted run goes on where
it stopped. Balances and spendings are written last; the plan and how far it got stand in a small
file beside the database. The figures are ledger-true: `sellapi ledger verify` passes at the end.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from bench.shop import stock
from sellapi.domain import keys
from sellapi.domain.credits import MICRO
from sellapi.domain.pricing import Prices, charge
from sellapi.domain.usage import Usage
from sellapi.storage.database import Tx
from sellapi.storage.reports import SETTLES_S, sum_up

__all__ = ["GrowthPlan", "grow", "is_rich", "read_plan", "secret_of"]

DAY_MS = 86_400_000
DAYS = 365
KEYS_PER_USER = 3
SIGNUP = 10_000 * MICRO
VOIDED = 0.02
SKEW = 3
"""Few users do most: the index of a request's user is random() to this power of all."""
FAITHFUL = 0.8
"""How often a user takes the usual key and model."""
CACHE_KB = 1_000_000
VARIANTS = 40

Progress = Callable[[str, int, int], None]
"""``(what, done, total)``."""


@dataclass
class GrowthPlan:
    """What is to be there; ``stage`` is people, days, sums or done."""

    users: int
    requests: int
    last_day: int
    """Days since 1970."""
    first_account: int = 0
    first_key: int = 0
    stage: str = "people"

    @property
    def first_day(self) -> int:
        return self.last_day - DAYS + 1

    def of_day(self, day: int) -> int:
        """How many requests a day has."""
        number = day - self.first_day
        return self.requests * (number + 1) // DAYS - self.requests * number // DAYS


def _plan_path(database: Path) -> Path:
    return database.with_name(f"{database.name}.growth.json")


def read_plan(database: Path) -> GrowthPlan | None:
    path = _plan_path(database)
    return GrowthPlan(**json.loads(path.read_text())) if path.exists() else None


def _keep(database: Path, plan: GrowthPlan) -> None:
    part = _plan_path(database).with_suffix(".part")
    part.write_text(json.dumps(asdict(plan)))
    part.replace(_plan_path(database))


def secret_of(number: int) -> str:
    """The secret of the grown key with this number, for those who want to use it."""
    digest = hashlib.sha256(f"growth:{number}".encode()).digest()
    return keys.PREFIX + base64.urlsafe_b64encode(digest).decode().rstrip("=")


def is_rich(user: int) -> bool:
    """Every third user bought a large pack on the first day."""
    return user % 3 == 0


def grow(database: Path, users: int, requests: int, progress: Progress) -> GrowthPlan:
    """Make or go on making the database; returns its finished plan.

    Raises `SystemExit` when it was begun with other figures.
    """
    plan = read_plan(database)
    if plan is None:
        if database.exists():
            raise SystemExit(f"{database} is there and was not grown by this program")
        stock(database, 9, 9, accounts=0)
        plan = GrowthPlan(users, requests, last_day=int(time.time()) // 86_400)
    if (plan.users, plan.requests) != (users, requests):
        raise SystemExit(
            f"{database} has a plan of {plan.users:,} users, {plan.requests:,} requests"
        )
    connection = _connect(database)
    try:
        _work(connection, database, plan, progress)
    finally:
        connection.close()
    return plan


def _work(connection: sqlite3.Connection, database: Path, plan: GrowthPlan, say: Progress) -> None:
    if plan.stage == "people":
        _people(connection, plan, say)
        plan.stage = "days"
        _keep(database, plan)
    if plan.stage in ("days", "sums"):
        shop = _Shop(connection, plan)
        done = connection.execute("SELECT max(day) FROM daily").fetchone()[0] or plan.first_day - 1
        for day in range(done + 1, plan.last_day + 1):
            _day(connection, plan, shop, day)
            say("requests", day - plan.first_day + 1, DAYS)
        plan.stage = "sums"
        _keep(database, plan)
        _sums(connection, plan, shop, say)
        plan.stage = "done"
        _keep(database, plan)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _connect(database: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(database, isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = OFF", "foreign_keys = 0"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KB}")
    return connection


def _chunks(rows: Iterator[Any], size: int = 10_000) -> Iterator[list[Any]]:
    while chunk := list(islice(rows, size)):
        yield chunk


# -- people ------------------------------------------------------------------------------------


def _people(connection: sqlite3.Connection, plan: GrowthPlan, say: Progress) -> None:
    """Users, keys, their first entries and some history: one transaction, a few seconds long."""
    first = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM accounts").fetchone()[0]
    first_key = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM keys").fetchone()[0]
    plan.first_account, plan.first_key = first, first_key
    pack, amount, price = connection.execute(
        "SELECT id, credits, price_micro_usd FROM packs ORDER BY credits DESC LIMIT 1"
    ).fetchone()
    opened = plan.first_day * 86_400
    connection.execute("BEGIN IMMEDIATE")
    for start in range(0, plan.users, 10_000):
        numbers = range(start, min(start + 10_000, plan.users))
        connection.executemany(
            "INSERT INTO accounts (id, email, tier, created_at) VALUES (?, ?, ?, ?)",
            (
                (first + n, f"grown-{n}@shop.test", "pro" if is_rich(n) else "free", opened)
                for n in numbers
            ),
        )
        connection.executemany(
            _FIRST_ENTRY, _first_entries(numbers, first, pack, amount, price, opened)
        )
        _add_keys(connection, plan, numbers, opened)
        say("users", numbers.stop, plan.users)
    _add_history(connection, plan)
    connection.execute("COMMIT")


_FIRST_ENTRY = (
    "INSERT INTO entries (account_id, kind, amount, balance_after, owed_after, pack_id, "
    "cash_micro_usd, actor, created_ms, previous) VALUES (?1, ?2, ?3, ?4, 0, ?5, ?6, 'growth', ?7, "
    "iif(?2 = 'sale', (SELECT max(id) FROM entries), NULL))"
)


def _first_entries(
    numbers: range, first: int, pack: int, amount: int, price: int, opened: int
) -> Iterator[tuple[Any, ...]]:
    for n in numbers:
        yield first + n, "signup", SIGNUP, SIGNUP, None, 0, opened * 1000
        if is_rich(n):
            yield first + n, "sale", amount, SIGNUP + amount, pack, price, opened * 1000


def _add_keys(
    connection: sqlite3.Connection, plan: GrowthPlan, numbers: range, opened: int
) -> None:
    own = range(numbers.start * KEYS_PER_USER, numbers.stop * KEYS_PER_USER)
    connection.executemany(
        "INSERT INTO keys (id, account_id, name, created_at) VALUES (?, ?, ?, ?)",
        (
            (plan.first_key + k, plan.first_account + k // KEYS_PER_USER, f"key {k}", opened)
            for k in own
        ),
    )
    secrets = ((k, secret_of(k)) for k in own)
    connection.executemany(
        "INSERT INTO key_secrets (digest, key_id, prefix, last4, created_at) VALUES (?, ?, ?, ?, ?)",
        (
            (keys.hash_key(s), plan.first_key + k, s[: len(keys.PREFIX) + 4], s[-4:], opened)
            for k, s in secrets
        ),
    )


def _add_history(connection: sqlite3.Connection, plan: GrowthPlan) -> None:
    """Thirty days of minutes, and an act of the operator for every user."""
    now = int(time.time()) // 60
    connection.executemany(
        "INSERT OR IGNORE INTO minutes VALUES (?, 600, 6, 120000, 22000000000, 20000000000, "
        "900000, 4000)",
        ((minute,) for minute in range(now - 30 * 1440, now)),
    )
    connection.executemany(
        "INSERT INTO audit (at_ms, actor, via, act, target, after) VALUES (?, 'growth', 'cli', "
        "'users.add', ?, '{}')",
        (
            (plan.first_day * DAY_MS + n, f"user:{plan.first_account + n}")
            for n in range(plan.users)
        ),
    )


# -- days --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Variant:
    """A request as it may be: everything that does not depend on who asked when."""

    model: str
    price_id: int
    provider: str
    upstream: str
    usage: str
    raw: str
    inputs: int
    outputs: int
    charge: int


class _Chain:
    """Gives the rows of a table their ids, and links those of each account (see m0002_chains)."""

    def __init__(self, connection: sqlite3.Connection, table: str, plan: GrowthPlan) -> None:
        self.newest = connection.execute(f"SELECT coalesce(max(id), 0) FROM {table}").fetchone()[0]
        self.last: dict[int, int] = dict(
            connection.execute(
                f"SELECT account_id, max(id) FROM {table} WHERE account_id >= ? GROUP BY 1",
                (plan.first_account,),
            ).fetchall()
        )

    def link(self, account: int) -> tuple[int, int | None]:
        """``(id, previous)`` of the account's next row."""
        self.newest += 1
        before = self.last.get(account)
        self.last[account] = self.newest
        return self.newest, before


class _Shop:
    """What generating needs at hand: models with their charges, balances."""

    def __init__(self, connection: sqlite3.Connection, plan: GrowthPlan) -> None:
        self.variants = _variants(connection)
        self.top_up = connection.execute(
            "SELECT id, credits, price_micro_usd FROM packs ORDER BY credits DESC LIMIT 1"
        ).fetchone()
        self.balances = [0] * plan.users
        self.bought: set[int] = set()
        self.requests = _Chain(connection, "requests", plan)
        self.entries = _Chain(connection, "entries", plan)
        grown = "WHERE account_id >= ? GROUP BY"
        for account, total, sales in connection.execute(
            f"SELECT account_id, sum(amount), sum(kind = 'sale') FROM entries {grown} account_id",
            (plan.first_account,),
        ):
            self.balances[account - plan.first_account] = total
            if sales:
                self.bought.add(account - plan.first_account)


def _variants(connection: sqlite3.Connection) -> list[_Variant]:
    dice = random.Random(7)
    found = []
    rows = connection.execute(
        "SELECT m.slug, p.id, p.prices, v.name, r.upstream_id FROM models m "
        "JOIN routes r ON r.model_id = m.id JOIN providers v ON v.id = r.provider_id "
        "JOIN prices p ON p.id = (SELECT max(id) FROM prices WHERE model_id = m.id) "
        "WHERE m.mode = 'chat' AND m.enabled = 1 GROUP BY m.id ORDER BY m.id LIMIT 12"
    ).fetchall()
    for slug, price_id, text, provider, upstream in rows:
        prices = Prices.from_json(json.loads(text))
        for _ in range(VARIANTS):
            usage = Usage(input=dice.randrange(20, 3_000), output=dice.randrange(10, 1_000))
            raw = {"prompt_tokens": usage.input, "completion_tokens": usage.output}
            raw["total_tokens"] = usage.input + usage.output
            found.append(
                _Variant(
                    model=slug,
                    price_id=price_id,
                    provider=provider,
                    upstream=upstream,
                    usage=json.dumps(usage.buckets() | {"reasoning": 0}),
                    raw=json.dumps(raw),
                    inputs=usage.total_input,
                    outputs=usage.total_output,
                    charge=charge(prices, usage),
                )
            )
    return found


_REQUEST = (
    "INSERT INTO requests (request_id, account_id, key_id, instance_id, model, mode, price_id, "
    "state, delivery, hold, charge, streamed, input_tokens, output_tokens, usage, usage_raw, "
    "provider, upstream_id, cost, http_status, error, finish_reason, created_ms, first_byte_ms, "
    "finished_ms, id, previous) VALUES (?, ?, ?, 'growth', ?, 'chat', ?, ?, 1, ?, ?, ?, ?, ?, ?, ?, "
    "?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_ENTRY = (
    "INSERT INTO entries (account_id, kind, amount, balance_after, owed_after, key_id, request_id, "
    "pack_id, cash_micro_usd, actor, created_ms, id, previous) "
    "VALUES (?, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_DAILY = (
    "INSERT INTO daily (day, model, account_id, key_id, requests, voided, input_tokens, "
    "output_tokens, charged, cost) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def _day(connection: sqlite3.Connection, plan: GrowthPlan, shop: _Shop, day: int) -> None:
    """One day's requests, entries and sums, whole or not at all."""
    dice = random.Random(day)
    count, models = plan.of_day(day), len(shop.variants) // VARIANTS
    span = DAY_MS if day < plan.last_day else max(int(time.time() * 1000) - day * DAY_MS, 1)
    requests: list[tuple[Any, ...]] = []
    entries: list[tuple[Any, ...]] = []
    sums: dict[tuple[str, int, int], list[int]] = defaultdict(lambda: [0] * 6)
    for number in range(count):
        at = day * DAY_MS + number * span // count
        user = int(plan.users * dice.random() ** SKEW)
        usual = dice.random() < FAITHFUL
        key = user * KEYS_PER_USER + (0 if usual else dice.randrange(KEYS_PER_USER))
        model = user % models if usual else dice.randrange(models)
        v = shop.variants[model * VARIANTS + dice.randrange(VARIANTS)]
        request_id = f"req_{at:012x}{dice.getrandbits(80):020x}"
        who = (plan.first_account + user, plan.first_key + key)
        row = sums[v.model, *who]
        link = shop.requests.link(who[0])
        if dice.random() < VOIDED:
            row[1] += 1
            requests.append(_voided(request_id, who, v, at) + link)
            continue
        if shop.balances[user] < v.charge:
            entries.append(_top_up(shop, user, who[0], at) + shop.entries.link(who[0]))
        shop.balances[user] -= v.charge
        requests.append(_settled(request_id, who, v, at, number) + link)
        balance = shop.balances[user]
        charged = (who[0], "charge", -v.charge, balance, who[1], request_id)
        entries.append((*charged, None, 0, "", at + 1_500, *shop.entries.link(who[0])))
        for index, value in enumerate((1, 0, v.inputs, v.outputs, v.charge, v.charge)):
            row[index] += value
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(_REQUEST, requests)
    connection.executemany(_ENTRY, entries)
    connection.executemany(_DAILY, ((day, *group, *row) for group, row in sums.items()))
    if not sums:  # the day is marked as done by its sums; a scale too small for one request a day
        connection.execute(_DAILY, (day, "none", plan.first_account, plan.first_key, *[0] * 6))
    sum_up(Tx(connection), plan.last_day * 86_400 + SETTLES_S)
    connection.execute("COMMIT")


def _voided(request_id: str, who: tuple[int, int], v: _Variant, at: int) -> tuple[Any, ...]:
    head = (request_id, *who, v.model, v.price_id, "voided", v.charge * 2, 0, 0, 0, 0, None, None)
    return (*head, v.provider, v.upstream, 0, 502, "the provider failed", None, at, None, at + 900)


def _settled(
    request_id: str, who: tuple[int, int], v: _Variant, at: int, number: int
) -> tuple[Any, ...]:
    head = (request_id, *who, v.model, v.price_id, "settled", v.charge * 2, v.charge, number % 2)
    used = (v.inputs, v.outputs, v.usage, v.raw, v.provider, v.upstream, v.charge)
    return (*head, *used, 200, None, "stop", at, at + 400, at + 1_500)


def _top_up(shop: _Shop, user: int, account: int, at: int) -> tuple[Any, ...]:
    pack, amount, price = shop.top_up
    shop.balances[user] += amount
    shop.bought.add(user)
    balance = shop.balances[user]
    return account, "sale", amount, balance, None, None, pack, price, "growth", at


def _sums(connection: sqlite3.Connection, plan: GrowthPlan, shop: _Shop, say: Progress) -> None:
    """Balances, tiers and newest rows as they came out; the same again changes nothing."""
    tiers = ("free", "pro")
    newest = (shop.requests.last.get, shop.entries.last.get)
    accounts = (
        (balance, tiers[n in shop.bought], *(last(id_) for last in newest), id_)
        for n, balance in enumerate(shop.balances)
        for id_ in (plan.first_account + n,)
    )
    done = 0
    for chunk in _chunks(accounts):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "UPDATE accounts SET balance = ?, tier = ?, last_request = ?, last_entry = ? "
            "WHERE id = ?",
            chunk,
        )
        connection.execute("COMMIT")
        done += len(chunk)
        say("sums", done, plan.users)
