"""The seam to the network: a call goes out, a reply or a stream comes back.

Nothing else in the request path does I/O. Engines (our own, httpx, the in-process demo) satisfy
`Engine`; what they share stands here: the first-byte and idle deadlines, the bounded queue, the
size-bounded decoding of compressed replies, and the words in which a failure is told. Those words
never hold a URL, a host or a key: the libraries' own messages do, so they are read and dropped.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from typing import Protocol, Self

from sellapi.errors import Overloaded, UpstreamFailed, UpstreamTimeout
from sellapi.upstream.adapter import UpstreamFailure
from sellapi.upstream.inflate import Inflater

__all__ = [
    "Call",
    "Deadline",
    "Engine",
    "EngineOptions",
    "Exchange",
    "Reply",
    "Slots",
    "Take",
    "queue_full",
]

USER_AGENT = "sellapi"


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP call: absolute URL, headers with the credential, body; deadlines in seconds.

    ``first_byte_s`` counts from the moment the call has a connection slot to the reply's head
    (connecting and sending the body included), ``idle_s`` between two pieces of the body.
    ``on_send`` is called when the first byte is about to go out: after the wait for a slot and, where
    the engine can tell, for a connection. Cancelled before, the call was provably never sent.
    """

    url: str
    headers: Mapping[str, str]
    body: bytes
    first_byte_s: float = 600.0
    idle_s: float = 600.0
    on_send: Callable[[], None] | None = None

    def __repr__(self) -> str:  # headers hold the provider's key
        return f"Call({self.url}, {len(self.body)} bytes)"


Take = Callable[[bytes], bytes | None]
"""Deals with bytes at once and returns None, or returns what the waiting task is to have: the same
bytes when it cannot, b"" when it did and the task should look."""


class Reply(Protocol):
    """A provider's reply whose head has arrived. A 3xx is a status like any other."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Header names in lower case; of a repeated header the last."""
        ...

    async def chunk(self, take: Take | None = None) -> bytes | None:
        """The next bytes as soon as they arrive; None at the end.

        Those that arrive while this waits may be offered to ``take``, called by the event loop
        itself: what it deals with costs no turn of the waiting task. Without one never b"".
        Cancelled, it loses nothing: call it again and go on.

        Raises `UpstreamFailure` (``truncated``, ``reset``, ``garbage`` or ``timeout``), and what
        ``take`` raises.
        """
        ...

    async def read(self, limit: int) -> bytes:
        """The rest of the body; raises `UpstreamFailure` when it is longer than ``limit`` bytes."""
        ...

    def said_all(self) -> None:
        """Nothing but the end of the body is to come: leaving need not close the connection."""
        ...


