"""Both engines against a server of raw sockets: proto.md A (semantics) and G, row by row."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import time
import zlib
from typing import Any

import httpx
import pytest

from sellapi.errors import UpstreamFailed
from sellapi.upstream.adapter import UpstreamFailure
from sellapi.upstream.client import Call, Engine, EngineOptions, Slots
from sellapi.upstream.engine_httpx import HttpxEngine
from tests.support.engines import (
    ENGINES,
    KEY,
    LOOPS,
    call,
    descriptors,
    failing,
    fetch,
    free_port,
    running,
)
from tests.support.raw_server import CHUNKED, Authority, Peer, chunked, head, raw_server, whole

__all__ = ["LOOPS"]  # read by conftest.py


@pytest.fixture(params=ENGINES)
def kind(request: Any) -> str:
    return request.param


async def answer(peer: Peer) -> None:
    """Answers every request on the connection with its own number."""
    while True:
        await peer.request()
        peer.send(whole(b"%d" % len(peer.server.requests)))


# What goes out ------------------------------------------------------------------------------------


async def test_a_call_arrives_as_it_was_meant(kind: str) -> None:
    """The request line, our headers and the body reach the server; identity encoding is asked."""
    async with raw_server(answer) as server, running(kind) as engine:
        assert await fetch(engine, call(server.url)) == (200, b"1")
    (request,) = server.requests
    assert request.line == "POST /v1/chat/completions?q=1 HTTP/1.1"
    assert request.body == b'{"a":1}'
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["user-agent"] == "sellapi"
    assert request.headers["host"] == server.url.removeprefix("http://")
    assert "cookie" not in request.headers


async def test_a_connection_is_used_again_and_cookies_are_not_kept(kind: str) -> None:
    """Three calls one after the other need one connection, and none brings a cookie back."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            peer.send(whole(b"ok", {"set-cookie": "sid=1; Path=/"}))

    async with raw_server(script) as server, running(kind) as engine:
        for _ in range(3):
            assert await fetch(engine, call(server.url)) == (200, b"ok")
    assert server.connections == 1
    assert [("cookie" in r.headers) for r in server.requests] == [False] * 3


async def test_environment_proxies_are_ignored(kind: str, monkeypatch: Any) -> None:
    """HTTP_PROXY in the environment does not lead our calls, and their keys, elsewhere."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    async with raw_server(answer) as server, running(kind) as engine:
        assert await fetch(engine, call(server.url)) == (200, b"1")


async def test_a_named_proxy_is_used(kind: str) -> None:
    """With a proxy set, a plain call goes to it in absolute form."""
    async with (
        raw_server(answer) as proxy,
        running(kind, proxy=f"http://user:pw@127.0.0.1:{proxy.port}") as engine,
    ):
        assert (await fetch(engine, call("http://provider.test")))[0] == 200
    assert proxy.requests[0].line.startswith("POST http://provider.test/v1/")
    assert proxy.requests[0].headers["proxy-authorization"].startswith("Basic ")


# What comes back ----------------------------------------------------------------------------------


async def test_statuses_and_headers_come_back_as_they_are(kind: str) -> None:
    """A 429 is a reply, not an exception; header names are lower-case."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(whole(b"slow down", {"Retry-After": "7", "X-Odd": "caf\xe9"}, status=429))

    async with raw_server(script) as server, running(kind) as engine:
        async with engine.open(call(server.url)) as reply:
            assert reply.status == 429
            assert reply.headers["retry-after"] == "7"
            assert await reply.read(100) == b"slow down"
            assert await reply.chunk() is None


async def test_a_redirect_is_not_followed(kind: str) -> None:
    """A 307 elsewhere would carry the key to a stranger: it is only a status."""
    async with raw_server(answer) as stranger:

        async def script(peer: Peer) -> None:
            await peer.request()
            peer.send(whole(b"", {"location": stranger.url}, status=307))

        async with raw_server(script) as server, running(kind) as engine:
            assert await fetch(engine, call(server.url)) == (307, b"")
        assert stranger.connections == 0


