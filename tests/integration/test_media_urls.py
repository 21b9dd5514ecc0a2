"""Files a stranger names by URL, through the whole gateway: what is fetched, by whom, and what never."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import orjson
import pytest
import pytest_asyncio

from sellapi.upstream import guard
from tests.support.fake_openai import json_reply
from tests.support.raw_server import Authority, Peer, raw_server, whole
from tests.support.world import CHAT, World, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

KINDS = tuple(CHAT)
PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"
AUTHORITY = Authority()
INTERNAL = [
    "http://93.184.216.34/a.png",
    "https://127.0.0.1/a.png",
    "https://localhost/a.png",
    "https://localhost./a.png",
    "https://[::1]/a.png",
    "https://[::ffff:10.0.0.1]/a.png",
    "https://169.254.169.254/latest/meta-data/",
    "https://10.0.0.1/a.png",
    "https://2130706433/a.png",
    "https://0x7f.1/a.png",
    "https://user:secret@93.184.216.34/a.png",
    "https://93.184.216.34:8443/a.png",
    "https://metadata.internal/a.png",
    "https://example.com\\@127.0.0.1/a.png",
    "file:///etc/passwd",
    "ftp://example.com/a.png",
    "//example.com/a.png",
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def providers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    async with world(tmp_path_factory.mktemp("world")) as found:
        yield found


@pytest.fixture
def shop(providers: World) -> World:
    return providers.newcomer()


@pytest.fixture
def public(shop: World) -> Any:
    """The providers' base URLs count as public ones while the test runs."""
    links = shop.gateway.services.registry.links()
    for link in links:
        link.private, link._inside = False, (time.monotonic(), False)
    yield
    for link in links:
        link.private, link._inside = True, None


