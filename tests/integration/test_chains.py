"""An account's requests and entries come along their chain, whole and in order, whatever is pruned."""

import sqlite3
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sellapi.admin import files
from sellapi.errors import Refused
from sellapi.storage import accounts, journal, ledger, reports, retention
from sellapi.storage.database import Database
from sellapi.storage.migrations import MIGRATIONS, SCHEMA_VERSION
from tests.support.shop import NOW_MS, Requests, open_shop, quick

USERS = ("ann@shop.test", "bob@shop.test")
DAY_MS = 86_400_000
SMALL = {"tokens": 1, "output": 1, "hold": 10_000_000}


@pytest.fixture
def shop(tmp_path):
    admin = open_shop(tmp_path / "shop.db")
    quick(admin.desk.database)
    for user in USERS:
        admin.users.add(user)
    return admin


@pytest.fixture
def two(shop):
    return [Requests(shop, user) for user in USERS]


def _ids(shop, table, account_id):
    """Newest first, by looking at every row."""
    with shop.desk.database.read() as tx:
        rows = tx.execute(
            f"SELECT id FROM {table} WHERE account_id = ? ORDER BY id DESC", [account_id]
        )
        return [row[0] for row in rows]


@given(turns=st.lists(st.sampled_from([0, 1]), min_size=1, max_size=12), data=st.data())
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_pages_of_an_account_are_its_rows_in_order_wherever_they_begin(shop, two, turns, data):
    for who in turns:
        two[who].charge(**SMALL)
    with shop.desk.database.read() as tx:
        who = data.draw(st.sampled_from([1, 2]))
        limit = data.draw(st.integers(1, 5))
        span = st.none() | st.integers(0, 40)
        before, after = data.draw(span), data.draw(span)
        for table, page in (("requests", reports.requests_page), ("entries", accounts.entry_page)):
            right = [id_ for id_ in _ids(shop, table, who) if before is None or id_ < before]
            if after is not None:
                right = [id_ for id_ in right[::-1] if id_ > after]
            rows = page(tx, account_id=who, before=before, after=after, limit=limit)
            assert [row["id"] for row in rows] == right[:limit]
            assert {row["account_id"] for row in rows} <= {who}
    assert shop.ledger.verify().ok


def test_every_page_of_receipts_follows_the_one_before(shop, two):
    for number in range(31):
        two[number % 3 == 0].charge(**SMALL)
    seen, before = [], None
    with shop.desk.database.read() as tx:
        while rows := journal.list_requests(tx, 1, before=before, limit=4):
            seen += [row["id"] for row in rows]
            before = rows[-1]["id"]
    assert seen == _ids(shop, "requests", 1)


def test_rows_of_one_batch_are_linked_in_its_order(shop, two):
    placed = [two[who].request(1_000_000) for who in (0, 1, 0, 0, 1)]
    with shop.desk.database.transaction() as tx:
        assert all(isinstance(r, ledger.Held) for r in ledger.hold_all(tx, placed))
    for table in ("requests", "entries"):
        assert _along(shop, table) == {who: _ids(shop, table, who) for who in (1, 2)}


def _along(shop, table):
    found = {}
    with shop.desk.database.read() as tx:
        newest = "last_request" if table == "requests" else "last_entry"
        for account, first in tx.execute(f"SELECT id, {newest} FROM accounts").fetchall():
            row, found[account] = first, []
            while row is not None:
                found[account].append(row)
                row = tx.value(f"SELECT previous FROM {table} WHERE id = ?", (row,))
    return found


def test_a_page_of_a_long_history_costs_no_more_than_one_of_a_short(shop, two):
    with shop.desk.database.transaction() as tx:
        for _ in range(60):
            ledger.hold_all(tx, [two[n % 2].request(1) for n in range(100)])
    middle = _ids(shop, "requests", 1)[1_500]
    for before in (None, middle):
        assert _steps(shop, before) < 60_000  # a walk of all 3,000 takes more than that alone


