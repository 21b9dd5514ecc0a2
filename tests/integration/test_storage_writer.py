"""The writer: one batch, one commit; a poisoned operation fails alone; charges wait out trouble."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sellapi.errors import DatabaseUnavailable
from sellapi.storage import writer as writer_module
from sellapi.storage.database import Database, Tx
from sellapi.storage.writer import Writer

ROWS = "SELECT id FROM retention_test ORDER BY rowid"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "HOLD_PATIENCE_S", 0.2)
    monkeypatch.setattr(writer_module, "_BUSY_TIMEOUT_MS", 20)


@pytest.fixture
async def writer(tmp_path: Path) -> AsyncIterator[Writer]:
    database = Database.create(tmp_path / "w.db")
    with database.transaction() as tx:
        tx.execute("CREATE TABLE retention_test (id INTEGER NOT NULL UNIQUE) STRICT")
    writer = Writer(database)
    writer.start()
    yield writer
    await asyncio.to_thread(writer.stop)
    database.close()


def rows(writer: Writer) -> list[int]:
    other = sqlite3.connect(writer._database.path)
    try:
        return [row[0] for row in other.execute(ROWS)]
    finally:
        other.close()


def put(number: int) -> Any:
    def op(tx: Tx) -> int:
        tx.execute("INSERT INTO retention_test VALUES (?)", (number,))
        return number

    return op


@contextmanager
def locked(writer: Writer) -> Any:
    other = sqlite3.connect(writer._database.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


class Gate:
    """An operation that keeps the writer busy, so that what follows becomes one batch."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def __call__(self, tx: Tx) -> None:
        self.go.wait(5)


async def test_what_waits_is_one_transaction(writer: Writer) -> None:
    gate = Gate()
    first = writer.submit(gate)
    await asyncio.sleep(0.05)  # the gate is in a batch of its own by now
    many = [writer.submit(put(n)) for n in range(50)]
    seen: list[list[int]] = []
    writer.submit(lambda tx: seen.append(rows(writer)))  # by another connection, in the batch
    gate.go.set()
    await first
    assert await asyncio.gather(*many) == list(range(50))
    assert seen == [[]]  # nothing was committed yet
    assert rows(writer) == list(range(50))


async def test_what_one_turn_of_the_loop_submits_is_one_transaction(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "LATER_S", 5)
    await writer.submit(put(0))
    while not writer._asleep:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    seen: list[list[int]] = []
    for n in (1, 2, 3):
        writer.submit(put(n))
        time.sleep(0.01)  # the thread could take it by now
    await writer.submit(lambda tx: seen.append(rows(writer)))
    assert seen == [[0]]
    assert rows(writer) == [0, 1, 2, 3]


async def test_a_poisoned_operation_fails_alone_and_the_rest_keeps_its_order(
    writer: Writer,
) -> None:
    def poison(_: Tx) -> None:
        raise LookupError("poison")

    gate = Gate()
    first = writer.submit(gate)
    before = [writer.submit(put(n)) for n in (1, 2)]
    bad = writer.submit(poison)
    twice = writer.submit(put(1))
    must = writer.submit(poison, must=True)
    after = [writer.submit(put(n), must=True) for n in (3, 4)]
    gate.go.set()
    await first
    assert await asyncio.gather(*before, *after) == [1, 2, 3, 4]
    for future, error in ((bad, LookupError), (twice, sqlite3.IntegrityError), (must, LookupError)):
        with pytest.raises(error):
            await future
    assert rows(writer) == [1, 2, 3, 4]
    assert writer.trouble() is None


async def test_half_of_a_poisoned_operation_is_undone(writer: Writer) -> None:
    def half(tx: Tx) -> None:
        tx.execute("INSERT INTO retention_test VALUES (7)")
        raise ValueError

    gate = Gate()
    writer.submit(gate)
    bad, good = writer.submit(half), writer.submit(put(8))
    gate.go.set()
    assert await good == 8
    with pytest.raises(ValueError):
        await bad
    assert rows(writer) == [8]


async def test_while_locked_what_may_fail_fails_and_what_must_waits_in_order(
    writer: Writer,
) -> None:
    with locked(writer):
        must = [writer.submit(put(n), must=True) for n in (1, 2)]
        may = writer.submit(put(3))
        with pytest.raises(DatabaseUnavailable, match="locked"):
            await asyncio.wait_for(may, 3)
        late = writer.submit(put(4), must=True)
        await asyncio.sleep(0.15)
        assert not any(f.done() for f in (*must, late))
    assert await asyncio.wait_for(asyncio.gather(*must, late), 3) == [1, 2, 4]
    assert rows(writer) == [1, 2, 4]
    assert writer.trouble() is None


async def test_a_short_lock_is_waited_out_by_everything(writer: Writer) -> None:
    with locked(writer):
        may = writer.submit(put(1))
        await asyncio.sleep(0.08)
    assert await asyncio.wait_for(may, 3) == 1


async def test_a_charge_that_is_overdue_stops_new_holds(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "OVERDUE_S", 0.1)
    with locked(writer):
        charge = writer.submit(put(1), must=True)
        assert writer.trouble() is None
        await asyncio.sleep(0.3)
        for _ in range(40):  # while it is tried again, too
            trouble = writer.trouble()
            assert trouble is not None
            assert "locked" in str(trouble)
            await asyncio.sleep(0.005)
    await asyncio.wait_for(charge, 3)
    assert writer.trouble() is None


