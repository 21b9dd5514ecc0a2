"""Files named by strangers: fetched by us without becoming their way into our network.

A customer's `image_url` is an order to connect somewhere. It is obeyed only for https on port 443 at
a public address: the name is resolved here, every address is checked, and the connection goes to the
checked address itself (no second look-up, so DNS rebinding gains nothing) while the certificate is
verified against the name. No redirects, no cookies, no proxies, nothing of ours in the request;
size, time and type are limited. What the caller is told never holds an address.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import re
import ssl
from collections.abc import Awaitable, Callable
from functools import cache
from urllib.parse import unquote_to_bytes

import httpx

from sellapi.errors import InvalidRequest
from sellapi.upstream.adapter import Media, UpstreamFailure
from sellapi.upstream.inflate import Inflater
from sellapi.upstream.names import Names
from sellapi.upstream.tls import tls_context

__all__ = ["fetch", "is_private_base_url", "is_public", "parse_data_url", "resolve"]

Resolver = Callable[[str, int], Awaitable[list[str]]]
"""(host, port) → addresses, best first; raises `OSError`."""
Allow = Callable[[str, int], bool]
"""(address, port) → let it pass although it is private; ("", port) → allow this port. Tests only."""

URL_MAX = 8192
ADDRESSES_MAX = 3
"""Addresses tried when the first ones do not answer."""
MIME = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}/[a-z0-9][a-z0-9.+-]{0,126}")
MIME_ALIASES = {"image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "audio/mp3": "audio/mpeg"}
MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"%PDF-", "application/pdf"),
)
"""What "application/octet-stream" or no type at all may turn out to be (object stores do that).

An image, too, is often not what it is called: Anthropic refuses one whose bytes are another type's.
"""

REFUSED = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local: cloud metadata
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "::/96",  # unspecified, loopback, IPv4-compatible
        "64:ff9b:1::/48",  # NAT64 of the local network
        "100::/64",
        "2001::/23",  # Teredo, ORCHID, benchmarking
        "2001:db8::/32",
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    )
)
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
PRIVATE_NAMES = (
    "localhost",
    "local",
    "localdomain",
    "internal",
    "intranet",
    "lan",
    "home",
    "corp",
    "private",
    "home.arpa",
)


_names = Names(most=16)
"""Customers choose them: a few lookups that hang must not keep a provider's from being made."""


async def resolve(host: str, port: int) -> list[str]:
    """Addresses of a name in the system's order of preference."""
    found = await _names.find(host, port)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet, also what is wrapped in an IPv6 one."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # "fe80::1%eth0" parses; anything else that does not is not to be trusted
        return False
    inner = _embedded(ip)
    if inner is not None:
        return is_public(str(inner))
    if any(ip in network for network in REFUSED if network.version == ip.version):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _embedded(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | None:
    """The IPv4 address that a mapped, 6to4 or NAT64 address leads to."""
    if isinstance(ip, ipaddress.IPv4Address):
        return None
    if ip in NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour


def is_private_base_url(url: str, *, resolver: Callable[[str], list[str]] | None = None) -> bool:
    """Whether a provider's base URL leads into a private network (its server must fetch nothing).

    By what the URL says: plain http, a private address, a name without a dot or under a private
    suffix. With a ``resolver`` (blocking; raises `OSError`) other names are looked up too, and one
    that cannot be counts as private. A URL that makes no sense is private.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError, TypeError):
        return True
    host = parsed.host.rstrip(".").lower()
    if parsed.scheme != "https" or not host:
        return True
    if _looks_inside(host):
        return True
    if resolver is None or _is_address(host):
        return False
    try:
        found = resolver(host)
    except OSError:
        return True
    return not found or not all(is_public(address) for address in found)


async def is_unknown_here(url: str, *, resolver: Resolver = resolve) -> bool:
    """Whether an http(s) URL is on a public-looking name that cannot be looked up from here.

    An address, a private name and a name that is found are not unknown, whatever they lead to.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError, TypeError):
        return False
    host = parsed.host.rstrip(".").lower()
    if parsed.scheme not in ("http", "https") or _is_address(host) or _looks_inside(host):
        return False
    try:
        return not await resolver(host, parsed.port or 443)
    except (OSError, UnicodeError):
        return True


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _looks_inside(host: str) -> bool:
    """Whether a host is no public one by what it says: address, single label, private suffix."""
    if _is_address(host):
        return not is_public(host)
    if "." not in host or re.fullmatch(r"[0-9.]+|.*\.0x[0-9a-f]*", host):
        return True  # a single label, or one of the odd ways to write an IPv4 address
    return any(host == name or host.endswith(f".{name}") for name in PRIVATE_NAMES)


