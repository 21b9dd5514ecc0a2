"""The database in trouble while the server serves."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from bench.chaos.server import raw as limited
from sellapi.gateway import hold
from sellapi.storage import writer
from sellapi.storage.database import Database
from tests.support.fake_openai import Response, json_reply
from tests.support.shopfront import Front, completion, open_front


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "HOLD_PATIENCE_S", 0.2)
    monkeypatch.setattr(writer, "_BUSY_TIMEOUT_MS", 50)


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with open_front(tmp_path) as opened:
        assert (await opened.chat()).status_code == 200
        await opened.settled(1)
        yield opened


@contextmanager
def exclusive(path: Path):
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def _path(front: Front) -> Path:
    return front.shop.database.path


@asynccontextmanager
async def locked(front: Front):
    with exclusive(_path(front)):
        yield


@asynccontextmanager
async def full(front: Front):
    with sqlite3.connect(_path(front)) as connection:
        connection.execute("CREATE TABLE ballast (blank BLOB)")
        while connection.execute("PRAGMA freelist_count").fetchone()[0]:
            connection.execute("INSERT INTO ballast VALUES (zeroblob(4000))")
    flag = Path(f"{_path(front)}.full")  # see bench/chaos/server.py
    flag.touch()
    yield
    flag.unlink()


@asynccontextmanager
async def read_only(front: Front):
    # A file system mounted read-only, as root would not notice a mode: every new connection too.
    database = front.run.services.writer._database
    database.peewee.pragma("query_only", 1, permanent=True)
    await front.run.services.writer.submit(lambda tx: tx.execute("PRAGMA query_only = 1"))
    yield
    database.peewee.pragma("query_only", 0, permanent=True)


@asynccontextmanager
async def missing(front: Front):
    path = _path(front)
    path.rename(path.with_suffix(".aside"))
    yield
    path.with_suffix(".aside").rename(path)


@asynccontextmanager
async def replaced_by_garbage(front: Front):
    path = _path(front)
    keep, bad = path.with_suffix(".keep"), path.with_suffix(".bad")
    bad.write_bytes(b"this is not a database " * 4_000)
    await front.run.quiet()
    with front.shop.database.read() as tx:
        tx.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    front.shop.database.close()
    front.run.services.database.close()
    os.link(path, keep)
    bad.replace(path)
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    yield
    keep.replace(path)


@asynccontextmanager
async def newer(front: Front):
    front.shop.execute("CREATE TABLE of_tomorrow (x INTEGER) STRICT")
    front.shop.execute("INSERT INTO migrations VALUES (99, 'tomorrow', 1)")
    front.shop.execute("DROP TABLE of_tomorrow")
    yield
    front.shop.execute("DELETE FROM migrations WHERE number = 99")
    front.shop.execute("CREATE TABLE of_yesterday (x INTEGER) STRICT")


@asynccontextmanager
async def older(front: Front):
    rows = front.shop.rows("SELECT * FROM migrations ORDER BY number")
    front.shop.execute("DELETE FROM migrations WHERE number = ?", rows[-1]["number"])
    front.shop.execute("CREATE TABLE of_yesterday (x INTEGER) STRICT")
    yield
    front.shop.execute("INSERT INTO migrations VALUES (?, ?, ?)", *rows[-1].values())
    front.shop.execute("DROP TABLE of_yesterday")


TROUBLES = [locked, read_only, missing, replaced_by_garbage, newer, older]


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda t: t.__name__)
async def test_a_database_in_trouble_is_told_as_503_with_retry_after_and_passes(front, trouble):
    async with trouble(front):
        for _ in range(3):
            replies = await asyncio.gather(front.chat(), front.chat(), front.get("/credits"))
            for reply in replies[:2]:
                assert reply.status_code == 503, reply.text
                assert int(reply.headers["retry-after"]) > 0
                assert reply.json()["error"]["type"] == "overloaded"
            assert replies[2].status_code in (200, 503)  # reading may still work
        ready = await front.http.get(f"{front.run.origin}/ready")
        assert ready.status_code == (
            503 if trouble not in (locked, read_only) else ready.status_code
        )
    for _ in range(100):
        if (reply := await front.chat()).status_code == 200:
            break
        await asyncio.sleep(0.05)
    assert reply.status_code == 200
    await front.settled(2)
    assert (await front.http.get(f"{front.run.origin}/ready")).status_code == 200


async def test_an_unknown_key_is_503_not_401_while_the_database_cannot_be_read(front):
    async with missing(front):
        reply = await front.chat(key="sk-sellapi-" + "A" * 43)
    assert reply.status_code == 503


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda t: t.__name__)
async def test_a_charge_accepted_before_the_trouble_is_taken_once_after_it(front, trouble):
    before = front.balance()
    front.fake.script("/chat/completions", _late())
    answer = asyncio.ensure_future(front.chat())
    await _held(front)
    async with trouble(front):
        await asyncio.sleep(0.6)
    reply = await answer
    assert reply.status_code == 200
    assert reply.headers["x-sellapi-credits-charged"] == "2"
    await front.settled(2)
    assert before - front.balance() == 2_000_000


async def test_a_full_database_refuses_new_requests_and_keeps_running_charges(front, monkeypatch):
    monkeypatch.setattr(hold, "SETTLE_WAIT_S", 0.5)
    monkeypatch.setattr(Database, "raw", limited)
    before = front.balance()
    front.fake.script("/chat/completions", _late())
    answer = asyncio.ensure_future(front.chat())
    await _held(front)
    front.fake.script("/chat/completions", json_reply(completion()))
    async with full(front):
        statuses = set()
        for _ in range(400):  # until the last free page is used
            statuses.add((await front.chat()).status_code)
            if 503 in statuses:
                break
        assert 503 in statuses
        assert statuses <= {200, 429, 503}
    assert (await answer).status_code == 200
    rows = await front.settled(2)
    assert before - front.balance() == sum(r["charge"] for r in rows[1:])


async def test_an_answer_whose_charge_cannot_be_recorded_in_time_is_withheld(front, monkeypatch):
    """The client is told so, the charge is written later and marked as undelivered."""
    monkeypatch.setattr(hold, "SETTLE_WAIT_S", 0.2)
    front.fake.script("/chat/completions", _late())
    whole = asyncio.ensure_future(front.chat())
    streamed = asyncio.ensure_future(front.chat(stream=True))
    await _held(front, 2)
    async with locked(front):
        reply, stream = await whole, await streamed
    assert reply.status_code == 503
    assert reply.headers["x-should-retry"] == "false"
    assert stream.status_code == 503 or "[DONE]" not in stream.text
    rows = await front.settled(3)
    for _ in range(100):
        rows = front.requests()
        if [r["delivery"] for r in rows[1:]] == [2, 2]:
            break
        await asyncio.sleep(0.02)
    assert [(r["state"], r["delivery"]) for r in rows[1:]] == [("settled", 2)] * 2


async def test_a_restored_copy_takes_the_place_of_a_deleted_file(front, tmp_path):
    """A connection to the deleted file must not go on selling from it."""
    path = _path(front)
    copy = tmp_path / "copy.db"
    with sqlite3.connect(path) as live, sqlite3.connect(copy) as target:
        live.backup(target)
    live.close()
    target.close()
    shutil.copy(path, tmp_path / "old.db")
    copy.replace(path)
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    reply = await front.chat()
    assert reply.status_code == 200
    await front.run.quiet()
    with sqlite3.connect(path) as fresh:
        count = fresh.execute("SELECT count(*) FROM entries WHERE kind = 'charge'").fetchone()
    fresh.close()
    assert count == (2,)


def _late() -> Response:
    reply = json_reply(completion())
    reply.before_s = 0.3
    return reply


async def _held(front: Front, count: int = 1) -> None:
    for _ in range(200):
        if front.shop.value("SELECT count(*) FROM requests WHERE state = 'held'") == count:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("no hold")
