"""Many requests written together end exactly as if each had been written alone, in order."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import shutil
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sellapi.domain.holds import Priced
from sellapi.storage import ledger
from sellapi.storage import writer as writer_module
from sellapi.storage.database import Database, Tx
from sellapi.storage.ledger import Delivery, Held, HoldRequest, Settlement, Short, Stale
from sellapi.storage.verify import verify
from sellapi.storage.writer import Writer
from tests.support.shop import open_shop, quick

MICRO = 1_000_000
PER_INPUT = 250_000  # microcredits of one input token of openai/gpt-5.4
TODAY = int(time.time()) // 86_400
LIMITED = 3
"""The key with a limit of its own."""
TABLES = ("accounts", "keys", "requests", "entries", "daily", "daily_models")


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """Ann with two keys, one of them limited, and Bob with one; days before yesterday are over."""
    path = tmp_path_factory.mktemp("template") / "shop.db"
    admin = open_shop(path)
    for email in ("ann@shop.test", "bob@shop.test"):
        admin.users.add(email)
        admin.keys.create(email)
    admin.keys.create("ann@shop.test", limit="4000")
    with admin.desk.database.transaction() as tx:
        tx.execute("UPDATE retention SET summed_before_day = ?", (TODAY - 1,))
        owners = tx.execute("SELECT account_id FROM keys ORDER BY id").fetchall()
        assert owners == [(1,), (2,), (1,)]
    admin.desk.database.close()
    return path


class Shop:
    """One copy of the template; amounts of requests are microcredits."""

    def __init__(self, template: Path, path: Path) -> None:
        shutil.copy(template, path)
        self.database = quick(Database.open(path))
        with self.database.read() as tx:
            self.catalog = tx.catalog_version
            self.price = tx.value(
                "SELECT max(p.id) FROM prices p JOIN models m ON m.id = p.model_id "
                "WHERE m.slug = 'openai/gpt-5.4'"
            )
            keys = tx.rows(
                "SELECT k.id, k.version, a.id AS account, a.version AS account_version "
                "FROM keys k JOIN accounts a ON a.id = k.account_id"
            )
        self.keys = {key["id"]: key for key in keys}

    def request(self, request_id: str, of_key: int = 1, amount: int = MICRO, **changes: Any):
        key = self.keys[of_key]
        fields = {
            "request_id": request_id,
            "amount": amount,
            "account_id": key["account"],
            "account_version": key["account_version"],
            "key_id": of_key,
            "key_version": key["version"],
            "catalog_version": self.catalog,
            "instance_id": "test",
            "model": "openai/gpt-5.4",
            "mode": "chat",
            "price_id": self.price,
            "streamed": True,
            "bounded": False,
            "created_ms": TODAY * 86_400_000,
        }
        return HoldRequest(**fields | changes)

    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        with self.database.read() as tx:
            return {
                table: tx.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3, 4").fetchall()
                for table in TABLES
            }

    def account(self, account_id: int = 1) -> tuple[int, int, int]:
        with self.database.read() as tx:
            return tx.execute(
                "SELECT balance, held, owed FROM accounts WHERE id = ?", (account_id,)
            ).fetchone()


def settlement(request_id: str, tokens: int = 1, **changes: Any) -> Settlement:
    fields = {
        "request_id": request_id,
        "charge": tokens * PER_INPUT,
        "usage": json.dumps({"input": tokens}),
        "usage_raw": None,
        "input_tokens": tokens,
        "output_tokens": 0,
        "images": 0,
        "estimated": False,
        "bounded": True,
        "provider": "openai",
        "upstream_id": "gpt-5.4",
        "finished_ms": 1_795_400_000_500,
        "cost": tokens * 3,
        "loss": 7,
        "undelivered": tokens % 2 == 1,
    }
    return Settlement(**fields | changes)


# -- together as one by one ------------------------------------------------------------------------

STALE = (
    {"key_version": 99},
    {"account_version": 99},
    {"catalog_version": 0},
    {"valid_until": 1.0},
    {"account_id": 2, "account_version": 1},
    {"key_id": 99},
)


def affordable(available: int) -> Priced | None:
    """A quarter, at least 100 credits."""
    least = 100 * MICRO
    if available < least:
        return None
    return Priced(max(least, available // 4), 1, bounded=available < 6_000 * MICRO)


amounts = st.one_of(st.just(0), st.integers(1, 6_000 * MICRO))
holds = st.lists(
    st.tuples(
        st.integers(1, 3),
        amounts,
        st.sampled_from(({}, {}, {}, {}, *STALE)),
        st.sampled_from(
            (
                {},
                {"reserve": 2_000 * MICRO},
                {"affordable": affordable},
                {"affordable": affordable, "bounded": True},
            )
        ),
        st.integers(0, 3),
    ),
    max_size=12,
)
settles = st.lists(
    st.tuples(
        st.integers(0, 6),
        # Nothing, some, and about all an account has: the next charge is owed.
        st.one_of(st.just(0), st.integers(1, 30_000), st.integers(39_990, 40_010)),
    ),
    max_size=12,
)
marks = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from((Delivery.DELIVERED, Delivery.UNDELIVERED))),
    max_size=12,
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("hold"), holds),
        st.tuples(st.just("hold"), holds),
        st.tuples(st.just("settle"), settles),
        st.tuples(st.just("settle"), settles),
        st.tuples(st.just("mark"), marks),
        st.tuples(st.just("sweep"), st.integers(1, 3)),
        st.tuples(st.just("void"), st.integers(0, 6)),
        st.tuples(st.just("credit"), st.integers(1, 9_000 * MICRO)),
        st.tuples(st.just("limit"), st.one_of(st.none(), st.integers(0, 6_000 * MICRO))),
    ),
    max_size=10,
)


class Run:
    """The same steps on a shop, each batch in one transaction: together, or one by one."""

    def __init__(self, shop: Shop, *, together: bool) -> None:
        self.shop, self.together = shop, together
        self.numbers = itertools.count(1)
        self.held: list[str] = []
        self.results: list[Any] = []

    def all(self, tx: Tx, function: Any, operations: list[Any]) -> list[Any]:
        if self.together:
            return function(tx, operations)
        return [function(tx, [operation])[0] for operation in operations]

    def step(self, kind: str, what: Any) -> None:
        with self.shop.database.transaction() as tx:
            getattr(self, kind)(tx, what)

    def hold(self, tx: Tx, what: list[Any]) -> None:
        requests = [
            self.shop.request(
                f"req_{next(self.numbers):03}", key, amount,
                created_ms=(TODAY - days_ago) * 86_400_000, **changes | more,
            )
            for key, amount, changes, more, days_ago in what
        ]  # fmt: skip
        results = self.all(tx, ledger.hold_all, requests)
        self.results += results
        for request, result in zip(requests, results, strict=True):
            if isinstance(result, Held):
                self.held.append(request.request_id)

    def settle(self, tx: Tx, what: list[Any]) -> None:
        if self.held:
            charged = [settlement(self.pick(index), tokens) for index, tokens in what]
            self.results += self.all(tx, ledger.settle_all, charged)

    def mark(self, tx: Tx, what: list[Any]) -> None:
        if self.held:
            self.all(tx, ledger.mark_all, [(self.pick(index), said) for index, said in what])

    def sweep(self, tx: Tx, limit: int) -> None:
        self.results.append(ledger.sweep(tx, "test", now_ms=5, limit=limit))

    def void(self, tx: Tx, index: int) -> None:
        if self.held:
            self.results.append(ledger.void(tx, self.pick(index), now_ms=5, error="\ud800"))

    def credit(self, tx: Tx, amount: int) -> None:
        ledger.credit(tx, 1, "grant", amount, now_ms=5, actor="t")

    def limit(self, tx: Tx, amount: int | None) -> None:
        tx.execute("UPDATE keys SET spend_limit = ? WHERE id = 3", (amount,))
        self.shop.keys[3]["version"] += 1

    def pick(self, index: int) -> str:
        return self.held[index % len(self.held)]


@given(steps=steps)
@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_a_batch_is_the_same_operations_one_by_one(template, tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("pair")
    one, many = (Run(Shop(template, folder / f"{n}.db"), together=n == 1) for n in (0, 1))
    try:
        for kind, what in steps:
            one.step(kind, what)
            many.step(kind, what)
            assert many.results == one.results
            assert many.shop.tables() == one.shop.tables()
        assert verify(many.shop.database).difference is None
    finally:
        one.shop.database.close()
        many.shop.database.close()
        shutil.rmtree(folder)


@pytest.fixture
def shop(template, tmp_path):
    shop = Shop(template, tmp_path / "shop.db")
    yield shop
    shop.database.close()


def test_more_than_one_statement_takes_keep_their_order_and_their_sums(shop):
    count = 2 * ledger._ROWS + 5
    names = [f"req_{n:04}" for n in range(count)]
    with shop.database.transaction() as tx:
        got = ledger.hold_all(tx, [shop.request(name, amount=1_000_000) for name in names])
        assert [result.held for result in got] == [n * MICRO for n in range(1, count + 1)]
        done = ledger.settle_all(tx, [settlement(name, 2) for name in names])
        assert [s.balance for s in done] == [
            10_000 * MICRO - n * 500_000 for n in range(1, count + 1)
        ]
        marks = [(name, Delivery.DELIVERED) for name in names]
        ledger.mark_all(tx, [*marks, (names[0], Delivery.UNDELIVERED)])  # what was said first stays
        rows = tx.execute("SELECT request_id, delivery FROM requests ORDER BY id").fetchall()
        entries = tx.execute(
            "SELECT request_id, balance_after FROM entries WHERE kind = 'charge' ORDER BY id"
        ).fetchall()
    assert rows == [(name, 1) for name in names]
    assert entries == [(name, s.balance) for name, s in zip(names, done, strict=True)]
    assert verify(shop.database).difference is None


@pytest.mark.parametrize("count", [1, 3])
def test_a_request_of_the_first_day_of_1970_is_in_the_sums(shop, count):
    """A machine whose clock was never set; day 0 is no row that only fills a statement up."""
    names = [f"req_{n}" for n in range(count)]
    with shop.database.transaction() as tx:
        ledger.hold_all(tx, [shop.request(name, created_ms=1) for name in names])
        ledger.settle_all(tx, [settlement(name, 2) for name in names])
        for table in ("daily", "daily_models"):
            assert tx.execute(f"SELECT day, requests, charged FROM {table}").fetchall() == [
                (0, count, count * 500_000)
            ]
    assert verify(shop.database).difference is None


def test_one_refused_in_the_middle_leaves_the_rest(shop):
    whole = 10_000 * MICRO
    requests = [
        shop.request("a", amount=whole - 10),
        shop.request("b", amount=11),  # one more than is left
        shop.request("c", amount=5, key_version=99),
        shop.request("d", amount=5, reserve=6),
        shop.request("e", amount=5, reserve=5),
        shop.request("f", 3, amount=5),  # the same account by its other key
        shop.request("g", 2, amount=whole),
        shop.request("h", amount=1),
        shop.request("i", amount=0),
    ]
    with shop.database.transaction() as tx:
        results = ledger.hold_all(tx, requests)
    assert [type(result) for result in results] == [
        Held, Short, Stale, Short, Held, Held, Held, Short, Held,
    ]  # fmt: skip
    assert results[1] == Short(whole, whole - 10, 0, None, key_held=0)
    assert results[5] == Held(whole, whole)
    assert shop.account() == (whole, whole, 0)


def test_a_hold_without_a_limit_is_priced_by_what_the_batch_left(shop):
    seen = []

    def price(available):
        seen.append(available)
        return Priced(available // 4, 77, bounded=True)

    whole = 10_000 * MICRO
    requests = [
        shop.request("a", amount=whole // 2, affordable=price),  # as it was priced before
        shop.request("b", amount=whole, affordable=price),
        shop.request("c", amount=1, bounded=True, affordable=price),
        shop.request("d", amount=whole, affordable=lambda _: None),
    ]
    with shop.database.transaction() as tx:
        a, b, c, d = ledger.hold_all(tx, requests)
        rows = tx.execute("SELECT request_id, hold, bounded FROM requests ORDER BY id").fetchall()
    assert seen == [whole // 2, whole // 2 - whole // 8]
    assert (a.priced, b.priced.hold, c.priced.hold) == (None, seen[0] // 4, seen[1] // 4)
    assert isinstance(d, Short)
    assert rows == [("a", whole // 2, 0), ("b", seen[0] // 4, 1), ("c", seen[1] // 4, 1)]


# -- by the writer ---------------------------------------------------------------------------------


@pytest.fixture
async def writer(shop, monkeypatch) -> AsyncIterator[Writer]:
    monkeypatch.setattr(writer_module, "HOLD_PATIENCE_S", 0.2)
    writer = Writer(shop.database)
    writer.start()
    yield writer
    await asyncio.to_thread(writer.stop)


@asynccontextmanager
async def one_batch(writer: Writer):
    """What is submitted inside becomes one batch."""
    go, busy = threading.Event(), threading.Event()
    writer.submit(lambda _: (busy.set(), go.wait(5)))
    await asyncio.to_thread(busy.wait, 5)
    yield
    go.set()


async def outcome(futures: list[asyncio.Future[Any]]) -> list[Any]:
    return await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 5)


async def held(writer: Writer, shop: Shop, *names: str, amount: int = MICRO) -> None:
    async with one_batch(writer):
        futures = [
            writer.submit(shop.request(name, amount=amount), ledger.hold_all) for name in names
        ]
    assert all(isinstance(result, Held) for result in await outcome(futures))


async def test_a_batch_settles_then_holds_then_does_the_rest_and_marks_last(shop, writer):
    """Whatever the order it came in: freed credits may be held, a given up hold is found."""
    whole = 10_000 * MICRO
    await held(writer, shop, "old", amount=whole)
    async with one_batch(writer):
        voided = writer.submit(lambda tx: ledger.void(tx, "new", now_ms=1), must=True)
        new = writer.submit(shop.request("new", amount=whole // 2), ledger.hold_all)
        settled = writer.submit(settlement("old", 2), ledger.settle_all, must=True)
        writer.post(("old", Delivery.DELIVERED), ledger.mark_all)
    settled, new, voided = await outcome([settled, new, voided])
    assert settled.balance == whole - 500_000
    assert new == Held(settled.balance, whole // 2)
    assert voided is True
    with shop.database.read() as tx:
        rows = tx.execute("SELECT request_id, state, delivery FROM requests ORDER BY id").fetchall()
    assert rows == [("old", "settled", 1), ("new", "voided", 1)]


async def test_a_poisoned_hold_or_settlement_fails_alone(shop, writer):
    await held(writer, shop, "a", "b")
    async with one_batch(writer):
        futures = [
            writer.submit(settlement("a", 2), ledger.settle_all, must=True),
            writer.submit(settlement("nobody"), ledger.settle_all, must=True),
            writer.submit(settlement("b", 10**30), ledger.settle_all, must=True),
            writer.submit(shop.request("c"), ledger.hold_all),
            writer.submit(shop.request("c"), ledger.hold_all),
            writer.submit(shop.request("d", amount=-1), ledger.hold_all),
            writer.submit(shop.request("e"), ledger.hold_all),
        ]
    results = await outcome(futures)
    assert [type(result) for result in results] == [
        ledger.Settled, LookupError, OverflowError, Held, sqlite3.IntegrityError,
        sqlite3.IntegrityError, Held,
    ]  # fmt: skip
    assert (await outcome([writer.submit(settlement("b"), ledger.settle_all, must=True)]))[
        0
    ].charge == PER_INPUT
    assert shop.account() == (10_000 * MICRO - 3 * PER_INPUT, 2 * MICRO, 0)
    assert verify(shop.database).difference is None
    assert writer.trouble() is None


async def test_a_charge_does_not_fail_by_the_words_beside_it(shop, writer):
    """Lone surrogates have no UTF-8 form; NUL characters have one."""
    await held(writer, shop, "a", "b", "c")
    bad = "nul \0 high \ud83d low \ude00 end"
    words = {
        "usage_raw": bad, "provider": bad, "upstream_id": bad, "attempts": bad,
        "error": bad, "finish_reason": bad,
    }  # fmt: skip
    async with one_batch(writer):
        futures = [
            writer.submit(settlement("a"), ledger.settle_all, must=True),
            writer.submit(settlement("b", **words), ledger.settle_all, must=True),
            writer.submit(
                lambda tx: ledger.void(tx, "c", now_ms=1, error=bad, attempts=bad), must=True
            ),
            writer.submit(shop.request("d", image_size=bad), ledger.hold_all),
        ]
    a, b, voided, d = await outcome(futures)
    assert (a.charge, b.charge, voided) == (PER_INPUT, PER_INPUT, True)
    assert isinstance(d, Held)
    with shop.database.read() as tx:
        stored = tx.rows(
            "SELECT usage_raw, provider, upstream_id, attempts, error, finish_reason "
            "FROM requests WHERE request_id = 'b'"
        )
        assert set(stored[0].values()) == {"nul \0 high ? low ? end"}
        assert tx.value("SELECT usage FROM requests WHERE request_id = 'b'") == '{"input": 1}'
    assert verify(shop.database).difference is None


async def test_figures_that_changed_between_reading_and_writing_are_read_again(shop, writer):
    """The batch is rolled back and each is decided anew, alone."""
    calls = []

    def meddle(available: int) -> Priced:
        calls.append(available)
        if len(calls) == 1:  # in the writer's thread, between the two
            writer._database.raw().execute("UPDATE accounts SET owed = 1 WHERE id = 2")
        return Priced(available // 4, 9, bounded=True)

    async with one_batch(writer):
        futures = [
            writer.submit(shop.request("a", 1), ledger.hold_all),
            writer.submit(shop.request("b", 2), ledger.hold_all),
            writer.submit(shop.request("c", 2, bounded=True, affordable=meddle), ledger.hold_all),
            writer.submit(shop.request("d", 3), ledger.hold_all),
        ]
    a, b, c, d = await outcome(futures)
    whole = 10_000 * MICRO
    assert calls == [whole - MICRO] * 2
    assert a == Held(whole, MICRO)
    assert (b.held, c.held) == (MICRO, MICRO + calls[1] // 4)
    assert d == Held(whole, 2 * MICRO)
    assert shop.account(1) == (whole, 2 * MICRO, 0)
    assert shop.account(2) == (whole, MICRO + calls[1] // 4, 0)
    with shop.database.read() as tx:
        assert tx.value("SELECT spend_limit FROM keys WHERE id = 2") is None
        assert tx.value("SELECT count(*) FROM requests") == 4


async def test_a_charge_whose_figures_keep_changing_waits_until_they_do_not(shop, writer):
    """Its batch is settled meanwhile, and it is never given up."""
    await held(writer, shop, "a", "b", "c")
    with shop.database.transaction() as tx:
        tx.execute(
            "CREATE TRIGGER meddle AFTER UPDATE OF state ON requests WHEN new.request_id = 'b' "
            "BEGIN UPDATE accounts SET balance = balance + 1; END"
        )
    async with one_batch(writer):
        a, b, c = (
            writer.submit(settlement(name, 2), ledger.settle_all, must=True) for name in "abc"
        )
    assert [result.charge for result in await outcome([a])] == [500_000]
    await asyncio.sleep(0.2)
    assert not b.done()
    with shop.database.transaction() as tx:
        tx.execute("DROP TRIGGER meddle")
    assert [result.charge for result in await outcome([b, c])] == [500_000] * 2
    assert shop.account() == (10_000 * MICRO - 1_500_000, 0, 0)
    assert verify(shop.database).difference is None
    assert writer.trouble() is None


@asynccontextmanager
async def meddling(shop: Shop, when: str, change: str):
    """Figures change whenever they are written."""
    with shop.database.transaction() as tx:
        tx.execute(f"CREATE TRIGGER meddle AFTER UPDATE OF {when} BEGIN UPDATE {change}; END")
    yield
    with shop.database.transaction() as tx:
        tx.execute("DROP TRIGGER meddle")


async def test_a_mark_waits_for_its_charge(shop, writer):
    await held(writer, shop, "a", "b")
    async with meddling(shop, "state ON requests", "accounts SET balance = balance + 1"):
        async with one_batch(writer):
            a = writer.submit(settlement("a", 2), ledger.settle_all, must=True)
            writer.post(("a", Delivery.UNDELIVERED), ledger.mark_all)
        await asyncio.sleep(0.1)
        assert not a.done()
    await outcome([a])
    b = writer.submit(settlement("b", 2), ledger.settle_all, must=True)
    writer.post(("b", Delivery.DELIVERED), ledger.mark_all)
    await outcome([b])
    await asyncio.to_thread(writer.stop)
    with shop.database.read() as tx:
        assert tx.execute("SELECT request_id, delivery FROM requests ORDER BY id").fetchall() == [
            ("a", 2),
            ("b", 1),
        ]


async def test_no_hold_is_placed_behind_its_void(shop, writer):
    """A client that leaves voids what may still be written: a hold is not tried again after that."""
    async with meddling(shop, "held ON keys", "accounts SET version = version + 1"):
        async with one_batch(writer):
            hold = writer.submit(shop.request("a", LIMITED), ledger.hold_all)
            hold.cancel()
            writer.submit(lambda tx: ledger.void(tx, "a", now_ms=1), must=True)
        await asyncio.sleep(0.1)
    await outcome([writer.submit(lambda tx: None)])
    with shop.database.read() as tx:
        assert tx.execute("SELECT * FROM requests").fetchall() == []
    assert shop.account() == (10_000 * MICRO, 0, 0)


@pytest.mark.parametrize("count", [1, 3, ledger._ROWS, ledger._ROWS + 1])
def test_what_was_not_said_is_null_and_nothing_else_is(shop, count):
    """None, 0 and an empty text are bound as each other; a row says which it was."""
    said = {"retry_of": 2, "image_size": "auto", "image_quality": "low"}
    told = {"first_byte_ms": 0, "usage_raw": "{}", "attempts": "[]", "error": "e"}
    kinds = ((said, told | {"finish_reason": "stop"}), ({}, {"first_byte_ms": None}))
    with shop.database.transaction() as tx:
        for kind, (held_with, settled_with) in enumerate(kinds):
            names = [f"{kind}_{n}" for n in range(count)]
            ledger.hold_all(tx, [shop.request(name, amount=0, **held_with) for name in names])
            ledger.settle_all(
                tx, [settlement(name, 0, undelivered=False, **settled_with) for name in names]
            )
        rows = tx.execute(
            "SELECT retry_of, image_size, image_quality, first_byte_ms, usage_raw, attempts, "
            "error, finish_reason, http_status, streamed, estimated, bounded, delivery, count(*) "
            "FROM requests GROUP BY substr(request_id, 1, 1) ORDER BY request_id"
        ).fetchall()
    rest = (200, 1, 0, 1, 0, count)
    assert rows == [(2, "auto", "low", 0, "{}", "[]", "e", "stop", *rest), (*(None,) * 8, *rest)]


def test_more_accounts_keys_and_days_than_one_statement_takes(shop):
    """Each of them twice, the second time behind the border of a statement."""
    count = ledger._ROWS + 1
    with shop.database.transaction() as tx:
        for number in range(count):
            tx.execute(
                "INSERT INTO accounts (email, balance, created_at) VALUES (?, ?, 1)",
                (f"u{number}", 10 + number),
            )
            tx.execute(
                "INSERT INTO keys (account_id, spend_limit, created_at) "
                "SELECT max(id), 1000, 1 FROM accounts"
            )
        keys = tx.rows(
            "SELECT k.id, k.version, a.id AS account, a.version AS account_version, a.balance "
            "FROM keys k JOIN accounts a ON a.id = k.account_id WHERE email LIKE 'u%'"
        )
        shop.keys = {key["id"]: key for key in keys}
        requests = [
            shop.request(f"{time}_{key}", key, 10, created_ms=(TODAY - key) * 86_400_000)
            for time in (1, 2)
            for key in shop.keys
        ]
        fits = [isinstance(result, Held) for result in ledger.hold_all(tx, requests)]
        assert fits == [True] * count + [key["balance"] >= 20 for key in keys]
        charges = [settlement(f"1_{key}", charge=9) for key in shop.keys]
        done = ledger.settle_all(tx, charges + charges)
        assert [result.repeated for result in done] == [False] * count + [True] * count
        assert [result.balance for result in done] == [key["balance"] - 9 for key in keys] * 2
        figures = tx.execute(
            "SELECT a.balance, a.held, k.spent, k.held FROM keys k "
            "JOIN accounts a ON a.id = k.account_id WHERE email LIKE 'u%' ORDER BY k.id"
        ).fetchall()
        assert figures == [
            (key["balance"] - 9, 10 * more, 9, 10 * more)
            for key, more in zip(keys, fits[count:], strict=True)
        ]
        for table in ("daily", "daily_models"):
            days = tx.execute(f"SELECT day, charged FROM {table} ORDER BY day DESC").fetchall()
            assert days == [(TODAY - key, 9) for key in shop.keys]


class Faulty(Tx):
    """Statements that fail now and then as they do: before, or after they were carried out."""

    __slots__ = ()
    chance = random.Random(0)
    rate = 0.0

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self.execute = self._execute

    def _execute(self, sql: str, values: Any = ()) -> Any:
        if self.chance.random() >= self.rate:
            return self.connection.execute(sql, values)
        how = self.chance.random()
        if how < 0.2 and sql != "ROLLBACK":
            self.connection.execute(sql, values)  # a COMMIT whose last word was lost
        elif how < 0.5 and self.connection.in_transaction:
            self.connection.execute("ROLLBACK")  # by SQLite itself: full disk, disk error
        error = sqlite3.OperationalError("injected")
        error.sqlite_errorcode = self.chance.choice(
            (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
        )
        raise error


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_fails_every_request_ends_once(shop, monkeypatch, seed):
    """Statements fail, COMMIT among them, clients leave, one operation in ten is poison."""
    monkeypatch.setattr(writer_module, "Tx", Faulty)
    monkeypatch.setattr(writer_module, "_PAUSE_S", 0.001)
    monkeypatch.setattr(writer_module, "LATER_S", 0.005)
    monkeypatch.setattr(Faulty, "rate", 0.02)
    Faulty.chance.seed(seed)
    chance = random.Random(seed)
    writer = Writer(shop.database)
    writer.start()

    async def one(name: str) -> tuple[str, int, int] | None:
        await asyncio.sleep(chance.random() / 50)
        hold = writer.submit(
            shop.request(name, chance.randint(1, 3), chance.choice((0, 1_000, MICRO))),
            ledger.hold_all,
        )
        if leaves := chance.random() < 0.2:
            hold.cancel()
        try:
            assert isinstance(await hold, Held)
        except (asyncio.CancelledError, sqlite3.IntegrityError):  # it was written, and tried again
            assert leaves or not hold.cancelled()
            writer.submit(lambda tx: ledger.void(tx, name, now_ms=1), must=True)
            return None
        if chance.random() < 0.1:
            writer.submit(settlement(f"not {name}"), ledger.settle_all, must=True)
        tokens = chance.choice((0, 1, 4, 400))
        settled = settlement(name, tokens, undelivered=False, error=chance.choice(("", "\ud800")))
        future = writer.submit(settled, ledger.settle_all, must=True)
        delivery = chance.choice((Delivery.DELIVERED, Delivery.UNDELIVERED))
        if delivery is Delivery.DELIVERED:
            assert (await future).charge == tokens * PER_INPUT
        writer.post((name, delivery), ledger.mark_all)
        return name, tokens * PER_INPUT, delivery.value

    ended = await asyncio.wait_for(asyncio.gather(*(one(f"req_{n}") for n in range(80))), 20)
    Faulty.rate = 0.0
    assert await asyncio.to_thread(writer.stop)
    with shop.database.read() as tx:
        rows = tx.execute(
            "SELECT request_id, charge, delivery FROM requests WHERE state = 'settled'"
        ).fetchall()
    assert sorted(rows) == sorted(end for end in ended if end)
    found = verify(shop.database)
    assert (found.difference, found.open_holds) == (None, 0)
