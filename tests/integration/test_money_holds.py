"""How much is held, what is refused, and that parallel calls never spend more than there is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_openai import Received, Response, json_reply
from tests.support.shopfront import CHAT, EMBED, HELLO, IMAGE, Front, completion, open_front

CREDIT = 1_000_000


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with open_front(tmp_path) as front:
        front.fake.script("/chat/completions", json_reply(completion()))
        yield front


def last(front: Front) -> dict[str, Any]:
    return front.requests()[-1]


def credit(text: str) -> int:
    """Microcredits of a header's decimal credits."""
    whole, _, fraction = text.partition(".")
    return int(whole) * CREDIT + int(fraction.ljust(6, "0"))


# -- sizes ---------------------------------------------------------------------------------------


async def test_a_stated_limit_is_held_times_n_and_never_above_the_models_maximum(
    front: Front,
) -> None:
    await front.chat(max_tokens=100)
    base = last(front)["hold"] - 100 * 200_000
    assert 0 < base < 50 * 100_000  # the prompt's upper estimate
    await front.chat(max_completion_tokens=100, n=3)
    assert last(front)["hold"] == base + 300 * 200_000
    await front.chat(max_tokens=10**8)
    assert last(front)["hold"] == base + 16_384 * 200_000
    await front.chat(max_tokens=50, max_completion_tokens=100)
    assert last(front)["hold"] == base + 50 * 200_000


async def test_images_hold_n_times_the_dearest_price_that_matches(front: Front) -> None:
    prices = {"images": {"1024x1024:low": 10_000, "1024x1024:*": 20_000, "*:*": 30_000}}
    front.shop.price(4, prices)
    for fields, each in (
        ({"size": "1024x1024", "quality": "low"}, 1_000),
        ({"size": "1024x1024", "quality": "high"}, 2_000),
        ({"size": "9x9", "quality": "low"}, 3_000),
        ({}, 3_000),
        ({"n": 2, "size": "1024x1024"}, 4_000),
    ):
        answer = await front.post("/images/generations", {"model": IMAGE, "prompt": "x"} | fields)
        assert answer.status_code in (200, 402), answer.text
        if answer.status_code == 200:
            assert last(front)["hold"] == each * CREDIT, fields
        else:
            assert f"up to {each}," in answer.text, fields


async def test_a_token_array_is_held_by_its_length(front: Front) -> None:
    front.fake.script(
        "/embeddings",
        json_reply(
            {
                "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
                "usage": {"prompt_tokens": 1, "total_tokens": 1},
            }
        ),
    )
    await front.post("/embeddings", {"model": EMBED, "input": list(range(1_000))})
    assert last(front)["hold"] == 1_000 * 2_000


async def test_what_cannot_be_seen_is_held_at_its_maximum(front: Front) -> None:
    def part(**file: Any) -> list[Any]:
        return [{"role": "user", "content": [{"type": "file", "file": file}]}]

    front.shop.execute("UPDATE models SET context_length = 1000000")
    holds = []
    for file in (
        {"file_data": "https://example.com/a.pdf"},
        {"file_data": "https://example.com/" + "a" * 2_000},
        {"file_data": "data:application/pdf;base64," + "QUJD" * 1_000},
    ):
        rich = front.shop.user(f"rich{len(holds)}@example.com", grant=1_000_000)
        await front.chat(key=front.shop.key(rich), messages=part(**file), max_tokens=1)
        holds.append(last(front)["hold"])
    assert holds[0] >= 100_000 * 100_000
    assert holds[1] >= holds[0]
    assert holds[2] < holds[0] // 10