async def test_informational_replies_are_skipped(kind: str) -> None:
    """100 and 103 before the real head do not end the wait."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(head(100), head(103, {"link": "</a>"}), whole(b"ok"))

    async with raw_server(script) as server, running(kind) as engine:
        assert await fetch(engine, call(server.url)) == (200, b"ok")


async def test_a_body_that_ends_with_the_connection_is_whole(kind: str) -> None:
    """Without a length the close is the end (HTTP/1.0 style servers)."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(head(200), b"all")

    async with raw_server(script) as server, running(kind) as engine:
        assert await fetch(engine, call(server.url)) == (200, b"all")


async def test_events_arrive_one_by_one_at_once(kind: str) -> None:
    """Each small event is handed out before the server sends the next one."""
    step = asyncio.Event()
    sent: list[float] = []

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(head(200, CHUNKED))
        for n in range(5):
            sent.append(time.perf_counter())
            peer.send(chunked(b"data: %d\n\n" % n, end=False))
            await asyncio.wait_for(step.wait(), 5)
            step.clear()
        peer.send(b"0\r\n\r\n")

    delays = []
    async with raw_server(script) as server, running(kind) as engine:
        async with engine.open(call(server.url)) as reply:
            for n in range(5):
                assert await asyncio.wait_for(reply.chunk(), 5) == b"data: %d\n\n" % n
                delays.append(time.perf_counter() - sent[n])
                step.set()
            assert await reply.chunk() is None
            assert await reply.chunk() is None
    assert sorted(delays)[2] < 0.05


def told_to(words: asyncio.Queue[bytes | None]) -> Any:
    """A script that sends each word as a chunk; None ends the body."""

    async def speak(peer: Peer) -> None:
        while (word := await words.get()) is not None:
            peer.send(chunked(word, end=False))
        peer.send(b"0\r\n\r\n")

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(head(200, CHUNKED))
        speaking = asyncio.ensure_future(speak(peer))
        await peer.gone()
        speaking.cancel()

    return script


async def test_what_a_taker_deals_with_is_not_given_twice(kind: str) -> None:
    """Every byte goes to ``take`` or to who waits, in order, whichever the engine asks first."""
    words: asyncio.Queue[bytes | None] = asyncio.Queue()
    dealt: list[bytes] = []

    def take(data: bytes) -> bytes | None:
        if data.startswith(b"mine"):
            dealt.append(data)
            return None
        return b"" if data == b"look" else data

    async with raw_server(told_to(words)) as server, running(kind) as engine:
        async with engine.open(call(server.url)) as reply:
            for word in (b"yours 1", b"mine 2", b"look", b"mine 3", b"yours 4", b"mine 5"):
                given = asyncio.ensure_future(reply.chunk(take))
                await asyncio.sleep(0.02)
                words.put_nowait(word)
                if not word.startswith(b"mine"):
                    dealt.append(await asyncio.wait_for(given, 5) or word)
                    continue
                await asyncio.sleep(0.02)
                given.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    dealt += [found for found in [await given] if found]
            words.put_nowait(None)
            assert await asyncio.wait_for(reply.chunk(take), 5) is None
    assert dealt == [b"yours 1", b"mine 2", b"look", b"mine 3", b"yours 4", b"mine 5"]


async def test_what_a_taker_raises_reaches_who_waits(kind: str) -> None:
    """A decoder's failure in the event loop's own call ends the wait, and then the connection."""
    words: asyncio.Queue[bytes | None] = asyncio.Queue()

    def take(data: bytes) -> bytes | None:
        raise UpstreamFailure(UpstreamFailed(data.decode()), reason="garbage")

    async with raw_server(told_to(words)) as server, running(kind) as engine:
        with pytest.raises(UpstreamFailure, match="nonsense"):
            async with engine.open(call(server.url)) as reply:
                given = asyncio.ensure_future(reply.chunk(take))
                await asyncio.sleep(0.02)
                words.put_nowait(b"nonsense")
                data = await asyncio.wait_for(given, 5)
                take(data or b"")
        await asyncio.wait_for(server.left.wait(), 0.5)


