"""Clients that take more than their share: each is cut in time, the others do not notice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop

from sellapi.api import protocol
from tests.support.fake_openai import json_reply, stream_reply
from tests.support.shopfront import CHAT, EMBED, HELLO, Front, chunk, completion, open_front

LOOPS = {"uvloop": uvloop.new_event_loop}
"""The server's: not everything comes in the order of asyncio's own."""
LIMITS = {
    "head_timeout": 0.5,
    "body_timeout": 0.6,
    "keep_alive_timeout": 1.0,
    "write_stall_timeout": 0.5,
    "max_connections": 40,
    "max_connections_per_address": 20,
}


@pytest.fixture
async def front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Front]:
    monkeypatch.setattr(protocol, "CHECK_EVERY_S", 0.05)
    async with open_front(tmp_path, tier="pro", **LIMITS) as opened:
        yield opened


class Raw:
    """A connection by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def closed_within(self, seconds: float) -> bool:
        """Whether the server ends it, reading (and dropping) what it still says."""
        try:
            async with asyncio.timeout(seconds):
                while await self.reader.read(65_536):
                    pass
        except TimeoutError:
            return False
        except ConnectionError:
            pass
        return True

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        body = await self.reader.readexactly(int(headers["content-length"]))
        return int(lines[0].split()[1]), headers, body


@contextlib.asynccontextmanager
async def connect(front: Front, source: str = "127.0.0.1", limit: int = 65_536):
    port = int(front.run.origin.rpartition(":")[2])
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
    sock.bind((source, 0))
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    raw = Raw(*await asyncio.open_connection(sock=sock, limit=limit))
    try:
        yield raw
    finally:
        raw.writer.transport.abort()


def post(key: str, body: bytes = b"", *more: str) -> bytes:
    head = (
        "POST /v1/chat/completions HTTP/1.1",
        "host: x",
        "content-type: application/json",
        f"authorization: Bearer {key}",
        *more,
    )
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


async def _trickle(raw: Raw) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            raw.writer.write(b"x")
            await asyncio.sleep(0.05)


async def test_a_head_that_trickles_in_is_cut_at_its_deadline_however_many_bytes_come(front):
    async with connect(front) as raw:
        raw.writer.write(b"GET /health HTTP/1.1\r\nx-slow: ")
        slow = asyncio.ensure_future(_trickle(raw))
        assert await raw.closed_within(2.0)
        slow.cancel()


async def test_a_head_that_begins_with_its_connection_has_a_deadline_too(front):
    """Its first bytes are there before the server has begun with the connection."""
    sock = socket.create_connection(("127.0.0.1", int(front.run.origin.rpartition(":")[2])))
    sock.sendall(b"GET /health HTTP/1.1\r\nx-slow: ")
    raw = Raw(*await asyncio.open_connection(sock=sock))
    assert await raw.closed_within(2.0)
    raw.writer.transport.abort()


async def test_a_second_head_on_a_connection_has_a_deadline_of_its_own(front):
    async with connect(front) as raw:
        for _ in range(4):  # longer together than one head may take
            raw.writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n")
            await asyncio.sleep(0.25)
            raw.writer.write(b"\r\n")
            assert (await raw.answer())[0] == 200
        raw.writer.write(b"GET /health HTTP/1.1\r\nx-slow: ")
        slow = asyncio.ensure_future(_trickle(raw))
        assert await raw.closed_within(2.0)
        slow.cancel()


async def test_a_head_that_begins_behind_a_slow_request_has_the_time_of_any_other(front):
    front.fake.script("/chat/completions", replace(json_reply(completion()), before_s=0.7))
    body = json.dumps({"model": CHAT, "messages": HELLO}).encode()
    async with connect(front) as raw:
        raw.writer.write(post(front.key, body, f"content-length: {len(body)}") + b"GET /health")
        assert (await raw.answer())[0] == 200
        await asyncio.sleep(0.2)
        raw.writer.write(b" HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await raw.answer())[0] == 200


async def test_an_empty_line_behind_a_body_begins_no_head(front):
    """Else the connection would be ended with a 408 that nobody asked for."""
    front.fake.script("/chat/completions", json_reply(completion()))
    body = json.dumps({"model": CHAT, "messages": HELLO}).encode()
    async with connect(front) as with_it, connect(front) as later:
        for raw in (with_it, later):
            line = b"\r\n" if raw is with_it else b""
            raw.writer.write(post(front.key, body, f"content-length: {len(body)}") + line)
            assert (await raw.answer())[0] == 200
        later.writer.write(b"\r\n")
        await asyncio.sleep(0.7)
        for raw in (with_it, later):
            raw.writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await raw.answer())[0] == 200


