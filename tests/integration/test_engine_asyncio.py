"""Our own engine, on both event loops: what a library would have done, and we must do right."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import os
import socket
import threading
import weakref
from dataclasses import replace
from typing import Any

import pytest
from aiohappyeyeballs import start_connection

from sellapi.upstream import dial, engine_asyncio, guard
from sellapi.upstream.adapter import UpstreamFailure
from sellapi.upstream.client import Call
from sellapi.upstream.engine_asyncio import HEADS_MAX, AsyncioEngine, Heads
from sellapi.upstream.names import Names
from tests.support.engines import LOOPS, call, descriptors, failing, fetch, free_port, running
from tests.support.raw_server import (
    CHUNKED,
    Authority,
    Peer,
    RawServer,
    chunked,
    head,
    raw_server,
    whole,
)

__all__ = ["LOOPS"]  # read by conftest.py

KIND = "asyncio"


def connections(engine: AsyncioEngine) -> list[Any]:
    return list(engine._pool._live)


async def until(condition: Any, seconds: float = 3) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


async def answer(peer: Peer) -> None:
    while True:
        await peer.request()
        peer.send(whole(b"%d" % len(peer.server.requests)))


async def silent(peer: Peer) -> None:
    await peer.request()
    await peer.gone()


async def mute(peer: Peer) -> None:
    """Accepts, and never says or reads a thing."""
    await asyncio.sleep(30)


@contextlib.contextmanager
def dead_end() -> Any:
    """A port where every connect hangs."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for sock in fillers:
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        try:
            yield full.getsockname()[1]
        finally:
            for sock in fillers:
                sock.close()


# Connecting ---------------------------------------------------------------------------------------


async def test_a_dead_address_does_not_eat_the_connect_timeout(monkeypatch: Any) -> None:
    """Of a name's two addresses the first hangs: the second one answers well before the limit."""
    with dead_end() as port:
        async with raw_server(answer) as server, running(KIND, connect_timeout_s=5) as engine:
            found = [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", each))
                for each in (port, server.port)
            ]

            names(monkeypatch, lambda host: found)
            async with asyncio.timeout(2):
                assert await fetch(engine, call("http://provider.test")) == (200, b"1")


def names(monkeypatch: Any, answer: Any) -> list[str]:
    """Let ``answer`` look up names under .test, in the asking thread; the names asked for."""
    resolve, asked = socket.getaddrinfo, []

    def getaddrinfo(host: Any, *args: Any, flags: int = 0, **kwargs: Any) -> Any:
        if not str(host).endswith(".test") or flags & socket.AI_NUMERICHOST:
            return resolve(host, *args, flags=flags, **kwargs)
        asked.append(host)
        return answer(host)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


async def test_a_name_that_hangs_holds_up_nobody_else(monkeypatch: Any) -> None:
    """A dead name server costs one thread and its own provider; others, and other media, go on."""
    over = threading.Event()
    monkeypatch.setattr(guard, "_names", Names(most=guard._names.most))  # it belongs to one loop
    async with raw_server(answer) as server:

        def look_up(host: str) -> Any:
            if host.startswith("dead"):
                over.wait(20)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port))]

        asked = names(monkeypatch, look_up)
        try:
            async with running(KIND, connect_timeout_s=0.5) as dead, running(KIND) as well:
                waiting = [
                    asyncio.create_task(failing(dead, call("http://dead.test"))) for _ in range(20)
                ]
                media = [
                    asyncio.create_task(guard.resolve(f"dead-{n}.test", 443)) for n in range(40)
                ]
                await until(lambda: len(asked) >= 1 + guard._names.most)
                async with asyncio.timeout(2):
                    assert await fetch(well, call("http://well.test")) == (200, b"1")
                assert {f.reason for f in await asyncio.gather(*waiting)} == {"connect"}
                assert asked.count("dead.test") == 1
                assert len(asked) == 1 + guard._names.most + 1
                for task in media:
                    task.cancel()
                await asyncio.wait(media)
        finally:
            over.set()


async def test_a_name_that_is_none_cannot_be_connected_to(monkeypatch: Any) -> None:
    """Whatever looking it up raises, nothing was sent; and the next lookup is a new one."""

    def look_up(host: str) -> Any:
        raise UnicodeError("label too long") if host == "odd.test" else socket.gaierror(-2, "none")

    asked = names(monkeypatch, look_up)
    async with running(KIND) as engine:
        for host in ("odd.test", "none.test", "none.test"):
            failure = await failing(engine, call(f"http://{host}"))
            assert (failure.reason, failure.sent) == ("connect", False)
    assert asked == ["odd.test", "none.test", "none.test"]


