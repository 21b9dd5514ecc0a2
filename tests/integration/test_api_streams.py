"""Streams: the first token at once, pings in silence, late errors as events, odd clients."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from sellapi.api import respond
from tests.support.fake_openai import CUT, error_reply, json_reply, raw_reply, stream_reply
from tests.support.shopfront import (
    CHAT,
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


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with open_front(tmp_path) as front:
        yield front


def data(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


END = [data(chunk(finish="stop")), data(usage_chunk()), b"data: [DONE]\n\n"]


async def test_each_token_is_forwarded_the_moment_it_arrives(front: Front) -> None:
    front.fake.script(
        "/chat/completions",
        raw_reply(data(chunk("one")), 0.2, data(chunk("two")), 0.2, data(chunk("three")), *END),
    )
    stream = await front.openai().chat.completions.create(model=CHAT, messages=HELLO, stream=True)
    at = {}
    async for piece in stream:
        if piece.choices and piece.choices[0].delta.content:
            at[piece.choices[0].delta.content] = time.monotonic()
    assert at["two"] - at["one"] > 0.15
    assert at["three"] - at["two"] > 0.15


async def test_a_silent_stream_gets_its_head_pings_and_then_its_answer(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(respond, "PING_AFTER_S", 0.5)
    monkeypatch.setattr(respond, "HEAD_AFTER_S", 0.5)
    slow = raw_reply(data(chunk("late")), 2.2, *END)
    slow.before_s = 2.2
    front.fake.script("/chat/completions", slow)
    begun = time.monotonic()
    async with front.http.stream(
        "POST",
        front.run.url + "/chat/completions",
        json={"model": CHAT, "messages": HELLO, "stream": True, "max_tokens": 5},
        headers={"authorization": f"Bearer {front.key}"},
    ) as answer:
        assert time.monotonic() - begun < 2
        assert answer.status_code == 200
        assert answer.headers["x-sellapi-credits-held"]
        text = "".join([t async for t in answer.aiter_text()])
    assert text.startswith(": ping\n\n")
    before, _, after = text.partition("late")
    assert before.count(": ping") >= 1
    assert after.count(": ping") >= 1
    assert told(text)["credits_charged"] == "2"
    assert events(text)[-1] == "[DONE]"


async def test_an_error_after_the_head_is_an_event_and_nothing_is_charged(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(respond, "HEAD_AFTER_S", 0.2)
    slow = error_reply(500)
    slow.before_s = 1.8
    front.fake.script("/chat/completions", slow)
    stream = await front.openai().chat.completions.create(
        model=CHAT, messages=HELLO, stream=True, max_tokens=5
    )
    with pytest.raises(openai.APIError) as caught:
        async for _ in stream:
            pass
    assert caught.value.type == "upstream_error"
    (row,) = await front.settled()
    assert (row["state"], row["charge"]) == ("voided", 0)


async def test_the_sdk_raises_when_a_stream_breaks_off(front: Front) -> None:
    front.fake.script("/chat/completions", raw_reply(data(chunk("Hel")), 0.02, CUT))
    stream = await front.openai().chat.completions.create(model=CHAT, messages=HELLO, stream=True)
    got = ""
    with pytest.raises(openai.APIError) as caught:
        async for piece in stream:
            got += piece.choices[0].delta.content or ""
    assert got == "Hel"
    assert caught.value.type == "upstream_error"
    assert caught.value.code == "upstream_error"


async def test_odd_streams_end_well(front: Front) -> None:
    odd: dict[str, list[Any]] = {
        "usage on the last chunk": [
            data(chunk("Hi")),
            data(chunk(finish="stop", usage={"prompt_tokens": 10, "completion_tokens": 5})),
            b"data: [DONE]\n\n",
        ],
        "no DONE": [data(chunk("Hi")), data(chunk(finish="stop")), data(usage_chunk())],
        "comments": [b": OPENROUTER PROCESSING\n\n", data(chunk("Hi")), b":\n\n", *END],
        "carriage returns": [data(chunk("Hi")).replace(b"\n", b"\r\n"), *END],
        "one byte at a time": [bytes([b]) for b in data(chunk("Hi"))] + END,
    }
    for number, (name, steps) in enumerate(odd.items(), 1):
        front.fake.script("/chat/completions", raw_reply(*steps))
        answer = await front.chat(stream=True, max_tokens=5)
        got = events(answer.text)
        assert got[-1] == "[DONE]", name
        assert (
            "".join(c["delta"].get("content") or "" for e in got[:-1] for c in e["choices"]) == "Hi"
        ), name
        assert told(answer.text)["credits_charged"] == "2", name
        assert len(await front.settled(number)) == number


async def test_a_client_that_never_reads_is_held_back_not_buffered(front: Front) -> None:
    """The provider sends 40 MB; the server takes no more of it than fits its buffers."""
    sent = 0

    def pieces() -> Any:
        nonlocal sent
        for _ in range(4_000):
            sent += 1
            yield data(chunk("x" * 10_000))
            yield 0.0001
        yield from END

    reply = raw_reply()
    reply.steps = pieces()
    front.fake.script("/chat/completions", reply)
    host, port = front.run.origin.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    body = json.dumps({"model": CHAT, "messages": HELLO, "stream": True}).encode()
    writer.write(
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {front.key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        + body
    )
    await reader.readexactly(100)
    seen = -1
    while seen != sent:  # until nothing moves any more
        seen = sent
        await asyncio.sleep(0.3)
    assert sent < 2_500
    assert (await front.get("/credits")).status_code == 200
    writer.close()
    (row,) = await front.settled()
    assert (row["state"], row["estimated"], row["delivery"]) == ("settled", 1, 2)


@pytest.mark.parametrize("more", ["", "connection: keep-alive\r\n"])
async def test_a_client_of_http_1_0_gets_events_without_chunks(front: Front, more: str) -> None:
    """An old proxy, for example: it reads until the connection closes (RFC 9112, 7.1 and 6.3)."""
    words = [data(chunk("one")), 0.05, data(chunk("two"))]
    front.fake.script("/chat/completions", raw_reply(*words, 0.05, *END))
    host, port = front.run.origin.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps({"model": CHAT, "messages": HELLO, "stream": True}).encode()
    writer.write(
        f"POST /v1/chat/completions HTTP/1.0\r\nauthorization: Bearer {front.key}\r\n{more}"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        + body
    )
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    head, _, events_sent = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert b"connection: close" in head.lower()
    assert b"\r" not in events_sent
    assert events_sent.startswith(b"data: {")
    assert events_sent.endswith(b"data: [DONE]\n\n")
    assert events_sent.count(b"data: ") == 4
    (row,) = await front.settled()
    assert (row["state"], row["estimated"], row["delivery"]) == ("settled", 0, 1)


async def test_no_pings_wait_for_a_client_that_does_not_read(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that waits could be written behind the end of the stream, into the next answer."""
    monkeypatch.setattr(respond, "PING_AFTER_S", 0.05)
    many = [data(chunk("x" * 10_000))] * 1_000
    front.fake.script("/chat/completions", raw_reply(*many, 30.0))
    pinger = respond.Pinger()
    pinger._wires = front.run.app.ctx.pinger._wires
    pinging = asyncio.create_task(pinger.run(0.02))
    async with front.http.stream(
        "POST",
        front.run.url + "/chat/completions",
        json={"model": CHAT, "messages": HELLO, "stream": True, "max_tokens": 5},
        headers={"authorization": f"Bearer {front.key}"},
    ):
        await asyncio.sleep(0.5)
        (wire,) = pinger._wires
        assert not wire._protocol.taking
        assert not pinger._pings
    pinging.cancel()
    await front.settled()


