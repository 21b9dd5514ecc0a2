"""How requests are framed: what RFC 9112 allows is served, what two readers may read differently is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from sellapi.api import protocol
from tests.support.fake_openai import json_reply, stream_reply
from tests.support.shopfront import (
    CHAT,
    HELLO,
    Front,
    chunk,
    completion,
    open_front,
    usage_chunk,
)

BODY = json.dumps({"model": CHAT, "messages": HELLO}).encode()
HALF = len(BODY) // 2
IN_CHUNKS = b'%x\r\n%b\r\n%X;name="a;b"\r\n%b\r\n' % (
    HALF,
    BODY[:HALF],
    len(BODY) - HALF,
    BODY[HALF:],
)


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with open_front(tmp_path) as front:
        front.fake.script("/chat/completions", json_reply(completion()))
        yield front


async def say(front: Front, *pieces: bytes, pause_s: float = 0.01) -> bytes:
    """Everything the server says to these bytes until it closes."""
    host, port = front.run.origin.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(pause_s)
        said = b""
        # A server that closes with bytes unread resets the connection, behind what it said.
        with suppress(ConnectionResetError):
            while piece := await asyncio.wait_for(reader.read(65_536), 5):
                said += piece
        return said
    finally:
        writer.close()


def post(front: Front, *fields: str, first: str = "POST /v1/chat/completions HTTP/1.1") -> bytes:
    lines = [first, "host: x", f"authorization: Bearer {front.key}", *fields]
    return "\r\n".join([*lines, "", ""]).encode()


def length(front: Front, *fields: str) -> bytes:
    return post(front, *fields, f"content-length: {len(BODY)}") + BODY


async def test_an_empty_line_before_a_request_is_passed_over(front: Front) -> None:
    """Some clients send one behind a body (RFC 9112, 2.2)."""
    request = length(front, "connection: close")
    assert (await say(front, b"\r\n" + request)).startswith(b"HTTP/1.1 200 ")
    assert (await say(front, b"\r", b"\n", request)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("coding", ["chunked", "Chunked", "CHUNKED "])
@pytest.mark.parametrize("trailers", [b"", b"x-sum: 1\r\n", b"a: b\r\nc:\r\n"])
async def test_a_body_in_chunks_with_extensions_and_trailers(
    front: Front, coding: str, trailers: bytes
) -> None:
    head = post(front, f"Transfer-Encoding: {coding}")
    whole = head + IN_CHUNKS + b"0\r\n" + trailers + b"\r\n"
    last = length(front, "connection: close")
    # What follows must be read as the request it is; so must it be byte by byte around the end.
    answer = await say(front, whole[:-3], whole[-3:-1], whole[-1:] + last)
    assert answer.count(b"HTTP/1.1 200 ") == 2, answer
    assert len(front.fake.requests) == 2


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ((), True),
        (("connection: keep-alive",), True),
        (("Connection: TE, Keep-Alive",), True),
        (("connection: upgrade", "upgrade: h2c"), True),
        (("connection: close",), False),
        (("connection: te, Close",), False),
        (("connection: te", "connection: close"), False),
    ],
)
async def test_a_connection_is_kept_unless_its_client_says_close(
    front: Front, fields: tuple[str, ...], kept: bool
) -> None:
    more = [length(front, "connection: close")] if kept else []
    answer = await say(front, length(front, *fields), *more)
    assert answer.count(b"HTTP/1.1 200 ") == 1 + kept
    assert answer.count(b"\r\nconnection: close\r\n") == 1


async def test_a_client_of_http_1_0_is_kept_only_when_it_asks(front: Front) -> None:
    first = "POST /v1/chat/completions HTTP/1.0"
    size = f"content-length: {len(BODY)}"
    asked = post(front, size, "connection: Keep-Alive", first=first) + BODY
    answer = await say(front, asked, post(front, size, first=first) + BODY)
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert answer.count(b"\r\nconnection: keep-alive\r\n") == 1


SIZE = f"content-length: {len(BODY)}"


@pytest.mark.parametrize(
    "fields",
    [
        (SIZE, SIZE),
        (SIZE, "transfer-encoding: chunked"),
        (f"content-length: +{len(BODY)}",),
        (f"content-length: {len(BODY)}, {len(BODY)}",),
        (f"content-length: {len(BODY):#x}",),
        (f"content-length: {len(BODY)}_0",),
        (f"content-length: {chr(0xB2)}",),
        ("content-length:",),
        (f"content-length: 1{'0' * 30}",),
        ("transfer-encoding: gzip, chunked",),
        ("transfer-encoding: chunked", "transfer-encoding: chunked"),
        ("transfer-encoding: identity",),
        (SIZE, "x-one: a\n transfer-encoding: chunked"),
        (SIZE, "x-one: a\rb"),
        (SIZE, "x-one: a\x00b"),
        (SIZE, "x-one: a", " folded: b"),
        (SIZE, "content-length : 5"),
        (SIZE, "x one: a"),
        (SIZE, "x-one"),
        (SIZE, ": nameless"),
    ],
)
async def test_what_two_readers_may_understand_differently_is_400_and_the_end(
    front: Front, fields: tuple[str, ...]
) -> None:
    answer = await say(front, post(front, *fields) + BODY + length(front, "connection: close"))
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"\r\nconnection: close\r\n" in answer
    assert front.fake.requests == []


@pytest.mark.parametrize(
    "chunks",
    [
        b"5\r\n{\r\n0\r\n\r\n",
        b"1\r\n{}\r\n0\r\n\r\n",
        b"+1\r\n{\r\n",
        b"0x1\r\n{\r\n",
        b"-1\r\n{\r\n",
        b"\r\n",
        b"1 2\r\n",
        b"zz\r\n",
        b"1;" + b"x" * 2_000 + b"\r\n{\r\n",
        b"1;a\nb\r\n{\r\n",
        b"f" * 17 + b"\r\n",
        b"0\r\nno trailer\r\n\r\n",
        b"0\r\nGET /health HTTP/1.1\r\n\r\n",
        b"0\r\n" + b"a: b\r\n" * 5_000 + b"\r\n",
        b"0\r\na: " + b"b" * 30_000,
    ],
)
async def test_broken_chunks_are_400_and_the_end(front: Front, chunks: bytes) -> None:
    answer = await say(front, post(front, "transfer-encoding: chunked") + chunks)
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert answer.count(b"HTTP/1.1 ") == 1
    assert front.fake.requests == []


async def test_a_coding_that_only_looks_like_chunked_is_none(front: Front) -> None:
    """With the Kelvin sign, whose small letter is a ``k``."""
    head = post(front, "transfer-encoding: chun\u212aed", "connection: close")
    answer = await say(front, head + IN_CHUNKS + b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_chunks_are_not_for_http_1_0(front: Front) -> None:
    first = "POST /v1/chat/completions HTTP/1.0"
    head = post(front, "transfer-encoding: chunked", first=first)
    answer = await say(front, head + IN_CHUNKS + b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("target", ["http://x", "http://x?a=b", "x:1", "*"])
async def test_a_target_without_a_path_is_no_route(front: Front, target: str) -> None:
    head = post(front, "connection: close", first=f"GET {target} HTTP/1.1")
    assert (await say(front, head)).startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize("apart", [False, True])
async def test_an_empty_line_behind_a_request_does_not_slow_its_stream(
    front: Front, monkeypatch: pytest.MonkeyPatch, apart: bool
) -> None:
    """What lies in the buffer counts as another request, and each event would wait for it."""
    monkeypatch.setattr(protocol, "PIPELINED_PAUSE_S", 30.0)
    words = [*(chunk(f"w{n} ") for n in range(100)), chunk(finish="stop"), usage_chunk()]
    front.fake.script("/chat/completions", stream_reply(words, pause_s=0.001))
    body = json.dumps({"model": CHAT, "messages": HELLO, "stream": True}).encode()
    request = post(front, "connection: close", f"content-length: {len(body)}") + body
    async with asyncio.timeout(10):
        answer = await say(front, *([request, b"\r\n"] if apart else [request + b"\r\n"]))
    assert answer.count(b"data: ") == 102
