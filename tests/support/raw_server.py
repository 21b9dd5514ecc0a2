"""A server of raw sockets whose every byte is scripted, and certificates for one that speaks TLS.

A script is an async function that gets a `Peer` for each connection:

    async def script(peer):
        await peer.request()
        peer.send(head(200, {"content-length": "2"}), b"ok")

    async with raw_server(script) as server:
        ... server.url, server.requests, server.connections
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any


@dataclass(frozen=True)
class Request:
    line: str
    headers: dict[str, str]
    body: bytes


@dataclass
class RawServer:
    port: int
    scheme: str = "http"
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a script waiting in `Peer.gone` saw the client leave."""

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"


class Peer:
    """One connection, seen from the server."""

    def __init__(
        self, server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.server = server
        self.reader = reader
        self.writer = writer

    async def request(self) -> Request:
        """Read one whole request; `asyncio.IncompleteReadError` when the client has gone."""
        text = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *rest = text.strip().split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (h.partition(":") for h in rest)}
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        request = Request(line, headers, body)
        self.server.requests.append(request)
        return request

    def send(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))

    def reset(self) -> None:
        """RST instead of FIN: closing with linger 0."""
        import socket
        import struct

        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def gone(self) -> None:
        """Wait until the client closes or resets; then `RawServer.left` is set."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass
        self.server.left.set()


Script = Callable[[Peer], Awaitable[Any]]


@asynccontextmanager
async def raw_server(
    script: Script, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[RawServer]:
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        server.connections += 1
        try:
            await script(Peer(server, reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client left, or the test is over
        finally:
            tasks.discard(task)
            writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls, limit=1 << 22)
    port = listener.sockets[0].getsockname()[1]
    server = RawServer(port, "https" if tls else "http")
    try:
        yield server
    finally:
        listener.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def head(status: int, headers: Mapping[str, str] | None = None) -> bytes:
    lines = "".join(f"{k}: {v}\r\n" for k, v in (headers or {}).items())
    return f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode("latin-1")


def whole(body: bytes, headers: Mapping[str, str] | None = None, status: int = 200) -> bytes:
    """A reply with Content-Length."""
    return head(status, {"content-length": str(len(body)), **(headers or {})}) + body


def chunked(*pieces: bytes, end: bool = True) -> bytes:
    text = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return text + (b"0\r\n\r\n" if end else b"")


CHUNKED = {"transfer-encoding": "chunked"}


class Authority:
    """A certificate authority that lives as long as the test run."""

    def __init__(self) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID

        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sellapi test CA")])
        certificate = (
            self._draft(self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, self._hash())
        )
        self.pem = self._pem(certificate)

    def server_context(self, folder: Any, host: str) -> ssl.SSLContext:
        """A server's context with a certificate for ``host`` (a name or an address)."""
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        plain = re.fullmatch(r"[0-9.]+", host)
        alternative = x509.IPAddress(ip_address(host)) if plain else x509.DNSName(host)
        certificate = (
            self._draft(x509.Name([]), key)
            .add_extension(x509.SubjectAlternativeName([alternative]), critical=True)
            .sign(self._key, self._hash())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        file = folder / f"{host}.pem"
        file.write_bytes(private + self._pem(certificate))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.pem.decode())

    def _draft(self, subject: Any, key: Any) -> Any:
        from cryptography import x509

        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
        )

    @staticmethod
    def _hash() -> Any:
        from cryptography.hazmat.primitives import hashes

        return hashes.SHA256()

    @staticmethod
    def _pem(certificate: Any) -> bytes:
        from cryptography.hazmat.primitives import serialization

        data: bytes = certificate.public_bytes(serialization.Encoding.PEM)
        return data
