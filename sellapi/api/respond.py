"""Answers on the wire: JSON or server-sent events, plus the headers every answer carries."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, cast

import orjson
from sanic import Blueprint, HTTPResponse, Request
from sanic.exceptions import SanicException
from sanic.http import Stage

from sellapi.api.http1 import Exchange
from sellapi.errors import ApiError
from sellapi.gateway.hold import new_request_id

__all__ = [
    "EXPOSED",
    "OurRequest",
    "Pinger",
    "Wire",
    "error_response",
    "json_response",
    "reads",
    "request_id",
]

log = logging.getLogger(__name__)

PING_AFTER_S = 15.0
"""Seconds of silence in a stream after which ``: ping`` is sent."""
HEAD_AFTER_S = 30.0
"""Seconds without a first event after which the 200 is sent all the same."""
_PING = b": ping\n\n"


Handler = Callable[..., Awaitable[HTTPResponse]]


def reads(blueprint: Blueprint, uri: str) -> Callable[[Handler], Handler]:
    """A route that only reads: GET, and the HEAD of monitors (a GET without its body).

    A body that comes with it is passed over after the answer; Sanic would gather it in memory before.
    """
    route: Callable[[Handler], Handler] = blueprint.route(
        uri, methods=("GET", "HEAD"), ignore_body=True
    )
    return route


EXPOSED = ", ".join(  # noqa: FLY002 - one name a line
    (
        "x-request-id",
        "x-sellapi-credits-charged",
        "x-sellapi-credits-balance",
        "x-sellapi-credits-held",
        "x-sellapi-max-tokens",
        "x-sellapi-route",
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
        "retry-after",
        "x-should-retry",
    )
)


def dumps(value: Any) -> bytes:
    return orjson.dumps(value)


class OurRequest(Request):
    """A request whose target is no URL (``CONNECT host:1``) or has no path is one for ``/``: no route.

    Sanic itself would close the connection without an answer, or log a stack trace.
    """

    our_id: str | None = None

    def __init__(self, url_bytes: bytes, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(url_bytes, *args, **kwargs)
            url: Any = self._parsed_url
            if url.path is None:
                super().__init__(b"/", *args, **kwargs)
        except SanicException:
            super().__init__(b"/", *args, **kwargs)


def request_id(request: Request) -> str:
    """Our own id of a request, made when it is first asked for; the client's is not taken."""
    asked = cast("OurRequest", request)
    if asked.our_id is None:
        asked.our_id = new_request_id()
    return asked.our_id


def base_headers(request: Request) -> dict[str, str]:
    """``x-request-id`` and, for a page of an allowed origin, CORS."""
    headers = {"x-request-id": request_id(request)}
    origin = request.headers.get("origin")
    if origin is not None:
        headers.update(cors_headers(request, origin))
    return headers


def cors_headers(request: Request, origin: str) -> dict[str, str]:
    """``*`` on public GETs, `SELLAPI_CORS_ORIGINS` for the rest; nothing for other origins."""
    allowed: tuple[str, ...] = request.app.ctx.cors_origins
    asked = request.headers.get("access-control-request-method", request.method)
    public = asked in ("GET", "HEAD") and request.path.startswith(
        ("/v1/models", "/health", "/ready")
    )
    if "*" in allowed or public:
        return {"access-control-allow-origin": "*", "access-control-expose-headers": EXPOSED}
    if origin in allowed:
        return {
            "access-control-allow-origin": origin,
            "access-control-expose-headers": EXPOSED,
            "vary": "Origin",
        }
    return {"vary": "Origin"}


def json_response(
    request: Request, value: Any, headers: dict[str, str] | None = None, status: int = 200
) -> HTTPResponse:
    """A JSON answer with the common headers."""
    return HTTPResponse(
        dumps(value),
        status=status,
        headers=base_headers(request) | (headers or {}),
        content_type="application/json",
    )


def error_response(request: Request, error: ApiError) -> HTTPResponse:
    return json_response(request, error.body(), error.headers, error.status)


class _Answer(HTTPResponse):
    """An answer whose headers are our own ASCII: no multidict, no sanitising of each value."""

    __slots__ = ()

    def __init__(self, body: bytes, headers: dict[str, str]) -> None:
        # Not by way of Sanic's own, which makes two multidicts to throw away.
        self.asgi = False
        self.body = body
        self.content_type = None
        self.stream = None
        self.status = 200
        self.headers: Any = headers
        self._cookies = None

    @property
    def processed_headers(self) -> Iterator[tuple[bytes, bytes]]:
        """All of them as one: Sanic would write each by itself."""
        name, _, rest = _lines(self.headers).partition(b": ")
        yield name, rest[:-2]


_OK = b"HTTP/1.1 200 OK\r\n"


def _lines(headers: dict[str, str]) -> bytes:
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items() if value]).encode()