async def test_a_wait_that_is_cancelled_loses_nothing(kind: str) -> None:
    """Bytes that arrive while nobody waits, or as the wait is cancelled, come with the next one."""
    words: asyncio.Queue[bytes | None] = asyncio.Queue()
    got = b""
    async with raw_server(told_to(words)) as server, running(kind) as engine:
        async with engine.open(call(server.url)) as reply:
            for pause in (0, 0, 0.001, 0.01, 0.02):
                waiting = asyncio.ensure_future(reply.chunk(lambda data: data))
                await asyncio.sleep(0.01)
                words.put_nowait(b"[%d]" % len(got))
                await asyncio.sleep(pause)
                waiting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    got += await waiting or b""
                await asyncio.sleep(0.02)
            words.put_nowait(None)
            while (data := await asyncio.wait_for(reply.chunk(), 5)) is not None:
                got += data
    assert got.count(b"[") == 5
    assert got.startswith(b"[0]")


async def test_time_is_up_anew_after_each_piece_that_is_dealt_with(kind: str) -> None:
    """The idle deadline counts from the last piece, whoever took it; then it strikes."""
    words: asyncio.Queue[bytes | None] = asyncio.Queue()
    dealt: list[bytes] = []

    async def speak() -> None:
        for _ in range(6):
            words.put_nowait(b"word")
            await asyncio.sleep(0.1)

    async with raw_server(told_to(words)) as server, running(kind) as engine:
        with pytest.raises(UpstreamFailure) as failure:
            async with engine.open(call(server.url, idle_s=0.25)) as reply:
                speaking = asyncio.create_task(speak())
                while (data := await reply.chunk(dealt.append)) is not None:
                    dealt.append(data)
    await speaking
    assert failure.value.reason == "timeout"
    assert dealt == [b"word"] * 6


async def test_a_burst_arrives_whole_and_in_order(kind: str) -> None:
    """Two thousand small chunks sent at once come back joined or not, never lost or turned."""
    events = [b"data: %d\n\n" % n for n in range(2000)]

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(head(200, CHUNKED), chunked(*events))

    async with raw_server(script) as server, running(kind) as engine:
        pieces = []
        async with engine.open(call(server.url)) as reply:
            while (piece := await reply.chunk()) is not None:
                assert piece
                pieces.append(piece)
                await asyncio.sleep(0)
    assert b"".join(pieces) == b"".join(events)


async def test_an_answer_longer_than_the_limit_is_refused(kind: str) -> None:
    """read(limit) takes exactly limit bytes and refuses one more."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            peer.send(whole(b"x" * 1000))

    async with raw_server(script) as server, running(kind) as engine:
        assert await fetch(engine, call(server.url), 1000) == (200, b"x" * 1000)
        failure = await failing(engine, call(server.url), 999)
    assert (failure.reason, failure.error.status) == ("garbage", 502)


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


TEXT = b'{"text":"' + b"hello " * 200_000 + b'"}'


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(TEXT, mtime=0)),
        ("x-gzip", gzip.compress(TEXT[:50], mtime=0) + gzip.compress(TEXT[50:], mtime=0)),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", raw_deflate(TEXT)),
        ("Identity", TEXT),
    ],
    ids=["gzip", "members", "zlib", "bare", "identity"],
)
async def test_a_compressed_answer_is_decoded(kind: str, encoding: str, packed: bytes) -> None:
    """We ask for identity, but a proxy may compress all the same; chunks cut anywhere."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(head(200, {"content-encoding": encoding, **CHUNKED}))
        peer.send(chunked(packed[:1], packed[1:11], packed[11:]))

    async with raw_server(script) as server, running(kind) as engine:
        assert await fetch(engine, call(server.url), 2 << 20) == (200, TEXT)


async def test_a_compressed_stream_is_decoded_event_by_event(kind: str) -> None:
    """A server that flushes its compressor per event is not held back."""
    step = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(head(200, {"content-encoding": "gzip", **CHUNKED}))
        packer = zlib.compressobj(wbits=31)
        for n in range(3):
            data = packer.compress(b"data: %d\n\n" % n) + packer.flush(zlib.Z_SYNC_FLUSH)
            peer.send(chunked(data, end=False))
            await step.wait()
            step.clear()
        peer.send(chunked(packer.flush()))

    async with raw_server(script) as server, running(kind) as engine:
        async with engine.open(call(server.url)) as reply:
            for n in range(3):
                assert await asyncio.wait_for(reply.chunk(), 5) == b"data: %d\n\n" % n
                step.set()
            assert await reply.chunk() is None


BOMB = gzip.compress(bytes(60 << 20), 9, mtime=0)  # 60 MB in 60 kB


