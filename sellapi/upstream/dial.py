"""Connecting to a provider: name, TCP, a proxy's tunnel, TLS.

Whatever fails here, and when it takes too long, is ``connect``: provably never sent. Addresses are
tried side by side (RFC 8305), so a dead IPv6 does not eat the time that IPv4 would have needed.

Proxies: ``http://`` ones, with a name and password in the URL if need be. A plain call goes to the
proxy in absolute form, one over TLS through a tunnel (CONNECT). Others are the second engine's.
"""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, TypeVar, cast

import httpx
from aiohappyeyeballs import start_connection

from sellapi.upstream.client import EngineOptions, not_connected
from sellapi.upstream.connection import Connection
from sellapi.upstream.names import Names
from sellapi.upstream.tls import tls_context

__all__ = ["HOST", "Dialer", "Origin", "Proxy"]

HOST = re.compile(r"[0-9A-Za-z._-]+|[0-9A-Fa-f:.]+")
"""A name in ASCII, or an address without brackets; `httpx.URL` lets more through."""
EYEBALLS_S = 0.25
"""How long one address is tried before the next one joins in."""
TUNNEL_HEAD_MAX = 64 * 1024
ACCEPTED = re.compile(rb"HTTP/1\.[01] 2\d\d[ \r]")
AnyProtocol = TypeVar("AnyProtocol", bound=asyncio.Protocol)


class Origin(NamedTuple):
    """What a connection leads to; connections to the same origin stand in for each other."""

    host: str
    """A name in ASCII or an address without brackets."""
    port: int
    tls: bool


@dataclass(frozen=True, slots=True, repr=False)
class Proxy:
    host: str
    port: int
    authorization: str | None
    """The value of Proxy-Authorization."""

    @classmethod
    def read(cls, url: str) -> Proxy | None:
        """The proxy a URL names; None when it is not one we speak to."""
        try:
            parsed = httpx.URL(url)
            host = parsed.raw_host.decode("ascii")
        except (httpx.InvalidURL, ValueError):
            return None
        if parsed.scheme != "http" or not HOST.fullmatch(host):
            return None
        authorization = None
        if parsed.userinfo:
            pair = f"{parsed.username}:{parsed.password}".encode()
            authorization = f"Basic {base64.b64encode(pair).decode('ascii')}"
        return cls(host, parsed.port or 80, authorization)


class Dialer:
    """Connects for one engine."""

    def __init__(self, options: EngineOptions, proxy: Proxy | None) -> None:
        self._timeout_s = options.connect_timeout_s
        self._proxy = proxy
        self._context = _context(options.ca_pem)
        self._names = Names(most=2)

    async def connect(
        self, origin: Origin, on_lost: Callable[[Connection], None], within_s: float
    ) -> Connection:
        """A connection that has carried nothing yet; raises `UpstreamFailure` ``connect``."""
        loop = asyncio.get_running_loop()

        def build() -> Connection:
            return Connection(loop, on_lost)

        try:
            async with asyncio.timeout(min(self._timeout_s, within_s)):
                if not origin.tls:
                    _, connection = await self._open(origin.host, origin.port, build)
                elif self._proxy is None:
                    _, connection = await self._open(
                        origin.host, origin.port, build, self._context, _name(origin)
                    )
                else:
                    connection = await self._through(self._proxy, origin, build)
        except Exception:  # of many kinds (UnicodeError of a name, RuntimeError of uvloop): unsent
            raise not_connected() from None
        return connection

    async def _through(
        self, proxy: Proxy, origin: Origin, build: Callable[[], Connection]
    ) -> Connection:
        loop = asyncio.get_running_loop()
        transport, tunnel = await self._open(proxy.host, proxy.port, lambda: Tunnel(loop))
        try:
            await tunnel.ask(origin, proxy.authorization)
            connection = build()
            connection.connection_made(transport)  # to abort, if the server speaks at once
            secure = await loop.start_tls(
                transport, connection, self._context, server_hostname=_name(origin)
            )
        except BaseException:
            transport.abort()
            raise
        if secure is None:  # closed in the very moment the handshake ended
            raise ConnectionResetError
        connection.connection_made(secure)
        return connection

    async def _open(
        self,
        host: str,
        port: int,
        build: Callable[[], AnyProtocol],
        context: ssl.SSLContext | None = None,
        name: str | None = None,
    ) -> tuple[asyncio.Transport, AnyProtocol]:
        """Connect; with a ``context`` over TLS, checked against ``name``.

        TCP_NODELAY is the loop's doing.
        """
        loop = asyncio.get_running_loop()
        found = await self._names.find(host, port)
        task = asyncio.current_task()
        before = task.cancelling() if task is not None else 0
        sock = await start_connection(found, happy_eyeballs_delay=EYEBALLS_S)
        if task is not None and task.cancelling() > before:
            sock.close()  # the race waits for its losers, and swallows a cancellation that comes then
            raise asyncio.CancelledError
        return await loop.create_connection(build, sock=sock, ssl=context, server_hostname=name)


def _name(origin: Origin) -> str:
    """What the certificate must be for; the root's dot is no part of it."""
    return origin.host.rstrip(".")


@cache
def _context(ca_pem: bytes | None) -> ssl.SSLContext:
    context = tls_context(ca_pem)
    context.set_alpn_protocols(["http/1.1"])
    return context


class Tunnel(asyncio.Protocol):
    """Asks a proxy for a tunnel; raises `OSError` when there is none."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._answer: asyncio.Future[bytes] = loop.create_future()
        self._received = b""
        self._transport: asyncio.Transport | None = None

    async def ask(self, origin: Origin, authorization: str | None) -> None:
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        lines = [f"CONNECT {host}:{origin.port} HTTP/1.1", f"host: {host}:{origin.port}"]
        if authorization is not None:
            lines.append(f"proxy-authorization: {authorization}")
        assert self._transport is not None
        self._transport.write("\r\n".join([*lines, "", ""]).encode("ascii"))
        head, end, rest = (await self._answer).partition(b"\r\n\r\n")
        if not end or rest or not ACCEPTED.match(head + end):
            raise ConnectionRefusedError  # bytes after the head would be taken for the provider's

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses

    def data_received(self, data: bytes) -> None:
        self._received += data
        if b"\r\n\r\n" in self._received or len(self._received) > TUNNEL_HEAD_MAX:
            self._told()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._told()

    def _told(self) -> None:
        if not self._answer.done():
            self._answer.set_result(self._received)
