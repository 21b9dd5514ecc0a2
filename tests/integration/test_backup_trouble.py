"""Backups and restores for which there is no room, or that the database does not let happen."""

from __future__ import annotations

import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sellapi.admin import files
from sellapi.errors import DatabaseUnavailable, Refused
from sellapi.storage.database import Database
from tests.support.process import SOURCE, clean_env
from tests.support.shop import open_shop

EMAIL = "ann@shop.test"
BY = ("ann", "cli")


def _large(tmp_path: Path) -> Path:
    """A shop of some 300 kB."""
    admin = open_shop(tmp_path / "shop.db")
    admin.users.add(EMAIL)
    admin.desk.database.raw().execute("CREATE TABLE ballast AS SELECT zeroblob(100000) AS blank")
    admin.desk.database.raw().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    admin.desk.database.close()
    return tmp_path / "shop.db"


def _cramped(cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command that may write no file of more than 200 kB."""
    return subprocess.run(
        ["bash", "-c", 'ulimit -f 200 && exec "$@"', "-", *SOURCE, *words],
        cwd=cwd,
        env=clean_env(cwd, SELLAPI_DATABASE="shop.db"),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_a_backup_that_its_disk_refuses_leaves_nothing_and_names_that_disk(tmp_path):
    _large(tmp_path)
    target = tmp_path / "elsewhere"
    target.mkdir()
    done = _cramped(tmp_path, "db", "backup", str(target / "copy.db"))
    assert done.returncode == 1, done
    assert f"the disk of {target} had a disk error" in done.stderr
    assert list(target.iterdir()) == []


def test_a_backup_whose_disk_is_full_says_so_of_that_disk(tmp_path, monkeypatch):
    path = _large(tmp_path)
    connect = sqlite3.connect

    def small(file: Any, *args: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(file, *args, **options)
        if ".part-" in str(file):
            connection.execute("PRAGMA max_page_count = 20")
        return connection

    monkeypatch.setattr(sqlite3, "connect", small)
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(DatabaseUnavailable, match=r"the disk of .*elsewhere is full"):
        files.backup(Database.open(path), tmp_path / "elsewhere" / "copy.db")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_backup_that_cannot_be_checked_does_not_stay(tmp_path, monkeypatch):
    admin = open_shop(tmp_path / "shop.db")

    def broken(*_: Any) -> None:
        raise DatabaseUnavailable("the database had a disk error")

    monkeypatch.setattr(files, "verify", broken)
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(DatabaseUnavailable, match=r"copy\.db could not be checked"):
        files.backup(admin.desk.database, tmp_path / "elsewhere" / "copy.db")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_backup_of_a_ledger_that_does_not_add_up_stays_and_is_told(tmp_path):
    admin = open_shop(tmp_path / "shop.db")
    admin.users.add(EMAIL)
    admin.desk.database.raw().execute("UPDATE accounts SET balance = balance + 1")
    with pytest.raises(Refused, match=r"the backup stands in .* does not add up"):
        files.backup(admin.desk.database, tmp_path / "copy.db")
    assert (tmp_path / "copy.db").exists()


def test_a_backup_of_a_locked_database_is_good_and_tells_that_the_audit_lacks_it(tmp_path):
    open_shop(tmp_path / "shop.db").desk.database.close()
    other = sqlite3.connect(tmp_path / "shop.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    database = Database.open(tmp_path / "shop.db", busy_timeout_ms=50)
    saved = files.backup(database, tmp_path / "copy.db", by=BY)
    other.execute("ROLLBACK")
    other.close()
    assert "locked" in saved.unrecorded
    copy = Database.open(tmp_path / "copy.db")
    assert open_shop(None, database=copy).ledger.verify().head == saved.head
    copy.close()
    assert files.backup(database, tmp_path / "next.db", by=BY).unrecorded is None
    database.close()


def test_a_restore_that_finds_no_room_says_where_and_changes_nothing(tmp_path):
    path = _large(tmp_path)
    database = Database.open(path)
    files.backup(database, tmp_path / "copy.db")
    database.close()
    before = {file.name: file.read_bytes() for file in tmp_path.glob("*.db")}
    done = _cramped(tmp_path, "db", "restore", "copy.db", "--yes")
    assert done.returncode == 1, done
    assert f"could not be copied to {tmp_path}" in done.stderr
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
