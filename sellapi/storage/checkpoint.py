"""Copies the write-ahead log into the database, beside the writer.

SQLite by itself does this inside the commit that fills the log (sqlite.org/wal.html, 3.2): whoever
waits for that commit then waits for a thousand scattered page writes and two fsyncs as well. Here a
thread of its own copies, and more at once: pages that are written again and again, accounts' rows
above all, are copied once for many of their versions.

While it copies, more is committed; the log only starts over when all of it is copied and nobody
writes. So the writer itself copies the little that is left, between two commits. It copies more only
where the disk is too slow for what is committed: it waits then, before the log outgrows all bounds.

SQLite before 3.51.3 can damage a database when a copy begins on a log that is all copied already while
another connection commits (sqlite.org/wal.html, 11, the WAL-reset bug). Here as in SQLite's own way each copy
begins behind a commit that is not copied yet, so that the log cannot start over under it.
"""

from __future__ import annotations

import logging
import os
import threading
from queue import SimpleQueue

from sellapi.errors import StorageError
from sellapi.storage.database import Database, Tx, explain_trouble

__all__ = ["MOST_PAGES", "PAGE_BYTES", "Checkpointer"]

log = logging.getLogger(__name__)

LOG_PAGES = 8_000
"""So many pages in the log are a reason to copy them: 32 MB."""
LEAST_PAGES = 1_000
"""The same where the disk is nearly full, and how many more come before the next try after one that a
reader of old pages cut short."""
DISK_SHARE = 8
"""The log may take an eighth of what is free on the disk."""
REST_PAGES = 800
"""So few are left to the writer."""
MOST_PAGES = 3 * LOG_PAGES
"""So long a log means that the disk is too slow: the writer waits for the thread. The writer's own
``wal_autocheckpoint``, too."""
PATIENCE_S = 10.0
PAGE_BYTES = 4_096
_COMMIT_PAGES = 4
_FIRST_RATIO = 2.5
_LEAST_RATIO = 0.25
_COPY = "PRAGMA wal_checkpoint(PASSIVE)"
"""Waits for nobody, and nobody for it; gives ``(busy, pages in the log, pages copied)``."""


class Checkpointer:
    """The thread that copies; the writer tells it what it committed."""

    def __init__(self, database: Database) -> None:
        self._database = Database(database.path)  # connections are one per thread
        self._bell: SimpleQueue[bool] = SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()
        self._written = 0
        """Committed since the log started over: operations, and some for each commit."""
        self._ratio = _FIRST_RATIO
        """Pages in the log for each of `_written`, as the last copy found it."""
        self._due = 0.0
        """At so many pages the next copy begins."""
        self._nearly = False
        """All but a little is copied."""
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._due = self._limit()
        self._thread = threading.Thread(target=self._run, name="sellapi-checkpoint", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, after what it copies now. Whoever closes the database last copies the rest."""
        if self._thread is not None:
            self._bell.put(False)
            self._thread.join(PATIENCE_S)
            if self._thread.is_alive():
                log.warning("the write-ahead log is still being copied; the next start goes on")

    # -- the writer's side, between two transactions ---------------------------------------------

    @property
    def pages(self) -> float:
        """In the log, about."""
        return self._written * self._ratio

    def committed(self, tx: Tx, operations: int) -> None:
        """So many operations were committed.

        Raises nothing: what is committed stays so, whatever becomes of the log.
        """
        self._written += _COMMIT_PAGES + operations
        if self._nearly:
            self._nearly = False
            self._copy_rest(tx)
        elif self.pages < self._due:
            pass
        elif self._idle.is_set():
            self._idle.clear()
            self._bell.put(True)
        elif self.pages >= MOST_PAGES:
            self.make_room(tx)

    def make_room(self, tx: Tx) -> None:
        """Copy all now, so that the log starts over in the space it has; raises nothing."""
        self._idle.wait(PATIENCE_S)
        self._nearly = False
        if self._written:
            self._copy_rest(tx)

    def _copy_rest(self, tx: Tx) -> None:
        try:
            busy, pages, copied = tx.execute(_COPY).fetchone()
        except Exception as error:  # also MemoryError, as the driver has it
            log.warning("the end of the write-ahead log was not copied: %s", error)
            busy, pages, copied = 1, 0, 0
        if busy or copied < pages:
            self._due = self.pages + LEAST_PAGES
        else:
            self._written, self._due = 0, self._limit()

    # -- the thread's side -----------------------------------------------------------------------

    def _run(self) -> None:
        while self._bell.get():
            try:
                self._copy()
            except Exception as error:
                told = error if isinstance(error, StorageError) else explain_trouble(error)
                log.warning("the write-ahead log was not copied: %s", told)
                self._database.forget(error)
                self._due = self.pages + LEAST_PAGES
            self._idle.set()
        self._database.forget()

    def _copy(self) -> None:
        """Until the rest is small enough for the writer, or a reader of old pages is in the way."""
        while True:
            before = self._written
            busy, pages, copied = self._database.raw().execute(_COPY).fetchone()
            if busy or copied < pages:
                self._due = self.pages + LEAST_PAGES
                return
            self._ratio = max(_LEAST_RATIO, pages / max(1, before))
            if (self._written - before) * self._ratio <= REST_PAGES:
                self._nearly = True
                return

    def _limit(self) -> float:
        try:
            disk = os.statvfs(self._database.path.parent)
        except OSError:
            return LEAST_PAGES
        spare = disk.f_bavail * disk.f_frsize / DISK_SHARE / PAGE_BYTES
        return min(LOG_PAGES, max(LEAST_PAGES, spare))
