"""The server's own records: instances and their locks, the status row, counters, request history."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peewee import JOIN

from sellapi.storage import ledger, reports
from sellapi.storage.chains import page_of_account
from sellapi.storage.database import Database, Tx
from sellapi.storage.tables import Entry, Price, Request

__all__ = ["Instance", "MinuteStats", "flush_stats", "list_requests", "read_receipt", "sweep_dead"]


class Instance:
    """A server process: a row with a random id and an OS lock on a file beside the database.

    The process is dead when somebody else can take the lock; the kernel lets go of it however the
    process ended.
    """

    def __init__(self, database: Database) -> None:
        self.id = os.urandom(8).hex()
        self._database = database
        self._path = lock_path(database.path, self.id)
        self._fd: int | None = None

    def register(self) -> None:
        """Take the lock, then write the row (in this order: a row always has a lock to test)."""
        self._fd = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        now = int(time.time())
        with self._database.transaction() as tx:
            tx.execute(
                "INSERT INTO instances (id, pid, host, started_at, status_at) VALUES (?,?,?,?,?)",
                (self.id, os.getpid(), socket.gethostname(), now, now),
            )

    def unregister(self) -> None:
        """Remove the row and the lock after a clean end (nothing is open any more)."""
        if self._fd is None:
            return
        with self._database.transaction() as tx:
            open_requests = tx.value(
                "SELECT 1 FROM requests WHERE instance_id = ? AND delivery = 0", (self.id,)
            )
            if not open_requests:
                tx.execute("DELETE FROM instances WHERE id = ?", (self.id,))
        os.close(self._fd)
        self._fd = None
        if not open_requests:
            self._path.unlink(missing_ok=True)


def lock_path(database: Path, instance_id: str) -> Path:
    return database.with_name(f"{database.name}-instance-{instance_id}.lock")


def _is_dead(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(fd)


def sweep_dead(database: Database, own_id: str | None = None) -> int:
    """Void the holds of instances that are dead; returns how many requests were touched.

    In chunks, so that a running server never waits long for the write lock.
    """
    with database.read() as tx:
        # Holds may name an instance without a row: the file was restored while it was serving.
        ids = [
            row[0]
            for row in tx.execute(
                "SELECT id FROM instances UNION SELECT instance_id FROM requests WHERE delivery = 0"
            )
        ]
    swept = 0
    for instance_id in ids:
        if instance_id == own_id or not _is_dead(lock_path(database.path, instance_id)):
            continue
        while True:
            with database.transaction() as tx:
                count = ledger.sweep(tx, instance_id, now_ms=int(time.time() * 1000))
                if not count:
                    tx.execute("DELETE FROM instances WHERE id = ?", (instance_id,))
            swept += count
            if not count:
                break
        lock_path(database.path, instance_id).unlink(missing_ok=True)
    return swept


# -- statistics: in memory, flushed once a second in the writer's batch ------------------------


@dataclass(slots=True)
class MinuteStats:
    """Sums of one minute; latency in milliseconds to the last byte."""

    requests: int = 0
    errors: int = 0
    tokens: int = 0
    charged: int = 0
    cost: int = 0
    latency_ms_sum: int = 0
    latency_ms_max: int = 0


def flush_stats(
    tx: Tx,
    instance_id: str,
    status: Mapping[str, Any],
    minutes: Mapping[int, MinuteStats],
    rejections: Mapping[tuple[int, str], int],
) -> None:
    """Write the status row, add what happened since the last flush, sum up a day that is over."""
    tx.execute(
        "UPDATE instances SET status = ?, status_at = ? WHERE id = ?",
        (json.dumps(status), int(time.time()), instance_id),
    )
    for minute, s in minutes.items():
        tx.execute(
            "INSERT INTO minutes VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (minute) DO UPDATE "
            "SET requests = requests + excluded.requests, errors = errors + excluded.errors, "
            "tokens = tokens + excluded.tokens, charged = charged + excluded.charged, "
            "cost = cost + excluded.cost, "
            "latency_ms_sum = latency_ms_sum + excluded.latency_ms_sum, "
            "latency_ms_max = max(latency_ms_max, excluded.latency_ms_max)",
            (minute, s.requests, s.errors, s.tokens, s.charged, s.cost)
            + (s.latency_ms_sum, s.latency_ms_max),
        )
    for (minute, kind), count in rejections.items():
        tx.execute(
            "INSERT INTO rejections VALUES (?, ?, ?) ON CONFLICT (minute, kind) DO UPDATE SET "
            "count = count + excluded.count",
            (minute, kind, count),
        )
    reports.sum_up(tx, int(time.time()))


# -- request history ---------------------------------------------------------------------------


def _receipts() -> Any:
    """Requests with their entries and prices."""
    entry, back = Entry.alias(), Entry.alias()
    charged = (entry.request_id == Request.request_id) & (entry.kind == "charge")
    returned = (back.request_id == Request.request_id) & (back.kind == "charge_refund")
    query = Request.select(
        Request,
        entry.id.alias("entry_id"),
        entry.amount.alias("entry_amount"),
        entry.owed_change.alias("entry_owed"),
        entry.balance_after.alias("entry_balance_after"),
        back.amount.alias("refunded"),
        Price.prices,
    )
    query = query.join(entry, JOIN.LEFT_OUTER, on=charged).switch(Request)
    return query.join(back, JOIN.LEFT_OUTER, on=returned).switch(Request).join(Price)


def list_requests(
    tx: Tx, account_id: int, *, before: int | None, limit: int
) -> list[dict[str, Any]]:
    """An account's requests, newest first; ``before`` is the row id of the last page's last.

    Raises `LookupError` when that row is another account's. When it was pruned, so is what is older.
    """
    if before is not None:
        owner = tx.value(Request.select(Request.account).where(Request.id == before))
        if owner is None:
            return []
        if owner != account_id:
            raise LookupError(f"request {before} is another account's")
    return page_of_account(tx, _receipts(), Request, account_id, before=before, limit=limit)


def read_receipt(tx: Tx, request_id: str, account_id: int | None = None) -> dict[str, Any] | None:
    """One request with its prices and ledger entry; only the account's own when one is named."""
    row = tx.one(_receipts().where(Request.request_id == request_id))
    if row is None or (account_id is not None and row["account_id"] != account_id):
        return None
    return row