async def test_a_connection_that_says_nothing_is_closed_sooner_than_one_kept_alive(front):
    async with connect(front) as silent, connect(front) as kept:
        kept.writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        await kept.answer()
        assert await silent.closed_within(0.9)
        assert not await kept.closed_within(0.05)
        assert await kept.closed_within(1.5)


async def test_a_body_is_only_waited_for_when_the_key_is_good_and_not_for_long(front):
    async with connect(front) as bad, connect(front) as good:
        bad.writer.write(post("sk-sellapi-" + "A" * 43, b"{", "content-length: 1000"))
        start = time.monotonic()
        assert (await bad.answer())[0] == 401
        assert time.monotonic() - start < 0.4
        good.writer.write(post(front.key, b"{", "content-length: 1000"))
        slow = asyncio.ensure_future(_trickle(good))
        status, headers, _ = await good.answer()
        slow.cancel()
        assert status == 408
        assert headers["x-should-retry"] == "false"


async def test_an_address_with_too_many_connections_gets_503_and_others_are_served(front):
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(20):
            await stack.enter_async_context(connect(front, "127.0.0.7"))
        await asyncio.sleep(0.05)
        async with connect(front, "127.0.0.7") as over:
            status, headers, body = await over.answer()
            assert status == 503
            assert int(headers["retry-after"]) > 0
            assert headers["x-request-id"].startswith("req_")
            assert json.loads(body)["error"]["type"] == "overloaded"
        assert (await front.chat()).status_code == 200
    await asyncio.sleep(0.1)
    async with connect(front, "127.0.0.7") as again:
        again.writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await again.answer())[0] == 200


async def test_when_all_connections_are_taken_those_that_only_wait_make_room(front):
    async with contextlib.AsyncExitStack() as stack:
        for number in range(45):
            source = f"127.0.0.{10 + number % 5}"
            await stack.enter_async_context(connect(front, source))
        assert (await front.chat()).status_code == 200
        assert front.run.app.ctx.gate.open <= 40


async def test_a_stream_to_a_client_that_never_reads_is_cut_settled_and_cancelled_upstream(front):
    words = [chunk("w" * 60_000) for _ in range(1_000)]
    front.fake.script("/chat/completions", stream_reply(words))
    body = json.dumps({"model": CHAT, "messages": HELLO, "stream": True}).encode()
    async with connect(front, limit=1_024) as raw:
        raw.writer.transport.pause_reading()
        raw.writer.write(post(front.key, body, f"content-length: {len(body)}"))
        for _ in range(300):
            if front.fake.aborted:
                break
            await asyncio.sleep(0.02)
        assert front.fake.aborted == 1
        rows = await front.settled(1)
    assert [(r["state"], r["estimated"]) for r in rows] == [("settled", 1)]
    for _ in range(50):
        if front.requests()[0]["delivery"] == 2:
            break
        await asyncio.sleep(0.02)
    assert front.requests()[0]["delivery"] == 2


async def test_a_client_that_reads_slowly_but_reads_gets_all_of_it(front):
    words = [chunk("w" * 60_000) for _ in range(150)]
    front.fake.script("/chat/completions", stream_reply([*words, chunk(finish="stop")]))
    body = json.dumps({"model": CHAT, "messages": HELLO, "stream": True}).encode()
    async with connect(front) as raw:
        raw.writer.write(post(front.key, body, f"content-length: {len(body)}"))
        got = b""
        for _ in range(15):
            got += await raw.reader.read(100_000)
            await asyncio.sleep(0.1)  # three stall times in all
        while b"[DONE]" not in got[-200:]:
            data = await raw.reader.read(1_000_000)
            assert data
            got += data
    assert got.count(b"w" * 60_000) == 150


