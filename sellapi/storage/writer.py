"""One writer thread per process, with group commit.

An operation is a plain function handed to the writer: ``op(tx) -> result``. `submit` enqueues it by
a plain call (nothing to cancel) and returns a future that may be awaited or forgotten. The thread
takes all that is waiting (at most `BATCH`), runs it in one transaction, commits once (one fdatasync)
and resolves the futures by one wake-up of the event loop.

What comes with every request is handed over as its figures and the function that takes many of them
together (`TOGETHER`): a handful of statements a batch instead of ten a request. Each statement lets
go of the interpreter's lock, and the busy event loop gives it back late.

A batch that fails is rolled back and its operations are replayed one by one, by the same functions,
so that one poisoned operation fails alone. An operation submitted with ``must=True`` (settle, void)
is kept and retried until the database takes it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar, overload

import msgspec

from sellapi.errors import DatabaseUnavailable, SchemaMismatch, StorageError
from sellapi.storage import ledger
from sellapi.storage.checkpoint import MOST_PAGES, PAGE_BYTES, Checkpointer
from sellapi.storage.database import (
    Database,
    Tx,
    check_schema,
    explain_trouble,
    is_full,
    is_transient,
)

__all__ = ["Writer"]

log = logging.getLogger(__name__)

T = TypeVar("T")
Op = Callable[[Tx], Any]
Together = Callable[[Tx, Any], list[T]]
"""Runs many operations, a list of their figures, and gives the result of each in their order."""

TOGETHER: tuple[Together[Any] | None, ...] = (
    ledger.settle_all,
    ledger.hold_all,
    None,
    ledger.mark_all,
)
"""In this order a batch runs; None stands for its plain operations. Settlements free credits that
holds may take. A hold that was given up is voided by a plain operation, which must find it; and a
mark must find its settlement."""
_KNOWN = frozenset(TOGETHER)
BATCH = 512
OVERDUE_S = 10.0
"""A settlement that waits longer than this stops new holds."""
HOLD_PATIENCE_S = 5.0
"""How long an operation that may fail waits for a busy database."""
FREE_DISK_BYTES = 64 * 1024 * 1024
"""New holds are refused when less than this is free beside the database."""
_BUSY_TIMEOUT_MS = 1_000
_PAUSE_S = 0.05
LATER_S = 0.05
CROWD = 24
"""After a batch of so many operations the thread takes a breath, until most of those who waited for it
have come back with their next: a commit costs nearly the same for few as for many. One caller alone
never waits for it."""
BREATH_S = 0.006
"""The longest breath."""


class _Job(msgspec.Struct):
    op: Any
    """The operation, or the figures ``together`` takes."""
    together: Together[Any] | None
    """One of `TOGETHER`."""
    future: asyncio.Future[Any] | None
    must: bool
    after: int = 0
    """How many submitted operations it must not overtake."""
    since: float = msgspec.field(default_factory=time.monotonic)


class Writer:
    """The process's writer; `start` it inside the event loop, `stop` it after the last request."""

    def __init__(self, database: Database) -> None:
        # Its own handle: its busy timeout is short, since waiting is decided here; and what a
        # statement over many rows would undo stays in memory, not in a file, beyond 16 pages.
        self._database = Database(
            database.path,
            busy_timeout_ms=_BUSY_TIMEOUT_MS,
            pragmas={
                "temp_store": "memory",
                "wal_autocheckpoint": MOST_PAGES,
                "journal_size_limit": MOST_PAGES * PAGE_BYTES,  # a backup may make the log longer
            },
        )
        self._checkpointer = Checkpointer(database)
        self._waiting: deque[_Job] = deque()
        self._later: deque[_Job] = deque()
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._asleep = False
        self._wanted = 1
        """How many must wait before the sleeping thread is woken."""
        self._waking = False
        self._stopping = False
        self._stopping_since = math.inf
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watched: dict[asyncio.Future[Any], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._look_at = math.inf
        self._retry: list[_Job] = []
        self._oldest = math.inf
        """Since when the oldest of what the thread has in hand waits, also while it is tried."""
        self._trouble: StorageError | None = None
        self._schema_cookie: int | None = None
        self._mismatch: SchemaMismatch | None = None
        self._submitted = 0
        self._taken = 0
        self._free_disk_checked = 0.0
        self._disk_low = False

    # -- the event loop's side -----------------------------------------------------------------

    def start(self) -> None:
        """Start the thread; results are delivered to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="sellapi-writer", daemon=True)
        self._thread.start()
        self._checkpointer.start()

    @overload
    def submit(self, op: Callable[[Tx], T], *, must: bool = False) -> asyncio.Future[T]: ...

    @overload
    def submit(
        self, op: Any, together: Together[T], *, must: bool = False
    ) -> asyncio.Future[T]: ...

    def submit(
        self, op: Any, together: Together[Any] | None = None, *, must: bool = False
    ) -> asyncio.Future[Any]:
        """Enqueue an operation, or the figures that one of `TOGETHER` takes; a future of its result.

        Raises nothing here. The future fails with `DatabaseUnavailable` when the database stays in
        trouble (never for ``must`` operations) or with what the operation raised.
        """
        assert self._loop is not None, "the writer was not started"
        future = self._loop.create_future()
        self._submitted += 1
        self._waiting.append(_Job(op, together, future, must))
        if not self._waking:
            self._waking = True
            self._loop.call_soon(self._wake_thread)
        return future

    def _wake_thread(self) -> None:
        """Behind what the loop has to do now: woken at once, the thread commits the first alone."""
        self._waking = False
        self._ring()

    def _ring(self) -> None:
        if self._asleep and (len(self._waiting) >= self._wanted or self._stopping):
            self._asleep = False
            self._bell.put(None)

    def post(self, op: Any, together: Together[Any] | None = None) -> None:
        """Enqueue a ``must`` operation nobody waits for: it rides with the next batch.

        It costs no commit of its own unless nothing else comes within `LATER_S`.
        """
        self._later.append(_Job(op, together, None, must=True, after=self._submitted))

    async def within(self, seconds: float, future: asyncio.Future[T]) -> T:
        """The result of what was submitted; raises `TimeoutError`, while the operation goes on.

        One timer for all who wait; it stands when they have ended.
        """
        assert self._loop is not None, "the writer was not started"
        self._watched[future] = due = self._loop.time() + seconds
        if due < self._look_at:
            self._look_later(due)
        try:
            return await future
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise TimeoutError from None
        finally:
            self._watched.pop(future, None)

    def _look_later(self, due: float) -> None:
        assert self._loop is not None
        if self._timer is not None:
            self._timer.cancel()
        self._look_at = due
        self._timer = self._loop.call_at(due, self._give_up)

    def _give_up(self) -> None:
        assert self._loop is not None
        self._timer, self._look_at = None, math.inf
        now = self._loop.time()
        for future in [f for f, due in self._watched.items() if due <= now]:
            del self._watched[future]
            future.cancel()
        if self._watched:
            self._look_later(min(self._watched.values()))

    def trouble(self) -> StorageError | None:
        """Why no new hold should be taken now, or None.

        A settlement overdue by `OVERDUE_S`, too little free disk, a schema that is not ours.
        """
        if self._mismatch is not None:
            return self._mismatch
        now = time.monotonic()
        # Not by `_retry`: it is empty most of the time that a busy database is waited for.
        if now - self._oldest > OVERDUE_S:
            return self._trouble or DatabaseUnavailable(
                "the database does not take settlements now"
            )
        if now - self._free_disk_checked > 1.0:
            self._free_disk_checked = now
            try:
                stat = os.statvfs(self._database.path.parent)
                self._disk_low = stat.f_bavail * stat.f_frsize < FREE_DISK_BYTES
            except OSError:
                self._disk_low = False
        if self._disk_low:
            return DatabaseUnavailable("the database is short of disk space; free some")
        return None

    def stop(self, timeout_s: float = 30.0) -> bool:
        """Finish what was submitted and end the thread; False when something could not be written.

        Blocking: call it after the event loop's last request.
        """
        if self._thread is None:
            return True
        self._stopping_since = time.monotonic()
        self._stopping = True
        self._ring()
        self._thread.join(timeout_s)
        self._checkpointer.stop()
        done = not self._thread.is_alive() and not (self._retry or self._waiting or self._later)
        if not done:
            log.critical(
                "the writer stopped with settlements unwritten; they are void at next start"
            )
        return done

    # -- the thread's side ---------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                self._write()
            except Exception:  # nothing may end this thread: all charges go through it
                log.critical("the writer stumbled and goes on", exc_info=True)
                time.sleep(_PAUSE_S)
            else:
                return

    def _write(self) -> None:
        """Until `stop`."""
        tx: Tx | None = None
        while True:
            self._oldest = self._retry[0].since if self._retry else math.inf
            if not (self._waiting or self._retry):
                if self._stopping and not self._later:
                    break
                self._sleep(1, LATER_S)
            try:
                tx = self._same_or_new(tx)
            except StorageError as error:
                tx = None
                self._fail_or_keep(self._take(), error)
            else:
                if self._retry:
                    self._commit(tx, self._retry_batch())
                    if self._trouble is None and self._retry:
                        continue  # the trouble is over: first what waited through it
                if not self._retry:
                    taken = self._taken
                    batch = self._take()
                    if batch:
                        self._oldest = batch[0].since
                        self._commit(tx, batch)
                        if len(batch) >= CROWD:
                            self._sleep((self._taken - taken) * 3 // 4, BREATH_S)
                    continue
            # Still in trouble: what came later stays behind what came first, and whoever waited
            # long enough is told.
            waited, self._retry = self._retry, []
            trouble = self._trouble or DatabaseUnavailable("the database is not available")
            self._fail_or_keep(waited + self._take(), trouble)
            if self._stopping and self._given_up():
                break
            time.sleep(_PAUSE_S)
        self._database.forget()

    def _sleep(self, wanted: int, seconds: float) -> None:
        """Until so many operations wait, or the time is over.

        By a queue, whose `get` and `put` are C: an Event's are dozens of lines of Python, and here
        they would stand between a request and its hold.
        """
        self._wanted = wanted
        self._asleep = True
        if not (len(self._waiting) >= wanted or self._stopping):
            with suppress(Empty):
                self._bell.get(timeout=seconds)
        self._asleep = False

    def _same_or_new(self, tx: Tx | None) -> Tx:
        """The connection of the last batch, or a new one after trouble with the file."""
        connection = self._database.raw()
        if tx is not None and tx.connection is connection:
            return tx
        self._schema_cookie = None
        return Tx(connection)

    def _begin(self, tx: Tx) -> None:
        """Begin a transaction; look again at the schema when somebody changed it."""
        tx.execute("BEGIN IMMEDIATE")
        tx.fresh()
        cookie = tx.execute("PRAGMA schema_version").fetchone()[0]
        if cookie != self._schema_cookie:
            self._mismatch = None
            try:
                check_schema(tx)
            except SchemaMismatch as mismatch:
                self._mismatch = mismatch
                log.critical("%s", mismatch)
            self._schema_cookie = cookie

    def _given_up(self) -> bool:
        # Counted from the stop: whoever stops a server in trouble means to mend it.
        return bool(self._retry) and time.monotonic() - self._stopping_since > OVERDUE_S * 2

    def _take(self) -> list[_Job]:
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH))]
        self._taken += len(batch)
        while self._later and self._later[0].after <= self._taken and len(batch) < 2 * BATCH:
            batch.append(self._later.popleft())
        return batch

    def _retry_batch(self) -> list[_Job]:
        batch, self._retry = self._retry[:BATCH], self._retry[BATCH:]
        return batch

    def _commit(self, tx: Tx, batch: list[_Job]) -> None:
        """Run a batch in one transaction; on any failure replay it one by one."""
        try:
            self._begin(tx)
            if self._mismatch is not None:
                raise self._mismatch
            results = _run(tx, batch)
            tx.execute("COMMIT")
        except Exception as error:
            if not self._rollback(tx, error) or is_transient(error):
                self._fail_or_keep(batch, error)
            elif len(batch) == 1 and self._mismatch is None:
                self._settle_failure(batch[0], error)
            else:
                self._replay(tx, batch)
            return
        self._trouble, self._oldest = None, math.inf
        self._deliver([(job.future, r, None) for job, r in zip(batch, results, strict=True)])
        self._checkpointer.committed(tx, len(batch))

    def _replay(self, tx: Tx, batch: list[_Job]) -> None:
        """Each operation in a transaction of its own; after a transient failure the rest waits."""
        rest = deque(batch)
        try:
            while rest:
                job = rest.popleft()
                if self._retry and job.together is ledger.mark_all:
                    self._retry.append(job)  # what it marks may be among those that wait
                elif not self._run_alone(tx, job):
                    break
        finally:  # also what is left by a stumble
            if rest:
                trouble = self._trouble or DatabaseUnavailable("the database is not available")
                self._fail_or_keep(list(rest), trouble)

    def _run_alone(self, tx: Tx, job: _Job) -> bool:
        """Whether the next may be tried."""
        try:
            self._begin(tx)
            if self._mismatch is not None and not job.must:
                raise self._mismatch
            result = _run(tx, [job])[0]
            tx.execute("COMMIT")
        except Exception as error:
            usable = self._rollback(tx, error)
            self._settle_failure(job, error)
            return usable and not is_transient(error)
        self._trouble = None
        self._deliver([(job.future, result, None)])
        self._checkpointer.committed(tx, 1)
        return True

    def _rollback(self, tx: Tx, error: Exception) -> bool:
        """Undo; False when the connection is of no use any more (and was closed)."""
        try:
            if tx.connection.in_transaction:
                tx.execute("ROLLBACK")
        except sqlite3.Error:
            log.exception("rollback failed")
            self._database.forget()
            return False
        if is_full(error):
            self._checkpointer.make_room(tx)
        return not self._database.forget(error)

    def _settle_failure(self, job: _Job, error: Exception) -> None:
        kept = is_transient(error) or (job.must and self._mismatch is not None)
        # A hold is given up instead: its void would overtake it.
        again = job.must and isinstance(error, ledger.Moved | MemoryError)
        if again or (isinstance(error, sqlite3.Error) and kept):
            self._fail_or_keep([job], error)
            return
        if job.must:
            log.critical("a settlement failed and cannot be retried: %s", error, exc_info=error)
        if isinstance(error, sqlite3.DatabaseError | MemoryError) and not isinstance(
            error, sqlite3.IntegrityError
        ):
            error = explain_trouble(error)
        self._deliver([(job.future, None, error)])

    def _fail_or_keep(self, jobs: list[_Job], error: Exception) -> None:
        """``must`` operations and those still patient are retried, the others fail now."""
        trouble = error if isinstance(error, StorageError) else explain_trouble(error)
        if self._trouble is None:
            log.error("%s", trouble)
        self._trouble = trouble
        now = time.monotonic()
        failed: list[tuple[asyncio.Future[Any] | None, Any, BaseException | None]] = []
        for job in jobs:
            if job.must or (now - job.since < HOLD_PATIENCE_S and not self._stopping):
                self._retry.append(job)
            else:
                failed.append((job.future, None, trouble))
        self._retry.sort(key=lambda job: job.since)
        self._deliver(failed)

    def _deliver(
        self, results: list[tuple[asyncio.Future[Any] | None, Any, BaseException | None]]
    ) -> None:
        awaited = [r for r in results if r[0] is not None]
        if not awaited or self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(_resolve, awaited)
        except RuntimeError:  # the loop is closed: nobody waits any more
            pass


def _run(tx: Tx, batch: list[_Job]) -> list[Any]:
    """Run a batch inside a transaction, in the order of `TOGETHER`; a result for each job."""
    groups: dict[Together[Any] | None, list[int]] = {}
    for index, job in enumerate(batch):
        groups.setdefault(job.together, []).append(index)
    assert groups.keys() <= _KNOWN, "an operation nobody would run"
    results: list[Any] = [None] * len(batch)
    for together in TOGETHER:
        indices = groups.get(together, [])
        if together is None:
            for index in indices:
                results[index] = batch[index].op(tx)
        elif indices:
            done = together(tx, [batch[index].op for index in indices])
            for index, result in zip(indices, done, strict=True):
                results[index] = result
    return results


def _resolve(results: list[tuple[asyncio.Future[Any] | None, Any, BaseException | None]]) -> None:
    for future, value, error in results:
        if future is None or future.done():
            continue
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)
            future.exception()  # retrieved: a forgotten future must not be logged as such
