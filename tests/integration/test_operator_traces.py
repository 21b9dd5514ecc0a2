"""What acts on whole files leave behind, and what a hold checks of time."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sellapi.admin import files
from sellapi.errors import Refused
from sellapi.storage import backup as whole_files
from sellapi.storage.database import Database
from sellapi.storage.journal import Instance
from tests.support.process import SOURCE, clean_env, serve
from tests.support.shop import open_shop
from tests.support.shopfront import open_front

EMAIL = "ann@shop.test"
BY = ("ann", "cli")


def test_backup_and_restore_stand_in_the_audit_of_the_database_they_leave(tmp_path):
    admin = open_shop(tmp_path / "shop.db")
    admin.users.add(EMAIL)
    saved = files.backup(admin.desk.database, tmp_path / "copy.db", by=BY)
    admin.users.add("bob@shop.test")
    admin.desk.database.close()
    restored = files.restore(tmp_path / "shop.db", tmp_path / "copy.db", by=BY)
    with sqlite3.connect(tmp_path / "shop.db") as new, sqlite3.connect(restored.kept) as old:
        acts = "SELECT actor, act FROM audit WHERE act LIKE 'db.%'"
        assert new.execute(acts).fetchall() == [("ann", "db.restore")]
        assert old.execute(acts).fetchall() == [("ann", "db.backup")]
    new.close()
    old.close()
    assert saved.head == restored.head


def test_a_crash_in_the_middle_of_a_restore_loses_nothing_of_the_old_database(
    tmp_path, monkeypatch
):
    """The old WAL is folded in before it is moved: between two renames the file is whole."""
    path = tmp_path / "shop.db"
    admin = open_shop(path)
    files.backup(admin.desk.database, tmp_path / "copy.db")
    admin.users.add(EMAIL)
    renames: list[Path] = []
    rename = Path.rename

    def crash_after_first(self: Path, target: Path) -> Path:
        if renames:
            raise KeyboardInterrupt
        renames.append(self)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", crash_after_first)
    with pytest.raises(KeyboardInterrupt):
        files.restore(path, tmp_path / "copy.db")
    monkeypatch.undo()
    left = path if path.exists() else next(tmp_path.glob("shop.db.before-restore-*"))
    alone = tmp_path / "alone.db"
    shutil.copy(left, alone)
    with sqlite3.connect(alone) as old:
        assert old.execute("SELECT count(*) FROM accounts").fetchone() == (1,)
    old.close()


def _killed(tmp_path: Path) -> tuple[Path, str, str]:
    """A shop whose server was killed after a sale, so that the sale stands in the WAL.

    With the ledger's heads before it, as backed up in copy.db, and after it.
    """
    path = tmp_path / "shop.db"
    admin = open_shop(path)
    admin.users.add(EMAIL)
    before = files.backup(admin.desk.database, tmp_path / "copy.db").head
    with serve("--database", "shop.db", cwd=tmp_path, env=clean_env(tmp_path)) as server:
        admin.packs.sell(EMAIL, "starter")
        after = admin.ledger.verify().head
        admin.desk.database.close()
        server.process.kill()
        server.process.wait()
    return path, before, after


def _head(path: Path) -> str:
    admin = open_shop(None, database=Database.open(path))
    head = admin.ledger.verify().head
    admin.desk.database.close()
    return head


@pytest.mark.parametrize("by_link", [False, True], ids=["file", "symlink"])
def test_a_restore_takes_the_sales_that_stand_in_the_wal_beside_the_backup(tmp_path, by_link):
    path, _, head = _killed(tmp_path)
    saved = tmp_path / "saved"
    saved.mkdir()
    for side in ("", "-wal", "-shm"):
        shutil.copy2(f"{path}{side}", saved)
    before = {file.name: file.read_bytes() for file in saved.iterdir()}
    source = saved / "shop.db"
    if by_link:
        source = tmp_path / "link.db"
        source.symlink_to(saved / "shop.db")
    assert files.restore(path, source).head == head
    assert _head(path) == head
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before


def test_the_wal_of_a_database_that_is_gone_is_not_replayed_into_what_takes_its_place(tmp_path):
    path, before, _ = _killed(tmp_path)
    path.unlink()
    with pytest.raises(Refused, match=r"shop\.db-wal exists"):
        files.example(path)
    restored = files.restore(path, tmp_path / "copy.db", clock=lambda: 0.0)
    assert (restored.head, restored.kept) == (before, None)
    assert _head(path) == before
    assert (tmp_path / "shop.db.before-restore-19700101T000000-wal").stat().st_size > 0


def test_a_restore_looks_for_servers_by_their_locks_not_by_their_rows(tmp_path):
    admin = open_shop(tmp_path / "shop.db")
    files.backup(admin.desk.database, tmp_path / "copy.db")
    instance = Instance(admin.desk.database)
    instance.register()
    with admin.desk.database.transaction() as tx:
        tx.execute("DELETE FROM instances")
    assert whole_files.running_server(admin.desk.database) is not None
    with pytest.raises(Refused, match="a server runs"):
        files.restore(tmp_path / "shop.db", tmp_path / "copy.db")


def test_a_restore_from_a_database_that_is_served_is_refused(tmp_path):
    other = open_shop(tmp_path / "other.db").desk.database
    instance = Instance(other)
    instance.register()
    with pytest.raises(Refused, match=r"a server runs on .*other\.db"):
        files.restore(tmp_path / "shop.db", tmp_path / "other.db")
    instance.unregister()
    other.close()
    assert files.restore(tmp_path / "shop.db", tmp_path / "other.db").kept is None


async def test_a_key_that_expires_while_its_request_waits_for_the_database_gets_no_hold(tmp_path):
    """Expiry is checked inside the hold's transaction too, not only when the key was read."""
    async with open_front(tmp_path) as front:
        assert (await front.chat()).status_code == 200
        expires = int(time.time()) + 1
        front.shop.execute("UPDATE keys SET expires_at = ?", expires)
        assert (await front.chat()).status_code in (200, 401)
        other = sqlite3.connect(front.shop.database.path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        waiting = asyncio.ensure_future(front.chat())
        await asyncio.sleep(max(0.0, expires + 0.2 - time.time()))
        other.execute("ROLLBACK")
        other.close()
        assert (await waiting).status_code == 401


@dataclass
class Bad:
    """How a database is spoiled, and what the command line says of it."""

    name: str
    says: str

    def spoil(self, path: Path) -> Any:
        match self.name:
            case "missing":
                path.unlink()
            case "empty":
                path.write_bytes(b"")
            case "garbage":
                path.write_bytes(b"no database at all " * 400)
            case "foreign":
                path.unlink()
                with sqlite3.connect(path) as other:
                    other.execute("CREATE TABLE songs (title TEXT)")
                other.close()
            case "newer":
                with sqlite3.connect(path) as other:
                    other.execute("INSERT INTO migrations VALUES (99, 'tomorrow', 1)")
                other.close()
            case "older":
                with sqlite3.connect(path) as other:
                    other.execute("DELETE FROM migrations")
                other.close()


BADS = [
    Bad("missing", "sellapi init"),
    Bad("empty", "sellapi init"),
    Bad("garbage", "sellapi db restore"),
    Bad("foreign", "some other program"),
    Bad("newer", "newer sellapi"),
    Bad("older", "sellapi db migrate"),
]


@pytest.mark.parametrize("bad", BADS, ids=lambda bad: bad.name)
def test_the_command_line_says_what_is_wrong_with_the_database_and_what_to_do(tmp_path, bad):
    path = tmp_path / "sellapi.db"
    admin = open_shop(path)
    admin.desk.database.raw().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    admin.desk.database.close()
    bad.spoil(path)
    for words in (("users", "list"), ("serve", "--port", "0")):
        done = subprocess.run(
            [*SOURCE, *words],
            cwd=tmp_path,
            env=clean_env(tmp_path),
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == 1, done
        assert bad.says in done.stderr
        assert "Traceback" not in done.stderr


def test_the_audit_of_a_grant_that_pays_a_debt_says_how_the_account_stood(tmp_path):
    admin = open_shop(tmp_path / "shop.db")
    admin.users.add("debtor@example.com")
    admin.credits.deduct("debtor@example.com", "10005", reason="cheque bounced", allow_debt=True)
    admin.credits.grant("debtor@example.com", "20", reason="cash")
    with admin.desk.database.read() as tx:
        text = tx.value("SELECT before FROM audit ORDER BY id DESC LIMIT 1")
    assert json.loads(text) == {"balance": 0, "owed": 5_000_000}
