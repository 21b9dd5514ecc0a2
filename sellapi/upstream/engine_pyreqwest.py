"""The engine of the request path: pyreqwest (Rust: hyper, rustls) called directly.

What was checked with a raw socket server (tests/integration/test_engines.py) and must be kept:

- the default read buffer holds small events back until it is full: the limit must be 0;
- only an error with the cause ``client error (Connect)`` was never sent. A connection closed or
  reset after the call was sent is a ``ConnectError`` too, but with ``client error (SendRequest)``;
- the library's timeouts call a silent provider a ``ConnectTimeoutError``: only its connect timeout
  is used, the first-byte and idle deadlines are ours;
- hyper watches idle connections, so one that the server has closed is not used again; if it finds
  it closed before a byte was written, it takes another one by itself. A server that closes while
  our bytes are on their way costs the call: ``reset``, counted as sent, repeated by nobody;
- a cancelled call that waits for its head goes on in the library: `lanes` cuts it;
- a header value that is not UTF-8 makes the library's own ``items()`` raise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator, Mapping
from datetime import timedelta
from typing import Any

from pyreqwest.bytes import Bytes
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import DecodeError, DetailedPyreqwestError
from pyreqwest.proxy import ProxyBuilder
from pyreqwest.request import StreamRequest
from pyreqwest.response import Response, ResponseBodyReader

from sellapi.upstream.adapter import UpstreamFailure
from sellapi.upstream.client import (
    USER_AGENT,
    Call,
    EngineOptions,
    Exchange,
    Slots,
    connection_lost,
    garbage,
    misconfigured,
    not_connected,
    timed_out,
    truncated,
)
from sellapi.upstream.lanes import Lane, Lanes

__all__ = ["PyreqwestEngine"]

JOIN_MAX = 256 * 1024
"""Most bytes of already waiting chunks handed out as one."""


class PyreqwestEngine:
    """Satisfies `Engine`; one kept client per call in flight (`lanes` says why)."""

    def __init__(self, options: EngineOptions | None = None) -> None:
        options = options or EngineOptions()
        patience_s = options.connect_timeout_s + 1
        self._lanes = Lanes(lambda tag: _build(options, tag), patience_s)
        self._slots = Slots(options)

    def open(self, call: Call) -> PyreqwestExchange:
        return PyreqwestExchange(self._lanes, call, self._slots)

    async def close(self) -> None:
        await self._lanes.close()


def _build(options: EngineOptions, tag: int) -> Client:
    builder = (
        ClientBuilder()
        .follow_redirects(False)
        .referer(False)
        .gzip(False)
        .brotli(False)
        .zstd(False)
        .deflate(False)
        .tcp_nodelay(True)
        .http1_only()
        .connect_timeout(timedelta(seconds=options.connect_timeout_s))
        .pool_idle_timeout(timedelta(seconds=options.keep_alive_s))
        .pool_max_idle_per_host(options.max_connections)
        .tcp_user_timeout(timedelta(milliseconds=tag))
        .user_agent(USER_AGENT)
        .default_headers({"accept-encoding": "identity"})
        .no_proxy()  # the environment's proxies are not ours: the operator names one, or none
    )
    if options.proxy is not None:
        builder = builder.proxy(ProxyBuilder.all(options.proxy))
    if options.ca_pem is not None:
        builder = builder.add_root_certificate_pem(options.ca_pem)
    return builder.build()


class PyreqwestExchange(Exchange):
    __slots__ = ("_ended", "_error", "_lane", "_lanes", "_reader", "_reply", "_request", "_waiting")

    def __init__(self, lanes: Lanes, call: Call, slots: Slots) -> None:
        super().__init__(call, slots)
        self._lanes = lanes
        self._lane: Lane | None = None
        self._request: StreamRequest | None = None
        self._reply: Response | None = None
        self._reader: ResponseBodyReader | None = None
        self._waiting: _Waiting | None = None
        self._error: Exception | None = None
        self._ended = False

    @property
    def status(self) -> int:
        assert self._reply is not None
        return self._reply.status

    @property
    def headers(self) -> Mapping[str, str]:
        assert self._reply is not None
        headers = self._reply.headers
        try:
            return dict(headers.items())
        except ValueError:
            return {name: value for name in headers if (value := _text(self._reply, name))}

    async def _send(self) -> str | None:
        call = self._call
        lane = self._lane = await self._lanes.take()
        request = (
            lane.client.post(call.url)
            .headers(call.headers)
            .body_bytes(call.body)
            .streamed_read_buffer_limit(0)
            .build_streamed()
        )
        try:
            reply = self._reply = await request.__aenter__()
        except asyncio.CancelledError:
            self._lane = None
            self._lanes.cut(lane)
            raise
        self._request = request  # from here on it must be left again
        self._reader = reply.body_reader
        return _text(reply, "content-encoding")

    async def _raw(self) -> bytes | None:
        """Next bytes; when some are ready without waiting, all that are (never delayed for more).

        Joining starts only once a read did not have to wait: then we are behind the provider.
        """
        if self._error is not None:
            raise self._body_failure(self._error)
        if self._ended or self._reader is None:
            return None
        waiting = self._waiting
        if waiting is None:
            reading: Coroutine[Any, None, Bytes | None] = self._reader.read_chunk()
            try:
                waiting = _Waiting(reading, reading.send(None))
            except StopIteration as ready:
                return self._join(ready.value)
            except Exception as error:
                raise self._body_failure(error) from None
        self._waiting = None
        self._deadline.start(self._call.idle_s)
        try:
            chunk = await waiting
        except BaseException as error:
            self._ended = True
            if self._deadline.expired():
                raise timed_out(f"for {self._call.idle_s:g} seconds") from None
            if isinstance(error, Exception):
                raise self._body_failure(error) from None
            raise
        self._deadline.done()
        if chunk is None:
            self._ended = True
            return None
        return chunk.to_bytes()

    def _join(self, first: Bytes | None) -> bytes | None:
        """``first`` and whatever else is there already; an error or the end is kept for later."""
        if first is None:
            self._ended = True
            return None
        assert self._reader is not None
        parts, size = [first.to_bytes()], len(first)
        while size < JOIN_MAX:
            reading: Coroutine[Any, None, Bytes | None] = self._reader.read_chunk()
            try:
                self._waiting = _Waiting(reading, reading.send(None))
                break
            except StopIteration as ready:
                if ready.value is None:
                    self._ended = True
                    break
                parts.append(ready.value.to_bytes())
                size += len(parts[-1])
            except Exception as error:
                self._error = error
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _release(self) -> None:
        if self._waiting is not None:
            self._waiting.close()
            self._waiting = None
        request, self._request = self._request, None
        if request is not None:
            await request.__aexit__(None, None, None)  # does not suspend
        lane, self._lane = self._lane, None
        if lane is not None:
            self._lanes.give_back(lane)

    def _failure(self, error: Exception) -> UpstreamFailure:
        causes = _causes(error)
        if "client error (Connect)" in causes:
            return not_connected()
        if isinstance(error, ValueError):  # BuilderError too: raised before anything was sent
            return misconfigured()
        return garbage() if isinstance(error, DecodeError) else connection_lost()

    def _body_failure(self, error: Exception) -> UpstreamFailure:
        self._ended = True
        causes = _causes(error)
        if "end of file" in causes or "unexpected EOF" in causes:
            return truncated()
        if "reset by peer" in causes or "Broken pipe" in causes:
            return connection_lost()
        return garbage()


class _Waiting:
    """A read that was begun and has to wait: awaiting this goes on where it stopped."""

    __slots__ = ("_future", "_reading")

    def __init__(self, reading: Coroutine[Any, None, Bytes | None], future: Any) -> None:
        self._reading = reading
        self._future = future

    def __await__(self) -> Generator[Any, None, Bytes | None]:
        reading, future = self._reading, self._future
        try:
            while True:
                try:
                    got = yield future
                except BaseException as error:
                    future = reading.throw(error)
                else:
                    future = reading.send(got)
        except StopIteration as ready:
            chunk: Bytes | None = ready.value
            return chunk

    def close(self) -> None:
        self._reading.close()


def _text(reply: Response, name: str) -> str | None:
    try:
        return reply.get_header(name)
    except ValueError:  # not UTF-8
        return None


def _causes(error: Exception) -> str:
    """The library's causes in one string, to look into, never to show: they hold the URL."""
    if not isinstance(error, DetailedPyreqwestError):
        return ""
    return "\n".join(cause["message"] for cause in error.details["causes"] or ())