async def fetch(
    url: str,
    *,
    max_bytes: int,
    timeout_s: float,
    allow: Allow | None = None,
    resolver: Resolver = resolve,
    context: ssl.SSLContext | None = None,
    param: str | None = "messages",
) -> Media:
    """The file at ``url``: image/*, audio/* or application/pdf, at most ``max_bytes``.

    ``timeout_s`` covers everything from the look-up to the last byte. Raises `InvalidRequest` with
    ``param``, saying what the caller can do. ``allow`` and ``context`` are for tests.
    """
    try:
        async with asyncio.timeout(timeout_s):
            target = _target(url, param, allow)
            addresses = await _checked(target, param, allow, resolver)
            return await _first(target, addresses, max_bytes, context or _context(), param)
    except TimeoutError:
        raise _refused(
            f"did not arrive within {timeout_s:g} seconds; use a faster host or inline it as a data: URL",
            param,
        ) from None


@cache
def _context() -> ssl.SSLContext:
    return tls_context()


def _refused(why: str, param: str | None) -> InvalidRequest:
    return InvalidRequest(f"A file named by URL in the request {why}.", param=param)


def _target(url: str, param: str | None, allow: Allow | None) -> httpx.URL:
    """The URL parsed once; everything later is built from these parts alone."""
    try:
        if len(url) > URL_MAX or not url.isprintable() or "\\" in url or " " in url:
            raise ValueError(url)
        target = httpx.URL(url)
        host, port = _name(target), target.port or 443
    except (httpx.InvalidURL, ValueError, TypeError):
        raise _refused("has a malformed URL; use https://host/path or a data: URL", param) from None
    if target.scheme != "https" or not host:
        raise _refused("must have an https:// URL or be inlined as a data: URL", param)
    if target.userinfo:
        raise _refused("has a user name in its URL; use a URL without credentials", param)
    if port != 443 and not (allow and allow("", port)):
        raise _refused("must be served on the https port 443", param)
    return target


def _name(target: httpx.URL) -> str:
    """The host as ASCII (IDNA), without the brackets of an IPv6 address and the root's dot."""
    return target.raw_host.decode("ascii").strip("[]").rstrip(".")


async def _checked(
    target: httpx.URL, param: str | None, allow: Allow | None, resolver: Resolver
) -> list[str]:
    """Addresses to connect to. One bad address among them spoils all: it is an attack or a muddle."""
    host, port = _name(target), target.port or 443
    try:
        ipaddress.ip_address(host)
        addresses = [host]
    except ValueError:
        try:
            addresses = await resolver(host, port)
        except (OSError, UnicodeError):
            addresses = []
    if not addresses:
        raise _refused("is on a host that was not found; check the URL", param)
    for address in addresses:
        if not is_public(address) and not (allow and allow(address, port)):
            raise _refused("is not on the public internet; inline it as a data: URL", param)
    return addresses[:ADDRESSES_MAX]


async def _first(
    target: httpx.URL,
    addresses: list[str],
    max_bytes: int,
    context: ssl.SSLContext,
    param: str | None,
) -> Media:
    """The file from the first address that takes the connection."""
    async with httpx.AsyncHTTPTransport(verify=context, trust_env=False, http2=False) as transport:
        for address in addresses:
            request = _request(target, address)
            try:
                reply = await transport.handle_async_request(request)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
            except httpx.HTTPError:
                raise _refused("could not be fetched: its server broke off", param) from None
            try:
                return await _file(reply, max_bytes, param)
            except httpx.HTTPError:
                raise _refused("could not be fetched: its server broke off", param) from None
            finally:
                await reply.aclose()
    raise _refused(
        "could not be fetched: its server refused the connection or has no valid certificate", param
    )


