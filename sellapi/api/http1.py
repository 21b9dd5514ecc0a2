"""HTTP/1.1 of one connection: heads and bodies read to the letter, whole answers in one write.

Sanic goes round the requests of a connection and finds the routes; what it reads itself is taken out of
its hands here. It refuses what RFC 9112 allows (an empty line before a request, trailers,
``Transfer-Encoding: Chunked``), lets through what must not be (bare line feeds, names with spaces, signs
in a length), and takes its time for both.
"""

from __future__ import annotations

import asyncio
import re
from functools import lru_cache
from typing import Any, NoReturn

from sanic.compat import Header
from sanic.exceptions import BadRequest, ExpectationFailed, PayloadTooLarge
from sanic.http import Http, Stage
from sanic.http.http1 import HTTP_CONTINUE
from sanic.response import BaseHTTPResponse

__all__ = ["Exchange"]

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_FIRST_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) HTTP/1\.([01])", re.ASCII)
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n\x00]*")
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,15})(?:[ \t]*;[^\r\n\x00]*|[ \t]*)")
"""A chunk's size and its extensions (RFC 9112, 7.1)."""
_LENGTH = re.compile(r"[0-9]{1,18}", re.ASCII)
_CHUNKED = re.compile("chunked", re.ASCII | re.IGNORECASE)
"""Not by ``lower``: that makes a ``k`` of the Kelvin sign, which a proxy does not."""
_CHUNK_LINE_MAX = 1_024
_CHUNKS_AT_ONCE = 64
"""Of a body in very many chunks; then the others have their turn."""


def _fields(lines: list[str]) -> list[tuple[str, str]]:
    """``[(name, value)]``. Raises `BadRequest` also for folded lines: they are obsolete (RFC 9112, 5.2)."""
    try:
        named = [line.split(":", 1) for line in lines]
        return [(_lower(name), value.strip(" \t")) for name, value in named]
    except ValueError:
        raise BadRequest("Bad Request") from None


@lru_cache(maxsize=500)
def _lower(name: str) -> str:
    """Raises `ValueError` for what is no name; they are always the same few."""
    if not _NAME.fullmatch(name):
        raise ValueError(name)
    return name.lower()


def _pass_empty_lines(buffer: bytearray) -> None:
    while buffer.startswith(b"\r\n"):
        del buffer[:2]


