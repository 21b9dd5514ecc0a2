"""What a connection may take: time for a head, room for idle ones, patience with who never reads.

Sanic's own REQUEST_TIMEOUT starts anew with every byte, so a client that trickles a head one byte a
second is never cut; its write side waits for a stuck reader without end; and it takes any number of
connections. Everything against that is here, in one protocol.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from collections import Counter
from time import monotonic
from typing import Any, cast

import orjson
from sanic.exceptions import RequestCancelled, RequestTimeout, ServiceUnavailable
from sanic.http import Stage
from sanic.server.protocols.http_protocol import HttpProtocol

from sellapi.api.http1 import Exchange
from sellapi.api.intake import within
from sellapi.errors import Overloaded
from sellapi.gateway.hold import new_request_id
from sellapi.settings import Settings

__all__ = ["Gate", "GuardedProtocol", "raise_file_limit"]

CHECK_EVERY_S = 2.0
SLOWEST_READER_BYTES_S = 1_024
"""A client that takes less than this of what waits for it does not read."""
EVICT_AT_ONCE = 64
UNWANTED_PAUSE_S = 0.02
"""After each piece of a body that nobody wants any more."""
UNSENT_BYTES = 131_072
"""What the kernel keeps of an answer a client does not take: not the megabytes it would, so that
stuck clients are cheap, and seen."""
_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25)
PIPELINED_PAUSE_S = 0.005
FILES_APART = 1_024
"""File descriptors left for the database, providers and logs."""
_WAITING = (Stage.IDLE, Stage.REQUEST)


def raise_file_limit() -> None:
    """As many open files as the system allows: each connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        pass  # then the gate is narrower


class Gate:
    """Counts connections; one for the process."""

    def __init__(self, settings: Settings) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = soft - FILES_APART if soft > 2 * FILES_APART else soft // 2
        self.most = min(settings.max_connections, max(16, files))
        self.most_per_address = settings.max_connections_per_address
        self.head_s = settings.head_timeout
        self.idle_s = settings.keep_alive_timeout
        self.stall_s = settings.write_stall_timeout
        self.open = 0
        self.refused = 0
        self._by_address: Counter[str] = Counter()
        self._exempt = settings.trusted_proxies

    def enter(self, address: str, others: set[Any]) -> bool:
        """Let a connection in, if need be by ending those that only wait; False when it is full."""
        full = self._by_address[address] >= self.most_per_address
        if full and not within(address, self._exempt):
            self.refused += 1
            return False
        if self.open >= self.most and not _evict(others):
            self.refused += 1
            return False
        self.open += 1
        self._by_address[address] += 1
        return True

    def leave(self, address: str) -> None:
        self.open -= 1
        self._by_address[address] -= 1
        if self._by_address[address] <= 0:
            del self._by_address[address]


def _evict(connections: set[Any]) -> bool:
    """End the connections that have waited longest without asking for anything."""
    waiting = [c for c in connections if c.waits]
    waiting.sort(key=lambda c: float(c.since))
    for connection in waiting[:EVICT_AT_ONCE]:
        connection.transport.abort()
    return bool(waiting)