async def test_a_gzip_bomb_is_refused(kind: str) -> None:
    """Decoding stops at the limit, and in a stream at an absurd ratio; pieces stay small."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(whole(BOMB, {"content-encoding": "gzip", "connection": "close"}))

    async with raw_server(script) as server, running(kind) as engine:
        assert (await failing(engine, call(server.url), 1 << 20)).reason == "garbage"
        largest = total = 0
        with pytest.raises(UpstreamFailure, match="far too large"):
            async with engine.open(call(server.url)) as reply:
                while (piece := await reply.chunk()) is not None:
                    largest, total = max(largest, len(piece)), total + len(piece)
    assert largest <= 256 * 1024
    assert total <= (9 << 20) + 200 * len(BOMB)
    assert total < 60 << 20


@pytest.mark.parametrize(
    ("encoding", "data", "reason"),
    [
        ("gzip", gzip.compress(TEXT)[:-9], "truncated"),
        ("gzip", b"x", "truncated"),
        ("gzip", b"this is not gzip at all", "garbage"),
        ("deflate", b"\xff\xff\xff\xff", "garbage"),
        ("br", b"....", "garbage"),
        ("gzip, gzip", b"....", "garbage"),
    ],
)
async def test_a_broken_compressed_answer_is_a_failure(
    kind: str, encoding: str, data: bytes, reason: str
) -> None:
    """Bytes that are not what Content-Encoding says never pass as an answer."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(whole(data, {"content-encoding": encoding}))

    async with raw_server(script) as server, running(kind) as engine:
        assert (await failing(engine, call(server.url), 2 << 20)).reason == reason


# What fails ---------------------------------------------------------------------------------------


async def test_refused_is_provably_never_sent(kind: str) -> None:
    """Nobody listens: another route may be tried at no one's cost."""
    async with running(kind) as engine:
        failure = await failing(engine, call(f"http://127.0.0.1:{free_port()}"))
    assert (failure.reason, failure.sent, failure.retryable) == ("connect", False, True)
    assert failure.error.status == 502


async def test_an_unknown_name_is_provably_never_sent(kind: str) -> None:
    """A name that does not resolve never got a byte."""
    async with running(kind) as engine:
        failure = await failing(engine, call("http://nowhere.invalid"))
    assert (failure.reason, failure.sent) == ("connect", False)


async def test_a_connect_that_hangs_is_never_sent(kind: str) -> None:
    """A listener whose backlog is full lets us wait: the connect timeout is ours and unsent."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for sock in fillers:
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        async with running(kind, connect_timeout_s=0.2) as engine:
            failure = await failing(engine, call(f"http://127.0.0.1:{port}", first_byte_s=5))
        for sock in fillers:
            sock.close()
    assert (failure.reason, failure.sent) == ("connect", False)


async def close_after_request(peer: Peer) -> None:
    await peer.request()


async def reset_after_request(peer: Peer) -> None:
    await peer.request()
    peer.reset()


async def close_within_head(peer: Peer) -> None:
    await peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\ncontent-")


async def short_length(peer: Peer) -> None:
    await peer.request()
    peer.send(head(200, {"content-length": "20"}), b"half")


async def short_chunks(peer: Peer) -> None:
    await peer.request()
    peer.send(head(200, CHUNKED), chunked(b"half", end=False))


async def cut_chunk(peer: Peer) -> None:
    await peer.request()
    peer.send(head(200, CHUNKED), b"ff\r\nhalf")


async def reset_in_body(peer: Peer) -> None:
    await peer.request()
    peer.send(head(200, {"content-length": "20"}), b"half")
    await asyncio.sleep(0.02)
    peer.reset()


async def no_http(peer: Peer) -> None:
    await peer.request()
    peer.send(b"220 mail.example ESMTP\r\n\r\n")


async def bad_chunk_size(peer: Peer) -> None:
    await peer.request()
    peer.send(head(200, CHUNKED), b"zz\r\nhello\r\n")


async def huge_header(peer: Peer) -> None:
    await peer.request()
    peer.send(head(200, {"x-big": "a" * 2_000_000}))


async def silent(peer: Peer) -> None:
    await peer.request()
    await peer.gone()


async def stalled(peer: Peer) -> None:
    await peer.request()
    peer.send(head(200, {"content-length": "20"}), b"half")
    await peer.gone()


@pytest.mark.parametrize(
    ("script", "reason", "status"),
    [
        (close_after_request, "reset", 502),
        (reset_after_request, "reset", 502),
        (close_within_head, "reset", 502),
        (short_length, "truncated", 502),
        (short_chunks, "truncated", 502),
        (cut_chunk, "truncated", 502),
        (reset_in_body, "reset", 502),
        (no_http, "garbage", 502),
        (bad_chunk_size, "garbage", 502),
        (huge_header, "garbage", 502),
        (silent, "timeout", 504),
        (stalled, "timeout", 504),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_what_may_have_been_sent_counts_as_sent(
    kind: str, script: Any, reason: str, status: int
) -> None:
    """After the first byte of the request every trouble may already be billed: sent, no retry."""
    async with raw_server(script) as server, running(kind) as engine:
        failure = await failing(engine, call(server.url, first_byte_s=0.15, idle_s=0.15))
        if reason == "timeout":
            await asyncio.wait_for(server.left.wait(), 2)
    assert (failure.reason, failure.sent, failure.error.status) == (reason, True, status)
    assert failure.timed_out is (reason == "timeout")
    assert len(server.requests) == 1, "nothing is sent twice"
    if status == 504:
        assert failure.error.headers["x-should-retry"] == "false"
    else:
        assert not failure.retryable


async def test_what_came_before_a_break_is_handed_out_first(kind: str) -> None:
    """A customer gets, and pays for, the events before the break; then the break is told."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(head(200, CHUNKED), chunked(*[b"data: %d\n\n" % n for n in range(50)], end=False))
        await asyncio.sleep(0.05)

    got = b""
    async with raw_server(script) as server, running(kind) as engine:
        with pytest.raises(UpstreamFailure) as caught:
            async with engine.open(call(server.url)) as reply:
                while (piece := await reply.chunk()) is not None:
                    got += piece
                    await asyncio.sleep(0.002)
    assert got == b"".join(b"data: %d\n\n" % n for n in range(50))
    assert caught.value.reason == "truncated"