@pytest.mark.parametrize(
    "part",
    [
        {"type": "video_url", "video_url": {"url": "https://example.com/film.mp4"}},
        {"type": "audio_url", "audio_url": {"url": "https://example.com/talk.mp3"}},
        {
            "type": "input_audio",
            "input_audio": {"data": "https://example.com/a.wav", "format": "wav"},
        },
        {"type": "input_file", "file_url": "https://example.com/a.pdf"},
        {"type": "video", "video": [{"url": "https://example.com/film.mp4"}]},
    ],
    ids=lambda part: part["type"],
)
async def test_what_only_compatible_providers_fetch_is_held_at_its_maximum_too(
    tmp_path: Path, part: Any
) -> None:
    async with open_front(tmp_path, strict=False, grant=1_000_000) as front:
        words = {"type": "text", "text": 'see https://example.com and {"url": "x"}'}
        for content in ([words], [words, part]):
            messages = [{"role": "user", "content": content}]
            assert (await front.chat(messages=messages, max_tokens=1)).status_code == 200
        plain, filmed = (row["hold"] for row in front.requests())
        assert plain < 200 * 100_000
        assert filmed >= 100_000 * 100_000


async def test_the_prompt_is_never_held_above_the_context(front: Front) -> None:
    front.shop.execute("UPDATE models SET context_length = 1000")
    await front.chat(messages=[{"role": "user", "content": "x" * 100_000}], max_tokens=1)
    assert last(front)["hold"] == 1_000 * 100_000 + 200_000


async def test_a_context_nobody_told_is_no_bound_on_the_prompt(tmp_path: Path) -> None:
    async with open_front(tmp_path, grant=1_000_000) as front:
        front.shop.model("test/new", front.provider)
        words = [{"role": "user", "content": "密" * 300_000}]
        await front.chat(model="test/new", messages=words, max_tokens=1)
        assert last(front)["hold"] >= 300_000 * 100_000


async def test_other_alphabets_are_held_by_their_bytes(front: Front) -> None:
    await front.chat(messages=[{"role": "user", "content": "密" * 1_000}], max_tokens=1)
    assert last(front)["hold"] >= 1_000 * 100_000  # Chinese is about a token a character


# -- the bound -----------------------------------------------------------------------------------


async def test_without_a_limit_a_quarter_of_what_is_there_bounds_the_answer(front: Front) -> None:
    front.shop.execute("UPDATE models SET max_output = 100000")
    answer = await front.chat()
    limit = int(answer.headers["x-sellapi-max-tokens"])
    row = last(front)
    assert limit < 100_000
    assert row["hold"] <= 2_500 * CREDIT < row["hold"] + 200_000
    assert front.fake.requests[-1].body["max_tokens"] == limit
    assert row["bounded"] == 0  # it ended before the bound


async def test_an_answer_the_bound_cut_says_so(front: Front) -> None:
    front.fake.script("/chat/completions", json_reply(completion("Hi", finish="length")))
    answer = await front.chat()
    (row,) = await front.settled()
    assert row["bounded"] == 1
    receipt = (await front.get(f"/usage/{answer.headers['x-request-id']}")).json()
    assert receipt["bounded"] is True


async def test_with_credits_for_it_the_models_own_maximum_is_not_stated(tmp_path: Path) -> None:
    async with open_front(tmp_path, grant=1_000_000) as front:
        answer = await front.chat()
        assert "x-sellapi-max-tokens" not in answer.headers
        assert "max_tokens" not in front.fake.requests[-1].body


