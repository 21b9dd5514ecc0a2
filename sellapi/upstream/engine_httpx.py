"""The second engine: httpx, for odd proxies and platforms, and for tests that use pytest-httpx.

The same behaviour as the first at several times the cost. Its `AsyncHTTPTransport` is used as it
is, because that is what pytest-httpx patches. Bodies are taken raw: decoding is ours, size-bounded.
SOCKS proxies need `httpx[socks]` installed beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

from sellapi.upstream.adapter import UpstreamFailure
from sellapi.upstream.client import (
    USER_AGENT,
    Call,
    EngineOptions,
    Exchange,
    Slots,
    Take,
    connection_lost,
    garbage,
    misconfigured,
    not_connected,
    timed_out,
    truncated,
)
from sellapi.upstream.tls import tls_context

__all__ = ["HttpxEngine"]


class HttpxEngine:
    """Satisfies `Engine`; one client, one pool."""

    def __init__(self, options: EngineOptions | None = None) -> None:
        options = options or EngineOptions()
        self._slots = Slots(options)
        try:
            self._client: httpx.AsyncClient | None = _build(options)
        except (ImportError, ValueError):  # a proxy that needs `httpx[socks]`, or is none
            self._client = None

    def open(self, call: Call) -> HttpxExchange:
        """Every call of a provider whose proxy cannot be used is ``config``; the others go on."""
        return HttpxExchange(self._client, call, self._slots)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()


def _build(options: EngineOptions) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(
        verify=tls_context(options.ca_pem),
        trust_env=False,
        http2=False,
        proxy=options.proxy,
        limits=httpx.Limits(
            max_connections=None,  # `Slots` is the queue
            max_keepalive_connections=options.max_connections,
            keepalive_expiry=options.keep_alive_s,
        ),
        retries=0,
    )
    return httpx.AsyncClient(
        transport=transport,
        trust_env=False,
        follow_redirects=False,
        headers={"user-agent": USER_AGENT, "accept": "*/*", "accept-encoding": "identity"},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # keep nobody's cookies
        timeout=httpx.Timeout(None, connect=options.connect_timeout_s),
    )


class HttpxExchange(Exchange):
    __slots__ = ("_body", "_client", "_reading", "_reply")

    def __init__(self, client: httpx.AsyncClient | None, call: Call, slots: Slots) -> None:
        super().__init__(call, slots)
        self._client = client
        self._reply: httpx.Response | None = None
        self._body: AsyncIterator[bytes] | None = None
        self._reading: asyncio.Task[bytes | None] | None = None

    @property
    def status(self) -> int:
        assert self._reply is not None
        return self._reply.status_code

    @property
    def headers(self) -> Mapping[str, str]:
        assert self._reply is not None
        return dict(self._reply.headers.multi_items())

    async def _send(self) -> str | None:
        call = self._call
        if self._client is None:
            raise misconfigured()
        request = self._client.build_request(
            "POST", call.url, headers=dict(call.headers), content=call.body
        )
        if call.on_send is not None:
            call.on_send()  # before it has a connection: httpx does not say when
        reply = self._reply = await self._client.send(request, stream=True)
        self._body = reply.aiter_raw()
        encoding: str | None = reply.headers.get("content-encoding")
        return encoding

    async def _raw(self, take: Take | None = None) -> bytes | None:  # noqa: ARG002 - may be asked
        if self._body is None:
            return None
        if self._reading is None:  # httpx closes a connection whose read is cancelled
            self._reading = asyncio.create_task(_next(self._body))
        self._deadline.start(self._call.idle_s)
        try:
            chunk = await asyncio.shield(self._reading)
        except BaseException as error:
            if self._deadline.expired():
                self._body = None
                raise timed_out(f"for {self._call.idle_s:g} seconds") from None
            if isinstance(error, httpx.HTTPError):
                self._body = self._reading = None
                raise _body_failure(error) from None
            raise
        self._deadline.done()
        self._reading = None
        if chunk is None:
            self._body = None
        return chunk

    async def _release(self) -> None:
        self._body = None
        if self._reading is not None:
            self._reading.cancel()
            with suppress(asyncio.CancelledError, httpx.HTTPError):
                await self._reading
        if self._reply is not None:
            await self._reply.aclose()

    def _failure(self, error: Exception) -> UpstreamFailure:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
            return not_connected()
        if isinstance(error, httpx.RemoteProtocolError):
            return connection_lost() if _disconnected(error) else garbage()
        if isinstance(error, httpx.NetworkError | httpx.TimeoutException):
            return connection_lost()
        return misconfigured()  # InvalidURL, UnsupportedProtocol, LocalProtocolError, ValueError


async def _next(body: AsyncIterator[bytes]) -> bytes | None:
    return await anext(body, None)


def _body_failure(error: httpx.HTTPError) -> UpstreamFailure:
    if isinstance(error, httpx.RemoteProtocolError):
        return truncated() if "without sending complete" in str(error) else garbage()
    return connection_lost()


def _disconnected(error: httpx.RemoteProtocolError) -> bool:
    """Whether h11 saw the end; httpcore tells it in words only (pinned by tests)."""
    return "disconnected" in str(error) or "without sending complete" in str(error)
