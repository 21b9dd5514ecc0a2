"""One HTTP/1.1 connection to a provider, over whatever transport the event loop gives it.

httptools parses; what it lets through and we do not, what it cannot know (that a connection ended),
and when bytes may go on waiting is decided here. One exchange at a time: `send`, then `wait` until
`status` is there, then `take` and `wait` until `take` gives None, then `settle`.

This is the hot path: one future per wait, no tasks, no timers, and the parser calls straight into
the list and the dict it fills.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from sellapi.upstream.adapter import UpstreamFailure
from sellapi.upstream.client import Take, connection_lost, garbage, truncated

__all__ = ["Connection"]

HEAD_MAX = 64 * 1024
"""Most bytes of a reply's head, or of anything else that is no body (trailers, extensions)."""
HELD_MAX = 256 * 1024
"""Bytes that may wait for their reader before we stop reading."""
SLICE = 64 * 1024
"""A body up to this size goes out in one write with the head, a longer one in such pieces."""
VERSIONS = ("1.1", "1.0")
CODINGS = (b"", b"chunked", b"identity")


class Connection(asyncio.Protocol):
    """Satisfies httptools' callbacks and asyncio's.

    ``status`` is 0 until the reply's head is there; ``fields`` are its headers as they came,
    ``encoding`` its Content-Encoding.
    ``heard`` is when bytes were last taken from it as they came, by the loop's clock.
    ``idle_until`` belongs to the pool. ``on_lost`` is called once, when the connection is gone,
    ``on_end``, if it was set, when the body has ended.
    """

    __slots__ = (
        "_broken",
        "_busy",
        "_chunked",
        "_complete",
        "_fields",
        "_full",
        "_held",
        "_lasting",
        "_loop",
        "_lost",
        "_on_lost",
        "_overhead",
        "_parser",
        "_parts",
        "_paused",
        "_take",
        "_transport",
        "_unsent",
        "_waiter",
        "encoding",
        "fields",
        "heard",
        "idle_until",
        "on_body",
        "on_end",
        "on_header",
        "status",
    )

    _transport: asyncio.Transport

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_lost: Callable[[Connection], None]
    ) -> None:
        self._loop = loop
        self._on_lost = on_lost
        self._parts: list[bytes] = []
        self._fields: dict[bytes, bytes] = {}
        self.fields: dict[bytes, bytes] = {}
        self.on_body = self._parts.append
        self.on_header = self._fields.__setitem__
        self._parser = HttpResponseParser(self)
        self._waiter: asyncio.Future[bytes | None] | None = None
        self._take: Take | None = None
        self._broken: Callable[[], UpstreamFailure] | None = None
        self._unsent = memoryview(b"")
        self._busy = self._complete = self._lasting = self._lost = False
        self._full = self._paused = self._chunked = False
        self._held = self._overhead = 0
        self.status = 0
        self.encoding: str | None = None
        self.idle_until = self.heard = 0.0
        self.on_end: Callable[[], None] | None = None

    # What the engine does ---------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        """Whether the body has ended."""
        return self._complete

    @property
    def usable(self) -> bool:
        """Whether it still stands, as far as the event loop has told."""
        return not self._lost and self._broken is None and not self._transport.is_closing()

    def send(self, head: bytes, body: bytes) -> None:
        """Begin an exchange. ``head`` ends where the number of Content-Length goes."""
        self._busy = True
        self._complete = self._lasting = False
        self._held = self._overhead = self.status = 0
        self._parts.clear()
        self._fields.clear()
        if len(body) <= SLICE:
            self._transport.write(b"%b%d\r\n\r\n%b" % (head, len(body), body))
        else:
            self._transport.write(b"%b%d\r\n\r\n" % (head, len(body)))
            self._unsent = memoryview(body)
            self._pump()

    def wait(self, take: Take | None = None) -> asyncio.Future[bytes | None]:
        """Done as soon as there is something new: the head, bytes, the end or a failure.

        Bytes are offered to ``take`` first. The result is b"" when it says so, None for all else:
        then `take` has it, so that nothing is lost with a wait that is cancelled.
        """
        if self._broken is not None:
            raise self._broken()
        waiter = self._waiter = self._loop.create_future()
        self._take = take
        return waiter

    def take(self) -> bytes | None:
        """All bytes of the body that are there; b"" when one has to `wait`, None at the end.

        Raises `UpstreamFailure` after everything that came before the break was taken.
        """
        parts = self._parts
        if parts:
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
            self._held = self._overhead = 0
            if self._paused:
                self._paused = False
                if self.usable:
                    self._transport.resume_reading()
            return data
        if self._complete:
            return None
        if self._broken is not None:
            raise self._broken()
        return b""

    def settle(self) -> bool:
        """End the exchange; whether the connection is clean enough for another one."""
        self._busy = False
        self._take = None  # it holds the request, body and all
        whole = not self._unsent
        self._unsent = memoryview(b"")
        return (
            self._complete
            and self._lasting
            and whole
            and not self._paused
            and self.usable
            and self._transport.get_write_buffer_size() == 0
        )

    def abort(self) -> None:
        """Close at once, whatever is going on; who waits is told that the connection is lost."""
        if self._broken is None:
            self._broken = connection_lost
        self._lasting = False
        self._transport.abort()

    # What the transport tells -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses

    def data_received(self, data: bytes) -> None:
        if not self._busy or self._complete:
            self.abort()  # nobody asked for this: what comes next could be taken for an answer
        elif self.status == 0 and self._overhead + len(data) > HEAD_MAX:
            self._long_head(data)
        else:
            try:
                self._parser.feed_data(data)
            except (HttpParserError, HttpParserUpgrade):
                self._fail()
                return
            if self._parts:
                if self._waiter is not None:
                    self._offer(self._waiter)
                elif not self._complete:
                    self._hold(len(data))
            elif not self._complete:
                self._overhead += len(data)
                if self.status and self._overhead > HEAD_MAX:
                    self._fail()

    def eof_received(self) -> None:
        """The transport closes itself then."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        del self._parser  # it holds our methods: without it no cycle is left for the collector
        if self._broken is None and not self._complete:
            if self.status == 0 or exc is not None:
                self._broken = connection_lost
            elif self._ends_with_us():
                self._complete = True
            else:
                self._broken = truncated
        self._wake()
        self._on_lost(self)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._pump()

    def _pump(self) -> None:
        """Hand on as much of the body as the transport takes; an error for an answer ends it."""
        while self._unsent and not self._full and self.status < 400:
            piece, self._unsent = self._unsent[:SLICE], self._unsent[SLICE:]
            self._transport.write(piece)

    def _long_head(self, data: bytes) -> None:
        room = HEAD_MAX - self._overhead
        self.data_received(data[:room])
        if self._broken is None:
            if self.status == 0:
                self._fail()
            else:
                self.data_received(data[room:])

    def _hold(self, size: int) -> None:
        """Bytes nobody waits for: when there are many, stop reading."""
        self._held += size
        if self._held > HELD_MAX and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _offer(self, waiter: asyncio.Future[bytes | None]) -> None:
        """Hand bytes over by way of `_take` if they can be, else wake who waits."""
        take, parts = self._take, self._parts
        if take is None or waiter.done():  # cancelled, but its task has not run yet
            self._wake()
            return
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._overhead = 0
        try:
            left = take(data)
        except Exception as error:
            waiter.set_exception(error)
        else:
            if left is None:
                self.heard = self._loop.time()
                return
            if left:
                self._parts.append(left)
            waiter.set_result(None if left else left)
        self._waiter = None

    def _fail(self) -> None:
        """What came makes no sense; after a complete answer that costs the connection only."""
        if not self._complete:
            self._broken = garbage
        self.abort()
        self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():  # cancelled, but its task has not run yet
                waiter.set_result(None)

    def _ends_with_us(self) -> bool:
        """Whether the close of the connection is the end of the body."""
        return not self._chunked and all(name.lower() != b"content-length" for name in self.fields)

    # What the parser tells --------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._complete:
            raise HttpParserError("a second answer")

    def on_headers_complete(self) -> None:
        parser = self._parser
        status = parser.get_status_code()
        if status < 200:
            if status < 100 or status == 101:
                raise HttpParserError("no status for an answer")
            self._fields.clear()
            return
        if parser.get_http_version() not in VERSIONS:
            raise HttpParserError("an HTTP of another time")
        fields = self.fields = self._fields.copy()  # trailers will be no part of it
        coding, self.encoding = b"", None
        for name in fields:  # the few headers we need ourselves; the rest is read by who asks
            if len(name) == 16 and name.lower() == b"content-encoding":
                self.encoding = fields[name].decode("latin-1")
            elif len(name) == 17 and name.lower() == b"transfer-encoding":
                coding = fields[name].strip().lower()
        if coding not in CODINGS:
            raise HttpParserError("a coding we never asked for")
        self._chunked = coding == b"chunked"
        self.status = status
        self._overhead = 0
        self._wake()

    def on_message_complete(self) -> None:
        if self.status:  # not an interim answer
            self._complete = True
            self._lasting = self._parser.should_keep_alive()
            self._wake()
            if self.on_end is not None:  # what else came with it is looked at first
                self._loop.call_soon(self.on_end)
                self.on_end = None