async def test_pipelined_requests_are_answered_in_order(front):
    async with connect(front) as raw:
        good = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
        raw.writer.write((good + good.replace(b"health", b"nothing")) * 50)
        statuses = [(await raw.answer())[0] for _ in range(100)]
    assert statuses == [200, 404] * 50


async def test_a_zipped_body_is_415(front):
    async with connect(front) as raw:
        raw.writer.write(
            post(front.key, b"\x1f\x8b", "content-length: 2", "content-encoding: gzip")
        )
        assert (await raw.answer())[0] == 415


async def test_a_flood_of_bad_keys_does_not_touch_a_good_key_of_the_same_address(front):
    async def bad(number: int) -> int:
        return (await front.chat(key=f"sk-sellapi-{number:043d}")).status_code

    assert (await front.chat()).status_code == 200
    flood = [asyncio.ensure_future(bad(n)) for n in range(15)]
    await asyncio.sleep(0.05)
    start = time.monotonic()
    assert (await front.chat()).status_code == 200
    assert time.monotonic() - start < 0.5
    assert set(await asyncio.gather(*flood)) == {401}


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_a_body_nobody_asked_for_is_neither_kept_nor_waited_for(front, caplog, method):
    first = f"{method} /health HTTP/1.1\r\nhost: x\r\n".encode()
    async with connect(front) as raw, asyncio.timeout(5):
        raw.writer.write(first + b"content-length: 4\r\n\r\n{}{}" + first + b"\r\n")
        for _ in range(2):
            head = await raw.reader.readuntil(b"\r\n\r\n")
            assert head.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 204 "))
            await raw.reader.readexactly(15 if method == "GET" else 0)
        raw.writer.write(first + b"content-length: 100000000\r\n\r\n" + b" " * 100_000)
        assert (await raw.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 20")
        slow = asyncio.ensure_future(_trickle(raw))
        assert await raw.closed_within(2.0)
        slow.cancel()
    assert not caplog.records  # a flood must not fill the log


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nabc",
        b"GET /health HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
        b"POST /nothing HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nabc",
        b"OPTIONS /v1/models HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nabc",
        post("", b"x", "content-encoding: gzip", "content-length: 1000"),
    ],
)
async def test_nothing_waits_for_the_rest_of_a_body_whose_client_left_at_once(front, head):
    """Else each such connection would stay in memory for good, without a key."""
    before = asyncio.all_tasks()
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", int(front.run.origin.rpartition(":")[2]))) as s:
            s.sendall(head)
    await asyncio.sleep(0.3)
    left = [str(task.get_coro()) for task in asyncio.all_tasks() - before]
    assert not [name for name in left if "connection_task" in name]


async def test_bodies_in_memory_are_counted_as_they_arrive_and_given_back(tmp_path):
    async with open_front(tmp_path, grant=1_000_000, body_memory_bytes=1_200_000) as front:
        big = {"model": CHAT, "messages": [{"role": "user", "content": "x" * 400_000}]}
        reply = await front.post("/chat/completions", big)
        assert reply.status_code == 503
        assert int(reply.headers["retry-after"]) > 0
        for _ in range(3):
            big["messages"][0]["content"] = "x" * 200_000
            assert (await front.post("/chat/completions", big)).status_code == 200
        assert front.run.app.ctx.budget.left == 1_200_000


async def test_a_body_in_very_many_chunks_takes_no_more_memory_or_time_than_its_share(tmp_path):
    async with open_front(tmp_path, tier="pro") as front, connect(front) as raw:
        budget = front.run.app.ctx.budget
        whole = budget.left
        raw.writer.write(post(front.key, b"", "transfer-encoding: chunked"))
        piece = b"2\r\n  \r\n" * 7_000
        tracemalloc.start()
        try:
            for sent in range(1, 31):
                raw.writer.write(piece)
                while budget.left > whole - sent * 14_000:
                    await asyncio.sleep(0.001)
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert most < 3_000_000  # 420 kB, and what is on its way
        turns = 0
        raw.writer.write(piece)
        while budget.left > whole - 31 * 14_000:
            await asyncio.sleep(0)
            turns += 1
        assert turns > 100