async def test_a_commit_that_hangs_stops_new_holds(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "OVERDUE_S", 0.1)
    gate = Gate()
    first = writer.submit(gate, must=True)
    await asyncio.sleep(0.05)
    assert writer.trouble() is None
    await asyncio.sleep(0.1)
    assert writer.trouble() is not None
    gate.go.set()
    await first
    assert writer.trouble() is None


async def test_a_charge_that_finds_no_memory_waits_and_the_rest_does_not(writer: Writer) -> None:
    short = [True]

    def needs_memory(number: int) -> Any:
        def op(tx: Tx) -> int:
            if short:
                raise MemoryError  # what the driver makes of SQLITE_NOMEM
            return int(put(number)(tx))

        return op

    gate = Gate()
    writer.submit(gate)
    charge = writer.submit(needs_memory(1), must=True)
    hold = writer.submit(needs_memory(2))
    other = writer.submit(put(3), must=True)
    gate.go.set()
    assert await asyncio.wait_for(other, 3) == 3
    with pytest.raises(DatabaseUnavailable, match="memory"):
        await asyncio.wait_for(hold, 3)
    assert not charge.done()
    short.clear()
    assert await asyncio.wait_for(charge, 3) == 1
    assert rows(writer) == [3, 1]
    assert writer.trouble() is None


async def test_low_disk_stops_new_holds(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "FREE_DISK_BYTES", 10**18)
    trouble = writer.trouble()
    assert trouble is not None
    assert "disk" in str(trouble)
    assert await writer.submit(put(1), must=True) == 1  # running requests still settle


async def test_a_connection_that_became_read_only_is_replaced(writer: Writer) -> None:
    await writer.submit(lambda tx: tx.connection.execute("PRAGMA query_only = 1") and None)
    may, must = writer.submit(put(1)), writer.submit(put(2), must=True)
    assert await asyncio.wait_for(asyncio.gather(may, must), 3) == [1, 2]
    assert rows(writer) == [1, 2]
    assert writer.trouble() is None


async def test_a_forgotten_or_cancelled_future_changes_nothing(writer: Writer) -> None:
    writer.submit(put(1)).cancel()
    writer.submit(put(2), must=True)
    writer.submit(put(1))  # fails, and nobody asks
    await writer.submit(put(3))
    assert rows(writer) == [1, 2, 3]


async def test_posted_operations_ride_behind_what_was_submitted_before(writer: Writer) -> None:
    order: list[str] = []
    for n in range(300):
        writer.submit(lambda tx, n=n: order.append(f"settle {n}"), must=True)
        writer.post(lambda tx, n=n: order.append(f"mark {n}"))
    begun = time.monotonic()
    while len(order) < 600 and time.monotonic() - begun < 5:
        await asyncio.sleep(0.01)
    assert len(order) == 600
    for n in range(300):
        assert order.index(f"settle {n}") < order.index(f"mark {n}")


async def test_stopping_writes_everything_first(tmp_path: Path) -> None:
    database = Database.create(tmp_path / "s.db")
    with database.transaction() as tx:
        tx.execute("CREATE TABLE retention_test (id INTEGER NOT NULL UNIQUE) STRICT")
    writer = Writer(database)
    writer.start()
    for n in range(2_000):
        writer.submit(put(n), must=True)
    writer.post(put(2_000))
    assert await asyncio.to_thread(writer.stop)
    assert rows(writer) == list(range(2_001))


async def test_stopping_while_locked_gives_up_in_the_end_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "OVERDUE_S", 0.1)
    database = Database.create(tmp_path / "g.db")
    writer = Writer(database)
    writer.start()
    with locked(writer):
        writer.submit(lambda tx: None, must=True)
        assert await asyncio.to_thread(writer.stop) is False


async def test_stopping_in_the_middle_of_a_long_trouble_waits_for_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "OVERDUE_S", 0.2)
    database = Database.create(tmp_path / "m.db")
    with database.transaction() as tx:
        tx.execute("CREATE TABLE retention_test (id INTEGER NOT NULL UNIQUE) STRICT")
    writer = Writer(database)
    writer.start()
    with locked(writer):
        writer.submit(put(1), must=True)
        await asyncio.sleep(0.5)  # longer than a stop waits
        stopped = asyncio.create_task(asyncio.to_thread(writer.stop))
        await asyncio.sleep(0.2)
    assert await stopped
    assert rows(writer) == [1]


async def test_the_breath_after_a_crowd_ends_when_most_of_it_is_back(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "BREATH_S", 1.0)

    async def crowd(numbers: range) -> float:
        begun = time.monotonic()
        await asyncio.gather(*(writer.submit(put(n)) for n in numbers))
        return time.monotonic() - begun

    await crowd(range(100))
    assert await crowd(range(100, 180)) < 0.5
    assert await crowd(range(180, 181)) > 0.8  # few of them: the whole breath
    assert await crowd(range(181, 182)) < 0.5  # after one alone there is none


async def test_stopping_ends_a_breath(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "BREATH_S", 20.0)
    await asyncio.gather(*(writer.submit(put(n)) for n in range(100)))
    begun = time.monotonic()
    assert await asyncio.to_thread(writer.stop)
    assert time.monotonic() - begun < 5
