"""The write-ahead log is copied beside the writer: it stays small, and no commit fails by it."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
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
WRITTEN = COMMITS * TOGETHER


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "LOG_PAGES", 200)
    monkeypatch.setattr(checkpoint, "LEAST_PAGES", 100)
    monkeypatch.setattr(checkpoint, "REST_PAGES", 100)
    for module in (checkpoint, writer_module):
        monkeypatch.setattr(module, "MOST_PAGES", NEVER)


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
    """How long the log was at its longest: beyond the limit alone does the file shrink."""
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


@pytest.fixture
async def start(database: Database) -> AsyncIterator[Callable[[], Writer]]:
    """Starts a writer, and stops it at the end."""
    started: list[Writer] = []

    def start() -> Writer:
        started.append(Writer(database))
        started[-1].start()
        return started[-1]

    yield start
    for writer in started:
        assert await asyncio.to_thread(writer.stop)
    assert not {"sellapi-writer", "sellapi-checkpoint"} & {t.name for t in threading.enumerate()}


async def test_the_log_stays_short_while_it_is_written(
    database: Database, tmp_path: Path, start: Callable[[], Writer]
) -> None:
    await fill(start())
    assert (
        log_pages(database) < WRITTEN * 0.8
    )  # by a thread that may be late; without it, more than WRITTEN
    assert rows_in_the_file(database, tmp_path) > WRITTEN / 2


async def test_the_log_would_not_stay_short_by_itself(
    database: Database, start: Callable[[], Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "LOG_PAGES", NEVER)
    monkeypatch.setattr(checkpoint, "DISK_SHARE", 1)
    await fill(start())
    assert log_pages(database) > WRITTEN


async def test_the_estimate_is_put_right_by_what_the_log_has(
    database: Database, start: Callable[[], Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_FIRST_RATIO", 20.0)
    writer = start()
    await fill(writer)
    assert 0.5 < writer._checkpointer._ratio < 2.5  # each operation writes a page and a little


async def test_a_nearly_full_disk_gets_a_shorter_log(
    start: Callable[[], Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert start()._checkpointer._due == 200
    monkeypatch.setattr(checkpoint, "DISK_SHARE", 10**9)
    assert start()._checkpointer._due == 100


async def test_a_reader_that_pins_the_log_holds_nobody_up(
    database: Database, start: Callable[[], Writer]
) -> None:
    writer = start()
    await fill(writer, 1)
    reader = sqlite3.connect(database.path, isolation_level=None)
    reader.execute("BEGIN")
    seen = reader.execute("SELECT count(*) FROM blobs").fetchone()
    await asyncio.wait_for(fill(writer), 20)
    pinned = log_pages(database)
    assert pinned > WRITTEN  # nothing could start over
    assert reader.execute("SELECT count(*) FROM blobs").fetchone() == seen
    reader.execute("ROLLBACK")
    reader.close()
    await fill(writer)
    assert log_pages(database) < pinned + WRITTEN * 0.7


async def test_the_space_of_a_log_that_grew_long_is_given_back(
    database: Database, start: Callable[[], Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "MOST_PAGES", 500)
    writer = start()
    reader = sqlite3.connect(database.path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM blobs").fetchone()
    await fill(writer)
    assert log_pages(database) > WRITTEN
    reader.execute("ROLLBACK")
    reader.close()
    await fill(writer, 80)
    assert log_pages(database) < 2 * 500


async def test_a_log_that_cannot_be_copied_fails_no_commit(
    database: Database,
    start: Callable[[], Writer],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(checkpoint, "_COPY", "PRAGMA nothing(")
    monkeypatch.setattr(writer_module, "MOST_PAGES", 400)
    writer = start()
    with caplog.at_level(logging.WARNING):
        await fill(writer)
        writer._checkpointer._nearly = True
        await writer.submit(put)
        await writer.submit(put)  # the one before is wholly over
    assert writer.trouble() is None
    assert "the write-ahead log was not copied" in caplog.text
    assert "the end of the write-ahead log was not copied" in caplog.text
    assert log_pages(database) < WRITTEN / 2  # SQLite's own way, in a commit
    with database.read() as tx:
        assert tx.value("SELECT count(*) FROM blobs") == WRITTEN + 2


async def test_no_memory_for_a_copy_loses_no_operation_that_is_run_alone(
    database: Database, start: Callable[[], Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*_: Any) -> None:
        monkeypatch.undo()
        raise MemoryError

    writer = start()
    await writer.submit(put)
    monkeypatch.setattr(writer._checkpointer, "committed", stumble)
    bad = writer.submit(lambda _: 1 / 0)  # so that each is run alone
    good = [writer.submit(put, must=True) for _ in range(5)]
    await asyncio.wait_for(asyncio.wait(good), 5)
    with pytest.raises(ZeroDivisionError):
        await bad
    with database.read() as tx:
        assert tx.value("SELECT count(*) FROM blobs") == 6


async def test_a_slow_disk_slows_the_writer_down_before_the_log_is_long(
    database: Database, start: Callable[[], Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = checkpoint.Checkpointer._copy

    def slowly(self: checkpoint.Checkpointer) -> None:
        time.sleep(0.5)
        copy(self)

    monkeypatch.setattr(checkpoint.Checkpointer, "_copy", slowly)
    monkeypatch.setattr(checkpoint, "MOST_PAGES", 500)
    await fill(start(), 3 * COMMITS)
    assert (
        log_pages(database) < WRITTEN * 0.8
    )  # by a thread that may be late; without it, more than WRITTEN


async def test_a_full_disk_makes_the_log_start_over_in_the_space_it_has(
    database: Database, start: Callable[[], Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "LOG_PAGES", NEVER)
    monkeypatch.setattr(checkpoint, "DISK_SHARE", 1)
    writer = start()
    await fill(writer, 20)
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL  # as the driver raises it
    tries: list[int] = []

    def charge(tx: Tx) -> None:
        tries.append(log_pages(database))
        if len(tries) == 1:
            raise full
        put(tx)

    await asyncio.wait_for(writer.submit(charge, must=True), 5)
    await fill(writer, 15)
    assert log_pages(database) == tries[0]  # the same file serves


async def test_a_database_that_was_put_back_is_copied_too(
    database: Database, tmp_path: Path, start: Callable[[], Writer]
) -> None:
    writer = start()
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
    assert (
        log_pages(database) < WRITTEN * 0.8
    )  # by a thread that may be late; without it, more than WRITTEN
    assert rows_in_the_file(database, tmp_path) > WRITTEN