class Exchange(Http):
    """Sanic's connection, one request after the other."""

    request_body: Any
    """How the body is framed, ``"chunked"`` or True; None when there is none, or no more of it."""
    request_bytes: int
    request_bytes_left: int
    """Of the body, or of its chunk."""
    response_func: Any
    __slots__ = ("_chunks",)

    def __init__(self, protocol: Any) -> None:
        super().__init__(protocol)  # type: ignore[no-untyped-call]
        self._chunks = 0
        self.request_body = None  # asked for when bytes come before the first request is begun

    def init_for_request(self) -> None:
        super().init_for_request()  # type: ignore[no-untyped-call]
        buffer: bytearray = self.recv_buffer
        if buffer:  # came while the one before was answered
            _pass_empty_lines(buffer)
            protocol: Any = self.protocol
            protocol.begin_head()

    async def http1_request_header(self) -> None:
        """Read a head and make the `Request` of it; raises what Sanic's own does."""
        head = await self._read_head()
        first, *fields = head.decode(errors="surrogateescape").split("\r\n")
        match = _FIRST_LINE.fullmatch(first)
        ends = len(fields)
        if match is None or head.count(b"\n") != ends or head.count(b"\r") != ends or 0 in head:
            raise BadRequest("Bad Request")
        method, self.url, minor = match.groups()
        protocol: Any = self.protocol
        request = protocol.request_class(
            url_bytes=self.url.encode(),
            headers=_fields(fields),
            head=head,
            version="1." + minor,
            method=method,
            transport=protocol.transport,
            app=protocol.app,
        )
        headers = request.headers
        self.head_only = method == "HEAD"
        self.keep_alive = minor == "1"
        if "connection" in headers:
            self._read_connection(headers.getall("connection"))
        self.request_bytes_left = self.request_bytes = 0
        if "content-length" in headers or "transfer-encoding" in headers:
            self._read_framing(headers, minor)
        self.request, request.stream = request, self
        protocol.state["requests_count"] += 1

    async def _read_head(self) -> bytes:
        """Up to the empty line, which is read, too, as is one before it (RFC 9112, 2.2)."""
        buffer: bytearray = self.recv_buffer
        seen = 0
        while True:
            _pass_empty_lines(buffer)
            end = buffer.find(b"\r\n\r\n", seen)
            if end >= 0 or len(buffer) > self.HEADER_MAX_SIZE:
                break
            seen = max(0, len(buffer) - 3)
            await self._receive_more()
        if not 0 <= end < self.HEADER_MAX_SIZE:
            raise PayloadTooLarge("Request header exceeds the size limit")
        head = bytes(buffer[:end])
        del buffer[: end + 4]
        return head

    def _read_connection(self, values: list[str]) -> None:
        said = {word.strip() for word in ",".join(values).lower().split(",")}
        self.keep_alive = "close" not in said and (self.keep_alive or "keep-alive" in said)

    def _read_framing(self, headers: Header, minor: str) -> None:
        """How the body ends; what two readers may understand differently is refused.

        RFC 9112, 6.3: else a proxy in front might see another request in it than we do.
        """
        expect = headers.get("expect")
        if expect is not None:
            if expect.lower() != "100-continue":
                raise ExpectationFailed(f"Unknown Expect: {expect}")
            self.expecting_continue = True
        lengths = headers.getall("content-length", [])
        codings = headers.getall("transfer-encoding", [])
        if not codings:
            if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
                raise BadRequest("Bad content-length")
            self.request_body = True
            self.request_bytes_left = self.request_bytes = int(lengths[0])
        elif lengths or minor == "0" or len(codings) > 1 or not _CHUNKED.fullmatch(codings[0]):
            raise BadRequest("Bad transfer-encoding")
        else:
            self.request_body = "chunked"

    async def read(self) -> bytes | None:
        """The next piece of the body; None at its end.

        Raises `BadRequest` for broken chunks, `PayloadTooLarge`; the connection ends with either.
        """
        if self.expecting_continue:
            self.expecting_continue = False
            await self._send(HTTP_CONTINUE)
        if not self.request_bytes_left and self.request_body == "chunked":
            self.request_bytes_left = await self._read_chunk_size()
            self.request_bytes += self.request_bytes_left
        # A route that reads the body itself has no such limit.
        if self.request_bytes > self.request_max_size:
            self.keep_alive = False
            raise PayloadTooLarge("Request body exceeds the size limit")
        if not self.request_bytes_left:
            self.request_body = None
            return None
        buffer: bytearray = self.recv_buffer
        if not buffer:
            await self._receive_more()
        data = bytes(buffer[: self.request_bytes_left])
        del buffer[: len(data)]
        self.request_bytes_left -= len(data)
        if not self.request_bytes_left and self.request_body is True:
            self.request_body = None
            # What lies there counts as the next request, and slows this one.
            _pass_empty_lines(buffer)
        return data

    async def _read_chunk_size(self) -> int:
        """0 at the end of the body, behind the trailers: nobody reads those."""
        if self.request_bytes and await self._read_line(0):
            self._broken_chunks()  # a chunk that is longer than it said
        self._chunks += 1
        if not self._chunks % _CHUNKS_AT_ONCE:
            await asyncio.sleep(0)
        match = _CHUNK.fullmatch(await self._read_line(_CHUNK_LINE_MAX))
        if match is None:
            self._broken_chunks()
        size = int(match[1], 16)
        room = self.HEADER_MAX_SIZE
        while not size and (line := await self._read_line(room)):
            room -= len(line)
            if not _TRAILER.fullmatch(line):
                self._broken_chunks()
        return size

    async def _read_line(self, most: int) -> bytes:
        buffer: bytearray = self.recv_buffer
        while (end := buffer.find(b"\r\n", 0, most + 2)) < 0:
            if len(buffer) >= most + 2:
                self._broken_chunks()
            await self._receive_more()
        line = bytes(buffer[:end])
        del buffer[: end + 2]
        return line

    def _broken_chunks(self) -> NoReturn:
        self.request_body, self.keep_alive = None, False  # nobody can tell where it would end
        raise BadRequest("Bad chunked encoding")

    async def send_whole(self, answer: BaseHTTPResponse, head: bytes, body: bytes) -> None:
        """An answer that is all there: ``head`` are its status and its own fields, each line ended."""
        self.respond(answer)
        connection = b"keep-alive" if self.keep_alive else b"close"
        await self._send(
            b"%bcontent-length: %d\r\nconnection: %b\r\n\r\n%b"
            % (head, len(body), connection, body)
        )
        self.response_func, self.stage = None, Stage.IDLE
