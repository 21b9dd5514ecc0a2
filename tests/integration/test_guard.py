"""The guard on URLs that strangers name: real TLS on loopback through the test-only hook."""

from __future__ import annotations

import asyncio
import base64
import gzip
import ipaddress
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sellapi.errors import InvalidRequest
from sellapi.upstream.guard import fetch, is_private_base_url, is_public, parse_data_url
from tests.support.raw_server import CHUNKED, Authority, Peer, chunked, head, raw_server, whole

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"
AUTHORITY = Authority()


def local(address: str, port: int) -> bool:
    """What only a test allows: loopback, on whatever port."""
    return address in ("", "127.0.0.1")


class Names:
    """A resolver that answers from a list and remembers how often it was asked."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        return self.answers.pop(0)


def script_of(*parts: bytes) -> Any:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(*parts)

    return script


async def get(server: Any, path: str = "/a.png", **options: Any) -> Any:
    options = {"max_bytes": 1000, "timeout_s": 2, "allow": local, **options}
    options.setdefault("resolver", Names(["127.0.0.1"]))
    context = AUTHORITY.client_context()
    return await fetch(f"https://media.test:{server.port}{path}", context=context, **options)


async def refused(awaitable: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        await awaitable
    assert caught.value.status == 400
    assert caught.value.param == "messages"
    for secret in ("127.0.0.1", "10.0.0", "::1", "media.test", "169.254"):
        assert secret not in caught.value.message
    return caught.value.message


@pytest.fixture
def tls(tmp_path: Any) -> Any:
    return AUTHORITY.server_context(tmp_path, "media.test")


async def test_an_image_is_fetched_from_the_checked_address(tls: Any) -> None:
    """One look-up, a connection to that address, the name in Host and certificate, nothing of ours."""
    names = Names(["127.0.0.1"])
    reply = whole(PNG, {"content-type": "Image/PNG; charset=x", "set-cookie": "a=1"})
    async with raw_server(script_of(reply), tls=tls) as server:
        media = await get(server, "/a.png?x=1#part", resolver=names)
    assert (media.mime, media.data) == ("image/png", PNG)
    assert names.asked == [("media.test", server.port)]
    (request,) = server.requests
    assert request.line == "GET /a.png?x=1 HTTP/1.1"
    assert request.headers["host"] == f"media.test:{server.port}"
    assert not {"authorization", "cookie", "referer"} & set(request.headers)


async def test_the_next_address_is_tried_when_one_refuses(tls: Any) -> None:
    """A dead first address does not make the file unreachable."""
    reply = whole(PNG, {"content-type": "image/png"})
    async with raw_server(script_of(reply), tls=tls) as server:
        names = Names(["127.0.0.9", "127.0.0.1"])
        media = await get(server, resolver=names, allow=lambda *_: True)
    assert media.data == PNG


@pytest.mark.parametrize(
    ("header", "data", "mime"),
    [
        ("image/jpg", b"x", "image/jpeg"),
        ("application/pdf", b"%PDF-1.7", "application/pdf"),
        ("audio/mp3", b"x", "audio/mpeg"),
        ("application/octet-stream", PNG, "image/png"),
        ("binary/octet-stream", b"RIFF....WEBPVP8 ", "image/webp"),
        ("", b"\xff\xd8\xff\xe0", "image/jpeg"),
        ("image/png", b"\xff\xd8\xff\xe0", "image/jpeg"),
        ("image/jpeg", b"RIFF....WEBPVP8 ", "image/webp"),
    ],
)
async def test_types_are_normalised(tls: Any, header: str, data: bytes, mime: str) -> None:
    """Aliases become the name providers know; an image or typeless file is told by its first bytes."""
    async with raw_server(script_of(whole(data, {"content-type": header})), tls=tls) as server:
        media = await get(server)
    assert (media.mime, media.data) == (mime, data)


async def test_a_compressed_file_is_decoded_within_the_limit(tls: Any) -> None:
    """A server that compresses unasked is understood, but not past max_bytes."""
    kind = {"content-type": "image/svg+xml", "content-encoding": "gzip"}
    for size, good in ((1000, True), (1001, False), (5_000_000, False)):
        packed = gzip.compress(b"a" * size)
        async with raw_server(script_of(whole(packed, kind)), tls=tls) as server:
            if good:
                assert len((await get(server, max_bytes=1000)).data) == size
            else:
                assert "larger than 1000" in await refused(get(server, max_bytes=1000))


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (whole(b"x" * 1001, {"content-type": "image/png"}), "larger than 1000 bytes"),
        (head(200, {"content-length": "99999999999", "content-type": "image/png"}), "larger than"),
        (head(200, {"content-type": "image/png", **CHUNKED}) + chunked(b"x" * 1001), "larger than"),
        (head(200, {"content-type": "image/png"}) + b"x" * 5000, "larger than"),
        (whole(b"", {"location": "https://10.0.0.1/"}, status=302), "redirects"),
        (whole(b"no", status=404), "answered 404"),
        (whole(PNG, {"content-type": "text/html"}), "Content-Type"),
        (whole(b"<html>", {"content-type": "application/octet-stream"}), "Content-Type"),
        (whole(b"????", {"content-type": "image/png", "content-encoding": "br"}), "compressed"),
        (whole(b"????", {"content-type": "image/png", "content-encoding": "gzip"}), "compressed"),
        (head(200, {"content-length": "50", "content-type": "image/png"}) + b"x", "broke off"),
        (b"garbage\r\n\r\n", "broke off"),
        (b"", "broke off"),
    ],
)
async def test_a_bad_answer_is_refused_in_words(tls: Any, reply: bytes, says: str) -> None:
    """Too big, redirected, missing, of another type or broken: 400 that says which."""
    async with raw_server(script_of(reply), tls=tls) as server:
        assert says in await refused(get(server))


async def test_time_is_limited_as_a_whole(tls: Any) -> None:
    """A server that drips a byte at a time gains nothing by it."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(head(200, {"content-type": "image/png", **CHUNKED}))
        gone = asyncio.ensure_future(peer.gone())
        while not gone.done():
            peer.send(chunked(b"x", end=False))
            await asyncio.wait([gone], timeout=0.02)

    async with raw_server(script, tls=tls) as server:
        assert "within 0.2 seconds" in await refused(get(server, timeout_s=0.2))
        await asyncio.wait_for(server.left.wait(), 1)