async def test_a_cancellation_is_not_lost_while_the_race_ends(monkeypatch: Any) -> None:
    """The connecting library swallows one that comes while it waits for the losers: we do not."""

    async def swallowing(found: Any, **options: Any) -> socket.socket:
        sock = await start_connection(found, **options)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(5)
        return sock

    monkeypatch.setattr("sellapi.upstream.dial.start_connection", swallowing)
    async with raw_server(silent) as server, running(KIND) as engine:
        task = asyncio.create_task(fetch(engine, call(server.url)))
        await until(lambda: server.connections == 1)
        task.cancel()
        await asyncio.wait([task], timeout=2)
        assert task.cancelled()
        assert server.requests == []


async def test_nagle_is_off() -> None:
    """A small request does not wait for an acknowledgement."""
    async with raw_server(answer) as server, running(KIND) as engine:
        await fetch(engine, call(server.url))
        (connection,) = connections(engine)
        sock = connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


async def test_tls_names_the_server_and_the_protocol(tmp_path: Any) -> None:
    """SNI carries the name, ALPN offers http/1.1 and nothing newer; connections are kept."""
    authority = Authority()
    context = authority.server_context(tmp_path, "localhost")
    context.set_alpn_protocols(["h2", "http/1.1"])
    names: list[str | None] = []
    context.sni_callback = lambda _sock, name, _context: names.append(name)
    agreed: list[Any] = []

    async def script(peer: Peer) -> None:
        agreed.append(peer.writer.get_extra_info("ssl_object").selected_alpn_protocol())
        await answer(peer)

    async with raw_server(script, tls=context) as server:
        async with running(KIND, ca_pem=authority.pem) as engine:
            for n in (b"1", b"2"):
                got = await fetch(engine, call(f"https://localhost:{server.port}"))
                assert got == (200, n)
    assert (names, agreed, server.connections) == (["localhost"], ["http/1.1"], 1)


async def test_a_handshake_that_hangs_is_a_failed_connect() -> None:
    """A server that accepts and says nothing to our hello: never sent, and nothing stays open."""
    async with raw_server(silent_hello) as server, running(KIND, connect_timeout_s=0.1) as engine:
        before = descriptors()
        failure = await failing(engine, call(f"https://127.0.0.1:{server.port}"))
        assert (failure.reason, failure.sent) == ("connect", False)
        await asyncio.wait_for(server.left.wait(), 1)
        await until(lambda: descriptors() <= before)


async def silent_hello(peer: Peer) -> None:
    await peer.gone()


async def test_who_leaves_while_we_connect_was_never_sent(monkeypatch: Any) -> None:
    """So the prompt is not charged: nothing of it went out."""

    async def hang(*_: Any, **__: Any) -> None:
        await asyncio.sleep(30)

    monkeypatch.setattr(dial, "start_connection", hang)
    async with running(KIND) as engine:
        sent: list[bool] = []
        told = replace(call("http://127.0.0.1:9"), on_send=lambda: sent.append(True))
        task = asyncio.ensure_future(fetch(engine, told))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not sent