class Engine(Protocol):
    """Something that carries calls to one provider, with its own connection pool."""

    def open(self, call: Call) -> AbstractAsyncContextManager[Reply]:
        """Send the call; leaving the context, or cancelling the task, aborts it at once.

        Raises `UpstreamFailure`: ``connect`` or ``config`` (provably never sent: ``sent=False``),
        ``queue_full`` (503, ``sent=False``), ``reset`` and ``garbage`` (count as sent), ``timeout``.
        """
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What an engine is told about its provider, once.

    ``keep_alive_s``: how long an idle connection is kept. A server that closes one in the very
    instant we send on it costs a call (it counts as sent, nobody may repeat it), so we let go first:
    uvicorn and Node close after 5 s, nginx after 75, load balancers after 60.
    ``ca_pem``: root certificates trusted besides the system's.
    """

    max_connections: int = 256
    queue_size: int = 256
    queue_timeout_s: float = 10.0
    connect_timeout_s: float = 10.0
    keep_alive_s: float = 4.0
    proxy: str | None = None
    ca_pem: bytes | None = None

    def __repr__(self) -> str:  # a proxy's URL may hold a password
        return f"EngineOptions({self.max_connections} connections, queue {self.queue_size})"


class Slots:
    """At most ``max_connections`` calls in flight, at most ``queue_size`` more that wait in line.

    What a semaphore does, without its cost where nobody waits. A slot that becomes free goes
    straight to the first in line: while one is free the line is empty.
    """

    __slots__ = ("_free", "_line", "_queue_size", "_timeout_s", "deadlines")

    def __init__(self, options: EngineOptions) -> None:
        self._free = options.max_connections
        self._line: deque[asyncio.Future[None]] = deque()
        self._queue_size = options.queue_size
        self._timeout_s = options.queue_timeout_s
        self.deadlines: list[Deadline] = []
        """Deadlines of calls that have ended, for the next ones: their timers go on running."""

    def take(self) -> bool:
        """Take a slot if one is free."""
        if self._free == 0:
            return False
        self._free -= 1
        return True

    async def wait(self) -> None:
        """Wait in line for a slot; raises `UpstreamFailure` ``queue_full``."""
        if len(self._line) >= self._queue_size:
            raise queue_full()
        place = asyncio.get_running_loop().create_future()
        self._line.append(place)
        try:
            async with asyncio.timeout(self._timeout_s):
                await place
        except BaseException as error:
            if place.done() and not place.cancelled():
                self.release()  # left in the very moment the slot was handed over
            else:
                with suppress(ValueError):  # it was passed over already
                    self._line.remove(place)
            if isinstance(error, TimeoutError):
                raise queue_full() from None
            raise

    def release(self) -> None:
        while self._line:
            place = self._line.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._free += 1


class Deadline:
    """A time limit on the awaits of one call at a time, one timer for all of them.

    What `asyncio.timeout` does, at a tenth of its cost per chunk: the timer is not moved at each
    chunk, nor stopped at the end of a call; when it fires early it looks at the clock and sleeps
    on. Use: ``start``, the await, then ``done`` after a result or ``expired`` after any exception.
    """

    __slots__ = ("_before", "_due", "_expired", "_fires", "_handle", "_loop", "_task", "_waiting")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._due = self._fires = 0.0
        self._before = 0
        self._waiting = False
        self._expired = False

    def start(self, seconds: float) -> None:
        """From now on the running task is cancelled when ``seconds`` pass without `done`."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a call to a provider needs a task")
        self._task = task
        self._before = task.cancelling()
        self.arm(seconds)

    def arm(self, seconds: float) -> None:
        """From now on the time is up when ``seconds`` pass without `done`."""
        self._waiting = True
        due = self._due = self._loop.time() + seconds
        if self._handle is None:
            self._sleep()
        elif due < self._fires:
            self._handle.cancel()
            self._sleep()

    def done(self) -> None:
        """The await gave a result.

        A cancellation that arrives together with it is not lost: asyncio then throws it into the
        task instead of the result, or at the next await.
        """
        self._waiting = False

    def expired(self) -> bool:
        """Whether the exception just caught is the deadline's doing (then it is uncancelled)."""
        self._waiting = False
        if not self._expired or self._task is None:
            return False
        self._expired = False
        return self._task.uncancel() <= self._before

    def rest(self) -> bool:
        """The call has ended; whether another one may use this (not while a task still waits)."""
        if self._waiting:
            self._waiting = False
            if self._handle is not None:
                self._handle.cancel()
            return False
        self._expired = False
        self._task = None
        return True

    def _sleep(self) -> None:
        self._fires = self._due
        self._handle = self._loop.call_at(self._due, self._fire)

    def _fire(self) -> None:
        self._handle = None
        if not self._waiting:
            return
        if self._loop.time() < self._due:
            self._sleep()
            return
        self._expired = True
        self._ring()

    def _ring(self) -> None:
        if self._task is not None:
            self._task.cancel()


