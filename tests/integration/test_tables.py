"""The peewee models say what the migrated schema says, and their statements stay quick."""

import threading
import time

import pytest

from sellapi.admin import Admin
from sellapi.storage import accounts, reports
from sellapi.storage.database import Database
from sellapi.storage.tables import TABLES, Account


@pytest.fixture
def database(tmp_path):
    database = Database.create(tmp_path / "shop.db")
    yield database
    database.close()


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_a_tables_declared_columns_are_those_of_the_migrated_schema(database, table):
    meta = table._meta
    keys = {field.column_name for field in meta.get_primary_keys()}
    kinds = {"AUTO": "INTEGER", "INT": "INTEGER"}
    declared = [
        (
            field.column_name,
            kinds.get(
                kind := field.rel_field.field_type if field in meta.refs else field.field_type, kind
            ),
            field.null,
            field.column_name in keys,
        )
        for field in meta.sorted_fields
    ]
    with database.read() as tx:
        migrated = [
            (c["name"], c["type"], not c["notnull"] and not c["pk"], bool(c["pk"]))
            for c in tx.rows(f"PRAGMA table_info({meta.table_name})")
        ]
        references = {
            (f["from"], f["table"]) for f in tx.rows(f"PRAGMA foreign_key_list({meta.table_name})")
        }
    assert declared == migrated
    # A sum outlives the account it was of, so `daily` refers to it without a constraint.
    if meta.table_name != "daily":
        assert {(f.column_name, m._meta.table_name) for f, m in meta.refs.items()} == references - {
            ("of_entry", "entries")
        }


def test_every_table_an_operator_looks_at_is_declared(database):
    with database.read() as tx:
        names = {
            row["name"]
            for row in tx.rows("SELECT name FROM sqlite_master WHERE type = 'table'")
            if not row["name"].startswith("sqlite_")
        }
    ours = {table._meta.table_name for table in TABLES}
    assert names - ours == {"catalog_state", "retention", "migrations"}


def test_two_databases_in_two_threads_never_meet(tmp_path):
    def fill(name):
        database = Database.create(tmp_path / f"{name}.db")
        for number in range(20):
            with database.transaction() as tx:
                accounts.add_account(tx, f"{name}{number}@shop.test", name, 1)
        with database.read() as tx:
            found[name] = {row["name"] for row in tx.rows(Account.select())}
        database.close()

    found = {}
    threads = [threading.Thread(target=fill, args=(name,)) for name in ("ann", "bob")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"ann": {"ann"}, "bob": {"bob"}}


def test_a_query_in_a_transaction_that_fails_is_rolled_back_with_it(database):
    with pytest.raises(ZeroDivisionError), database.transaction() as tx:
        accounts.add_account(tx, "ann@shop.test", "", 1)
        assert accounts.count(tx) == 1
        raise ZeroDivisionError
    with database.read() as tx:
        assert accounts.count(tx) == 0


def test_a_page_of_a_hundred_thousand_users_comes_within_milliseconds(database):
    with database.transaction() as tx:
        tx.connection.executemany(
            "INSERT INTO accounts (email, name, created_at) VALUES (?, ?, 1)",
            ((f"user{n:06}@shop.test", f"User {n}") for n in range(100_000)),
        )
    users = Admin(database, actor="t", via="cli", env={}).users
    page = users.list(sort="email", limit=50)
    seen = {u.email for u in page.items}
    page = users.list(sort="email", limit=50, after=page.next)
    assert not seen & {u.email for u in page.items}
    times = []
    for _ in range(20):
        start = time.perf_counter()
        users.list(sort="email", limit=50, after=page.next)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.005


def test_the_screens_figures_read_partial_indexes_not_tables(database):
    plans = []
    with database.read() as tx:
        run = tx.execute
        for look in (
            lambda: reports.undelivered(tx),
            lambda: reports.open_holds(tx),
            lambda: reports.acts_since(tx, 0, ('sale', 'grant')),
            lambda: reports.requests_page(tx, undelivered=True, limit=5),
            lambda: accounts.sales_standing(tx, 1),
        ):
            tx.execute = lambda sql, params=(): (
                plans.append(" ".join(row[3] for row in run(f"EXPLAIN QUERY PLAN {sql}", params)))
                or run(sql, params)
            )
            look()
    indexes = ("requests_undelivered", "requests_open", "entries_acts", "requests_undelivered")
    assert len(plans) == 5
    for plan, index in zip(plans, (*indexes, "entries_sales"), strict=True):
        assert index in plan