async def test_slow_but_steady_is_not_a_timeout(kind: str) -> None:
    """The idle deadline starts anew with each piece."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(head(200, CHUNKED))
        for _ in range(6):
            await asyncio.sleep(0.06)
            peer.send(chunked(b"x", end=False))
        peer.send(b"0\r\n\r\n")

    async with raw_server(script) as server, running(kind) as engine:
        got = await fetch(engine, call(server.url, first_byte_s=0.25, idle_s=0.25))
    assert got == (200, b"xxxxxx")


async def test_large_but_sane_headers_are_taken(kind: str) -> None:
    """16 KB of headers (cookies, policies) are no reason to fail."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(whole(b"ok", {"x-big": "a" * 16_000, "x-after": "1"}))

    async with raw_server(script) as server, running(kind) as engine:
        async with engine.open(call(server.url)) as reply:
            assert reply.headers["x-after"] == "1"
            assert await reply.read(10) == b"ok"


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("http://[bad", {}),
        ("ftp://127.0.0.1", {}),
        ("http://127.0.0.1:1", {"authorization": f"Bearer {KEY}\n"}),
        ("http://127.0.0.1:1", {"authorization": f"Bearer {KEY}\u2028"}),
        ("http://127.0.0.1:1", {"authorization": f"Bearer {KEY}\0"}),
        ("http://127.0.0.1:1", {"x\r\nx-injected": "1"}),
        ("http://127.0.0.1:1", {"": "1"}),
    ],
    ids=["url", "scheme", "newline", "unicode", "nul", "name", "nameless"],
)
async def test_a_call_that_cannot_be_written_is_the_operators_trouble(
    kind: str, url: str, headers: dict[str, str]
) -> None:
    """A key read with its newline, a mistyped URL: never sent, and the key is not in the text."""
    async with running(kind) as engine:
        with pytest.raises(UpstreamFailure) as caught:
            await fetch(engine, Call(url, headers, b"{}"))
    assert caught.value.sent is False
    assert caught.value.reason in (("config",) if kind == "asyncio" else ("config", "connect"))
    assert KEY not in str(caught.value) + str(caught.value.error.body())