class Exchange(ABC):
    """One call and its reply: what every engine's `open` returns.

    An engine fills in how to send, how to get the next raw piece, how to let go, and what its
    library's exceptions mean.
    """

    __slots__ = ("_all_said", "_call", "_deadline", "_inflater", "_slots")

    def __init__(self, call: Call, slots: Slots) -> None:
        self._call = call
        self._slots = slots
        self._inflater: Inflater | None = None
        self._all_said = False

    @property
    @abstractmethod
    def status(self) -> int: ...

    @property
    @abstractmethod
    def headers(self) -> Mapping[str, str]: ...

    def _new_deadline(self) -> Deadline:
        """For the first call in a slot; later ones take it over."""
        return Deadline()

    @abstractmethod
    async def _send(self) -> str | None:
        """Send the call, wait for the head; returns the Content-Encoding."""

    @abstractmethod
    async def _raw(self, take: Take | None = None) -> bytes | None:
        """The next bytes of the body as they came, see `Reply.chunk`; None at the end."""

    @abstractmethod
    async def _release(self) -> None:
        """Abort what is still going on; must work at every stage."""

    @abstractmethod
    def _failure(self, error: Exception) -> UpstreamFailure:
        """What an exception of the library means before the head has arrived."""

    async def __aenter__(self) -> Self:
        slots = self._slots
        if not slots.take():
            await slots.wait()
        deadline = slots.deadlines.pop() if slots.deadlines else self._new_deadline()
        self._deadline = deadline
        try:
            deadline.start(self._call.first_byte_s)
            encoding = await self._send()
            deadline.done()
            if encoding is not None:
                self._inflater = Inflater.named(encoding)
            return self
        except BaseException as error:
            late = deadline.expired()
            await self._leave()
            if late:
                raise timed_out(f"within {self._call.first_byte_s:g} seconds") from None
            if isinstance(error, Exception) and not isinstance(error, UpstreamFailure):
                raise self._failure(error) from None
            raise

    async def __aexit__(self, *_: object) -> None:
        await self._leave()

    async def _leave(self) -> None:
        if self._deadline.rest():
            self._slots.deadlines.append(self._deadline)
        try:
            await self._release()
        finally:
            self._slots.release()

    def said_all(self) -> None:
        self._all_said = True

    async def chunk(self, take: Take | None = None) -> bytes | None:
        inflater = self._inflater
        if inflater is None:
            return await self._raw(take)
        while not (piece := inflater.take()):
            data = await self._raw()
            if data is None:
                if not inflater.complete:
                    raise truncated()
                return None
            inflater.put(data)
        return piece

    async def read(self, limit: int) -> bytes:
        chunk = self._raw if self._inflater is None else self.chunk
        first = await chunk()
        if first is None:
            return b""
        parts, size = [first], len(first)
        while size <= limit and (piece := await chunk()) is not None:
            parts.append(piece)
            size += len(piece)
        if size > limit:
            raise too_long(limit)
        return first if len(parts) == 1 else b"".join(parts)


def queue_full() -> UpstreamFailure:
    return UpstreamFailure(
        Overloaded(
            "Too many requests wait for this model's provider; try again shortly.", retry_after=2
        ),
        reason="queue_full",
        sent=False,
    )


def not_connected() -> UpstreamFailure:
    """Provably never sent: it failed while connecting (name, TCP, proxy tunnel, TLS)."""
    return UpstreamFailure(
        UpstreamFailed("The model's provider could not be reached; try again shortly."),
        reason="connect",
        sent=False,
    )


def misconfigured() -> UpstreamFailure:
    """The URL, a header or the key cannot be written as HTTP: the operator's trouble."""
    return UpstreamFailure(
        UpstreamFailed("The model's provider is misconfigured on this server; tell its operator."),
        reason="config",
        sent=False,
    )


def connection_lost() -> UpstreamFailure:
    """Closed or reset after the call was, or may have been, sent."""
    return UpstreamFailure(
        UpstreamFailed("The model's provider closed the connection before it had answered."),
        reason="reset",
        retryable=False,
    )


def truncated() -> UpstreamFailure:
    return UpstreamFailure(
        UpstreamFailed("The model's provider broke off in the middle of its answer."),
        reason="truncated",
        retryable=False,
    )


def garbage() -> UpstreamFailure:
    return UpstreamFailure(
        UpstreamFailed("The model's provider sent something that makes no sense."),
        reason="garbage",
        retryable=False,
    )


def too_long(limit: int) -> UpstreamFailure:
    return UpstreamFailure(
        UpstreamFailed(f"The model's provider answered with more than {limit} bytes."),
        reason="garbage",
        retryable=False,
    )


def timed_out(when: str) -> UpstreamFailure:
    """Sent, and may be billed: an SDK must not repeat it by itself."""
    return UpstreamFailure(
        UpstreamTimeout(
            f"The model's provider did not answer {when}; the request may still have been worked on.",
            should_retry=False,
        ),
        reason="timeout",
        timed_out=True,
    )
