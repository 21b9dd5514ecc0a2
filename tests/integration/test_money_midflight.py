"""What changes while a request runs: it is finished and charged by what held when it began."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_openai import Received, Response, json_reply, raw_reply
from tests.support.shopfront import CHAT, Front, chunk, completion, events, open_front

WHOLE = 10_000_000_000


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with open_front(tmp_path) as front:
        yield front


class Gate:
    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.reached = asyncio.Event()

    async def __call__(self, _: Received) -> Response:
        self.reached.set()
        await self.open.wait()
        return json_reply(completion())


async def running_call(front: Front, **fields: Any) -> tuple[Gate, asyncio.Task[Any]]:
    gate = Gate()
    front.fake.script("/chat/completions", gate)
    call = asyncio.ensure_future(front.chat(max_tokens=50, **fields))
    await asyncio.wait_for(gate.reached.wait(), 5)
    return gate, call


async def test_the_price_is_that_of_the_moment_of_the_hold(front: Front) -> None:
    gate, call = await running_call(front)
    front.shop.price(1, {"input": 90_000_000, "output": 90_000_000}, at=int(time.time()) - 1)
    await front.get("/models")  # the server has read the new one
    gate.open.set()
    answer = await call
    assert answer.headers["x-sellapi-credits-charged"] == "2"
    receipt = (await front.get(f"/usage/{answer.headers['x-request-id']}")).json()
    assert receipt["prices"]["usd_per_million_tokens"] == {"input": "1", "output": "2"}
    assert sum(float(x["credits"]) for x in receipt["arithmetic"]["lines"]) == 2


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE keys SET status = 'revoked'",
        "UPDATE keys SET expires_at = 1",
        "UPDATE keys SET spend_limit = 0",
        "UPDATE keys SET models = '[]'",
        "UPDATE accounts SET status = 'suspended'",
        "UPDATE models SET enabled = 0",
        "DELETE FROM routes",
        "UPDATE tiers SET rpm = 0",
    ],
)
async def test_a_running_request_settles_regardless(front: Front, change: str) -> None:
    gate, call = await running_call(front)
    front.shop.execute(change)
    await front.http.get(front.run.url + "/models")
    gate.open.set()
    assert (await call).status_code == 200
    (row,) = await front.settled()
    assert (row["state"], row["charge"], row["delivery"]) == ("settled", 2_000_000, 1)
    assert (await front.chat(max_tokens=5)).status_code in (401, 402, 404, 429)
    assert front.balance() == WHOLE - 2_000_000


async def test_an_account_suspended_now_is_cut_off_and_charged(front: Front) -> None:
    _, call = await running_call(front)
    front.shop.execute("UPDATE accounts SET status = 'suspended', stop_running = 1")
    answer = await asyncio.wait_for(call, 5)
    assert answer.status_code == 401
    assert "suspended" in answer.json()["error"]["message"]
    (row,) = await front.settled()
    assert (row["state"], row["estimated"]) == ("settled", 1)
    assert row["charge"] == 900_000  # the prompt
    assert row["error"] == "the account was suspended"


async def test_a_stream_of_an_account_suspended_now_ends_without_done(front: Front) -> None:
    first = b"data: " + json.dumps(chunk("abcdefgh")).encode() + b"\n\n"
    front.fake.script("/chat/completions", raw_reply(first, 30.0))

    async def ask() -> str:
        async with front.http.stream(
            "POST",
            front.run.url + "/chat/completions",
            json={"model": CHAT, "messages": [{"role": "user", "content": "x"}], "stream": True},
            headers={"authorization": f"Bearer {front.key}"},
        ) as answer:
            text = ""
            async for piece in answer.aiter_text():
                if not text:
                    front.shop.execute("UPDATE accounts SET status = 'suspended', stop_running = 1")
                text += piece
            return text

    text = await asyncio.wait_for(ask(), 5)
    assert "[DONE]" not in text
    assert events(text)[-1]["error"]["message"]
    (row,) = await front.settled()
    assert (row["state"], row["output_tokens"]) == ("settled", 2)


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -5, "completion_tokens": 5},
        {"prompt_tokens": 10**15, "completion_tokens": 5},
        {"prompt_tokens": None, "completion_tokens": None},
        {"prompt_tokens": True, "completion_tokens": 5},
        {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        [],
        "many",
        {},
    ],
)
async def test_usage_that_makes_no_sense_is_estimated(front: Front, usage: Any) -> None:
    front.fake.script("/chat/completions", json_reply(completion("abcdefgh", usage=usage)))
    for stream in (False, True):
        if stream:
            last = chunk(finish="stop") | {"usage": usage}
            front.fake.script(
                "/chat/completions",
                raw_reply(
                    b"data: " + json.dumps(chunk("abcdefgh")).encode() + b"\n\n",
                    b"data: " + json.dumps(last).encode() + b"\n\n",
                    b"data: [DONE]\n\n",
                ),
            )
        assert (await front.chat(max_tokens=50, stream=stream)).status_code == 200
    for row in await front.settled(2):
        assert row["estimated"] == 1, usage
        assert row["charge"] == 900_000 + 2 * 200_000


async def test_subsets_larger_than_their_whole_never_make_a_charge_negative(front: Front) -> None:
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 50, "audio_tokens": 50},
        "completion_tokens_details": {"reasoning_tokens": 500},
    }
    front.fake.script("/chat/completions", json_reply(completion(usage=usage)))
    assert (await front.chat(max_tokens=50)).status_code == 200
    (row,) = await front.settled()
    assert 0 < row["charge"] <= 60 * 100_000 + 5 * 200_000
    assert row["output_tokens"] == 5


async def test_forwarded_addresses_count_only_behind_a_trusted_proxy(tmp_path: Path) -> None:
    for number, (trusted, forwarded, status) in enumerate(
        [
            ("", "10.0.0.1", 401),
            ("127.0.0.1", "10.0.0.1", 200),
            ("127.0.0.1", "10.0.0.1, 203.0.113.5", 401),
            ("127.0.0.1", "203.0.113.5, 10.0.0.1", 200),
            ("127.0.0.1,10.9.0.0/16", "10.0.0.1, 10.9.0.1", 200),
            ("127.0.0.1", "garbage", 401),
            ("127.0.0.1", "", 401),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with open_front(folder, trusted_proxies=trusted) as front:
            front.shop.execute("UPDATE keys SET ips = '[\"10.0.0.0/8\"]'")
            answer = await front.get("/credits", **{"x-forwarded-for": forwarded})
            assert answer.status_code == status, (trusted, forwarded)


async def test_a_forwarded_address_of_the_clients_own_is_not_believed(tmp_path: Path) -> None:
    """Some proxies write the address they saw on a line of its own, below the client's."""
    async with open_front(tmp_path, trusted_proxies="127.0.0.1") as front:
        front.shop.execute("UPDATE keys SET ips = '[\"10.0.0.0/8\"]'")
        for lines, status in (
            (("10.0.0.1", "203.0.113.5"), 401),
            (("203.0.113.5", "10.0.0.1"), 200),
            (("10.0.0.1", "127.0.0.1"), 200),
        ):
            answer = await front.http.get(
                front.run.url + "/credits",
                headers=[
                    ("authorization", f"Bearer {front.key}"),
                    *(("x-forwarded-for", line) for line in lines),
                ],
            )
            assert answer.status_code == status, lines


