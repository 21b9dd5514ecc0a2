"""What comes in: who asks, from where, and the body, within bounds of size, time and memory."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from typing import Any

from sanic import Request

from sellapi.api.respond import request_id
from sellapi.errors import InvalidRequest, Overloaded, PayloadTooLarge, UnsupportedMedia
from sellapi.gateway.pipeline import Ask
from sellapi.gateway.shop import Shop

__all__ = ["Budget", "address_of", "read_ask", "want_no_body", "within"]

DISCARD_BYTES = 160_000_000
DISCARD_PAUSE_S = 0.002
DISCARD_S = 20.0
PAUSING_BYTES = 32_768
"""With such a body Sanic may have stopped reading: it does at 64 KB, of head and body."""

SHARE = 4
"""One account's bodies may take a quarter of the memory for bodies."""
SPARED = 8
"""An eighth of it is for bodies that come at once: small ones do not suffer from large ones."""


class Budget:
    """Bytes of request bodies in memory, over all requests.

    ``owner`` is the account of a body that comes in pieces, None for one that was there at once.
    """

    def __init__(self, total: int) -> None:
        self.left = total
        self._most = total // SHARE
        self._spared = total // SPARED
        self._owners: Counter[int] = Counter()

    def take(self, size: int, owner: int | None) -> None:
        """Raises `Overloaded` when memory for bodies is used up, or an account's share of it."""
        spared = 0 if owner is None else self._spared
        if size > self.left - spared:
            raise Overloaded("Too many large requests at once; try again shortly.", retry_after=2)
        if owner is not None:
            if self._owners[owner] + size > self._most:
                raise Overloaded(
                    "Too many large requests of this account at once; try again when some have "
                    "been answered.",
                    retry_after=2,
                )
            self._owners[owner] += size
        self.left -= size

    def give(self, size: int, owner: int | None) -> None:
        self.left += size
        if owner is not None:
            self._owners[owner] -= size
            if not self._owners[owner]:
                del self._owners[owner]


def address_of(request: Request) -> str:
    """The client's address; behind a trusted proxy the one it forwarded."""
    peer = str(request.ip)
    trusted: tuple[str, ...] = request.app.ctx.trusted_proxies
    if not trusted or not within(peer, trusted):
        return peer
    # All of its lines: some proxies (HAProxy) add theirs below what the client sent.
    forwarded = ",".join(request.headers.getall("x-forwarded-for", []))
    for hop in reversed([_bare(h.strip()) for h in forwarded.split(",") if h.strip()]):
        if not within(hop, trusted):
            return hop
    return peer


def _bare(hop: str) -> str:
    """An address without what some proxies put round it: a port, brackets, IPv6 for an IPv4."""
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    try:
        ip = ipaddress.ip_address(hop)
    except ValueError:
        return hop
    return str(getattr(ip, "ipv4_mapped", None) or ip)


def within(address: str, networks: tuple[str, ...]) -> bool:
    """Whether an address lies in one of these networks (or is one of these addresses)."""
    try:
        ip = ipaddress.ip_address(address)
        return any(ip in ipaddress.ip_network(n, strict=False) for n in networks)
    except ValueError:
        return False


async def read_ask(request: Request, mode: str) -> tuple[Ask, tuple[int, int | None]]:
    """A POST and what of the budget it takes (give it back when it is answered)."""
    content_type = request.headers.get("content-type", "application/json")
    if "json" not in content_type.lower():
        raise UnsupportedMedia("Send the body as JSON with 'Content-Type: application/json'.")
    authorization = request.headers.get("authorization")
    address = address_of(request)
    declared = _declared(request)
    limit: int = request.app.ctx.max_body_bytes
    if declared is not None and declared > limit:
        await _discard(request, limit)
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedMedia("Send the body as it is, without a content-encoding.")
    stream: Any = request.stream
    owner: int | None = None
    if declared is None or len(stream.recv_buffer) < declared:
        # Not all here yet: only waited for when the key is good.
        shop: Shop = request.app.ctx.gateway.shop
        owner = (await shop.authenticate(authorization, address)).account_id
    body = await _read(request, limit, declared, owner)
    ask = Ask(
        mode=mode,
        body=body,
        authorization=authorization,
        address=address,
        request_id=request_id(request),
        retry_of=_retry_count(request),
    )
    return ask, (len(body), owner)


def _declared(request: Request) -> int | None:
    """Content-Length, 0 without a body, None when it comes in chunks of unknown length."""
    length = request.headers.get("content-length")
    if length is not None and length.isdecimal():
        return int(length)
    return None if "transfer-encoding" in request.headers else 0


def _retry_count(request: Request) -> int | None:
    count = request.headers.get("x-stainless-retry-count", "")
    return int(count) if count.isdecimal() and len(count) < 4 and count != "0" else None


def want_no_body(request: Request) -> None:
    """Who waits for ``100 Continue`` gets an answer instead, and sends no body (RFC 9110, 10.1.1)."""
    stream: Any = request.stream
    if stream is not None and stream.expecting_continue:
        stream.expecting_continue, stream.request_body = False, None
        stream.keep_alive = False  # some send it all the same


async def _read(request: Request, limit: int, declared: int | None, owner: int | None) -> bytes:
    stream: Any = request.stream
    if stream is None or not stream.request_body:
        return b""
    if declared is not None and len(stream.recv_buffer) >= declared:
        return await _collect(request, stream, limit, owner)  # all here already: no timer needed
    try:
        async with asyncio.timeout(request.app.ctx.body_timeout):
            return await _collect(request, stream, limit, owner)
    except TimeoutError:
        late = InvalidRequest("The body did not arrive in time: send it faster.")
        late.status = 408
        late.headers["x-should-retry"] = "false"
        raise late from None


async def _collect(request: Request, stream: Any, limit: int, owner: int | None) -> bytes:
    """The body; the budget is taken for what has arrived, not for what was announced."""
    budget: Budget = request.app.ctx.budget
    first = b""
    rest = bytearray()  # no list: a million tiny chunks would take twenty times their size
    size = 0
    try:
        while stream.request_body:
            chunk = await stream.read()
            if chunk:
                budget.take(len(chunk), owner)
                if size:
                    rest += chunk
                else:
                    first = chunk
                size += len(chunk)
                if size > limit:
                    await _discard(request, limit)
    except BaseException:
        budget.give(size, owner)
        raise
    if size > PAUSING_BYTES:
        transport = stream.protocol.transport
        if transport is not None and not transport.is_closing():
            transport.resume_reading()  # a client that leaves is seen by reading
    return first + rest if rest else first


async def _discard(request: Request, limit: int) -> None:
    """Read a body that is too large to its end, keeping nothing, and refuse it.

    A client that is still sending when the connection is closed sees a reset instead of the 413.
    """
    size = 0
    stream: Any = request.stream
    if (_declared(request) or 0) > DISCARD_BYTES or stream.expecting_continue:
        stream = None  # nobody waits for the end of that, or it was not even begun
    try:
        async with asyncio.timeout(DISCARD_S):
            while stream is not None and stream.request_body and size < DISCARD_BYTES:
                size += len(await stream.read() or b"")
                await asyncio.sleep(DISCARD_PAUSE_S)  # the others first
    except TimeoutError:
        pass
    raise PayloadTooLarge(f"The body is too large: at most {limit // 1_000_000} MB are taken.")
