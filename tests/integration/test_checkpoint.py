"""The write-ahead log is copied beside the writer: it stays small, and no commit fails by it."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sellapi.storage import checkpoint
from sellapi.storage import writer as writer_module
from sellapi.storage.database import Database, Tx
from sellapi.storage.writer import Writer

PAGE = 4_096
NEVER = 1_000_000
COMMITS, TOGETHER = 100, 20


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "LOG_PAGES", 200)
    monkeypatch.setattr(checkpoint, "REST_PAGES", 100)
    monkeypatch.setattr(writer_module, "BACKSTOP_PAGES", NEVER)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database.create(tmp_path / "c.db")
    with database.transaction() as tx:
        tx.execute("CREATE TABLE blobs (id INTEGER PRIMARY KEY, blob BLOB NOT NULL) STRICT")
    yield database
    database.close()


def put(tx: Tx) -> None:
    """More than a page."""
    tx.execute("INSERT INTO blobs (blob) VALUES (zeroblob(?))", (PAGE,))


async def fill(writer: Writer, commits: int = COMMITS) -> None:
    for _ in range(commits):
        await asyncio.gather(*(writer.submit(put) for _ in range(TOGETHER)))


def log_pages(database: Database) -> int:
    """How long the log ever was: the file does not shrink while it is open."""
    return database.path.with_name(f"{database.path.name}-wal").stat().st_size // PAGE


def rows_in_the_file(database: Database, folder: Path) -> int:
    """Of the database file alone, without the log."""
    alone = folder / "alone.db"
    shutil.copyfile(database.path, alone)
    connection = sqlite3.connect(alone)
    try:
        return int(connection.execute("SELECT count(*) FROM blobs").fetchone()[0])
    finally:
        connection.close()
        alone.unlink()


async def stopped(writer: Writer) -> None:
    assert await asyncio.to_thread(writer.stop)
    assert not {"sellapi-writer", "sellapi-checkpoint"} & {t.name for t in threading.enumerate()}


async def test_the_log_stays_short_while_it_is_written(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = COMMITS * TOGETHER
    writer = Writer(database)
    writer.start()
    await fill(writer)
    assert log_pages(database) < written / 2
    assert rows_in_the_file(database, tmp_path) > written / 2
    await stopped(writer)

    monkeypatch.setattr(checkpoint, "LOG_PAGES", NEVER)
    writer = Writer(database)
    writer.start()
    await fill(writer)
    assert log_pages(database) > written  # it would not by itself
    await stopped(writer)


async def test_a_reader_that_pins_the_log_holds_nobody_up(database: Database) -> None:
    writer = Writer(database)
    writer.start()
    await fill(writer, 1)
    reader = sqlite3.connect(database.path, isolation_level=None)
    reader.execute("BEGIN")
    seen = reader.execute("SELECT count(*) FROM blobs").fetchone()
    await asyncio.wait_for(fill(writer), 20)
    pinned = log_pages(database)
    assert pinned > COMMITS * TOGETHER  # nothing could start over
    assert reader.execute("SELECT count(*) FROM blobs").fetchone() == seen
    reader.execute("ROLLBACK")
    reader.close()
    await fill(writer)
    assert log_pages(database) < pinned + COMMITS * TOGETHER * 0.7
    await stopped(writer)


async def test_a_log_that_cannot_be_copied_fails_no_commit(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checkpoint, "_COPY", "PRAGMA nothing(")
    monkeypatch.setattr(writer_module, "BACKSTOP_PAGES", 400)
    writer = Writer(database)
    writer.start()
    with caplog.at_level(logging.WARNING):
        await fill(writer)
        writer._checkpointer._nearly = True
        await writer.submit(put)
    assert writer.trouble() is None
    assert "the write-ahead log was not copied" in caplog.text
    assert "the end of the write-ahead log was not copied" in caplog.text
    assert log_pages(database) < COMMITS * TOGETHER / 2  # the backstop
    await stopped(writer)
    with database.read() as tx:
        assert tx.value("SELECT count(*) FROM blobs") == COMMITS * TOGETHER + 1


async def test_a_database_that_was_put_back_is_copied_too(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = Writer(database)
    writer.start()
    await fill(writer)
    backup: Any = sqlite3.connect(tmp_path / "b.db")
    with database.read() as tx:
        tx.connection.backup(backup)
    backup.execute("PRAGMA journal_mode = WAL")
    backup.close()
    database.close()
    for name in ("c.db-wal", "c.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "b.db").rename(tmp_path / "c.db")
    await fill(writer)
    assert log_pages(database) < COMMITS * TOGETHER / 2
    assert rows_in_the_file(database, tmp_path) > COMMITS * TOGETHER
    await stopped(writer)
