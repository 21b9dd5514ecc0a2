"""Backups that verify, restores that refuse what they must, and a doctor that finds trouble."""

import json
import sqlite3
import subprocess
import threading

import pytest

from sellapi.admin import files, setup
from sellapi.errors import Refused
from sellapi.storage import backup as storage_backup
from sellapi.storage.database import Database
from sellapi.storage.journal import Instance
from tests.support.process import SOURCE, clean_env
from tests.support.shop import Requests, open_shop, quick


@pytest.fixture
def admin(tmp_path):
    admin = open_shop(tmp_path / "shop.db")
    admin.users.add("ann@shop.test")
    return admin


def test_init_twice_changes_nothing(tmp_path):
    path = tmp_path / "new.db"
    first, second = (setup.init(path, actor="x", via="cli", env={}) for _ in range(2))
    assert (first.created, second.created) == (True, False)
    assert path.stat().st_mode & 0o777 == 0o600
    with Database.open(path).read() as tx:
        assert tx.value("SELECT count(*) FROM audit") == 1


def test_a_backup_taken_while_others_write_verifies_and_stands_alone(admin, tmp_path, monkeypatch):
    monkeypatch.setattr(storage_backup, "STEP_PAGES", 5)
    stop, started = threading.Event(), threading.Event()

    def work():
        quick(admin.desk.database)
        requests = Requests(admin, "ann@shop.test")
        while not stop.is_set():
            requests.charge(tokens=1, output=0, hold=1_000_000)
            started.set()
        admin.desk.database.close()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        assert started.wait(10)
        result = files.backup(admin.desk.database, tmp_path / "copy.db")
    finally:
        stop.set()
        worker.join()
    assert result.entries > 1
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.glob("*copy.db?*"))
    assert not list(tmp_path.glob(".copy.db*"))
    assert open_shop(None, database=Database.open(tmp_path / "copy.db")).ledger.verify().ok
    with pytest.raises(Refused, match="exists"):
        files.backup(admin.desk.database, tmp_path / "copy.db")


def test_a_restore_brings_back_the_backups_head_and_keeps_the_old_database(admin, tmp_path):
    saved = files.backup(admin.desk.database, tmp_path / "copy.db")
    admin.credits.grant("ann@shop.test", "1", reason="later")
    later = admin.ledger.verify().head
    admin.desk.database.close()
    restored = files.restore(admin.desk.database.path, tmp_path / "copy.db")
    assert restored.head == saved.head == admin.ledger.verify().head
    kept = open_shop(None, database=Database.open(restored.kept))
    assert kept.ledger.verify().head == later


def _cut(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _scribble(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4096] = b"\xaa" * 4096
    path.write_bytes(data)


def _sql(statement):
    def edit(path):
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute(statement)
        connection.close()

    return edit


@pytest.mark.parametrize(
    "damage",
    [
        _cut,
        _scribble,
        lambda path: path.write_bytes(b"not a database at all, but long enough" * 50),
        lambda path: path.write_bytes(b""),
        _sql("INSERT INTO migrations VALUES (99, 'future', 0)"),
        _sql("DELETE FROM migrations"),
        _sql("UPDATE accounts SET balance = balance + 1"),
    ],
    ids=["cut", "scribbled", "garbage", "empty", "newer", "older", "edited"],
)
def test_a_damaged_newer_older_or_edited_backup_is_refused_and_nothing_is_touched(
    admin, tmp_path, damage
):
    files.backup(admin.desk.database, tmp_path / "copy.db")
    damage(tmp_path / "copy.db")
    head = admin.ledger.verify().head
    admin.desk.database.close()
    before = {p.name for p in tmp_path.iterdir()}
    with pytest.raises(Refused):
        files.restore(admin.desk.database.path, tmp_path / "copy.db")
    assert {p.name for p in tmp_path.iterdir()} - {"shop.db-wal", "shop.db-shm"} == before - {
        "shop.db-wal",
        "shop.db-shm",
    }
    assert admin.ledger.verify().head == head


def test_a_restore_is_refused_while_a_server_runs(admin, tmp_path):
    files.backup(admin.desk.database, tmp_path / "copy.db")
    instance = Instance(admin.desk.database)
    instance.register()
    try:
        with pytest.raises(Refused, match="a server runs"):
            files.restore(admin.desk.database.path, tmp_path / "copy.db")
        assert [s.alive for s in admin.servers()] == [True]
    finally:
        instance.unregister()


def test_the_example_is_the_same_every_time(tmp_path):
    for name in ("a", "b"):
        assert files.example(tmp_path / name).ok
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_example_is_never_written_over_a_shop(admin, tmp_path):
    done = subprocess.run(
        [*SOURCE, "db", "example", "shop.db", "--json"],
        cwd=tmp_path,
        env=clean_env(tmp_path),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 1, done
    assert "nothing is overwritten" in json.loads(done.stderr)["error"]["message"]
    assert (tmp_path / "shop.db").stat().st_mode & 0o777 == 0o600
    assert admin.users.show("ann@shop.test").id == 1


def test_an_example_that_is_damaged_is_not_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(storage_backup, "check", lambda _: ["entries: row 1 is missing"])
    with pytest.raises(Refused, match="row 1 is missing"):
        files.example(tmp_path / "sellapi.db.example")
    assert list(tmp_path.iterdir()) == []


def _ok(admin, name):
    return {c.name: c for c in admin.doctor()}[name].ok


def test_doctor_finds_trouble_and_says_how_to_mend_it(admin):
    path = admin.desk.database.path
    assert all(_ok(admin, n) for n in ("permissions", "open holds", "undelivered", "clock"))
    path.chmod(0o644)
    admin.models.add("acme/unpriced", mode="chat")
    requests = Requests(admin, "ann@shop.test", instance="dead")
    requests.hold(5)
    lost, _ = requests.hold(10_000_000)
    from sellapi.domain.usage import Usage

    requests.settle(lost, Usage(input=1), delivered=False)
    admin.desk.clock = lambda: 1_795_000_000
    for name in (
        "permissions", "unpriced models", "open holds", "undelivered", "clock", "provider openai",
    ):  # fmt: skip
        check = {c.name: c for c in admin.doctor()}[name]
        assert not check.ok, check
        assert check.mend
    admin.credits.refund(lost)
    assert _ok(admin, "undelivered")
