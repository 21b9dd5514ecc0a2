"""The admin service as screens use it: opened when first needed, called in threads, reopened.

A screen never touches the database in its own thread: `Link.call` runs an act in a small pool and
hands the result back to the event loop. When the file is missing, locked, older or was replaced,
the next call opens it again, so that screens recover by asking again.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sellapi.admin.service import Admin
from sellapi.errors import DatabaseMissing

__all__ = ["Link"]

T = TypeVar("T")
THREADS = 4


class Link:
    """One admin service for all screens of a process."""

    def __init__(self, opener: Callable[[], Admin]) -> None:
        self._opener = opener
        self._admin: Admin | None = None
        self._file: tuple[int, int] | None = None
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="admin")

    async def call(self, act: Callable[[Admin], T]) -> T:
        """``act(admin)`` in a thread. Raises what it raises; `StorageError` when it cannot open."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: act(self._open()))

    def close(self) -> None:
        """Wait for nothing: what is still asked for is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _open(self) -> Admin:
        with self._lock:
            if self._admin is not None and self._file == _identity(self._admin):
                return self._admin
            if self._admin is not None:
                self._admin.desk.database.close()
                self._admin = None
            admin = self._opener()
            self._file = _identity(admin)
            if self._file is None:
                raise DatabaseMissing(f"the database {admin.desk.database.path} went away")
            self._admin = admin
            return admin


def _identity(admin: Admin) -> tuple[int, int] | None:
    """Which file stands at the path: a restored backup is another one."""
    try:
        info = os.stat(admin.desk.database.path)  # noqa: PTH116 (a path may be a str elsewhere)
    except OSError:
        return None
    return info.st_dev, info.st_ino
