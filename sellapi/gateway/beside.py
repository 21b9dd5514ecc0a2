"""Work on large prompts, beside the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

__all__ = ["beside"]

P = ParamSpec("P")
T = TypeVar("T")

LARGE_BYTES = 262_144
"""Less is not worth a change of threads."""
REST_S = 0.1
"""The longest rest."""


class _Worker:
    """One thread that rests after each piece of work for as long as the work took.

    One, and rested: a small request goes to and fro between the event loop and the writer, and each
    time may find the interpreter held by a decoder for milliseconds (``big-bodies`` in bench).
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sellapi-large")
        self._rested_at = 0.0

    def submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._thread, self._run, work)

    def _run(self, work: Callable[[], T]) -> T:
        time.sleep(max(0.0, self._rested_at - time.monotonic()))
        begun = time.monotonic()
        try:
            return work()
        finally:
            now = time.monotonic()
            self._rested_at = now + min(now - begun, REST_S)


_worker = _Worker()


async def beside(size: int, work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
    """``work(*args)``; if it is about many bytes, in a thread, so that others' requests go on.

    Cancelled, the work goes on unseen: it must change nothing.
    """
    if size < LARGE_BYTES:
        return work(*args, **named)
    return await _worker.submit(lambda: work(*args, **named))
