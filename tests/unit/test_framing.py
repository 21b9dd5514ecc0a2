"""Requests cut anywhere on their way are read as what they are."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from sanic import Sanic
from sanic.http import Http

from sellapi.api.http1 import Exchange
from sellapi.api.respond import OurRequest

Http.set_header_max_size(16_384)
APP: Any = Sanic("framing", request_class=OurRequest)


def exchange(pieces: list[bytes]) -> Exchange:
    """A connection that gets these pieces, one each time it wants more."""
    buffer = bytearray()
    left = iter(pieces)

    async def receive_more() -> None:
        buffer.extend(next(left))

    return Exchange(
        SimpleNamespace(
            send=None,
            receive_more=receive_more,
            begin_head=lambda: None,
            recv_buffer=buffer,
            app=APP,
            request_class=OurRequest,
            request_max_size=1_000_000,
            transport=None,
            state={"requests_count": 0},
        )
    )


async def read(one: Exchange) -> tuple[str, bytes]:
    """``(target, body)`` of the next request."""
    one.init_for_request()
    await one.http1_request_header()
    body = b"".join([piece async for piece in one])
    return one.request.raw_url.decode(), body


CHUNKS = st.lists(st.binary(min_size=1, max_size=40), max_size=6)
EXTENSIONS = st.sampled_from([b"", b";a", b' ; a="b c"', b"  "])
TRAILERS = st.sampled_from([b"", b"x: y\r\n", b"a:\r\nb: c d \r\n"])
SPELLINGS = st.sampled_from([b"chunked", b"Chunked"])


@given(
    bodies=st.lists(st.tuples(CHUNKS, EXTENSIONS, TRAILERS, SPELLINGS, st.booleans()), max_size=4),
    data=st.data(),
)
def test_requests_are_read_the_same_however_they_are_cut(bodies: Any, data: Any) -> None:
    sent = b""
    for number, (chunks, extension, trailers, spelling, framed) in enumerate(bodies):
        sent += b"\r\n" * (number % 2) + b"POST /%d HTTP/1.1\r\nHost: x\r\n" % number
        if framed:
            sent += b"transfer-encoding: " + spelling + b"\r\n\r\n"
            for chunk in chunks:
                sent += b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk)
            sent += b"0" + extension + b"\r\n" + trailers + b"\r\n"
        else:
            body = b"".join(chunks)
            sent += b"Content-Length: %d \r\n\r\n%b" % (len(body), body)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(sent)), max_size=12)))
    edges = [0, *cuts, len(sent)]
    one = exchange([sent[a:b] for a, b in pairwise(edges) if a < b])

    async def all_of_them() -> None:
        for number, (chunks, *_) in enumerate(bodies):
            assert await read(one) == (f"/{number}", b"".join(chunks))
        assert not one.recv_buffer

    asyncio.run(all_of_them())
