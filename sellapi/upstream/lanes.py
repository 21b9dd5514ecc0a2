"""Cutting a pyreqwest call that still waits for its head.

pyreqwest 0.15 lets go of such a call when its task is cancelled, but does not stop it: the request
lives on inside the library until the provider answers, and is billed. Closing the client does not
end it either (measured; tests/integration/test_engines.py would notice a library that learns it).
So the connection is cut from outside. To know which one it is, every call in flight has a client of
its own, a *lane*, whose sockets carry a number nobody else has: their TCP_USER_TIMEOUT, some
milliseconds above the library's default of 30 s. Lanes are kept and used again, last one first; one
costs 5 ms of a helper thread to build, and 100 kB (190 kB with its connection and stream), so there
are at most `LANES_MAX`; calls beyond share one client and, cancelled before their head, end with
it. Cancelling costs a look at the process's sockets (about 3 us
each), together for all calls cancelled in one turn of the loop.

Where the kernel has no such option (not Linux), every call shares that client.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from pyreqwest.client import Client

__all__ = ["Lane", "Lanes"]

OPTION: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)
SOCKETS = "/proc/self/fd"
SHARED = 30_000
"""The tag of clients that are shared: never cut."""
TAGS = count(SHARED + 1)
"""Milliseconds; one sequence for all engines of the process."""
LANES_MAX = 256
AGAIN_S = (0.05, 0.2, 0.5, 1.0)
"""When to look again for a call that was cancelled before its connection stood."""


@dataclass(frozen=True, slots=True)
class Lane:
    tag: int
    client: Client


class Lanes:
    """The lanes of one engine: as many as calls were ever in flight at once."""

    def __init__(self, build: Callable[[int], Client], patience_s: float) -> None:
        """``build(tag)`` makes a client; ``patience_s``: how long a connect may still succeed."""
        self._build = build
        self._patience_s = patience_s
        self._shared = Lane(SHARED, build(SHARED))
        self._room = LANES_MAX if OPTION is not None and Path(SOCKETS).is_dir() else 0
        self._free: list[Lane] = []
        self._all: list[Lane] = [self._shared]
        self._doomed: dict[int, tuple[Lane, float]] = {}
        self._looking: asyncio.Handle | None = None
        self._round = 0

    async def take(self) -> Lane:
        if self._free:
            return self._free.pop()
        if self._room == 0:
            return self._shared
        self._room -= 1
        tag = next(TAGS)
        try:
            client = await asyncio.get_running_loop().run_in_executor(None, self._build, tag)
        except BaseException:  # cancelled: the client is dropped, its place is free
            self._room += 1
            raise
        lane = Lane(tag, client)
        self._all.append(lane)
        return lane

    def give_back(self, lane: Lane) -> None:
        if lane is not self._shared:
            self._free.append(lane)

    def cut(self, lane: Lane) -> None:
        """End what the lane is doing, in this turn of the loop; then it is free again."""
        if lane is self._shared:
            return
        loop = asyncio.get_running_loop()
        self._doomed[lane.tag] = (lane, loop.time() + self._patience_s)
        if self._looking is not None:
            self._looking.cancel()
        self._round = 0
        self._looking = loop.call_soon(self._look, loop)

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        if self._doomed:
            shut_down(set(self._doomed))
        for lane in self._all:
            await lane.client.close()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cut what is found; what is not (no connection yet) is looked for again for a while."""
        self._looking = None
        found = shut_down(set(self._doomed))
        now = loop.time()
        for tag, (lane, until) in list(self._doomed.items()):
            if tag in found or now >= until:
                del self._doomed[tag]
                self._free.append(lane)
        if self._doomed:
            pause = AGAIN_S[min(self._round, len(AGAIN_S) - 1)]
            self._round += 1
            self._looking = loop.call_later(pause, self._look, loop)


def shut_down(tags: set[int]) -> set[int]:
    """Shut down this process's TCP sockets with these tags; returns the tags that were connected.

    Works on a duplicate of each descriptor: the library may close and the kernel reuse the number
    at any moment, and the tag is read from what is then shut down. Only of sockets: to close any
    descriptor of the database's file, a duplicate too, lets go of every lock this process holds on
    it (sqlite.org/howtocorrupt.html, 2.2), and the next `sellapi` command that ends would take the
    WAL away under the server.
    """
    found: set[int] = set()
    if OPTION is None:
        return found
    for name in os.listdir(SOCKETS):  # noqa: PTH208 - numbers, not paths
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            number = os.dup(int(name))
        except OSError:
            continue  # closed meanwhile
        try:
            sock = socket.socket(fileno=number)
        except OSError:
            continue  # reused for a file between two calls: it may be the database, so it stays open
        with sock, suppress(OSError):  # OSError: not TCP
            tag = sock.getsockopt(socket.IPPROTO_TCP, OPTION)
            if tag in tags:
                with suppress(OSError):  # not connected yet: cut the attempt, look again later
                    sock.getpeername()
                    found.add(tag)
                sock.shutdown(socket.SHUT_RDWR)
    return found
