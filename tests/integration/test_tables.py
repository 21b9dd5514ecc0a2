"""The peewee models say what the migrated schema says, and their statements stay quick."""

import threading
import time

import pytest

from sellapi.admin import Admin
from sellapi.storage import accounts, ledger, reports, verify
from sellapi.storage.database import Database
from sellapi.storage.reports import GROUPS
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


def _plans(database, look):
    """``(statement, its plan)`` of everything a look at the database runs."""
    found = []
    with database.read() as tx:
        run = tx.execute

        def explained(sql, params=()):
            plan = [row[3] for row in run(f"EXPLAIN QUERY PLAN {sql}", params)]
            found.append((sql, plan))
            return run(sql, params)

        tx.execute = explained
        look(tx)
    return found


@pytest.mark.parametrize(
    ("look", "index"),
    [
        (reports.undelivered, "requests_undelivered"),
        (reports.open_holds, "requests_open"),
        (lambda tx: reports.acts_since(tx, 0, ("sale", "grant")), "entries_acts"),
        (lambda tx: reports.requests_page(tx, undelivered=True, limit=5), "requests_undelivered"),
        (lambda tx: reports.requests_page(tx, state="held", limit=5), "requests_open"),
        (lambda tx: reports.requests_page(tx, state="voided", limit=5), "requests_uncharged"),
        (lambda tx: accounts.sales_standing(tx, 1), "entries_account_acts"),
        (lambda tx: accounts.entry_page(tx, kind="sale", limit=5), "entries_kind"),
        (
            lambda tx: accounts.entry_page(tx, account_id=1, kind="sale", limit=5),
            "entries_account_acts",
        ),
        (lambda tx: reports.account_days(tx, 1, 0), "daily_account"),
        *((lambda tx, by=by: reports.daily(tx, 1, by), "PRIMARY KEY (day>") for by in GROUPS),
        *(
            (lambda tx, by=by: reports.daily(tx, 1, by, limit=5), "PRIMARY KEY (day>")
            for by in GROUPS
        ),
        (lambda tx: reports.daily_total(tx, 1), "PRIMARY KEY (day>"),
    ],
)
def test_a_screen_reads_an_index_and_never_a_whole_table(database, look, index):
    plans = [plan for _, plan in _plans(database, look)]
    assert any(index in step for plan in plans for step in plan)
    tables = ("t1", "r", "e", "requests", "entries", "daily")
    walked = [
        step
        for plan in plans
        for step in plan
        for table in tables
        if step == f"SCAN {table}" or (step.startswith(f"SCAN {table} ") and index not in step)
    ]
    assert not walked, plans


def test_entries_since_a_time_are_sought_from_there_on(database):
    with database.transaction() as tx:
        account = accounts.add_account(tx, "ann@shop.test", "", 1)
        for hour in range(100):
            now_ms = hour * 3_600_000
            ledger.credit(tx, account, "grant", 1, now_ms=now_ms, actor="t")
    since_ms = 90 * 3_600_000

    def look(tx):
        rows = accounts.entry_page(tx, since_ms=since_ms, limit=50)
        assert [row["created_ms"] // 3_600_000 for row in rows] == list(range(99, 89, -1))

    assert any(
        "SEARCH t1 USING INTEGER PRIMARY KEY (rowid>" in p[0] for _, p in _plans(database, look)
    )
    with database.read() as tx:
        assert 85 < accounts._first_since(tx, since_ms) <= 91
        assert accounts._first_since(tx, 10**15) == 101


def test_days_that_are_over_are_summed_up_once_and_take_late_charges(database):
    today = int(time.time()) // 86_400
    rows = [(today - back, model, key) for back in (0, 3, 9) for model in "ab" for key in (1, 2)]
    with database.transaction() as tx:
        accounts.add_account(tx, "ann@shop.test", "", 1)
        for day, model, key in rows:
            ledger._add_to_day(tx, day, model, (1, key), (1, 0, 10, 5, 0, 100, 60, 0))

    def asked(tx):
        return [reports.daily(tx, 0, by) for by in GROUPS], reports.daily_total(tx, 0)

    with database.transaction() as tx:
        before = asked(tx)
        now = today * 86_400 + reports.SETTLES_S
        assert [reports.sum_up(tx, now) for _ in range(4)] == [True, True, False, False]
        assert tx.value("SELECT count(*) FROM daily_models") == 4
        assert asked(tx) == before
        assert verify._days_kept(tx).keys() == {today, today - 3, today - 9}
        for day, model in ((today - 3, "a"), (today - 5, "c"), (today, "a")):
            ledger._add_to_day(tx, day, model, (1, 1), (1, 0, 10, 5, 0, 100, 60, 0))
        assert reports.daily_total(tx, 0)["charged"] == before[1]["charged"] + 300
        assert sum(row["charged"] for row in reports.daily(tx, 0, "model")) == 1_500
        assert verify._days_kept(tx)[today - 5][5] == 100


def test_a_clock_that_was_set_back_by_days_leaves_no_summary_behind_its_rows(database):
    """A machine that booted with a wrong clock summed up today before it was over."""
    today = int(time.time()) // 86_400
    figures = (1, 0, 10, 5, 0, 100, 60, 0)
    with database.transaction() as tx:
        accounts.add_account(tx, "ann@shop.test", "", 1)
        for day in (today - 1, today):
            ledger._add_to_day(tx, day, "m", (1, 1), figures)
        now = today * 86_400 + reports.SETTLES_S
        while reports.sum_up(tx, now + 2 * 86_400):
            pass
        assert tx.value("SELECT count(*) FROM daily_models") == 2
        ledger._add_to_day(tx, today, "m", (1, 1), figures)  # by the right clock
        while reports.sum_up(tx, now):
            pass
        ledger._add_to_day(tx, today, "m", (1, 1), figures)
        assert verify._days_kept(tx)[today][5] == 300
        assert reports.daily_total(tx, 0)["charged"] == 400
        assert tx.value("SELECT day FROM daily_models") == today - 1


def test_a_report_of_the_dearest_few_still_totals_everybody(database):
    today = int(time.time()) // 86_400
    with database.transaction() as tx:
        for number in range(1, 6):
            accounts.add_account(tx, f"user{number}@shop.test", "", 1)
            figures = (1, 0, 10, 5, 0, 100 * number, 60, 0)
            ledger._add_to_day(tx, today, "m", (number, number), figures)
    usage = Admin(database, actor="t", via="cli", env={}).usage
    some, everybody = usage.report(by="user", limit=2), usage.report(by="user")
    assert [(row.group, row.charged) for row in some.rows] == [
        ("user5@shop.test", 500),
        ("user4@shop.test", 400),
    ]
    assert some.rows == everybody.rows[:2]
    assert some.total == everybody.total
    assert (some.total.charged, len(everybody.rows)) == (1_500, 5)
    assert [row.group for row in usage.report(by="key", limit=1).rows] == [
        "key 5 of user5@shop.test"
    ]