async def test_a_slow_resolver_is_within_the_time(tls: Any) -> None:
    """The look-up counts too."""

    async def slow(host: str, port: int) -> list[str]:
        await asyncio.sleep(5)
        return []

    got = fetch("https://media.test/a", max_bytes=1, timeout_s=0.05, resolver=slow)
    assert "within 0.05 seconds" in await refused(got)


async def test_the_certificate_must_be_the_names(tmp_path: Any) -> None:
    """A trusted certificate for another name, or an untrusted one, ends before the request."""
    other = AUTHORITY.server_context(tmp_path, "other.test")
    stranger = Authority().server_context(tmp_path, "media.test")
    for context in (other, stranger):
        async with raw_server(script_of(whole(PNG)), tls=context) as server:
            assert "certificate" in await refused(get(server))
        assert server.requests == []


@pytest.mark.parametrize(
    "url",
    [
        "http://media.test/a.png",
        "ftp://media.test/a.png",
        "file:///etc/passwd",
        "gs://bucket/a.png",
        "//media.test/a.png",
        "media.test/a.png",
        "",
        "https://",
        "https:///a.png",
        "https://user@media.test/a.png",
        "https://user:pw@media.test/a.png",
        "https://media.test:8443/a.png",
        "https://media.test:80/a.png",
        "https://media.test:22/a.png",
        "https://media.test:99999/a.png",
        "https://media.test\\@10.0.0.1/",
        "https://media.test/a b",
        "https://media.test/\r\nx: y",
        "https://media.test/\u2028",
        "https://[::1/a.png",
        "https://media.test/" + "a" * 9000,
    ],
)
async def test_an_odd_url_is_refused_before_any_look_up(url: str) -> None:
    """Only https, port 443, no credentials, no tricks of parsers."""
    names = Names()
    await refused(fetch(url, max_bytes=10, timeout_s=1, resolver=names))
    assert names.asked == []


PRIVATE = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "100.127.255.255",
    "127.0.0.1",
    "127.9.9.9",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.170",
    "192.0.2.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::808:808",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "2001::1",
    "2001:db8::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "not an address",
    "",
]


@pytest.mark.parametrize("address", PRIVATE)
async def test_private_addresses_are_refused_wherever_they_come_from(address: str) -> None:
    """By DNS, alone or hidden behind a public one, no such address is connected to."""
    assert not is_public(address)
    for answer in ([address], ["93.184.215.14", address]):
        got = fetch("https://media.test/", max_bytes=1, timeout_s=1, resolver=Names(answer))
        message = await refused(got)
        assert "public internet" in message
        assert not address or address not in message


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "[::1]", "[::ffff:10.0.0.1]", "169.254.169.254", "[fd00::1]", "10.1.2.3"],
)
async def test_private_literals_are_refused_without_a_look_up(host: str) -> None:
    """An address in the URL itself is checked like one from DNS."""
    names = Names()
    got = fetch(f"https://{host}/latest/meta-data", max_bytes=1, timeout_s=1, resolver=names)
    await refused(got)
    assert names.asked == []


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "127.1", "0177.0.0.1", "localhost"])
async def test_odd_spellings_of_loopback_are_seen_through(host: str) -> None:
    """The system's own resolver turns these into 127.0.0.1, and that is what is checked."""
    message = await refused(fetch(f"https://{host}/", max_bytes=1, timeout_s=2))
    assert any(why in message for why in ("public internet", "not found", "malformed"))