async def test_cancelling_a_handshake_closes_it() -> None:
    """The server sees the connection go, and no descriptor is left."""
    async with raw_server(silent_hello) as server, running(KIND) as engine:
        before = descriptors()
        task = asyncio.create_task(fetch(engine, call(f"https://127.0.0.1:{server.port}")))
        await until(lambda: server.connections == 1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await asyncio.wait_for(server.left.wait(), 1)
        await until(lambda: descriptors() <= before)


@pytest.mark.parametrize("way", ["plain", "tls", "tunnel"])
async def test_a_server_that_speaks_first_is_no_provider(way: str, tmp_path: Any) -> None:
    """A banner before our request is no answer, whether we have begun to send or not."""
    authority = Authority()
    context = None if way == "plain" else authority.server_context(tmp_path, "127.0.0.1")

    async def script(peer: Peer) -> None:
        peer.send(b"220 mail.example ESMTP\r\n")
        await peer.gone()

    async with raw_server(script, tls=context) as server, raw_server(relay) as proxy:
        named = f"http://127.0.0.1:{proxy.port}" if way == "tunnel" else None
        async with running(KIND, ca_pem=authority.pem, proxy=named) as engine:
            for _ in range(3):
                failure = await failing(engine, call(server.url, first_byte_s=5))
                assert failure.reason in ("connect", "reset", "garbage")
            await until(lambda: not connections(engine))
        await asyncio.wait_for(server.left.wait(), 1)


# Proxies ------------------------------------------------------------------------------------------


async def relay(peer: Peer) -> None:
    """A proxy that makes tunnels."""
    request = await peer.request()
    host, _, port = request.line.split(" ")[1].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    peer.send(b"HTTP/1.1 200 Connection established\r\nvia: us\r\n\r\n")

    async def pipe(source: Any, sink: Any) -> None:
        while data := await source.read(65536):
            sink.write(data)
        sink.close()

    await asyncio.gather(pipe(peer.reader, writer), pipe(reader, peer.writer))


@pytest.mark.parametrize("kind", ["asyncio", "httpx"])
async def test_a_call_over_tls_goes_through_a_tunnel(kind: str, tmp_path: Any) -> None:
    """CONNECT with the proxy's password, then TLS with the provider: the proxy sees no call."""
    authority = Authority()
    context = authority.server_context(tmp_path, "127.0.0.1")
    async with raw_server(answer, tls=context) as server, raw_server(relay) as proxy:
        named = f"http://user:p%40ss@127.0.0.1:{proxy.port}"
        async with running(kind, proxy=named, ca_pem=authority.pem) as engine:
            for n in (b"1", b"2"):
                assert await fetch(engine, call(server.url)) == (200, n)
    (request,) = proxy.requests
    assert request.line == f"CONNECT 127.0.0.1:{server.port} HTTP/1.1"
    assert request.headers["host"] == f"127.0.0.1:{server.port}"
    assert request.headers["proxy-authorization"] == "Basic dXNlcjpwQHNz"
    assert "proxy-authorization" not in server.requests[0].headers
    assert server.connections == 1


@pytest.mark.parametrize("kind", ["asyncio", "httpx"])
@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 407 Who are you\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 502 Bad\r\ncontent-length: 0\r\n\r\n",
    ],
)
async def test_a_refused_tunnel_is_never_sent(kind: str, said: bytes) -> None:
    """What the proxy does not connect did not reach the provider."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(said)
        await peer.gone()

    async with (
        raw_server(script) as proxy,
        running(kind, proxy=f"http://127.0.0.1:{proxy.port}") as engine,
    ):
        failure = await failing(engine, call("https://provider.test"))
        assert (failure.reason, failure.sent) == ("connect", False)
        await asyncio.wait_for(proxy.left.wait(), 1)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 2",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nand more",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 100_000,
    ],
    ids=["nothing", "half", "ssh", "more", "endless"],
)
async def test_a_tunnel_of_nonsense_is_never_sent(said: bytes) -> None:
    """Nothing but a clean 2xx head is a tunnel."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(said)
        await peer.writer.drain()

    async with (
        raw_server(script) as proxy,
        running(KIND, proxy=f"http://127.0.0.1:{proxy.port}") as engine,
    ):
        failure = await failing(engine, call("https://provider.test"))
    assert (failure.reason, failure.sent) == ("connect", False)


@pytest.mark.parametrize(
    "proxy", ["socks5://127.0.0.1:1", "https://127.0.0.1:1", "http://", "nonsense", "http://[bad"]
)
async def test_a_proxy_we_do_not_speak_to_is_not_passed_by(proxy: str) -> None:
    """No call takes the direct way instead: the operator is told."""
    async with raw_server(answer) as server, running(KIND, proxy=proxy) as engine:
        failure = await failing(engine, call(server.url))
    assert (failure.reason, failure.sent) == ("config", False)
    assert server.connections == 0


# What goes out ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "host", "target", "origin"),
    [
        ("http://a.test/v1", "a.test", "/v1", ("a.test", 80, False)),
        ("https://A.test:8443", "a.test:8443", "/", ("a.test", 8443, True)),
        ("https://a.test:443/x?y=z#f", "a.test", "/x?y=z", ("a.test", 443, True)),
        ("http://[::1]:8080/x", "[::1]:8080", "/x", ("::1", 8080, False)),
        ("https://[2001:db8::1]/", "[2001:db8::1]", "/", ("2001:db8::1", 443, True)),
        (
            "https://bücher.test/ä b",
            "xn--bcher-kva.test",
            "/%C3%A4%20b",
            ("xn--bcher-kva.test", 443, True),
        ),
    ],
)
def test_where_a_call_goes(url: str, host: str, target: str, origin: Any) -> None:
    """The Host header, the target and the place to connect to, from one URL."""
    written = Heads(None, lost=False).head(Call(url, {}, b""))
    lines = written.text.decode("ascii").split("\r\n")
    assert lines[0] == f"POST {target} HTTP/1.1"
    assert lines[1] == f"host: {host}"
    assert lines[-1] == "content-length: "
    assert written.origin == origin