def _request(target: httpx.URL, address: str) -> httpx.Request:
    """A request to the checked address that still means, and verifies, the name."""
    return httpx.Request(
        "GET",
        target.copy_with(host=address, fragment=None),
        headers={
            "host": target.netloc.decode("ascii"),
            "accept": "image/*, application/pdf, audio/*",
            "accept-encoding": "identity",
            "user-agent": "sellapi-media",
            "connection": "close",
        },
        extensions={
            "sni_hostname": _name(target),
            "timeout": httpx.Timeout(None, connect=5.0).as_dict(),
        },
    )


async def _file(reply: httpx.Response, max_bytes: int, param: str | None) -> Media:
    if 300 <= reply.status_code < 400:
        raise _refused("redirects to another URL; name the final URL", param)
    if reply.status_code != 200:
        raise _refused(f"could not be fetched: its server answered {reply.status_code}", param)
    too_big = _refused(f"is larger than {max_bytes} bytes; send a smaller one", param)
    declared = reply.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > max_bytes:
        raise too_big
    try:
        inflater = Inflater.named(reply.headers.get("content-encoding", ""))
        data = bytearray()
        async for piece in reply.aiter_raw():
            if inflater is None:
                data += piece
            else:
                inflater.put(piece)
                while len(data) <= max_bytes and (text := inflater.take()):
                    data += text
            if len(data) > max_bytes:
                raise too_big
    except UpstreamFailure:
        inflater = None
        raise _refused("could not be fetched: it is compressed in an odd way", param) from None
    if inflater is not None and not inflater.complete:
        raise _refused("could not be fetched: its server broke off", param)
    return Media(_kind(reply.headers.get("content-type", ""), data, param), bytes(data))


def _kind(header: str, data: bytearray, param: str | None) -> str:
    """The type that may be passed on; an unknown one, and an image's, is read off the first bytes."""
    mime = _mime(header)
    image = mime.startswith("image/")
    if image or mime in ("", "application/octet-stream", "binary/octet-stream"):
        mime = next(
            (kind for magic, kind in MAGIC if data.startswith(magic)), mime if image else ""
        )
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            mime = "image/webp"
    if mime.startswith(("image/", "audio/")) or mime == "application/pdf":
        return mime
    raise _refused("is neither an image, nor audio, nor a PDF by its Content-Type", param)


def _mime(text: str) -> str:
    """A media type without parameters, "" when it makes no sense."""
    mime = text.partition(";")[0].strip().lower()
    if not MIME.fullmatch(mime):
        return ""
    return MIME_ALIASES.get(mime, mime)


def parse_data_url(url: str, *, param: str | None = "messages") -> Media:
    """``data:image/png;base64,…`` → its type and bytes (RFC 2397).

    Base64 is strict, but may be url-safe, unpadded and wrapped in lines; without ``;base64`` the data
    is percent-encoded. A missing type is text/plain. Raises `InvalidRequest`.
    """
    match = re.match(r"data:([^,]{0,512}),", url, re.IGNORECASE)
    if match is None:
        raise InvalidRequest("A data: URL must look like data:image/png;base64,….", param=param)
    kind, *options = [part.strip() for part in match[1].split(";")]
    mime = _mime(kind) if kind else "text/plain"
    if not mime:
        raise InvalidRequest("A data: URL has a malformed media type.", param=param)
    text = url[match.end() :]
    if "base64" not in [option.lower() for option in options]:
        return Media(mime, unquote_to_bytes(text))
    return Media(mime, _base64(text, param))


def _base64(text: str, param: str | None) -> bytes:
    try:
        raw = (unquote_to_bytes(text) if "%" in text else text.encode("ascii")).translate(
            bytes.maketrans(b"-_", b"+/"), b" \t\r\n"
        )
        stripped = raw.rstrip(b"=")
        if len(raw) - len(stripped) > 2:
            raise ValueError("padding")
        return base64.b64decode(stripped + b"=" * (-len(stripped) % 4), validate=True)
    except (ValueError, binascii.Error):
        raise InvalidRequest("A data: URL holds broken base64.", param=param) from None
