"""`ledger verify` finds every edit by hand, and raises no alarm beside a working server."""

import hashlib
import json
import sqlite3
import threading

import pytest

from sellapi.storage import ledger, retention, verify
from sellapi.storage.migrations import m0001_first
from tests.support.shop import NOW_MS, Requests, open_shop, quick

DAY_MS = 86_400_000


@pytest.fixture
def shop(tmp_path):
    admin = open_shop(tmp_path / "shop.db")
    quick(admin.desk.database)
    admin.users.add("ann@shop.test")
    admin.users.add("bob@shop.test")
    sale = admin.packs.sell("ann@shop.test", "starter", reference="r1")
    admin.packs.sell("ann@shop.test", "plus")
    admin.packs.refund(sale.entry)
    admin.credits.grant("bob@shop.test", "5", reason="gift")
    admin.credits.deduct("bob@shop.test", "20000", reason="abuse", allow_debt=True)
    admin.credits.grant("bob@shop.test", "30000", reason="pays")
    requests = Requests(admin, "ann@shop.test")
    for _ in range(3):
        requests.charge()
    refunded = requests.charge(tokens=7)
    admin.credits.refund(refunded)
    voided, _ = requests.hold(5_000_000)
    with admin.desk.database.transaction() as tx:
        ledger.void(tx, voided, now_ms=NOW_MS, loss=3)
    requests.hold(9_000_000)
    admin.keys.set(requests.key, limit="1000000")
    return admin


def _tamper(admin, sql):
    """Edit as someone with `sqlite3` and bad intentions would: constraints and triggers off."""
    connection = sqlite3.connect(admin.desk.database.path, isolation_level=None)
    connection.execute("PRAGMA ignore_check_constraints = 1")
    for (name,) in connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    ).fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    changed = connection.execute(sql).rowcount
    connection.close()
    assert changed > 0, "the edit must hit something"


def test_a_shop_with_every_kind_of_entry_verifies(shop):
    found = shop.ledger.verify()
    assert found.ok, found.difference
    assert (found.accounts, found.open_holds) == (2, 1)
    kinds = {e.kind for e in shop.ledger.entries(limit=100)}
    assert kinds == set(verify._SIGNS)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE accounts SET balance = balance + 1 WHERE id = 1",
        "UPDATE accounts SET held = held - 1 WHERE id = 1",
        "UPDATE accounts SET held = held + 1 WHERE id = 2",
        "UPDATE accounts SET owed = 1 WHERE id = 2",
        "DELETE FROM accounts WHERE id = 2",
        "UPDATE keys SET spent = spent - 1",
        "UPDATE keys SET held = 0",
        "UPDATE keys SET spend_limit = NULL",
        "UPDATE entries SET amount = amount + 1 WHERE id = 1",
        "UPDATE entries SET balance_after = balance_after + 1 WHERE id = 2",
        "UPDATE entries SET owed_change = 0, owed_after = 0 WHERE owed_change > 0",
        "UPDATE entries SET account_id = 2 WHERE kind = 'charge'",
        "UPDATE entries SET kind = 'grant' WHERE kind = 'charge'",
        "UPDATE entries SET kind = 'deduct' WHERE kind = 'charge' AND id > 10",
        "UPDATE entries SET request_id = NULL WHERE kind = 'charge'",
        "UPDATE entries SET request_id = 'x' || request_id WHERE kind = 'charge'",
        "UPDATE entries SET of_entry = NULL WHERE kind = 'sale_refund'",
        "UPDATE entries SET of_entry = 1 WHERE kind = 'charge_refund'",
        "UPDATE entries SET cash_micro_usd = 0 WHERE kind = 'sale_refund'",
        "DELETE FROM entries WHERE id = 1",
        "DELETE FROM entries WHERE id = (SELECT max(id) FROM entries)",
        "DELETE FROM entries WHERE kind = 'charge'",
        "UPDATE requests SET charge = charge - 1 WHERE state = 'settled'",
        "UPDATE requests SET charge = 1 WHERE state = 'voided'",
        "UPDATE requests SET state = 'voided' WHERE state = 'settled'",
        "UPDATE requests SET state = 'settled' WHERE state = 'held'",
        "UPDATE requests SET state = 'swept' WHERE state = 'held'",
        "UPDATE requests SET hold = 1 WHERE state = 'held'",
        "UPDATE requests SET delivery = 1 WHERE state = 'held'",
        "UPDATE requests SET usage = '{\"input\": 1}' WHERE state = 'settled'",
        "UPDATE requests SET key_id = 99 WHERE state = 'settled'",
        "UPDATE requests SET input_tokens = 0 WHERE state = 'settled'",
        "UPDATE requests SET loss = 0 WHERE state = 'voided'",
        "DELETE FROM requests WHERE state = 'settled'",
        "DELETE FROM requests WHERE state = 'voided'",
        "DELETE FROM requests WHERE state = 'held'",
        "UPDATE prices SET prices = replace(prices, '15000000', '1')",
        "UPDATE prices SET prices = '{' WHERE id IN (SELECT price_id FROM requests)",
        "UPDATE requests SET usage = '{\"input\": ' WHERE state = 'settled'",
        "DELETE FROM accounts WHERE id = 1",
        "UPDATE accounts SET last_entry = last_entry - 1 WHERE id = 1",
        "UPDATE accounts SET last_request = NULL WHERE id = 1",
        "UPDATE accounts SET last_request = 1 WHERE id = 2",
        "UPDATE entries SET previous = NULL WHERE kind = 'grant'",
        "UPDATE entries SET previous = 1 WHERE kind = 'charge_refund'",
        "UPDATE requests SET previous = NULL WHERE state = 'voided'",
        "UPDATE requests SET previous = 1 WHERE state = 'held'",
        "UPDATE daily SET key_id = 99",
        "UPDATE daily SET account_id = 2",
        "DELETE FROM keys",
        "UPDATE keys SET account_id = 2",
        "UPDATE packs SET credits = credits - 1",
        "DELETE FROM packs",
        "UPDATE daily SET charged = charged - 1",
        "DELETE FROM daily",
        "INSERT INTO daily_models (day, model, requests) VALUES (1, 'm', 1)",
        "INSERT INTO daily (day, model, account_id, key_id, requests) VALUES (1, 'm', 1, 1, 1)",
    ],
)  # fmt: skip
def test_a_row_edited_by_hand_is_found_and_named(shop, sql):
    _tamper(shop, sql)
    found = shop.ledger.verify()
    assert not found.ok
    assert found.difference
    assert any(
        w in found.difference for w in ("account", "key", "entry", "request", "day", "price")
    )


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE entries SET reason = 'nothing' WHERE id = 1",
        "UPDATE entries SET actor = 'somebody else' WHERE id = 1",
        "UPDATE entries SET created_ms = created_ms + 1 WHERE id = 1",
        "UPDATE entries SET cash_micro_usd = 1 WHERE kind = 'grant'",
        "UPDATE entries SET reference = 'r2' WHERE reference = 'r1'",
    ],
)
def test_an_edit_that_breaks_no_sum_changes_the_head_digest(shop, sql):
    before = shop.ledger.verify().head
    assert shop.ledger.verify().head == before == verify.head_digest(shop.desk.database)
    _tamper(shop, sql)
    assert shop.ledger.verify().head != before