async def test_a_server_closing_an_idle_connection_costs_no_call(kind: str) -> None:
    """A pooled connection the server has closed meanwhile is replaced, not sent on."""
    closed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(whole(b"ok"))
        await peer.writer.drain()
        peer.writer.close()
        closed.set()

    async with raw_server(script) as server, running(kind) as engine:
        for _ in range(3):
            closed.clear()
            assert await fetch(engine, call(server.url)) == (200, b"ok")
            await closed.wait()
            await asyncio.sleep(0.02)
    assert server.connections == 3


async def test_a_server_closing_on_the_second_request_is_not_asked_again(kind: str) -> None:
    """A kept connection closed after our bytes arrived: sent, and no library repeats it."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(whole(b"ok"))
        await peer.request()

    async with raw_server(script) as server, running(kind) as engine:
        await fetch(engine, call(server.url))
        failure = await failing(engine, call(server.url))
    assert (failure.reason, failure.sent) == ("reset", True)
    assert len(server.requests) == 2
    assert server.connections == 1


async def test_an_idle_connection_is_let_go_before_servers_close_it(kind: str) -> None:
    """After keep_alive_s the next call gets a fresh connection."""
    async with raw_server(answer) as server, running(kind, keep_alive_s=0.05) as engine:
        await fetch(engine, call(server.url))
        await asyncio.sleep(0.2)
        await fetch(engine, call(server.url))
    assert server.connections == 2


# Leaving ------------------------------------------------------------------------------------------


async def endless(peer: Peer) -> None:
    await peer.request()
    peer.send(head(200, CHUNKED))
    gone = asyncio.ensure_future(peer.gone())
    while not gone.done():
        peer.send(chunked(b"data: x\n\n", end=False))
        await asyncio.wait([gone], timeout=0.005)


async def test_leaving_mid_stream_closes_upstream_at_once(kind: str) -> None:
    """A customer that hangs up stops the provider's work, and its bill."""
    async with raw_server(endless) as server, running(kind) as engine:
        async with engine.open(call(server.url)) as reply:
            for _ in range(3):
                await reply.chunk()
        await asyncio.wait_for(server.left.wait(), 0.5)


@pytest.mark.parametrize("script", [silent, stalled, endless], ids=lambda s: s.__name__)
async def test_cancelling_the_task_closes_upstream_at_once(kind: str, script: Any) -> None:
    """Whether it waits for the head, for bytes or gets them: cancelled means gone."""
    async with raw_server(script) as server, running(kind) as engine:

        async def work() -> None:
            async with engine.open(call(server.url)) as reply:
                while await reply.chunk() is not None:
                    pass

        task = asyncio.create_task(work())
        while not server.requests:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.left.wait(), 0.5)


async def test_cancelling_one_of_many_leaves_the_others_alone(kind: str) -> None:
    """Of several calls that wait for their head only the cancelled ones lose their connection."""
    answer_now = asyncio.Event()
    left: list[str] = []

    async def script(peer: Peer) -> None:
        while True:
            body = (await peer.request()).body.decode()
            watch = asyncio.ensure_future(peer.reader.read(1))
            ready = asyncio.ensure_future(answer_now.wait())
            await asyncio.wait([watch, ready], return_when=asyncio.FIRST_COMPLETED)
            ready.cancel()
            if watch.done():
                left.append(body)
                return
            watch.cancel()
            await asyncio.wait([watch])
            peer.send(whole(body.encode()))

    async with raw_server(script) as server, running(kind) as engine:
        calls = [Call(server.url, {}, b"%d" % n) for n in range(8)]
        tasks = [asyncio.create_task(fetch(engine, one)) for one in calls]
        while len(server.requests) < 8:
            await asyncio.sleep(0.005)
        before = descriptors()
        tasks[2].cancel()
        tasks[5].cancel()
        await asyncio.wait([tasks[2], tasks[5]])
        async with asyncio.timeout(1):
            while len(left) < 2:
                await asyncio.sleep(0.002)
        assert descriptors() <= before
        answer_now.set()
        got = await asyncio.gather(*tasks, return_exceptions=True)
        assert sorted(left) == ["2", "5"]
        assert [r for r in got if not isinstance(r, BaseException)] == [
            (200, b"%d" % n) for n in range(8) if n not in (2, 5)
        ]
        assert await fetch(engine, calls[2]) == (200, b"2"), "the engine goes on"


