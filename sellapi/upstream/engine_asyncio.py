"""The engine of the request path: our own, over the event loop's transports.

It does the little that calls to providers need, POST over HTTP/1.1, and that fully: `connection`
speaks it, `dial` connects; here are the pool, the heads and what a call is made of. A library's own
threads would fight with the event loop for the interpreter on the one core a worker has, and cost
more there than everything this engine does.

What must be kept (tests/integration/test_engines.py, on both event loops):

- nothing is ever sent twice. Only what failed while connecting was never sent; once a byte was
  handed to a transport the call counts as sent, whatever comes. A kept connection that is found
  closed before that is passed over for another;
- a connection carries another call only after a complete answer with nothing left over, when all of
  the body was written and both sides want to go on;
- leaving a call before its end, in whatever way, closes its connection at once: that is what stops
  the provider's work, and its bill.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from sellapi.upstream.adapter import UpstreamFailure
from sellapi.upstream.client import (
    USER_AGENT,
    Call,
    Deadline,
    EngineOptions,
    Exchange,
    Slots,
    Take,
    connection_lost,
    misconfigured,
    not_connected,
    timed_out,
    too_long,
)
from sellapi.upstream.connection import Connection
from sellapi.upstream.dial import HOST, Dialer, Origin, Proxy

__all__ = ["AsyncioEngine"]

T = TypeVar("T")

END_S = 1.0
"""How long the end of a body may come after its last event."""
ENDING_MAX = 32
"""Connections that wait for that at most: they have no slot any more."""
HEADS_MAX = 256
"""Most heads kept ready; an engine has about as many as its provider has models."""
NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
FRAMING = ("content-length", "transfer-encoding")
"""How long a body is, is not for anybody's headers to say."""
PORTS = {"http": 80, "https": 443}


class AsyncioEngine:
    """Satisfies `Engine`. Built anywhere, used in one event loop."""

    def __init__(self, options: EngineOptions | None = None) -> None:
        options = options or EngineOptions()
        proxy = None if options.proxy is None else Proxy.read(options.proxy)
        self._heads = Heads(proxy, lost=options.proxy is not None and proxy is None)
        self._dialer = Dialer(options, proxy)
        self._pool = Pool(self._dialer, options.keep_alive_s)
        self._slots = Slots(options)

    def open(self, call: Call) -> AsyncioExchange:
        return AsyncioExchange(self._heads, self._pool, call, self._slots)

    async def close(self) -> None:
        await self._pool.close()