@pytest.mark.parametrize(
    "text",
    ["plain", "Zoë's 50 €", 'a "quoted\\" word', "tab\tbell\x07 del\x7f", "\U0001f600", None],
)
def test_a_row_is_digested_as_json_in_ascii_whatever_its_texts_hold(text):
    row = (1, 2**63 - 1, "grant", -5, text)
    right = json.dumps(row, ensure_ascii=True, separators=(",", ":")).encode()
    assert verify._chain(b"before", row) == hashlib.sha256(b"before" + right).digest()


def test_entries_and_audit_refuse_update_and_delete(shop):
    for table in ("entries", "audit"):
        for sql in (f"UPDATE {table} SET actor = 'x'", f"DELETE FROM {table}"):
            with (
                pytest.raises(sqlite3.IntegrityError, match="append-only"),
                shop.desk.database.transaction() as tx,
            ):
                tx.execute(sql)
    assert "append-only" in m0001_first._APPEND_ONLY


def test_pruning_keeps_the_ledger_verifiable_and_holds_untouched(shop):
    requests = Requests(shop, "ann@shop.test")
    with shop.desk.database.read() as tx:
        before = tx.value("SELECT count(*) FROM requests")
    assert retention.prune(shop.desk.database, NOW_MS + 600).removed == before - 1
    assert shop.ledger.verify().ok
    requests.charge(at_ms=NOW_MS + DAY_MS)
    found = shop.ledger.verify()
    assert found.ok, found.difference
    assert found.open_holds == 1
    with shop.desk.database.read() as tx:
        kept = tx.value("SELECT sum(requests) FROM daily")
    assert kept == 5


def test_verify_beside_a_working_server_raises_no_false_alarm(shop, monkeypatch):
    monkeypatch.setattr(verify, "CHUNK", 20)
    stop, problems, rounds = threading.Event(), [], []

    def work():
        requests = Requests(shop, "ann@shop.test")
        try:
            quick(shop.desk.database)
            while not stop.is_set():
                open_id, _ = requests.hold(1_000_000_000)
                requests.charge()
                from sellapi.domain.usage import Usage

                requests.settle(open_id, Usage(input=3))
                rounds.append(1)
        except Exception as error:
            problems.append(error)
        finally:
            shop.desk.database.close()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        while len(rounds) < 60 and not problems:
            found = shop.ledger.verify()
            assert found.ok, found.difference
    finally:
        stop.set()
        worker.join()
    assert not problems