async def test_a_name_that_is_not_found_is_told() -> None:
    """No address, no connection, a hint."""

    async def nothing(host: str, port: int) -> list[str]:
        raise OSError("name or service not known")

    got = fetch("https://media.test/", max_bytes=1, timeout_s=1, resolver=nothing)
    assert "not found" in await refused(got)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.215.14", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses_pass(address: str) -> None:
    """The guard is no wall: the internet is reachable, also through NAT64."""
    assert is_public(address)


@given(st.ip_addresses(v=4))
def test_an_address_wrapped_in_ipv6_is_judged_as_itself(ip: ipaddress.IPv4Address) -> None:
    """Mapped, NAT64 and 6to4 spellings of an address never pass where it would not."""
    wrapped = (
        f"::ffff:{ip}",
        str(ipaddress.IPv6Address(int(ipaddress.IPv6Address("64:ff9b::")) | int(ip))),
        str(ipaddress.IPv6Address((0x2002 << 112) | (int(ip) << 80))),
    )
    assert {is_public(text) for text in wrapped} == {is_public(str(ip))}


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("https://api.openai.com/v1", False),
        ("https://api.anthropic.com", False),
        ("https://8.8.8.8/v1", False),
        ("http://api.openai.com/v1", True),
        ("http://localhost:8000/v1", True),
        ("https://localhost/v1", True),
        ("https://vllm/v1", True),
        ("https://vllm.internal/v1", True),
        ("https://box.lan./v1", True),
        ("https://10.0.0.5/v1", True),
        ("https://[::1]/v1", True),
        ("https://127.1/v1", True),
        ("", True),
        ("https://[bad", True),
    ],
)
def test_private_base_urls_are_told_by_their_looks(url: str, private: bool) -> None:
    """When in doubt it is private: then media go through the guard, which hurts nobody."""
    assert is_private_base_url(url) is private


def test_a_public_name_with_a_private_address_is_private() -> None:
    """With a resolver, what the name leads to counts, and no answer counts as private."""

    def down(host: str) -> list[str]:
        raise OSError

    url = "https://llm.example.com/v1"
    assert is_private_base_url(url, resolver=lambda host: ["10.0.0.1"])
    assert is_private_base_url(url, resolver=lambda host: ["8.8.8.8", "10.0.0.1"])
    assert is_private_base_url(url, resolver=down)
    assert not is_private_base_url(url, resolver=lambda host: ["8.8.8.8"])


DATA = bytes(range(256))


@pytest.mark.parametrize(
    ("url", "mime", "data"),
    [
        ("data:image/png;base64," + base64.b64encode(DATA).decode(), "image/png", DATA),
        ("data:image/png;base64," + base64.urlsafe_b64encode(DATA).decode(), "image/png", DATA),
        ("data:image/jpg;base64,eHk", "image/jpeg", b"xy"),
        ("DATA:Image/PNG;charset=x;Base64,eHk=", "image/png", b"xy"),
        ("data:application/pdf;name=a.pdf;base64,eH\r\nk=", "application/pdf", b"xy"),
        ("data:image/png;base64,eHk%3D", "image/png", b"xy"),
        ("data:text/plain,a%20b", "text/plain", b"a b"),
        ("data:;base64,eHk=", "text/plain", b"xy"),
        ("data:image/png;base64,", "image/png", b""),
    ],
)
def test_data_urls_are_read(url: str, mime: str, data: bytes) -> None:
    """Url-safe, unpadded, wrapped and percent-encoded base64 are all in use."""
    media = parse_data_url(url)
    assert (media.mime, media.data) == (mime, data)


@pytest.mark.parametrize(
    "url",
    [
        "https://media.test/a.png",
        "data:image/png;base64",
        "data:image/png;base64,e!Hk=",
        "data:image/png;base64,eHk===",
        "data:image/png;base64,e",
        "data:image/png;base64,eH=k",
        "data:image/png;base64,é",
        "data:nonsense;base64,eHk=",
        "data:a b/c;base64,eHk=",
        "data:" + "x" * 600 + ",",
    ],
)
def test_broken_data_urls_are_refused(url: str) -> None:
    """Strict: what is no base64 is not guessed at."""
    with pytest.raises(InvalidRequest) as caught:
        parse_data_url(url)
    assert caught.value.param == "messages"


def test_a_large_data_url_is_read_quickly_and_whole() -> None:
    """Five megabytes of image survive the trip."""
    data = os.urandom(5 << 20)
    assert parse_data_url("data:image/png;base64," + base64.b64encode(data).decode()).data == data