def test_a_rotated_key_is_written_anew_and_heads_are_bounded() -> None:
    """Heads are kept per URL, but never for other headers; also not when a dict was changed."""
    heads = Heads(None, lost=False)
    headers = {"Authorization": "Bearer one", "Content-Length": "7", "Transfer-Encoding": "x"}
    one = heads.head(Call("http://a.test", headers, b""))
    assert heads.head(Call("http://a.test", dict(headers), b"")) is one
    assert one.text.lower().count(b"content-length") == 1, "framing is ours"
    assert b"transfer-encoding" not in one.text
    headers["Authorization"] = "Bearer two"
    two = heads.head(Call("http://a.test", headers, b""))
    assert b"Bearer two" in two.text
    assert b"Bearer one" not in two.text
    for n in range(3 * HEADS_MAX):
        heads.head(Call(f"http://a.test/{n}", headers, b""))
    assert len(heads._kept) <= HEADS_MAX
    assert "Bearer" not in repr(two)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_a_large_body_is_handed_on_as_it_is_taken(tls: bool, tmp_path: Any) -> None:
    """32 MB to a server that reads late: whole on the other side, never piled up on ours."""
    authority = Authority()
    context = authority.server_context(tmp_path, "127.0.0.1") if tls else None
    body = os.urandom(1 << 20) * 32
    read = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await read.wait()
        digest = hashlib.sha256()
        left = len(body)
        while left:
            data = await peer.reader.read(1 << 20)
            digest.update(data)
            left -= len(data)
        peer.send(whole(digest.hexdigest().encode()))

    async with raw_server(script, tls=context) as server:
        async with running(KIND, ca_pem=authority.pem) as engine:
            task = asyncio.create_task(fetch(engine, Call(server.url, {}, body)))
            await asyncio.sleep(0.3)
            (connection,) = connections(engine)
            assert len(connection._unsent) > 8 << 20
            assert connection._transport.get_write_buffer_size() < 1 << 20
            read.set()
            got = await asyncio.wait_for(task, 20)
    assert got == (200, hashlib.sha256(body).hexdigest().encode())


async def test_an_answer_before_all_was_sent_is_delivered() -> None:
    """A 413 that does not wait for the body; the connection is not used for another call."""

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.send(whole(b"too large", status=413))
        await asyncio.sleep(0.2)  # does not read on, nor close
        await peer.gone()

    async with raw_server(script) as server, running(KIND) as engine:
        for n in (1, 2):
            large = Call(server.url, {}, bytes(32 << 20), 5)
            assert await fetch(engine, large) == (413, b"too large")
            assert server.connections == n
        await asyncio.wait_for(server.left.wait(), 2)


async def test_a_server_that_answers_while_it_reads_gets_the_rest() -> None:
    """A 200 head before the body's end is no reason to stop sending."""
    body = bytes(8 << 20)

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.send(head(200, CHUNKED))
        await peer.reader.readexactly(len(body))
        peer.send(chunked(b"all of it"))

    async with raw_server(script) as server, running(KIND) as engine:
        assert await fetch(engine, Call(server.url, {}, body, 5)) == (200, b"all of it")


async def test_cancelling_while_it_sends_closes_at_once() -> None:
    """A half-sent call is gone for the server too."""
    started = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        started.set()
        await asyncio.sleep(0.3)
        await peer.gone()

    async with raw_server(script) as server, running(KIND) as engine:
        task = asyncio.create_task(fetch(engine, Call(server.url, {}, bytes(64 << 20))))
        await started.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await until(lambda: not connections(engine))
        await asyncio.wait_for(server.left.wait(), 2)


