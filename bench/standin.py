"""A provider that streams events at a pace: ``python -m bench.standin PORT``.

``POST /paced/FIRST_MS/GAP_MS/…`` answers with the head at once, the first event FIRST_MS later on
average and then one every GAP_MS (a FIRST_MS of 0 is right after the head). One wheel of milliseconds carries all streams and every event is one write
of prebuilt bytes, so that one core offers far more than any gateway takes; how much is measured
directly in each run. A stand-in that falls behind catches up: what it offers stays what it says.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import Any

import uvloop

from bench.payloads import chunked, openai_events

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"x-request-id: req_upstream\r\ntransfer-encoding: chunked\r\n\r\n"
)
_PIECES = [chunked(event) for event in openai_events()]
_PIECES[-1] += b"0\r\n\r\n"
_SLOTS = 4096


class Wheel:
    """Calls streams at their millisecond; turns only while there are any."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: list[list[Provider]] = [[] for _ in range(_SLOTS)]
        self._waiting = 0
        self._last = 0

    def now(self) -> int:
        return int(self._loop.time() * 1000)

    def put(self, stream: Provider, at: int) -> None:
        if not self._waiting:
            self._last = self.now() - 1
            self._loop.call_later(0.001, self._turn)
        self._waiting += 1
        self._slots[max(at, self._last + 1) % _SLOTS].append(stream)

    def soon(self, stream: Provider) -> None:
        self._loop.call_soon(lambda: stream.fire(self.now()))

    def _turn(self) -> None:
        now = self.now()
        while self._last < now:
            self._last += 1
            slot = self._last % _SLOTS
            due, self._slots[slot] = self._slots[slot], []
            self._waiting -= len(due)
            for stream in due:
                stream.fire(self._last)
        if self._waiting:
            self._loop.call_later(0.001, self._turn)


class Provider(asyncio.Protocol):
    """One connection; requests on it are answered one after the other."""

    _phase = 0

    def __init__(self, wheel: Wheel) -> None:
        self._wheel = wheel
        self._buffer = b""
        self._next = 0
        self._gap = 0
        self._open = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._fd: int = transport.get_extra_info("socket").fileno()
        self._open = True

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._open = False

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        _, found, length = head.partition(b"content-length:")
        body = int(length.split(b"\r\n", 1)[0]) if found else 0
        if len(self._buffer) < end + 4 + body:
            return
        self._buffer = self._buffer[end + 4 + body :]
        self._begin(head.split(b" ", 2)[1])

    def _begin(self, path: bytes) -> None:
        _, kind, first, gap = path.split(b"/")[:4]
        assert kind == b"paced", path
        self._gap = int(gap)
        self._next = 0
        self._write(HEAD)
        if first == b"0":  # a write of its own all the same: a missing TCP_NODELAY must show
            self._wheel.soon(self)
            return
        # Streams that begin together must not beat together: waits are spread evenly around FIRST_MS.
        Provider._phase += 7_919
        wait = Provider._phase % (2 * int(first) + 1)
        self._wheel.put(self, self._wheel.now() + wait)

    def fire(self, now: int) -> None:
        if not self._open:
            return
        self._write(_PIECES[self._next])
        self._next += 1
        if self._next < len(_PIECES):
            self._wheel.put(self, now + self._gap)

    def _write(self, data: bytes) -> None:
        """Straight to the socket: half the price of the transport's way, which takes what is left."""
        sent = 0
        if not self._transport.get_write_buffer_size():
            with contextlib.suppress(OSError):
                sent = os.write(self._fd, data)
        if sent < len(data):
            self._transport.write(data[sent:])


async def main(port: int) -> None:
    loop = asyncio.get_running_loop()
    wheel = Wheel(loop)
    server = await loop.create_server(lambda: Provider(wheel), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(main(int(sys.argv[1])))