async def test_a_call_cancelled_before_it_is_connected_is_never_sent(kind: str) -> None:
    """Cancelled while the connect hangs; when the server wakes up, no request comes."""
    with socket.socket() as slow:
        slow.bind(("127.0.0.1", 0))
        slow.listen(0)
        port = slow.getsockname()[1]
        fillers = [socket.socket() for _ in range(2)]
        for sock in fillers:
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        async with running(kind) as engine:
            task = asyncio.create_task(fetch(engine, call(f"http://127.0.0.1:{port}")))
            await asyncio.sleep(0.1)
            task.cancel()
            await asyncio.wait([task])
            await asyncio.sleep(0.05)
            slow.setblocking(False)
            accepted = []
            async with asyncio.timeout(5):
                while len(accepted) < 2:
                    with contextlib.suppress(BlockingIOError):
                        accepted.append(slow.accept()[0])
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            with contextlib.suppress(BlockingIOError):
                accepted.append(slow.accept()[0])
            for sock in accepted:
                sock.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    assert sock.recv(100) == b""
                sock.close()
        for sock in fillers:
            sock.close()


async def test_a_cancellation_is_never_lost_to_a_chunk(kind: str) -> None:
    """Cancelled in the very moment bytes arrive, many times over: each task ends cancelled."""
    async with raw_server(endless) as server, running(kind, max_connections=400) as engine:

        async def work() -> None:
            async with engine.open(call(server.url)) as reply:
                while True:
                    await reply.chunk()

        for n in range(60):
            task = asyncio.create_task(work())
            while len(server.requests) <= n:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.001 * (n % 8))
            task.cancel()
            await asyncio.wait([task], timeout=2)
            assert task.cancelled()


async def test_an_outer_timeout_stays_the_outer_ones(kind: str) -> None:
    """The gateway's own asyncio.timeout around a call raises TimeoutError, not our failure."""
    async with raw_server(silent) as server, running(kind) as engine:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await fetch(engine, call(server.url, first_byte_s=5))
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


async def test_after_a_timeout_the_task_is_not_left_cancelled(kind: str) -> None:
    """Our deadline uses cancel(); whoever handles the failure may await again."""
    async with raw_server(silent) as server, running(kind) as engine:
        await failing(engine, call(server.url, first_byte_s=0.05))
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        async with asyncio.timeout(5):
            await asyncio.sleep(0.01)


# The queue ----------------------------------------------------------------------------------------


async def hold(engine: Engine, url: str, release: asyncio.Event) -> int:
    async with engine.open(call(url)) as reply:
        await release.wait()
        return reply.status


async def test_a_full_queue_is_told_at_once(kind: str) -> None:
    """Beyond connections and queue: 503 with Retry-After, never sent, nothing arrives upstream."""
    release = asyncio.Event()
    async with (
        raw_server(answer) as server,
        running(kind, max_connections=2, queue_size=1) as engine,
    ):
        tasks = [asyncio.create_task(hold(engine, server.url, release)) for _ in range(3)]
        while len(server.requests) < 2:
            await asyncio.sleep(0.005)
        failure = await failing(engine, call(server.url))
        assert (failure.reason, failure.sent, failure.retryable) == ("queue_full", False, True)
        assert (failure.error.status, failure.error.headers) == (503, {"retry-after": "2"})
        assert len(server.requests) == 2
        release.set()
        assert await asyncio.gather(*tasks) == [200, 200, 200]
    assert len(server.requests) == 3


async def test_waiting_too_long_in_the_queue_is_told(kind: str) -> None:
    """queue_timeout_s ends the wait; the place in the queue is free again."""
    release = asyncio.Event()
    async with (
        raw_server(answer) as server,
        running(kind, max_connections=1, queue_size=1, queue_timeout_s=0.05) as engine,
    ):
        task = asyncio.create_task(hold(engine, server.url, release))
        while not server.requests:
            await asyncio.sleep(0.005)
        for _ in range(2):
            assert (await failing(engine, call(server.url))).reason == "queue_full"
        release.set()
        assert await task == 200
        assert (await fetch(engine, call(server.url)))[0] == 200