# What comes back ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body_ends_with_its_head(status: int) -> None:
    """Whatever length it announces; the connection goes on."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            peer.send(head(status, {"content-length": "20"}))

    async with raw_server(script) as server, running(KIND) as engine:
        for _ in range(2):
            assert await fetch(engine, call(server.url, first_byte_s=1, idle_s=1)) == (status, b"")
    assert server.connections == 1


async def test_trailers_and_extensions_are_passed_over() -> None:
    """They are no body and no headers, and the connection is clean after them."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            peer.send(head(200, {**CHUNKED, "x-one": "head"}))
            peer.send(b'3;a="b"\r\nabc\r\n0;z\r\nx-one: trailer\r\nx-two: 2\r\n\r\n')

    async with raw_server(script) as server, running(KIND) as engine:
        for _ in range(2):
            async with engine.open(call(server.url)) as reply:
                assert await reply.read(10) == b"abc"
                assert reply.headers["x-one"] == "head"
                assert "x-two" not in reply.headers
    assert server.connections == 1


@pytest.mark.parametrize(
    ("said", "got"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\nall of it", b"all of it"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\nall of it", b"all of it"),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n", b""),
        (b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 200 OK\r\nContent-ENCODING:  identity \r\ncontent-length: 2\r\n\r\nok", b"ok"),
    ],
)
async def test_odd_but_sane_answers_are_taken(said: bytes, got: bytes) -> None:
    """Old servers, and ends that are told by closing."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(said)

    async with raw_server(script) as server, running(KIND) as engine:
        for _ in range(2):
            await asyncio.sleep(0.02)
            assert await fetch(engine, call(server.url)) == (200, got)
    assert server.connections == 2


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
        b"HTTP/0.9 200 OK\r\n\r\nok",
        b"HTTP/2.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 099 Odd\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 101 Switch\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 101 Switch\r\n\r\n",
        b"<html>hello</html>",
        b"HTTP/1.1 200 OK\r\nbad name: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: 1\x002\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\nok",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 70_000 + b"\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 103 Hints\r\nlink: </a>\r\n\r\n" * 3000,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: " + b"a" * 70_000,
    ],
)
async def test_nonsense_is_garbage(said: bytes) -> None:
    """Told as such, at once, and the server sees the connection go."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(said)
        await peer.gone()

    async with raw_server(script) as server, running(KIND) as engine:
        failure = await failing(engine, call(server.url, first_byte_s=5, idle_s=5))
        await asyncio.wait_for(server.left.wait(), 2)
    assert (failure.reason, failure.sent) == ("garbage", True)


async def test_a_long_head_that_trickles_is_garbage() -> None:
    """The bound holds however the bytes are cut."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n")
        for n in range(200):
            peer.send(b"x-%d: %s\r\n" % (n, b"a" * 500))
            await asyncio.sleep(0)
        await peer.gone()

    async with raw_server(script) as server, running(KIND) as engine:
        assert (await failing(engine, call(server.url, first_byte_s=5))).reason == "garbage"


async def test_a_long_body_in_small_pieces_is_no_long_head() -> None:
    """Chunk sizes that arrive alone do not add up over a stream."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(head(200, CHUNKED))
        for _ in range(40):
            for part in (b"1;" + b"e" * 4000 + b"\r\n", b"x\r\n"):
                peer.send(part)
                await peer.writer.drain()
                await asyncio.sleep(0.001)
        peer.send(b"0\r\n\r\n")

    async with raw_server(script) as server, running(KIND) as engine:
        assert await fetch(engine, call(server.url)) == (200, b"x" * 40)