class _Unframed(dict[str, str]):
    """Headers of a stream for an HTTP/1.0 client, which knows no chunks: Sanic would announce them."""

    def __setitem__(self, name: str, value: str) -> None:
        if name != "transfer-encoding":
            super().__setitem__(name, value)


async def _until_close(stream: Any, data: bytes, end_stream: bool) -> None:
    """Sanic's way to send a piece of a body, for one that the close of the connection ends."""
    if data:
        await stream.protocol.send(data)
    if end_stream:
        stream.response_func, stream.stage = None, Stage.IDLE


def _not_yet(_data: bytes) -> bool:
    return False


class Wire:
    """A `Sink`: hands one answer to the socket and remembers how far it came."""

    def __init__(self, request: Request, pinger: Pinger) -> None:
        self._request = request
        self._pinger = pinger
        self._response: Any = None
        self._headers: dict[str, str] = {}
        self._starting: asyncio.Lock | None = None
        self._chunks = True
        self._protocol: Any = None
        """Of a stream, once its 200 has left."""
        self.write: Callable[[bytes], bool] = _not_yet
        self.started = False
        self.since = self._pinged = 0.0

    @property
    def last(self) -> float:
        """When something was written last."""
        return self._pinged if self._protocol is None else max(self._pinged, self._protocol.wrote)

    def prepare(self, headers: dict[str, str]) -> None:
        self._headers = headers
        self._starting = asyncio.Lock()
        self.since = self._pinged = time.monotonic()
        self._pinger.watch(self)

    async def send(self, data: bytes) -> None:
        if not self.started:
            await self._start()
        assert self._response is not None
        await self._response.send(data)
        stream: Any = self._request.stream
        if self._protocol is None:
            self._protocol = stream.protocol
            if self._chunks:
                self.write = self._protocol.write_chunk

    async def finish(self, data: bytes, *, close: bool = False) -> None:
        self._pinger.leave(self)
        if not self.started:
            await self._start()
        assert self._response is not None
        stream: Any = self._request.stream
        if close and stream is not None:
            stream.keep_alive = False
        # In one write: a client that leaves at the last event has had the whole answer.
        await self._response.send(data, end_stream=True)

    async def answer(self, body: bytes, headers: dict[str, str]) -> None:
        headers |= base_headers(self._request)
        headers["content-type"] = "application/json"
        self.started = self._request.responded = True
        exchange = cast("Exchange", self._request.stream)
        # `Request.respond` without its look for middleware: there is none.
        await exchange.send_whole(_Answer(body, headers), _OK + _lines(headers), body)

    async def fail(self, error: ApiError) -> None:
        """An error after the 200 has left: an event, then the connection closes."""
        from sellapi.wire import sse

        await self.finish(sse.error(error.body()), close=True)

    def close(self) -> None:
        self._pinger.leave(self)

    async def _start(self) -> None:
        assert self._starting is not None
        async with self._starting:
            if self.started:
                return
            headers = base_headers(self._request) | self._headers
            headers["content-type"] = "text/event-stream; charset=utf-8"
            headers["cache-control"] = "no-cache"
            headers["x-accel-buffering"] = "no"  # nginx would hold events back
            self._chunks = self._request.version != "1.0"
            if not self._chunks:
                headers = _Unframed(headers)
            self._response = await self._request.respond(_Answer(b"", headers))
            self.started = True
            if not self._chunks:
                await self._send_head()

    async def _send_head(self) -> None:
        stream: Any = self._request.stream
        stream.keep_alive = False
        await self._response.send(b"")
        stream.response_func = partial(_until_close, stream)

    def pinged(self, now: float) -> None:
        """A ping is on its way: the next is due in its time."""
        self._pinged = now

    async def ping(self) -> None:
        if self._protocol is not None and not self._protocol.taking:
            return  # a ping that waits may be written after the end
        await self.send(_PING)


class Pinger:
    """One task for all streams: keeps silent ones alive and sends heads that are overdue."""

    def __init__(self) -> None:
        self._wires: set[Wire] = set()
        self._pings: set[asyncio.Task[None]] = set()

    def watch(self, wire: Wire) -> None:
        self._wires.add(wire)

    def leave(self, wire: Wire) -> None:
        self._wires.discard(wire)

    async def run(self, tick_s: float = 1.0) -> None:
        while True:
            await asyncio.sleep(tick_s)
            now = time.monotonic()
            for wire in list(self._wires):
                due = wire.last + PING_AFTER_S if wire.started else wire.since + HEAD_AFTER_S
                if now >= due:
                    wire.pinged(now)
                    task = asyncio.ensure_future(_quietly(wire))
                    self._pings.add(task)
                    task.add_done_callback(self._pings.discard)


async def _quietly(wire: Wire) -> None:
    try:
        await wire.ping()
    except Exception as error:  # the request's own task notices that its client is gone
        log.debug("ping failed: %s", error)