def _steps(shop, before):
    """How many thousand steps of SQLite's machine a page takes, times a thousand."""
    steps = 0

    def count():
        nonlocal steps
        steps += 1_000

    with shop.desk.database.read() as tx:
        tx.connection.set_progress_handler(count, 1_000)
        try:
            rows = reports.requests_page(tx, account_id=1, before=before, limit=20)
        finally:
            tx.connection.set_progress_handler(None, 0)
    assert len(rows) == 20
    return steps


def test_pruning_never_tears_a_chain(shop, two):
    stays, _ = two[0].hold(1_000_000)
    for who in (0, 1, 0, 1):
        two[who].charge(**SMALL)
    with shop.desk.database.read() as tx:
        late = tx.value("SELECT count(*) FROM requests")
    two[1].charge(**SMALL, at_ms=NOW_MS + DAY_MS)
    pruned = retention.prune(shop.desk.database, NOW_MS + 600)
    assert pruned == (2, 3), "Bob's old ones; Ann's are newer than one that still holds"
    assert len(_ids(shop, "requests", 1)) == 3
    assert _ids(shop, "requests", 2) == [late + 1]
    for who, rows in ((1, 3), (2, 1)):
        with shop.desk.database.read() as tx:
            assert len(reports.requests_page(tx, account_id=who, limit=9)) == rows
    assert shop.ledger.verify().ok
    with shop.desk.database.transaction() as tx:
        ledger.void(tx, stays, now_ms=NOW_MS)
    assert retention.prune(shop.desk.database, NOW_MS + 600) == (3, 0)
    found = shop.ledger.verify()
    assert found.ok, found.difference
    two[0].charge(**SMALL, at_ms=NOW_MS + DAY_MS)
    assert len(_ids(shop, "requests", 1)) == 1
    assert shop.ledger.verify().ok


def test_ids_do_not_come_back_after_everything_was_pruned(shop, two):
    two[0].charge(**SMALL)
    retention.prune(shop.desk.database, NOW_MS + 600)
    assert _ids(shop, "requests", 1) == []
    two[1].charge(**SMALL)
    assert _ids(shop, "requests", 2) == [2]
    with shop.desk.database.read() as tx:
        assert reports.requests_page(tx, account_id=1, limit=9) == []
    assert shop.ledger.verify().ok


def test_a_shop_of_the_first_schema_is_linked_and_loses_nothing(shop, two, tmp_path):
    for who in (0, 1, 1, 0):
        two[who].charge(**SMALL)
    two[0].hold(1_000_000)
    linked = {table: _along(shop, table) for table in ("requests", "entries")}
    head = shop.ledger.verify().head
    database = shop.desk.database
    with database.transaction() as tx:
        tx.execute("DROP TRIGGER entries_no_update")
        tx.execute("DROP TRIGGER entries_linked")
        for table, column in (
            ("requests", "previous"),
            ("entries", "previous"),
            ("accounts", "last_request"),
            ("accounts", "last_entry"),
        ):
            tx.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        tx.execute("CREATE TRIGGER entries_no_update BEFORE UPDATE ON entries BEGIN SELECT 1; END")
        tx.execute("CREATE INDEX requests_account ON requests (account_id, id)")
        tx.execute("CREATE INDEX entries_account ON entries (account_id, id)")
        tx.execute("DROP TRIGGER keys_counted")
        tx.execute(
            "UPDATE keys SET spent = (SELECT sum(charged) FROM daily WHERE key_id = keys.id)"
        )
        tx.execute("UPDATE keys SET held = 1000000 WHERE id = ?", (two[0].key,))
        tx.execute("DELETE FROM migrations WHERE number > 1")
    database.close()
    old = Database(database.path)
    assert old.migrate() == [name for name, _ in MIGRATIONS[1:]]
    old.close()
    assert {table: _along(shop, table) for table in ("requests", "entries")} == linked
    found = shop.ledger.verify()
    assert (found.ok, found.head) == (True, head), found.difference
    two[1].charge(**SMALL)
    assert shop.ledger.verify().ok