async def test_a_reset_where_the_close_would_be_the_end() -> None:
    """A body that ends with the connection is not whole when the connection was reset."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(head(200), b"half")
        await asyncio.sleep(0.02)
        peer.reset()

    async with raw_server(script) as server, running(KIND) as engine:
        assert (await failing(engine, call(server.url))).reason == "reset"


async def test_a_flood_nobody_reads_waits_at_the_server() -> None:
    """A slow customer costs some hundred kilobytes, and gets everything in the end."""
    piece = bytes(65536)
    count = 400

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(head(200, CHUNKED))
        for _ in range(count):
            peer.send(chunked(piece, end=False))
            await peer.writer.drain()
        peer.send(b"0\r\n\r\n")

    async with raw_server(script) as server, running(KIND) as engine:
        async with engine.open(call(server.url)) as reply:
            first = await reply.chunk()
            assert first
            await asyncio.sleep(0.3)
            (connection,) = connections(engine)
            assert sum(map(len, connection._parts)) < 1 << 20
            assert connection._paused
            total = len(first)
            while (data := await reply.chunk()) is not None:
                total += len(data)
        assert total == len(piece) * count
        assert connections(engine) == [connection], "and is clean"
        assert not connection._paused


async def test_what_is_left_to_a_task_is_not_lost_when_it_is_cancelled() -> None:
    """It is cancelled after ``take`` left it the bytes, before it runs: they come with the next wait."""
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(head(200, CHUNKED))
        await go.wait()
        peer.send(chunked(b"one", end=False))
        await asyncio.sleep(0.05)
        peer.send(chunked(b"two"))

    def take(data: bytes) -> bytes:
        asyncio.get_running_loop().call_soon(waiting.cancel)
        return data

    async with raw_server(script) as server, running(KIND) as engine:
        async with engine.open(call(server.url)) as reply:
            waiting = asyncio.ensure_future(reply.chunk(take))
            await asyncio.sleep(0.02)
            go.set()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert await reply.read(100) == b"onetwo"


async def test_all_that_is_there_comes_at_once() -> None:
    """Ten events that arrived while nobody read are one piece."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(head(200, CHUNKED))
        for n in range(10):
            peer.send(chunked(b"%d" % n, end=False))
            await asyncio.sleep(0.005)
        await peer.gone()

    async with raw_server(script) as server, running(KIND) as engine:
        async with engine.open(call(server.url)) as reply:
            await asyncio.sleep(0.3)
            assert await reply.chunk() == b"0123456789"


# Keeping connections ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more", [b"X", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong", b"HTTP/1.1 500 "]
)
async def test_bytes_after_an_answer_cost_the_connection(more: bytes) -> None:
    """They would be taken for the next call's answer; this one is whole all the same."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(whole(b"right") + more)
        await peer.gone()

    async with raw_server(script) as server, running(KIND) as engine:
        for _ in range(2):
            assert await fetch(engine, call(server.url)) == (200, b"right")
        await asyncio.wait_for(server.left.wait(), 1)
    assert server.connections == 2


async def test_bytes_while_idle_cost_the_connection() -> None:
    """An unasked answer is not kept for whoever comes next."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(whole(b"right"))
        await asyncio.sleep(0.02)
        peer.send(whole(b"wrong"))
        await peer.gone()

    async with raw_server(script) as server, running(KIND) as engine:
        assert await fetch(engine, call(server.url)) == (200, b"right")
        await asyncio.wait_for(server.left.wait(), 1)
        assert await fetch(engine, call(server.url)) == (200, b"right")
    assert server.connections == 2


async def test_the_last_used_connection_is_used_first_and_old_ones_go() -> None:
    """Idle ones are closed after their time without any call coming, and all at the server too."""
    ends: list[int] = []
    release = asyncio.Event()

    async def script(peer: Peer) -> None:
        number = peer.server.connections
        try:
            while True:
                await peer.request()
                await release.wait()
                peer.send(whole(b"%d" % number))
        finally:
            ends.append(number)

    async with raw_server(script) as server, running(KIND, keep_alive_s=0.3) as engine:
        tasks = [asyncio.create_task(fetch(engine, call(server.url))) for _ in range(3)]
        await until(lambda: len(server.requests) == 3)
        release.set()
        await asyncio.gather(*tasks)
        _, last = await fetch(engine, call(server.url))
        for _ in range(4):
            await asyncio.sleep(0.1)
            assert (await fetch(engine, call(server.url)))[1] == last
        await until(lambda: len(ends) == 2)
        assert int(last) not in ends
        await until(lambda: len(ends) == 3)
        assert connections(engine) == []
        assert engine._pool._idle == {}
        assert engine._pool._timer is None


async def test_a_connection_the_server_closes_is_let_go_of_at_once() -> None:
    """Its descriptor does not wait for the pool's timer."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(whole(b"ok"))
        await asyncio.sleep(0.02)

    async with raw_server(script) as server, running(KIND, keep_alive_s=60) as engine:
        await fetch(engine, call(server.url))
        await until(lambda: not connections(engine), 1)
        assert await fetch(engine, call(server.url)) == (200, b"ok")


async def test_leaving_before_the_end_costs_the_connection() -> None:
    """What is still to come of the answer must not meet the next call."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(head(200, {"content-length": "9"}), b"half")
        await peer.gone()

    async with raw_server(script) as server, running(KIND) as engine:
        for n in (1, 2):
            async with engine.open(call(server.url)) as reply:
                assert await reply.chunk() == b"half"
            await asyncio.wait_for(server.left.wait(), 1)
            assert server.connections == n


