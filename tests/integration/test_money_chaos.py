"""Clients that leave at any moment, providers that fail in any way: the books balance afterwards."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_openai import (
    CUT,
    Received,
    Response,
    error_reply,
    json_reply,
    raw_reply,
    stream_reply,
)
from tests.support.shopfront import CHAT, HELLO, Front, chunk, completion, open_front, usage_chunk


def data(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


class Weather:
    """A provider in a random mood."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def __call__(self, received: Received) -> Response:
        pause = self.random.choice([0.0, 0.0, 0.005, 0.02])
        if received.body.get("stream"):
            reply = self.random.choice(
                [
                    lambda: stream_reply(
                        [chunk("a"), chunk("b"), chunk(finish="stop"), usage_chunk()], pause_s=pause
                    ),
                    lambda: raw_reply(data(chunk("abc")), pause, CUT),
                    lambda: raw_reply(data(chunk("abc")), pause, data({"error": {"message": "x"}})),
                    lambda: stream_reply([chunk("a"), chunk(finish="stop")], pause_s=pause),
                    lambda: error_reply(503),
                    lambda: Response(drop=True),
                ]
            )()
        else:
            reply = self.random.choice(
                [
                    lambda: json_reply(completion()),
                    lambda: json_reply(completion(usage=None)),
                    lambda: error_reply(400, "no"),
                    lambda: error_reply(500),
                    lambda: Response(drop=True),
                    lambda: raw_reply(b'{"id"', CUT, content_type="application/json"),
                ]
            )()
        reply.before_s = pause
        return reply


async def call(front: Front, number: int, chance: random.Random) -> bytes | None:
    """Ask, and perhaps leave after a random while; the whole answer when it stayed."""
    fields: dict[str, Any] = {"model": CHAT, "messages": HELLO, "stream": chance.random() < 0.6}
    if chance.random() < 0.7:
        fields["max_tokens"] = chance.randint(1, 100)
    if chance.random() < 0.5:
        fields["stream_options"] = {"include_usage": True}
    body = json.dumps(fields).encode()
    stay = chance.random() < 0.4
    wait = chance.random() ** 2 * 0.06
    host, port = front.run.origin.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {front.key}\r\n"
        f"connection: close\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode()
    cut = len(body) if stay or number % 7 else chance.randrange(len(body))
    writer.write(head + body[:cut])
    try:
        if stay:
            return await asyncio.wait_for(reader.read(), 10)
        await asyncio.sleep(wait)
    finally:
        if number % 2:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort() if number % 2 else writer.close()
    return None


def charged(answer: bytes) -> int | None:
    """Microcredits a whole answer says it cost; None for one that was not charged."""
    from sellapi.domain.credits import parse_credits

    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        return None
    if b'"credits_charged":"' in body:
        return parse_credits(body.split(b'"credits_charged":"')[1].split(b'"')[0].decode())
    if b"text/event-stream" in head:
        return None  # it broke off; what was delivered is charged, by estimate
    return parse_credits(head.split(b"x-sellapi-credits-charged: ")[1].split(b"\r\n")[0].decode())


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_the_books_balance_whoever_leaves_when(tmp_path: Path, seed: int) -> None:
    async with open_front(tmp_path, tier="pro", grant=1_000_000) as front:
        front.run.services.limiter.note_void = lambda caller: None  # type: ignore[method-assign]
        front.shop.execute("UPDATE tiers SET rpm = 100000, account_rpm = 100000")
        front.shop.execute("UPDATE keys SET spend_limit = balance FROM accounts")
        front.fake.script("/chat/completions", Weather(seed))
        chance = random.Random(seed)
        before = front.balance()
        waves = [
            await asyncio.gather(*(call(front, wave * 20 + n, chance) for n in range(20)))
            for wave in range(6)
        ]
        rows = await front.settled(1)
        assert front.run.services.gateway.in_flight == {}
        assert front.shop.account(front.account)["held"] == 0
        assert front.shop.value("SELECT sum(held) FROM keys") == 0
        assert {r["state"] for r in rows} <= {"settled", "voided"}
        assert before - front.balance() == sum(r["charge"] for r in rows)
        assert front.shop.value("SELECT spent FROM keys") == sum(r["charge"] for r in rows)
        entries = front.shop.rows("SELECT request_id FROM entries WHERE kind = 'charge'")
        assert len({e["request_id"] for e in entries}) == len(entries)
        await front.settled(1)
        by_id = {r["request_id"]: r for r in front.requests()}
        for answer in (a for wave in waves for a in wave if a):
            said = charged(answer)
            request_id = answer.split(b"x-request-id: ")[1].split(b"\r\n")[0].decode()
            row = by_id.get(request_id)
            if said is not None:
                assert row is not None
                assert (row["state"], row["charge"], row["delivery"]) == ("settled", said, 1)
            elif not answer.startswith(b"HTTP/1.1 200"):
                assert row is None or row["charge"] == 0
        assert all(r["delivery"] in (1, 2) for r in by_id.values())
        for route in front.run.services.router._health.values():
            assert route.in_flight == 0
            assert not route.waiting