class Alarm(Deadline):
    """A deadline that ends the wait itself, by its future: no task has to be looked up."""

    __slots__ = ("_heard", "_seconds", "_waiter")

    def __init__(self) -> None:
        super().__init__()
        self._waiter: asyncio.Future[Any] | None = None
        self._heard: Connection | None = None
        self._seconds = 0.0

    def start(self, seconds: float, heard: Connection | None = None) -> None:
        """The time begins anew whenever the connection hears something, without a call to this."""
        self._heard, self._seconds = heard, seconds
        self.arm(seconds)

    def _fire(self) -> None:
        if self._heard is not None:
            self._due = max(self._due, self._heard.heard + self._seconds)
        super()._fire()

    def over(self, waiter: asyncio.Future[T]) -> asyncio.Future[T]:
        """Await what this returns; `TimeoutError` when the time is up."""
        self._waiter = waiter
        if self._expired:  # while it connected
            self._ring()
        return waiter

    def done(self) -> None:
        self._waiting = self._expired = (
            False  # it came in the very instant of the deadline: take it
        )

    def expired(self) -> bool:
        self._waiting = False
        late, self._expired = self._expired, False
        return late

    def _ring(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(TimeoutError())
            self._waiter.exception()  # retrieved: who waits may be cancelled at the same time


class AsyncioExchange(Exchange):
    __slots__ = ("_connection", "_fields", "_heads", "_origin", "_pool", "_status")

    _deadline: Alarm
    _origin: Origin
    _status: int
    _fields: dict[bytes, bytes]

    def __init__(self, heads: Heads, pool: Pool, call: Call, slots: Slots) -> None:
        super().__init__(call, slots)
        self._heads = heads
        self._pool = pool
        self._connection: Connection | None = None

    @property
    def status(self) -> int:
        return self._status

    @property
    def headers(self) -> Mapping[str, str]:
        return {
            name.decode("latin-1").lower(): value.decode("latin-1").strip()
            for name, value in self._fields.items()
        }

    def _new_deadline(self) -> Deadline:
        return Alarm()

    async def _send(self) -> str | None:
        call = self._call
        head = self._heads.head(call)
        origin = self._origin = head.origin
        connection = self._pool.take(origin)
        try:
            if connection is None:
                connection = await self._pool.connect(origin, call.first_byte_s)
            self._connection = connection
            if call.on_send is not None:
                call.on_send()
            connection.send(head.text, call.body)
            while not connection.status:
                await self._deadline.over(connection.wait())
        except (UpstreamFailure, asyncio.CancelledError):
            self._deadline.done()  # neither is the alarm's doing, even if it is late too
            raise
        self._status = connection.status
        self._fields = connection.fields
        return connection.encoding

    async def read(self, limit: int) -> bytes:
        connection = self._connection
        if connection is None or not connection.complete or self._inflater is not None:
            return await super().read(limit)
        body = connection.take() or b""  # all there already
        if len(body) > limit:
            raise too_long(limit)
        return body

    async def _raw(self, take: Take | None = None) -> bytes | None:
        connection = self._connection
        if connection is None:
            return None
        while (data := connection.take()) == b"":
            self._deadline.start(self._call.idle_s, connection)
            try:
                left = await self._deadline.over(connection.wait(take))
            except asyncio.CancelledError:
                self._deadline.done()  # the alarm never cancels
                raise
            except BaseException:
                if self._deadline.expired():
                    raise timed_out(f"for {self._call.idle_s:g} seconds") from None
                raise
            self._deadline.done()
            if left is not None:
                return left
        return data

    async def _release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._all_said:
            self._pool.let_end(self._origin, connection)
        else:
            self._pool.give_back(self._origin, connection)

    def _failure(self, _error: Exception) -> UpstreamFailure:
        """Ours are told as they are; what else an event loop may raise counts as sent."""
        return connection_lost()


class Pool:
    """The connections of one engine: those that are idle, last one first, and all that live."""

    def __init__(self, dialer: Dialer, keep_alive_s: float) -> None:
        self._dialer = dialer
        self._keep_alive_s = keep_alive_s
        self._idle: dict[Origin, deque[Connection]] = {}
        self._live: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._ending: set[Connection] = set()
        self._emptied: asyncio.Future[None] | None = None

    def take(self, origin: Origin) -> Connection | None:
        """An idle connection that still stands, or None."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.usable:  # what is not, has been closed already
                if asyncio.get_running_loop().time() < connection.idle_until:
                    return connection
                connection.abort()  # the timer is late: so may be the news that the server left
        return None

    async def connect(self, origin: Origin, within_s: float) -> Connection:
        """A new connection; raises `UpstreamFailure` ``connect``."""
        connection = await self._dialer.connect(origin, self._gone, within_s)
        if self._closed or not connection.usable:
            connection.abort()
            raise not_connected()
        self._live.add(connection)
        return connection

    def give_back(self, origin: Origin, connection: Connection) -> None:
        """Keep a connection if it is clean, close it at once if not."""
        if not connection.settle() or self._closed:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        connection.idle_until = loop.time() + self._keep_alive_s
        idle = self._idle.get(origin)
        if idle is None:
            idle = self._idle[origin] = deque()
        idle.append(connection)
        if self._timer is None:
            self._timer = loop.call_at(connection.idle_until, self._sweep, loop)

    def let_end(self, origin: Origin, connection: Connection) -> None:
        """All of an answer was said: wait `END_S` for the end of its body, but nobody with us.

        Else every stream that ends with ``[DONE]`` would cost its connection, and the next a handshake.
        """
        if connection.complete or not connection.usable or len(self._ending) >= ENDING_MAX:
            self.give_back(origin, connection)
            return
        self._ending.add(connection)
        late = asyncio.get_running_loop().call_later(END_S, connection.abort)

        def ended() -> None:
            late.cancel()
            self._ending.discard(connection)
            self.give_back(origin, connection)

        connection.on_end = ended

    async def close(self) -> None:
        """End everything, calls that are going on too; back when the last one is gone."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._idle.clear()
        for connection in list(self._live):
            connection.abort()
        if self._live:
            self._emptied = asyncio.get_running_loop().create_future()
            await self._emptied

    def _gone(self, connection: Connection) -> None:
        self._live.discard(connection)
        self._ending.discard(connection)
        if self._emptied is not None and not self._live and not self._emptied.done():
            self._emptied.set_result(None)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let go of what has been idle for long; one timer for all of them."""
        self._timer = None
        now = loop.time()
        for origin, idle in list(self._idle.items()):
            while idle and idle[0].idle_until <= now:
                idle.popleft().abort()
            if not idle:
                del self._idle[origin]
        if self._idle:
            soonest = min(idle[0].idle_until for idle in self._idle.values())
            self._timer = loop.call_at(soonest, self._sweep, loop)


@dataclass(frozen=True, slots=True, repr=False)
class Head:
    """A request's head up to the number of Content-Length, and where it goes."""

    origin: Origin
    text: bytes
    headers: dict[str, str]
    """What it was made of: a rotated key makes another one."""


class Heads:
    """Heads are the same from call to call, so each is written and checked once."""

    def __init__(self, proxy: Proxy | None, *, lost: bool) -> None:
        """``lost``: there is a proxy, but none we can speak to; no call may go around it."""
        self._proxy = proxy
        self._lost = lost
        self._kept: dict[str, Head] = {}

    def head(self, call: Call) -> Head:
        """Raises `UpstreamFailure` ``config``."""
        head = self._kept.get(call.url)
        if head is None or head.headers != call.headers:
            head = self._write(call)
            if len(self._kept) >= HEADS_MAX:
                self._kept.clear()
            self._kept[call.url] = head
        return head

    def _write(self, call: Call) -> Head:
        try:
            url = httpx.URL(call.url)
            host, netloc = url.raw_host.decode("ascii"), url.netloc.decode("ascii")
            target = url.raw_path.decode("ascii")
        except (httpx.InvalidURL, ValueError):
            raise misconfigured() from None
        if self._lost or url.scheme not in PORTS or not HOST.fullmatch(host) or url.userinfo:
            raise misconfigured()
        headers = {
            "host": netloc,
            "user-agent": USER_AGENT,
            "accept": "*/*",
            "accept-encoding": "identity",
        }
        headers.update((name.lower(), value) for name, value in call.headers.items())
        origin = Origin(host, url.port or PORTS[url.scheme], url.scheme == "https")
        if self._proxy is not None and not origin.tls:
            origin = Origin(self._proxy.host, self._proxy.port, tls=False)
            target = f"http://{netloc}{target}"
            if self._proxy.authorization is not None:
                headers["proxy-authorization"] = self._proxy.authorization
        return Head(origin, _text(target, headers), dict(call.headers))


def _text(target: str, headers: Mapping[str, str]) -> bytes:
    lines = [f"POST {target} HTTP/1.1"]
    for name, value in headers.items():
        if not NAME.fullmatch(name) or not VALUE.fullmatch(value):
            raise misconfigured()
        if name not in FRAMING:
            lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "content-length: "]).encode("latin-1")