async def test_a_slot_handed_to_somebody_who_leaves_is_not_lost() -> None:
    """Cancelled in the very moment the slot was handed over: the next in line gets it."""
    slots = Slots(EngineOptions(max_connections=1, queue_size=2))
    assert slots.take()
    first, second = (asyncio.create_task(slots.wait()) for _ in range(2))
    await asyncio.sleep(0)
    slots.release()  # to the first, whose task has not run yet
    first.cancel()
    await asyncio.wait_for(second, 1)
    assert first.cancelled()
    assert not slots.take()
    slots.release()
    assert slots.take()


async def test_a_deadline_serves_one_call_after_the_other(kind: str) -> None:
    """A short limit after a long one ends in time, a long one after a short one is not cut."""

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            await asyncio.sleep(float(request.body))
            peer.send(whole(b"ok"))

    async with raw_server(script) as server, running(kind) as engine:
        assert await fetch(engine, Call(server.url, {}, b"0", 5, 5)) == (200, b"ok")
        began = time.perf_counter()
        failure = await failing(engine, Call(server.url, {}, b"9", 0.1, 5))
        assert failure.timed_out
        assert time.perf_counter() - began < 1
        assert await fetch(engine, Call(server.url, {}, b"0", 0.1, 5)) == (200, b"ok")
        assert await fetch(engine, Call(server.url, {}, b"0.3", 5, 5)) == (200, b"ok")


async def test_whoever_leaves_gives_its_slot_back(kind: str) -> None:
    """Failures, cancellations and cancelled waits in the queue leak no slot."""
    async with (
        raw_server(silent) as mute,
        raw_server(answer) as server,
        running(kind, max_connections=1, queue_size=5, queue_timeout_s=2) as engine,
    ):
        await failing(engine, call(mute.url, first_byte_s=0.03))
        await failing(engine, call(f"http://127.0.0.1:{free_port()}"))
        first = asyncio.create_task(fetch(engine, call(mute.url)))
        await asyncio.sleep(0.02)
        second = asyncio.create_task(fetch(engine, call(mute.url)))
        await asyncio.sleep(0.02)
        second.cancel()
        first.cancel()
        await asyncio.wait([first, second])
        assert await asyncio.wait_for(fetch(engine, call(server.url)), 2) == (200, b"1")


# TLS, and pytest-httpx ----------------------------------------------------------------------------


async def test_tls_is_verified_against_known_authorities(kind: str, tmp_path: Any) -> None:
    """A certificate of an unknown authority is a failed connect; with ca_pem the call works."""
    authority = Authority()
    context = authority.server_context(tmp_path, "127.0.0.1")
    async with raw_server(answer, tls=context) as server:
        async with running(kind) as engine:
            failure = await failing(engine, call(server.url))
            assert (failure.reason, failure.sent) == ("connect", False)
        async with running(kind, ca_pem=authority.pem) as engine:
            assert await fetch(engine, call(server.url)) == (200, b"1")
    assert len(server.requests) == 1


async def test_tls_checks_the_name(kind: str, tmp_path: Any) -> None:
    """A certificate of a trusted authority for another name is a failed connect."""
    authority = Authority()
    context = authority.server_context(tmp_path, "other.test")
    async with (
        raw_server(answer, tls=context) as server,
        running(kind, ca_pem=authority.pem) as engine,
    ):
        assert (await failing(engine, call(server.url))).reason == "connect"
    assert server.requests == []


async def test_pytest_httpx_mocks_the_second_engine(httpx_mock: Any) -> None:
    """A user's own tests can stand in for a provider with pytest-httpx."""
    httpx_mock.add_response(url="https://provider.test/v1/x", json={"ok": True}, status_code=201)
    httpx_mock.add_exception(httpx.ReadError("boom"), url="https://provider.test/v1/y")
    async with running("httpx") as engine:
        got = await fetch(engine, Call("https://provider.test/v1/x", {}, b"{}"))
        assert got == (201, b'{"ok":true}')
        with pytest.raises(UpstreamFailure, match="reset"):
            await fetch(engine, Call("https://provider.test/v1/y", {}, b"{}"))


async def test_a_proxy_that_cannot_be_used_costs_its_own_provider_only() -> None:
    """httpx speaks socks only with a package more; its absence must not end the server."""
    engine = HttpxEngine(EngineOptions(proxy="gopher://127.0.0.1:1"))
    failure = await failing(engine, call("http://127.0.0.1:1"))
    assert (failure.reason, failure.sent) == ("config", False)
    await engine.close()