class _Arrival:
    """What Sanic uses of `asyncio.Event`, for the one task that waits for a connection's bytes."""

    __slots__ = ("_loop", "_waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def clear(self) -> None:
        """Nothing is kept: who waits has seen what came before."""

    def wait(self) -> asyncio.Future[None]:
        self._waiter = waiter = self._loop.create_future()
        return waiter


class GuardedProtocol(HttpProtocol):
    """Sanic's HTTP/1.1 with deadlines that do not start anew, and a bound on connections."""

    HTTP_CLASS = Exchange
    __slots__ = (
        "_address",
        "_buffered_most",
        "_gate",
        "_head_since",
        "_stall",
        "_stuck",
        "_unsent",
        "since",
        "wrote",
    )

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._data_received: Any = _Arrival(self.loop)
        self._gate: Gate = self.app.ctx.gate
        self._buffered_most: int = self.app.config.REQUEST_BUFFER_SIZE
        self._address: str | None = None
        self._head_since = 0.0
        self._stall: asyncio.TimerHandle | None = None
        self._unsent = 0
        self._stuck = False
        """The client does not take what was written: more waits."""
        self.wrote = 0.0
        """When something was written last."""
        self.since = monotonic()
        """When it was opened or last asked for something."""

    @property
    def waits(self) -> bool:
        """Whether no request of it is being served."""
        return self.http is None or self.http.stage in _WAITING

    # -- life --------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if isinstance(peer, tuple) else ""
        if not self._gate.enter(address, self.connections):
            transport.write(_refusal())
            transport.close()
            return
        self._address = address
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, UNSENT_BYTES)
        super().connection_made(transport)  # type: ignore[no-untyped-call]

    def connection_lost(self, exc: Exception | None) -> None:
        if self._address is None:
            return
        self._gate.leave(self._address)
        if self._stall is not None:
            self._stall.cancel()
        super().connection_lost(exc)  # type: ignore[no-untyped-call]

    # -- reading -----------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """As Sanic's, but the time a head may take begins with its first byte."""
        if self._address is None:
            return
        self._time = monotonic()
        http = self.http
        if http is None or not http.request_body:
            if data == b"\r\n" and not self.recv_buffer:
                return  # the empty line that some send behind a body
            if http is None or http.stage is Stage.IDLE:
                self.begin_head()
        self.recv_buffer += data
        if len(self.recv_buffer) >= self._buffered_most and self.transport is not None:
            self.transport.pause_reading()
        self._data_received.set()

    def begin_head(self) -> None:
        """The time for a head begins."""
        self._head_since = self.since = monotonic()

    async def receive_more(self) -> None:
        """As Sanic's, but what nobody wants is read at a pace that leaves the others theirs."""
        transport, about = cast("Any", self.transport), cast("Any", self.conn_info)
        if about.lost:  # in the middle of a body nobody wanted: Sanic reads on to its end, for good
            raise asyncio.CancelledError
        transport.resume_reading()
        await self._data_received.wait()
        http = self.http
        if http is not None and http.stage is Stage.IDLE and http.request_body:
            await asyncio.sleep(UNWANTED_PAUSE_S)  # answered before its body ended

    def check_timeouts(self) -> None:
        """Runs every `CHECK_EVERY_S`; ends the connection when it is past its deadline."""
        http = self.http
        if not self._task or http is None:
            return
        now = monotonic()
        if http.stage is Stage.IDLE:
            idle = self._head_since and not http.request_body
            late = now - self.since > (self._gate.idle_s if idle else self._gate.head_s)
        elif http.stage is Stage.REQUEST:
            late = now - self._head_since > self._gate.head_s
            if late:
                http.exception = RequestTimeout("Request Timeout")
        else:
            self.since = now  # idle time begins when the answer is out
            late = now - self._time > self.response_timeout
            if late:
                http.exception = ServiceUnavailable("Response Timeout")
        if late:
            self._task.cancel()
        else:
            self._callback_check_timeouts = self.loop.call_later(CHECK_EVERY_S, self.check_timeouts)

    # -- writing -----------------------------------------------------------------------------------

    async def send(self, data: bytes) -> None:
        """As Sanic's, but a client that sent many requests at once does not keep the loop busy.

        No SDK pipelines. Without a real pause the writer's thread waits for the interpreter's lock.
        """
        if self._stuck:
            await self._can_write.wait()
        if self.transport is None or self.transport.is_closing():
            raise RequestCancelled
        self.transport.write(data)
        self._time = self.wrote = monotonic()
        if self.recv_buffer:
            await asyncio.sleep(PIPELINED_PAUSE_S)

    @property
    def taking(self) -> bool:
        """Whether the client takes what is written."""
        return not self._stuck

    def write_chunk(self, data: bytes) -> bool:
        """`send` of a chunk (RFC 9112, 7.1), if it need not wait; False, with nothing done, if it must."""
        transport: Any = self.transport
        if self._stuck or transport is None or transport.is_closing() or self.recv_buffer:
            return False
        transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        self._time = self.wrote = monotonic()
        return True

    def pause_writing(self) -> None:
        super().pause_writing()  # type: ignore[no-untyped-call]
        self._stuck = True
        self._watch_reader()

    def resume_writing(self) -> None:
        super().resume_writing()  # type: ignore[no-untyped-call]
        self._stuck = False
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _watch_reader(self) -> None:
        if self.transport is not None:
            self._unsent = self.transport.get_write_buffer_size()
            self._stall = self.loop.call_later(self._gate.stall_s, self._look_at_reader)

    def _look_at_reader(self) -> None:
        """Cut a client that does not take what waits for it; its request then settles."""
        if self.transport is None:
            return
        taken = self._unsent - self.transport.get_write_buffer_size()
        if taken < SLOWEST_READER_BYTES_S * self._gate.stall_s:
            self.transport.abort()
        else:
            self._watch_reader()


def _refusal() -> bytes:
    error = Overloaded("Too many connections; close some, or try again shortly.", retry_after=2)
    body = orjson.dumps(error.body())
    head = (
        f"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 2\r\n"
        f"x-request-id: {new_request_id()}\r\nconnection: close\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode("ascii") + body