async def test_an_idle_connection_keeps_nothing_of_its_last_call() -> None:
    """A taker holds the request, whose body is counted in memory only until it is answered."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(head(200, CHUNKED))
        await asyncio.sleep(0.02)
        peer.send(chunked(b"ok"))
        await peer.gone()

    def taker() -> Any:
        return lambda data: data

    async with raw_server(script) as server, running(KIND) as engine:
        take = taker()
        async with engine.open(call(server.url)) as reply:
            assert await reply.chunk(take) == b"ok"
            assert await reply.chunk(take) is None
        kept = weakref.ref(take)
        del take, reply
        gc.collect()
        assert len(connections(engine)) == 1
        assert kept() is None


# The end ------------------------------------------------------------------------------------------


DONE = chunked(b"data: [DONE]\n\n", end=False)
"""The last event of a stream as a chunk; the end of the body is another one."""


async def _say_all_and_leave(engine: AsyncioEngine, server: RawServer) -> None:
    async with engine.open(call(server.url)) as reply:
        assert await reply.chunk() == b"data: [DONE]\n\n"
        reply.said_all()


async def test_a_body_whose_end_comes_behind_its_last_event_keeps_its_connection() -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            peer.send(head(200, CHUNKED) + DONE)
            await asyncio.sleep(0.02)
            peer.send(chunked(b"\n"))

    async with raw_server(script) as server, running(KIND) as engine:
        for _ in range(3):
            await _say_all_and_leave(engine, server)
            await asyncio.sleep(0.06)
    assert server.connections == 1


@pytest.mark.parametrize("more", [b"", chunked(b"x" * 1_000_000, end=False)])
async def test_a_body_without_an_end_is_not_waited_for(more: bytes, monkeypatch: Any) -> None:
    monkeypatch.setattr(engine_asyncio, "END_S", 0.1)

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(head(200, CHUNKED) + DONE)
        await asyncio.sleep(0.02)
        peer.send(more)
        await peer.gone()

    async with raw_server(script) as server, running(KIND) as engine:
        await _say_all_and_leave(engine, server)
        assert not server.left.is_set()
        await asyncio.wait_for(server.left.wait(), 2)
        assert connections(engine) == []


async def test_closing_ends_idle_and_running_connections() -> None:
    """After close() nothing is open, a call that was going on is told so, and none begins."""
    async with raw_server(answer) as server, raw_server(silent) as quiet:
        await asyncio.sleep(0)
        before = descriptors()
        async with running(KIND) as engine:
            await fetch(engine, call(server.url))
            task = asyncio.create_task(failing(engine, call(quiet.url)))
            await until(lambda: quiet.requests)
            await engine.close()
            assert (await task).reason == "reset"
            assert connections(engine) == []
            assert (await failing(engine, call(server.url))).reason == "connect"
        await until(lambda: descriptors() <= before)


async def test_a_body_ended_by_our_own_close_is_not_whole() -> None:
    """When we close, a body that would have ended with the connection is lost, not complete."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(head(200), b"half")
        await peer.gone()

    async with raw_server(script) as server, running(KIND) as engine:
        async with engine.open(call(server.url)) as reply:
            assert await reply.chunk() == b"half"
            await engine.close()
            with pytest.raises(UpstreamFailure, match="reset"):
                await reply.chunk()


async def test_nothing_is_left_open(tmp_path: Any) -> None:
    """Good calls, failed ones and cancelled ones, plain and over TLS: no descriptor more."""
    authority = Authority()
    context = authority.server_context(tmp_path, "127.0.0.1")
    async with (
        raw_server(answer) as server,
        raw_server(silent) as quiet,
        raw_server(answer, tls=context) as secure,
    ):
        await asyncio.sleep(0)
        before = descriptors()
        async with running(KIND, ca_pem=authority.pem, connect_timeout_s=1) as engine:
            for _ in range(5):
                await fetch(engine, call(server.url))
                await fetch(engine, call(secure.url))
                await failing(engine, call(quiet.url, first_byte_s=0.02))
                await failing(engine, call(f"http://127.0.0.1:{free_port()}"))
                await failing(engine, call(f"https://127.0.0.1:{server.port}"))
        await until(lambda: descriptors() <= before)