def test_a_statement_takes_the_entries_between_two_days(shop):
    day = 86_400
    clock = [1_795_400_000]
    shop.desk.clock = lambda: clock[0]
    shop.users.add("eve@shop.test")
    for _ in range(6):
        clock[0] += day
        shop.credits.grant("eve@shop.test", "1", reason="a")
    start = time.strftime("%Y-%m-%d", time.gmtime(1_795_400_000 + 2 * day))
    end = time.strftime("%Y-%m-%d", time.gmtime(1_795_400_000 + 4 * day))
    part = shop.credits.statement("eve@shop.test", since=start, until=end)
    assert len(part.entries) == 3
    assert part.opening_balance == 10_001_000_000
    assert part.closing_balance == 10_004_000_000
    later = shop.credits.statement(
        "eve@shop.test", since=time.strftime("%Y-%m-%d", time.gmtime(clock[0] + 9 * day))
    )
    assert (later.opening_balance, later.closing_balance) == (10_006_000_000, 10_006_000_000)
    early = shop.credits.statement("eve@shop.test", until="2026-01-01")
    assert (early.opening_balance, early.closing_balance, early.entries) == (0, 0, ())


def test_a_program_of_the_first_schema_can_tear_no_chain(shop, two):
    """A screen that was left open over `db migrate` knows nothing of chains."""
    old = "INSERT INTO entries (account_id, kind, amount, balance_after, owed_after, created_ms) "
    with (
        pytest.raises(sqlite3.IntegrityError, match="newer sellapi"),
        shop.desk.database.transaction() as tx,
    ):
        tx.execute(f"{old} VALUES (1, 'grant', 5, 10000000005, 0, 1)")
    with shop.desk.database.transaction() as tx:  # an account's first has none before it
        account = accounts.add_account(tx, "eve@shop.test", "", 1)
        tx.execute("UPDATE accounts SET balance = 7 WHERE id = ?", (account,))
        tx.execute(f"{old} VALUES (?, 'signup', 7, 7, 0, 1)", (account,))
    assert shop.ledger.verify().ok


def test_a_schema_does_not_change_under_a_running_server(shop, tmp_path):
    database = shop.desk.database
    server = journal.Instance(database)
    server.register()
    assert files.migrate(database.path).schema == SCHEMA_VERSION  # nothing to do
    with database.transaction() as tx:
        tx.execute("DELETE FROM migrations WHERE number = ?", (SCHEMA_VERSION,))
    with pytest.raises(Refused, match="stop it first"):
        files.migrate(database.path)
    server.unregister()


def test_a_cursor_from_elsewhere_walks_nothing(shop, two):
    for who in (0, 1, 0):
        two[who].charge(**SMALL)
    with shop.desk.database.read() as tx:
        assert [row["id"] for row in journal.list_requests(tx, 1, before=3, limit=9)] == [1]
        with pytest.raises(LookupError):
            journal.list_requests(tx, 1, before=2, limit=9)
        assert journal.list_requests(tx, 1, before=999, limit=9) == []


def test_a_history_hidden_behind_a_pruned_row_is_found(shop, two):
    for who in (1, 0, 0, 0):
        two[who].charge(**SMALL)
    with shop.desk.database.transaction() as tx:
        tx.execute("UPDATE retention SET pruned_before_ms = ?", (NOW_MS + DAY_MS,))
        tx.execute("DELETE FROM requests WHERE id IN (1, 2)")
    assert shop.ledger.verify().ok
    with shop.desk.database.transaction() as tx:
        tx.execute("UPDATE requests SET previous = 2 WHERE id = 4")
    assert "names 2 as the request before it, not 3" in shop.ledger.verify().difference