async def test_a_forwarded_address_is_known_however_a_proxy_writes_it(tmp_path: Path) -> None:
    async with open_front(tmp_path, trusted_proxies="127.0.0.1, 10.9.0.0/16") as front:
        front.shop.execute('UPDATE keys SET ips = \'["10.0.0.0/8", "2001:db8::/32"]\'')
        for forwarded, status in (
            ("10.0.0.1:4711", 200),  # Azure's gateways
            ("::ffff:10.0.0.1", 200),  # nginx that listens on both families at once
            ("[2001:db8::7]:4711", 200),
            ("2001:db8::7", 200),
            ("10.0.0.1, 10.9.0.1:80", 200),
            ("203.0.113.5:4711", 401),
            ("::ffff:203.0.113.5", 401),
            ("[", 401),
            (":", 401),
        ):
            answer = await front.get("/credits", **{"x-forwarded-for": forwarded})
            assert answer.status_code == status, forwarded


async def test_more_bodies_than_memory_for_them_is_503(tmp_path: Path) -> None:
    async with open_front(tmp_path, body_memory_bytes=9_000_000, grant=1_000_000) as front:
        text = [{"role": "user", "content": "x" * 2_000_000}]
        gate = Gate()
        front.fake.script("/chat/completions", gate)
        first = asyncio.ensure_future(front.chat(messages=text, max_tokens=1))
        await asyncio.wait_for(gate.reached.wait(), 5)
        answer = await front.chat(messages=text, max_tokens=1)
        assert answer.status_code == 503
        assert answer.headers["retry-after"].isdecimal()
        gate.open.set()
        assert (await first).status_code == 200
        assert (await front.chat(messages=text, max_tokens=1)).status_code in (200, 402)
