"""What every answer carries: request ids, credits, rate figures, CORS."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.fake_openai import json_reply, stream_reply
from tests.support.shopfront import (
    CHAT,
    EMBED,
    HELLO,
    IMAGE,
    Front,
    chunk,
    completion,
    events,
    open_front,
    told,
    usage_chunk,
)

REQUEST_ID = re.compile(r"req_[0-9a-f]{32}")


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with open_front(tmp_path) as front:
        yield front


async def raw(front: Front, data: bytes) -> bytes:
    """Everything the server says to these bytes until it closes."""
    host, port = front.run.origin.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()


async def test_a_whole_answer_carries_charge_balance_and_rate(front: Front) -> None:
    front.fake.script("/chat/completions", json_reply(completion()))
    answer = await front.chat(max_tokens=100)
    assert answer.status_code == 200
    got = answer.headers
    assert got["x-sellapi-credits-charged"] == "2"
    assert got["x-sellapi-credits-balance"] == "9998"
    assert (got["x-ratelimit-limit"], got["x-ratelimit-remaining"]) == ("20", "19")
    assert 1 <= int(got["x-ratelimit-reset"]) <= 60
    assert got["x-ratelimit-limit-requests"] == "20"
    assert got["x-ratelimit-remaining-requests"] == "19"
    assert "x-ratelimit-reset-requests" in got
    assert got["x-sellapi-route"] == "fake:chat-1"
    assert REQUEST_ID.fullmatch(got["x-request-id"])
    assert "x-sellapi-max-tokens" not in got


async def test_nothing_of_the_providers_headers_passes(front: Front) -> None:
    front.fake.script(
        "/chat/completions",
        json_reply(completion(), x_ratelimit_limit_tokens="5", server="nginx", x_secret="1"),
    )
    answer = await front.chat()
    for name in ("set-cookie", "openai-organization", "x-secret", "x-ratelimit-limit-tokens"):
        assert name not in answer.headers
    assert "nginx" not in answer.headers.get("server", "")
    assert answer.headers["x-request-id"].startswith("req_")
    assert "fake0123" not in answer.headers["x-request-id"]


async def test_a_streams_head_tells_the_hold_and_its_end_the_charge(front: Front) -> None:
    front.fake.script(
        "/chat/completions", stream_reply([chunk("Hi"), chunk(finish="stop"), usage_chunk()])
    )
    answer = await front.chat(stream=True, max_tokens=100)
    held = answer.headers["x-sellapi-credits-held"]
    assert answer.headers["x-sellapi-credits-charged"] == held
    assert float(answer.headers["x-sellapi-credits-balance"]) == pytest.approx(10_000 - float(held))
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert told(answer.text) == {
        "credits_charged": "2",
        "credits_balance": "9998",
        "request_id": answer.headers["x-request-id"],
        "estimated": False,
        "bounded": False,
    }
    assert answer.text.rstrip().endswith("data: [DONE]")
    assert answer.text.index(": sellapi") < answer.text.index("data: [DONE]")
    assert all("usage" not in e for e in events(answer.text)[:-1])


async def test_the_usage_chunk_carries_the_charge_when_it_was_asked_for(front: Front) -> None:
    stream = await front.openai().chat.completions.create(
        model=CHAT, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [c async for c in stream]
    last = chunks[-1]
    assert last.choices == []
    assert last.usage is not None
    said = last.model_extra["sellapi"]  # type: ignore[index]
    assert set(said) == {
        "credits_charged",
        "credits_balance",
        "request_id",
        "estimated",
        "bounded",
    }
    row = (await front.settled())[0]
    assert int(float(said["credits_charged"]) * 1_000_000) == row["charge"]
    assert said["request_id"] == row["request_id"]


async def test_the_sdk_finds_our_request_id(front: Front) -> None:
    answer = await front.openai().chat.completions.create(model=CHAT, messages=HELLO)
    assert answer._request_id == front.requests()[0]["request_id"]


async def test_a_clients_own_request_id_is_not_taken(front: Front) -> None:
    answer = await front.get("/credits", **{"x-request-id": "req_" + "0" * 32})
    assert answer.headers["x-request-id"] != "req_" + "0" * 32


async def test_embeddings_and_images_carry_the_same_headers(front: Front) -> None:
    for path, body in (
        ("/embeddings", {"model": EMBED, "input": "ten tokens or so"}),
        ("/images/generations", {"model": IMAGE, "prompt": "a sunset"}),
    ):
        answer = await front.post(path, body)
        assert answer.status_code == 200, answer.text
        for name in ("charged", "balance"):
            assert re.fullmatch(r"\d+(\.\d*[1-9])?", answer.headers[f"x-sellapi-credits-{name}"])
        assert answer.headers["x-ratelimit-limit"] == "20"


async def test_gets_by_a_key_cost_nothing_and_show_balance_and_rate(front: Front) -> None:
    for path in ("/models", f"/models/{CHAT}", "/credits", "/usage"):
        answer = await front.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["x-sellapi-credits-charged"] == "0", path
        assert answer.headers["x-sellapi-credits-balance"] == "10000", path
        assert int(answer.headers["x-ratelimit-remaining"]) > 0, path
    assert front.balance() == 10_000_000_000


async def test_every_kind_of_answer_has_a_request_id_and_is_json(front: Front) -> None:
    http, origin = front.http, front.run.origin
    answers = [
        await http.get(origin + "/health"),
        await http.get(origin + "/ready"),
        await http.get(origin + "/nowhere"),
        await http.get(origin + "/v1/models"),
        await http.get(origin + "/v1/models/%00%ff%0a"),
        await http.get(origin + "/v1/credits"),
        await http.put(origin + "/v1/chat/completions"),
        await http.post(origin + "/v1/chat/completions", content=b"{"),
        await http.post(
            origin + "/v1/chat/completions",
            content=b"a=b",
            headers={"content-type": "application/x-www-form-urlencoded"},
        ),
        await front.chat(model="nope"),
    ]
    for answer in answers:
        assert REQUEST_ID.fullmatch(answer.headers["x-request-id"]), answer.request.url
        assert answer.headers["content-type"] == "application/json", answer.request.url
        assert answer.json(), answer.request.url
    assert len({a.headers["x-request-id"] for a in answers}) == len(answers)


@pytest.mark.parametrize(
    ("path", "size", "key", "status"),
    [
        ("chat/completions", 99_000_000, None, 413),
        ("chat/completions", 2_000_000, "sk-sellapi-" + "y" * 43, 401),
        ("nothing", 2_000_000, None, 404),
    ],
)
async def test_who_asks_before_sending_a_body_is_refused_without_it(
    front: Front, path: str, size: int, key: str | None, status: int
) -> None:
    """curl asks so for more than a megabyte; it must not be told to go on and then be refused."""
    head = (
        f"POST /v1/{path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key or front.key}\r\n"
        f"content-type: application/json\r\ncontent-length: {size}\r\nexpect: 100-continue\r\n\r\n"
    )
    answer = await raw(front, head.encode())
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer[:200]
    assert b"100 Continue" not in answer


async def test_who_asks_before_sending_a_good_body_is_told_to_go_on(front: Front) -> None:
    front.fake.script("/chat/completions", json_reply(completion()))
    body = json.dumps({"model": CHAT, "messages": HELLO}).encode()
    host, port = front.run.origin.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {front.key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        "connection: close\r\nexpect: 100-continue\r\n\r\n".encode()
    )
    told = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert told == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200 "), answer


@pytest.mark.parametrize(
    "data",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nbig: " + b"x" * 20_000 + b"\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: abc\r\n\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\nexpect: magic\r\n\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n\r\n",
        b"CONNECT elsewhere:443 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999\r\n\r\n",
    ],
    ids=["garbage", "version", "url", "header", "length", "expect", "chunk", "connect", "endless"],
)
async def test_what_is_no_http_gets_a_4xx_in_json_with_a_request_id(
    front: Front, data: bytes
) -> None:
    head, _, body = (await raw(front, data)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 4"), head
    assert b"x-request-id: req_" in head
    assert b'"error"' in body
    assert b"<" not in body
    assert b"Traceback" not in body
    assert (await front.http.get(front.run.origin + "/health")).status_code == 200


async def test_head_answers_like_get_without_a_body(front: Front) -> None:
    for path in ("/health", "/ready", "/v1/models", f"/v1/models/{CHAT}"):
        answer = await front.http.head(front.run.origin + path)
        assert answer.status_code == 200, path
        assert answer.content == b""
        assert answer.headers["x-request-id"].startswith("req_")


async def test_a_slash_at_the_end_of_a_route_says_nothing(front: Front) -> None:
    for path in ("/models", f"/models/{CHAT}", f"/models/{CHAT.replace('/', '%2F')}", "/usage"):
        plain, slash = await front.get(path), await front.get(path + "/")
        assert slash.status_code == 200, (path, slash.text)
        assert slash.json() == plain.json()


# -- CORS ----------------------------------------------------------------------------------------


async def preflight(front: Front, path: str, method: str, origin: str) -> dict[str, str]:
    answer = await front.http.options(
        front.run.origin + path,
        headers={
            "origin": origin,
            "access-control-request-method": method,
            "access-control-request-headers": "authorization,content-type,x-stainless-os",
        },
    )
    assert answer.status_code == 204
    assert answer.headers["x-request-id"].startswith("req_")
    return dict(answer.headers)


async def test_any_page_may_read_the_models_and_no_page_the_rest(front: Front) -> None:
    got = await preflight(front, "/v1/models", "GET", "https://app.example")
    assert got["access-control-allow-origin"] == "*"
    assert "GET" in got["access-control-allow-methods"]
    assert "authorization" in got["access-control-allow-headers"].lower()
    got = await preflight(front, "/v1/chat/completions", "POST", "https://app.example")
    assert "access-control-allow-origin" not in got
    answer = await front.http.get(
        front.run.url + "/models", headers={"origin": "https://app.example"}
    )
    assert answer.headers["access-control-allow-origin"] == "*"
    answer = await front.get("/credits", origin="https://app.example")
    assert "access-control-allow-origin" not in answer.headers


async def test_configured_origins_may_call_and_read_our_headers(tmp_path: Path) -> None:
    async with open_front(tmp_path, cors_origins="https://app.example") as front:
        got = await preflight(front, "/v1/chat/completions", "POST", "https://app.example")
        assert got["access-control-allow-origin"] == "https://app.example"
        assert "POST" in got["access-control-allow-methods"]
        for name in ("authorization", "content-type", "x-stainless-os"):
            assert name in got["access-control-allow-headers"].lower()
        got = await preflight(front, "/v1/chat/completions", "POST", "https://evil.example")
        assert "access-control-allow-origin" not in got
        for answer in (
            await front.http.post(
                front.run.url + "/chat/completions",
                json={"model": CHAT, "messages": HELLO, "stream": True},
                headers={
                    "origin": "https://app.example",
                    "authorization": f"Bearer {front.key}",
                },
            ),
            await front.http.post(  # errors too, or a page could not tell why
                front.run.url + "/chat/completions",
                json={},
                headers={"origin": "https://app.example"},
            ),
        ):
            assert answer.headers["access-control-allow-origin"] == "https://app.example"
            exposed = answer.headers["access-control-expose-headers"]
            for name in (
                "x-request-id",
                "x-sellapi-credits-charged",
                "x-sellapi-credits-balance",
                "x-ratelimit-remaining",
                "x-ratelimit-remaining-requests",
                "retry-after",
            ):
                assert name in exposed
            assert "origin" in answer.headers["vary"].lower()