@pytest.mark.parametrize(
    ("context", "prompt", "least", "most"),
    [
        (None, 10, 16_384, 16_384),
        (1_000_000, 10, 16_384, 16_384),
        (8_192, 10, 8_100, 8_180),
        (32_768, 60_000, 4_096, 12_768),
        (32_768, 400_000, 4_096, 4_096),
        (2_000, 4_000, 1_000, 1_000),
    ],
)
async def test_a_maximum_nobody_told_is_assumed_and_stated(
    tmp_path: Path, context: int | None, prompt: int, least: int, most: int
) -> None:
    """Else one answer could cost many times what was held for it; but prompt and limit must fit."""
    async with open_front(tmp_path, grant=1_000_000) as front:
        front.shop.model("test/new", front.provider, context_length=context)
        words = [{"role": "user", "content": "word " * (prompt // 5)}]
        answer = await front.chat(model="test/new", messages=words)
        limit = front.fake.requests[-1].body["max_tokens"]
        assert least <= limit <= most
        assert answer.headers["x-sellapi-max-tokens"] == str(limit)
        assert last(front)["hold"] >= limit * 200_000
        await front.chat(model="test/new", messages=words, max_tokens=6_000)
        assert front.fake.requests[-1].body["max_tokens"] == 6_000  # the client's own choice


async def test_a_bound_leaves_room_for_the_prompt(tmp_path: Path) -> None:
    """Else a provider refuses a limit the client never stated: prompt and answer share the context."""
    async with open_front(tmp_path, grant=30_000) as front:
        front.shop.execute("UPDATE models SET context_length = 32768, max_output = 32768")
        for words, most in ((5_000, 32_768 - 5_000), (8_000, 32_768 - 8_000), (20_000, 4_096)):
            answer = await front.chat(messages=[{"role": "user", "content": "word " * words}])
            limit = front.fake.requests[-1].body["max_tokens"]
            assert 4_096 <= limit <= most, words
            assert answer.headers["x-sellapi-max-tokens"] == str(limit)


@pytest.mark.parametrize(
    ("grant", "upstream", "limit"),
    [
        (2_000, "chat-1", 4_096),  # a quarter would be 2,500 tokens: the floor
        (900, "chat-1", 4_096),
        (500, "chat-1", None),  # less than the floor: what is affordable
        (10_000, "gpt-5.5", 16_384),  # reasoning models need more room
        (300, "gpt-5.5", None),
    ],
)
async def test_answers_are_not_cut_below_the_floor(
    front: Front, grant: int, upstream: str, limit: int | None
) -> None:
    front.shop.model("test/other", front.provider, upstream=upstream, max_output=100_000)
    account = front.shop.user("u@example.com", grant=grant)
    answer = await front.chat(key=front.shop.key(account), model="test/other")
    assert answer.status_code == 200
    said = int(answer.headers["x-sellapi-max-tokens"])
    if limit is not None:
        assert said == limit
    else:
        assert said < 4_096
        assert last(front)["hold"] <= grant * CREDIT < last(front)["hold"] + 200_000


@pytest.mark.parametrize(("upstream", "least"), [("chat-1", 64), ("gpt-5.5", 1_024)])
async def test_too_little_for_any_answer_is_402(front: Front, upstream: str, least: int) -> None:
    front.shop.model("test/other", front.provider, upstream=upstream)
    for grant, status in ((least // 5 - 2, 402), (least // 5 + 10, 200)):
        key = front.shop.key(front.shop.user(f"u{grant}@example.com", grant=grant))
        answer = await front.chat(key=key, model="test/other")
        assert answer.status_code == status, answer.text


async def test_a_newcomers_first_call_without_a_limit_works(front: Front) -> None:
    newcomer = front.shop.key(front.shop.user("new@example.com", grant=10_000))
    answer = await front.openai(newcomer).chat.completions.create(model=CHAT, messages=HELLO)
    assert answer.choices[0].message.content


async def test_the_quarter_is_of_what_is_there_now(front: Front) -> None:
    """The server has read the account when it was rich; since then it has spent most of it."""
    front.shop.execute("UPDATE models SET max_output = 4500")
    await front.chat(max_tokens=1)
    spent = {"prompt_tokens": 85_000, "completion_tokens": 1, "total_tokens": 85_001}
    front.fake.script_once("/chat/completions", json_reply(completion(usage=spent)))
    await front.chat(max_tokens=1)
    available = front.balance()
    assert 1_400 * CREDIT < available < 1_500 * CREDIT
    await front.chat()
    # 4,500 tokens cost 900 credits; a quarter is less, so the floor of 4,096 tokens is what counts
    assert last(front)["hold"] <= 4_096 * 200_000 + 5 * CREDIT


async def test_parallel_calls_without_a_limit_get_in(front: Front) -> None:
    front.shop.execute("UPDATE models SET max_output = 100000")
    answers = await asyncio.gather(*(front.chat() for _ in range(8)))
    assert [a.status_code for a in answers] == [200] * 8
    await front.settled(8)


# -- refusals ------------------------------------------------------------------------------------


class Gate:
    """A provider that answers once it is let."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.waiting = 0

    async def __call__(self, _: Received) -> Response:
        self.waiting += 1
        await self.open.wait()
        return json_reply(completion())

    async def until(self, count: int) -> None:
        async with asyncio.timeout(5):
            while self.waiting < count:
                await asyncio.sleep(0.005)


async def test_a_402_that_other_calls_cause_says_when_to_come_again(front: Front) -> None:
    gate = Gate()
    front.fake.script("/chat/completions", gate)
    key = front.shop.key(front.shop.user("u@example.com", grant=1_000))
    first = asyncio.ensure_future(front.chat(key=key, max_tokens=4_000))
    await gate.until(1)
    for fields in ({"max_tokens": 3_000}, {"max_tokens": 2_000}):
        answer = await front.chat(key=key, **fields)
        assert answer.status_code == 402
        assert answer.headers["retry-after"] == "2"
        assert answer.headers["x-should-retry"] == "true"
        assert "held" in answer.json()["error"]["message"]
    answer = await front.chat(key=key, max_tokens=6_000)  # would not fit without them either
    assert answer.status_code == 402
    assert "retry-after" not in answer.headers
    assert "x-should-retry" not in answer.headers
    gate.open.set()
    assert (await first).status_code == 200


async def test_the_sdk_waits_out_a_402_that_other_calls_cause(front: Front) -> None:
    gate = Gate()
    front.fake.script("/chat/completions", gate)
    key = front.shop.key(front.shop.user("u@example.com", grant=1_000))
    client = front.openai(key, max_retries=2)

    async def ask() -> Any:
        return await client.chat.completions.create(model=CHAT, messages=HELLO, max_tokens=4_000)

    first = asyncio.ensure_future(ask())
    await gate.until(1)
    second = asyncio.ensure_future(ask())
    await asyncio.sleep(0.1)
    gate.open.set()
    assert (await first).choices
    assert (await second).choices
    assert [r["retry_of"] for r in await front.settled(2)] == [None, 1]


async def test_fifty_parallel_calls_never_overspend(tmp_path: Path) -> None:
    async with open_front(tmp_path, tier="pro", grant=0) as front:
        gate = Gate()
        front.fake.script("/chat/completions", gate)
        probe = front.shop.key(front.shop.user("probe@example.com", tier="pro", grant=10_000))
        gate.open.set()
        await front.chat(key=probe, max_tokens=1_000)
        hold = last(front)["hold"]
        gate.open.clear()
        from sellapi.storage import ledger

        with front.shop.database.transaction() as tx:
            ledger.credit(tx, front.account, "grant", hold * 10 + 7, now_ms=1, actor="test")
        before = front.balance()
        calls = [asyncio.ensure_future(front.chat(max_tokens=1_000)) for _ in range(50)]
        await gate.until(1 + 10)
        while front.shop.account(front.account)["held"] < hold * 10:
            await asyncio.sleep(0.01)
        assert front.shop.account(front.account)["held"] == hold * 10
        done, _ = await asyncio.wait(calls, timeout=0.5)
        gate.open.set()
        answers = await asyncio.gather(*calls)
        served = [a for a in answers if a.status_code == 200]
        refused = [a for a in answers if a.status_code == 402]
        assert (len(served), len(refused)) == (10, 40)
        charged = sum(credit(a.headers["x-sellapi-credits-charged"]) for a in served)
        await front.settled(11)
        assert before - front.balance() == charged
        assert front.shop.account(front.account)["held"] == 0
        told = {credit(a.headers["x-sellapi-credits-balance"]) for a in served}
        assert min(told) == front.balance()
        assert len(done) == 40


async def test_a_keys_own_limit_counts_what_it_spent_and_holds(front: Front) -> None:
    key = front.shop.key(front.account, spend_limit=500 * CREDIT)
    answer = await front.chat(key=key, max_tokens=3_000)
    assert answer.status_code == 402
    assert "key's own limit" in answer.json()["error"]["message"]
    assert "Use another key" in answer.json()["error"]["message"]
    assert "op up" not in answer.json()["error"]["message"]  # it would not help
    assert "retry-after" not in answer.headers
    assert (await front.chat(key=key, max_tokens=2_000)).status_code == 200
    assert front.shop.value("SELECT spent FROM keys ORDER BY id DESC LIMIT 1") == 2 * CREDIT
    gate = Gate()
    front.fake.script("/chat/completions", gate)
    first = asyncio.ensure_future(front.chat(key=key, max_tokens=2_000))
    await gate.until(1)
    answer = await front.chat(key=key, max_tokens=2_000)
    assert answer.status_code == 402
    assert answer.headers["retry-after"] == "2"
    gate.open.set()
    assert (await first).status_code == 200
    answer = await front.chat(key=key)  # without a limit: bounded by the key's own
    assert answer.status_code == 200
    assert last(front)["hold"] <= 496 * CREDIT


# -- charges -------------------------------------------------------------------------------------

PRICES = {
    "input": 3_000_000,
    "output": 15_000_000,
    "cache_read": 300_000,
    "audio_input": 40_000_000,
    "long_context": 1_000,
    "long_input": 6_000_000,
    "long_output": 22_500_000,
}


@pytest.mark.parametrize(
    ("usage", "pico"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 1}, 7 * 3_000_000 + 15_000_000),
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 50,
                "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10},
                "completion_tokens_details": {"reasoning_tokens": 40},
            },
            30 * 3_000_000 + 60 * 300_000 + 10 * 3_750_000 + 50 * 15_000_000,
        ),
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 0,
                "prompt_tokens_details": {"audio_tokens": 40},
            },
            60 * 3_000_000 + 40 * 40_000_000,
        ),
        (
            {
                "prompt_tokens": 1_001,
                "completion_tokens": 10,
                "prompt_tokens_details": {"cached_tokens": 1_000},
            },
            1 * 6_000_000 + 1_000 * 6_000_000 + 10 * 22_500_000,
        ),
        (
            {
                "prompt_tokens": 1_000,
                "completion_tokens": 10,
                "prompt_tokens_details": {"cached_tokens": 999},
            },
            1 * 3_000_000 + 999 * 300_000 + 10 * 15_000_000,
        ),
    ],
    ids=["plain", "cache", "audio", "long", "not long"],
)
async def test_each_bucket_has_its_price_and_the_receipt_adds_up(
    front: Front, usage: dict[str, Any], pico: int
) -> None:
    front.shop.model("test/dear", front.provider, upstream="chat-1", prices=PRICES)
    total = usage["prompt_tokens"] + usage["completion_tokens"]
    front.fake.script(
        "/chat/completions", json_reply(completion(usage=usage | {"total_tokens": total}))
    )
    for stream in (False, True):
        answer = await front.chat(model="test/dear", max_tokens=50, stream=stream)
        assert answer.status_code == 200, answer.text
        assert last(front)["charge"] == -(-pico // 10)
        receipt = (await front.get(f"/usage/{answer.headers['x-request-id']}")).json()
        assert credit(receipt["credits_charged"]) == -(-pico // 10)
        lines = receipt["arithmetic"]["lines"]
        added = sum(line["count"] * round(float(line["price_usd"]) * 1_000_000) for line in lines)
        assert added == pico
        assert credit(receipt["ledger_entry"]["amount"].removeprefix("-")) == -(-pico // 10)
        assert receipt["status"] == "settled"
        assert json.dumps(receipt["prices"])


async def test_usage_pages_newest_first_without_gaps(front: Front) -> None:
    for _ in range(5):
        await front.chat(max_tokens=1)
    seen: list[str] = []
    cursor = ""
    while True:
        page = (await front.get(f"/usage?limit=2{cursor}")).json()
        seen += [r["request_id"] for r in page["data"]]
        if not page["has_more"]:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == [r["request_id"] for r in reversed(front.requests())]
    for query in ("limit=0", "limit=101", "limit=x", "cursor=-1", "cursor=1e3", "limit=%D9%A3"):
        assert (await front.get(f"/usage?{query}")).status_code == 400, query
    stranger = front.shop.key(front.shop.user("eve@shop.test"))
    await front.chat(max_tokens=1, key=stranger)
    foreign = front.shop.value("SELECT max(id) FROM requests")
    refused = await front.get(f"/usage?cursor={foreign}")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "cursor")
    assert (await front.get("/usage?cursor=999999")).json()["data"] == []