@pytest.fixture
def media(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A way to serve files at ``https://media.test``, which the guard then takes for public."""
    real = guard.fetch
    context = AUTHORITY.client_context()

    async def resolver(host: str, port: int) -> list[str]:
        if host != "media.test":
            raise OSError(host)
        return ["127.0.0.1"]

    async def fetch(url: str, **options: Any) -> Any:
        def local(address: str, port: int) -> bool:
            return address in ("", "127.0.0.1") and "media.test" in url

        return await real(url, **options, allow=local, resolver=resolver, context=context)

    async def known(url: str) -> bool:
        return "media.test" not in url

    monkeypatch.setattr(guard, "fetch", fetch)
    monkeypatch.setattr(guard, "is_unknown_here", known)
    return AUTHORITY.server_context(tmp_path, "media.test")


def serving(*replies: bytes) -> Any:
    queue = list(replies)

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(queue.pop(0) if len(queue) > 1 else queue[0])

    return script


def picture(url: str) -> Any:
    return {"type": "image_url", "image_url": {"url": url}}


async def see(shop: World, kind: str, *parts: Any, model: str = "") -> Any:
    content = [{"type": "text", "text": "See"}, *parts]
    body = {"model": model or CHAT[kind], "messages": [{"role": "user", "content": content}]}
    return await shop.post("/chat/completions", body)


def untouched(shop: World) -> bool:
    return not (shop.openai.requests or shop.anthropic.requests or shop.google.requests)


@pytest.mark.parametrize("url", INTERNAL)
@pytest.mark.parametrize("kind", KINDS)
async def test_no_url_leads_into_our_network(shop: World, kind: str, url: str) -> None:
    """Neither we nor a provider beside us fetch it; the place of the URL is named, no address is."""
    response = await see(shop, kind, picture(url))
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == "messages[0].content[1].image_url.url"
    assert "secret" not in response.text
    assert untouched(shop)
    await shop.gateway.quiet()
    assert shop.shop.account(shop.account)["held"] == 0


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("kind", ["openai", "anthropic"])
async def test_a_host_unknown_here_is_left_to_the_provider(
    shop: World, kind: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway without DNS of its own still passes public-looking URLs on, as they came."""

    async def nothing(host: str, port: int) -> list[str]:
        raise OSError(host)

    real = guard.is_unknown_here
    monkeypatch.setattr(guard, "is_unknown_here", lambda url: real(url, resolver=nothing))
    url = f"{scheme}://pictures.example.com/a.png"
    response = await see(shop, kind, picture(url))
    assert response.status_code == 200, response.text
    assert url in json.dumps(shop.last(kind))


@pytest.mark.parametrize(
    "part, place",
    [
        ({"type": "file", "file": {"filename": "a.pdf", "file_data": "https://10.0.0.1/a.pdf"}}, 0),
        ({"type": "video_url", "video_url": {"url": "http://10.0.0.1/v.mp4"}}, 0),
        ({"type": "audio_url", "audio_url": {"url": "http://10.0.0.1/a.mp3"}}, 0),
        ({"type": "image_url", "image_url": "http://10.0.0.1/a.png"}, 0),
        ({"type": "x", "deep": [{"video_url": "http://10.0.0.1/v.mp4"}]}, 0),
    ],
)
async def test_extensions_name_no_way_in_either(shop: World, part: Any, place: int) -> None:
    """A compatible provider on our network may know more kinds of parts than OpenAI does."""
    response = await see(shop, "openai", part)
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("messages[0].content[1]")
    assert untouched(shop)


async def test_a_key_spelled_with_escapes_is_no_way_in(shop: World) -> None:
    """JSON may spell a key in many ways."""
    part = rb'{"type":"image_url","im\u0061ge_\u0075rl":{"\u0075rl":"http:\/\/10.0.0.1/a.png"}}'
    for kind in KINDS:
        body = b'{"model":"%s","messages":[{"role":"user","content":[%s]}]}'
        response = await shop.post("/chat/completions", body % (CHAT[kind].encode(), part))
        assert response.status_code == 400
    assert untouched(shop)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_public_file_is_fetched_and_sent_inline(shop: World, media: Any, kind: str) -> None:
    """Once, though it is named twice."""
    reply = whole(PNG, {"content-type": "image/png"})
    async with raw_server(serving(reply), tls=media) as server:
        url = f"https://media.test:{server.port}/a.png"
        response = await see(shop, kind, picture(url), picture(url))
        assert response.status_code == 200, response.text
        assert len(server.requests) == 1
    sent = json.dumps(shop.last(kind))
    assert sent.count(base64.b64encode(PNG).decode()) == 2
    assert "media.test" not in sent


@pytest.mark.parametrize("kind", KINDS)
async def test_a_file_part_by_url_is_fetched_too(shop: World, media: Any, kind: str) -> None:
    """A PDF whose type only its bytes tell, as object stores serve it."""
    reply = whole(b"%PDF-1.7 x", {"content-type": "application/octet-stream"})
    async with raw_server(serving(reply), tls=media) as server:
        url = f"https://media.test:{server.port}/a?signature=x"
        part = {"type": "file", "file": {"filename": "a.pdf", "file_data": url}}
        response = await see(shop, kind, part)
        assert response.status_code == 200, response.text
    sent = json.dumps(shop.last(kind))
    assert base64.b64encode(b"%PDF-1.7 x").decode() in sent
    assert "application/pdf" in sent


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
async def test_a_public_provider_gets_the_url_itself(
    shop: World, public: None, media: Any, kind: str
) -> None:
    """It fetches from its own network, not from ours."""
    response = await see(shop, kind, picture("https://example.com/a.png"))
    assert response.status_code == 200, response.text
    assert "https://example.com/a.png" in json.dumps(shop.last(kind))


@pytest.mark.parametrize(
    "reply, words",
    [
        (whole(b"<html>", {"content-type": "text/html"}), "neither an image"),
        (
            b"HTTP/1.1 302 X\r\nlocation: https://10.0.0.1/\r\ncontent-length: 0\r\n\r\n",
            "redirects",
        ),
        (b"HTTP/1.1 404 X\r\ncontent-length: 0\r\n\r\n", "answered 404"),
        (
            b"HTTP/1.1 200 X\r\ncontent-type: image/png\r\ncontent-length: 99999999\r\n\r\n",
            "larger",
        ),
    ],
)
async def test_what_is_no_file_is_refused(
    shop: World, media: Any, reply: bytes, words: str
) -> None:
    """Redirects, error pages, wrong types and floods."""
    async with raw_server(serving(reply), tls=media) as server:
        response = await see(shop, "gemini", picture(f"https://media.test:{server.port}/a.png"))
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]
    assert untouched(shop)


async def test_too_many_files_are_refused(shop: World) -> None:
    """Before any of them is fetched."""
    parts = [picture(f"https://media.test/{k}.png") for k in range(33)]
    response = await see(shop, "gemini", *parts)
    assert response.status_code == 400
    assert "At most 32 files" in response.json()["error"]["message"]


async def test_another_customers_files_at_the_provider_are_out_of_reach(shop: World) -> None:
    """A Files API URI is Google's name for a file of the account all customers share."""
    for url in (
        "https://generativelanguage.googleapis.com/v1beta/files/abc",
        "https://GenerativeLanguage.googleapis.com./v1beta/files/abc",
    ):
        response = await see(shop, "gemini", picture(url))
        assert response.status_code == 400
    assert untouched(shop)


# --- images a provider answers by URL


def drawn(*urls: str, **usage: Any) -> Any:
    return json_reply({"created": 1, "data": [{"url": url} for url in urls], **usage})


async def draw(shop: World, n: int = 1) -> Any:
    body = {"model": "openai/gpt-image-2", "prompt": "A cat", "n": n}
    return await shop.post("/images/generations", body)


async def test_images_by_url_come_as_base64(shop: World, media: Any) -> None:
    """b64_json always, whatever a provider answers."""
    reply = whole(PNG, {"content-type": "image/png"})
    async with raw_server(serving(reply), tls=media) as server:
        urls = [f"https://media.test:{server.port}/{k}.png" for k in range(2)]
        shop.openai.script_once("/images/generations", drawn(*urls))
        response = await draw(shop, 2)
    assert response.json()["data"] == [{"b64_json": base64.b64encode(PNG).decode()}] * 2


async def test_an_image_by_url_that_cannot_be_had_is_the_providers_fault(shop: World) -> None:
    """A 502, never a 400, and nothing is charged; a URL into our network is not followed."""
    shop.openai.script_once("/images/generations", drawn("https://10.0.0.1/a.png"))
    response = await draw(shop)
    assert (response.status_code, response.json()["error"]["type"]) == (502, "upstream_error")
    assert "10.0.0.1" not in response.text
    await shop.gateway.quiet()
    assert shop.shop.account(shop.account)["balance"] == 10_000_000 * 10**6


async def test_of_several_images_those_that_came_are_charged(shop: World, media: Any) -> None:
    """k of n delivered charges k."""
    ok = whole(PNG, {"content-type": "image/png"})
    async with raw_server(serving(ok), tls=media) as server:
        urls = [f"https://media.test:{server.port}/a.png", "https://10.0.0.1/b.png"]
        shop.openai.script_once("/images/generations", drawn(*urls))
        response = await draw(shop, 2)
    assert len(orjson.loads(response.content)["data"]) == 1
    assert response.headers["x-sellapi-credits-charged"] == "4000"


async def test_an_operator_may_trust_a_private_provider(tmp_path: Any) -> None:
    """SELLAPI_PRIVATE_PROVIDERS: a URL then goes to a provider inside as it came."""
    async with world(tmp_path, private_providers=True) as found:
        response = await see(found, "openai", picture("http://10.0.0.1/a.png"))
        assert response.status_code == 200, response.text
        assert "http://10.0.0.1/a.png" in json.dumps(found.last("openai"))


async def test_a_name_that_leads_inside_makes_a_provider_private(
    shop: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A public-looking name whose address is private: its server fetches nothing for strangers."""
    from sellapi.upstream import registry

    asked: list[str] = []

    async def resolver(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["10.0.0.5"]

    monkeypatch.setattr(registry, "resolve", resolver)
    (link,) = [x for x in shop.gateway.services.registry.links() if x.provider.name == "openai"]
    link.private = False
    try:
        for _ in range(2):
            response = await see(shop, "openai", picture("http://10.0.0.1/a.png"))
            assert response.status_code == 400
    finally:
        link.private, link._inside = True, None
    assert len(asked) == 1
    assert untouched(shop)