async def test_large_bodies_of_one_account_leave_room_for_others_and_for_small_ones(tmp_path):
    async with open_front(tmp_path, tier="pro", body_memory_bytes=1_200_000) as front:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(4):  # each sends 100 kB of 200 kB, then nothing
                raw = await stack.enter_async_context(connect(front))
                raw.writer.write(post(front.key, b"{" + b" " * 100_000, "content-length: 200000"))
            await asyncio.sleep(0.2)
            assert front.run.app.ctx.budget.left >= 900_000
            other = front.shop.key(front.shop.user("other@example.com"))
            big = {"model": CHAT, "messages": [{"role": "user", "content": "x" * 150_000}]}
            assert (await front.post("/chat/completions", big)).status_code == 503
            assert (await front.post("/chat/completions", big, key=other)).status_code != 503
            assert (await front.chat()).status_code == 200
        for _ in range(50):
            if front.run.app.ctx.budget.left == 1_200_000:
                break
            await asyncio.sleep(0.02)
        assert front.run.app.ctx.budget.left == 1_200_000


async def test_bodies_made_to_keep_the_parser_busy_are_refused_by_name(tmp_path):
    async with open_front(tmp_path, tier="pro") as front:  # not the short deadlines of the others
        many = b'{"model": "x", ' + b", ".join(b'"k%d": 1' % n for n in range(60_000)) + b"}"
        reply = await front.post("/chat/completions", many)
        assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")
        assert "fields" in reply.json()["error"]["message"]
        lists = b"[" + b",".join([b"[]"] * 600_000) + b', {"type": "image_url"}]'
        content = b'{"model": "%b", "messages": [{"role": "user", "content": %b}]}'
        reply = await front.post("/chat/completions", content % (CHAT.encode(), lists))
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "messages")
        tokens = b'{"model": "%b", "input": [%b]}' % (EMBED.encode(), b",".join([b"1"] * 4_100_000))
        reply = await front.post("/embeddings", tokens)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "input")


async def test_what_is_wrong_a_million_times_is_refused_at_once(tmp_path):
    """Each element that is wrong would get a report of its own."""
    async with open_front(tmp_path, tier="pro") as front:
        head = b'{"model": "%b", "messages": [{"role": "user", "content": "Hi"}], ' % CHAT.encode()
        for name, value in (
            (b"modalities", b"[" + b"0," * 1_000_000 + b"0]"),
            (b"stream_options", b'{"a": [' + b"[]," * 1_000_000 + b"[]]}"),
        ):
            async with asyncio.timeout(2):
                reply = await front.post("/chat/completions", head + b'"%b": %b}' % (name, value))
            error = reply.json()["error"]
            assert (reply.status_code, error["param"]) == (400, name.decode())
        escapes = b'{"model": "' + b"\\u0041" * 2_000_000
        async with asyncio.timeout(2):
            assert (await front.post("/chat/completions", escapes)).status_code == 400


async def test_a_large_prompt_of_text_or_images_is_no_abuse(tmp_path):
    async with open_front(tmp_path, grant=10_000_000, tier="pro") as front:
        text = 'a "quoted" {word}, and more\n' * 40_000
        parts = [{"type": "text", "text": text}]
        parts.append(
            {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 3_000_000}}
        )
        messages = [{"role": "user", "content": parts}]
        assert (await front.chat(messages=messages, max_tokens=5)).status_code == 200


async def test_a_trusted_proxy_may_open_more_connections_than_a_stranger(tmp_path):
    limits = {"max_connections_per_address": 3, "trusted_proxies": "127.0.0.0/8"}
    async with open_front(tmp_path, **limits) as front, contextlib.AsyncExitStack() as stack:
        for _ in range(10):
            await stack.enter_async_context(connect(front))
        assert (await front.chat()).status_code == 200