async def test_many_streams_at_once_each_get_their_own_words(tmp_path: Path) -> None:
    async with open_front(tmp_path, tier="pro", grant=1_000_000) as front:

        def echo(received: Any) -> Any:
            word = received.body["messages"][0]["content"]
            return stream_reply([chunk(word), chunk(finish="stop"), usage_chunk()], pause_s=0.01)

        front.fake.script("/chat/completions", echo)

        async def ask(number: int) -> tuple[int, str]:
            answer = await front.chat(
                stream=True, max_tokens=5, messages=[{"role": "user", "content": f"w{number}w"}]
            )
            return number, answer.text

        for number, text in await asyncio.gather(*(ask(n) for n in range(30))):
            assert set(re.findall(r"w\d+w", text)) == {f"w{number}w"}
        rows = await front.settled(30)
        assert {r["charge"] for r in rows} == {2_000_000}


async def test_an_image_behind_an_unreachable_url_is_the_providers_failure(front: Front) -> None:
    for url in ("http://127.0.0.1/x.png", "https://127.0.0.1/x.png", "file:///etc/passwd"):
        front.fake.script("/images/generations", json_reply({"created": 1, "data": [{"url": url}]}))
        answer = await front.post("/images/generations", {"model": IMAGE, "prompt": "x"})
        assert answer.status_code == 502, (url, answer.text)
        assert "127.0.0.1" not in answer.text
    rows = await front.settled(3)
    assert {r["state"] for r in rows} == {"voided"}
    assert all(r["loss"] >= 0 for r in rows)


async def test_images_that_could_be_had_are_delivered_and_charged(front: Front) -> None:
    front.fake.script(
        "/images/generations",
        json_reply({"created": 1, "data": [{"b64_json": "aGk="}, {"url": "https://127.0.0.1/x"}]}),
    )
    answer = await front.post("/images/generations", {"model": IMAGE, "prompt": "x", "n": 2})
    assert answer.status_code == 200, answer.text
    assert [list(d) for d in answer.json()["data"]] == [["b64_json"]]
    (row,) = await front.settled()
    assert (row["images"], row["charge"]) == (1, 4_000_000_000)


async def test_a_keep_alive_connection_serves_call_after_call(front: Front) -> None:
    front.fake.script("/chat/completions", json_reply(completion()))
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=1)) as http:
        for stream in (False, True, False):
            front.fake.script(
                "/chat/completions",
                raw_reply(data(chunk("x")), *END) if stream else json_reply(completion()),
            )
            answer = await http.post(
                front.run.url + "/chat/completions",
                json={"model": CHAT, "messages": HELLO, "stream": stream},
                headers={"authorization": f"Bearer {front.key}"},
            )
            assert answer.status_code == 200
            bad = await http.post(front.run.url + "/chat/completions", content=b"x" * 200_000)
            assert bad.status_code == 401
