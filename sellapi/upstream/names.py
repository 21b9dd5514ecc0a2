"""Looking names up so that one that hangs holds up nobody but those who asked for it.

An event loop does it in a few threads for everybody (uvloop in two): a provider whose name server is
dead, or customers who name media on hosts that never resolve, would keep all others from connecting.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from threading import Thread
from typing import Any

__all__ = ["Names"]

Found = list[tuple[Any, ...]]
"""As `socket.getaddrinfo` gives it."""


class Names:
    """Lookups, at most ``most`` at a time; those who ask for the same name share one."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._room = asyncio.Semaphore(most)
        self._asked: dict[tuple[Any, str, int], asyncio.Task[Found]] = {}

    async def find(self, host: str, port: int) -> Found:
        """The addresses of a TCP server; raises `OSError`, and `UnicodeError` for what is no name.

        Cancelled, the lookup goes on: a thread that waits for a name server cannot be stopped.
        """
        with suppress(OSError):  # an address needs no looking up
            return socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
            )
        question = (asyncio.get_running_loop(), host, port)
        asked = self._asked.get(question)
        if asked is None:
            asked = self._asked[question] = asyncio.create_task(self._ask(host, port))
            asked.add_done_callback(lambda task: self._answered(question, task))
        return await asyncio.shield(asked)

    async def _ask(self, host: str, port: int) -> Found:
        async with self._room:
            loop = asyncio.get_running_loop()
            answer: asyncio.Future[Found] = loop.create_future()
            # A thread of its own, which may be left behind when the process ends.
            Thread(target=_look_up, args=(loop, answer, host, port), daemon=True).start()
            return await answer

    def _answered(self, question: tuple[Any, str, int], task: asyncio.Task[Found]) -> None:
        del self._asked[question]
        if not task.cancelled():
            task.exception()  # retrieved: who asked may have left


def _look_up(
    loop: asyncio.AbstractEventLoop, answer: asyncio.Future[Found], host: str, port: int
) -> None:
    found: Found | Exception
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except Exception as error:
        found = error
    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(_tell, answer, found)


def _tell(answer: asyncio.Future[Found], found: Found | Exception) -> None:
    if answer.done():
        return
    if isinstance(found, Exception):
        answer.set_exception(found)
    else:
        answer.set_result(found)
