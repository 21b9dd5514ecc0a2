"""Copies the write-ahead log into the database, beside the writer.

SQLite by itself does this inside the commit that fills the log (sqlite.org/wal.html, 3.2): whoever
waits for that commit then waits for a thousand scattered page writes and two fsyncs as well, on a slow
disk for seconds. Here a thread of its own copies, and more at once: pages that are written
again and again, accounts' rows above all, are copied once for more of their versions.

While it copies, more is committed; the log only starts over when all of it is copied and nobody
writes. So the writer itself copies the little that is left, between two commits.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from queue import SimpleQueue

from sellapi.errors import StorageError
from sellapi.storage.database import Database, Tx, explain_trouble

__all__ = ["BACKSTOP_PAGES", "Checkpointer"]

log = logging.getLogger(__name__)

LOG_PAGES = 12_000
"""About so many pages in the log are a reason to copy them: at most 48 MB."""
REST_PAGES = 1_000
"""So few are left to the writer."""
PASSES = 4
"""How often what was committed meanwhile is copied after it, until so few are left."""
BACKSTOP_PAGES = 2 * LOG_PAGES
"""With so many in the log the writer's commit copies after all: the thread cannot, or not fast enough."""
_PAGES_A_COMMIT = 4
_COPY = "PRAGMA wal_checkpoint(PASSIVE)"
"""Waits for nobody, and nobody for it."""


class Checkpointer:
    """The thread that copies; the writer tells it what it committed."""

    def __init__(self, database: Database) -> None:
        self._database = Database(database.path)  # connections are one per thread
        self._bell: SimpleQueue[bool] = SimpleQueue()
        self._pages = 0
        """In the log and not copied; an estimate, SQLite does not tell."""
        self._at_work = False
        self._nearly = False
        """All but a little is copied."""
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="sellapi-checkpoint", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, after what it copies now. Whoever closes the database last copies the rest."""
        if self._thread is not None:
            self._bell.put(False)
            self._thread.join(5.0)

    def committed(self, tx: Tx, operations: int) -> None:
        """The writer has committed so many operations, and begins nothing before this returns.

        Raises nothing: what is committed stays so, whatever becomes of the log.
        """
        self._pages += _PAGES_A_COMMIT + operations
        if self._nearly:
            self._nearly = False
            try:
                tx.execute(_COPY).fetchone()
            except sqlite3.Error as error:
                log.warning("the end of the write-ahead log was not copied: %s", error)
        elif self._pages >= LOG_PAGES and not self._at_work:
            self._at_work = True
            self._bell.put(True)

    # -- the thread's side ---------------------------------------------------------------------

    def _run(self) -> None:
        while self._bell.get():
            try:
                self._copy()
            except Exception as error:  # next time: until then the backstop
                told = error if isinstance(error, StorageError) else explain_trouble(error)
                log.warning("the write-ahead log was not copied: %s", told)
                self._database.forget(error)
            self._at_work = False
        self._database.forget()

    def _copy(self) -> None:
        for _ in range(PASSES):
            self._pages = 0
            self._database.raw().execute(_COPY).fetchone()
            if self._pages <= REST_PAGES:
                self._nearly = True
                return
