"""What an operator changes by another connection holds for the very next request."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sellapi.domain import keys
from tests.support.fake_openai import json_reply
from tests.support.shopfront import CHAT, EMBED, PRO, Front, completion, open_front


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with open_front(tmp_path) as front:
        front.fake.script("/chat/completions", json_reply(completion()))
        assert (await front.chat(max_tokens=5)).status_code == 200  # everything is cached now
        yield front


async def status(front: Front, **fields: object) -> tuple[int, str | None]:
    answer = await front.chat(max_tokens=5, **fields)
    return answer.status_code, (answer.json().get("error") or {}).get("type")


async def test_a_revoked_key(front: Front) -> None:
    front.shop.execute("UPDATE keys SET status = 'revoked', revoked_at = 1")
    assert await status(front) == (401, "invalid_api_key")
    assert (await front.get("/models")).status_code == 401
    assert (await front.get("/credits")).status_code == 401


async def test_a_suspended_and_a_resumed_account(front: Front) -> None:
    front.shop.execute("UPDATE accounts SET status = 'suspended'")
    assert await status(front) == (401, "invalid_api_key")
    assert "suspended" in (await front.chat()).json()["error"]["message"]
    front.shop.execute("UPDATE accounts SET status = 'active'")
    assert (await status(front))[0] == 200


async def test_a_tier_that_was_bought_or_lost(front: Front) -> None:
    assert await status(front, model=PRO) == (403, "tier_restricted")
    front.shop.execute("UPDATE accounts SET tier = 'pro'")
    answer = await front.chat(model=PRO, max_tokens=5)
    assert answer.status_code == 200
    assert answer.headers["x-ratelimit-limit"] == "600"
    front.shop.execute("UPDATE accounts SET tier = 'free'")
    assert await status(front, model=PRO) == (403, "tier_restricted")
    models = {m["id"]: m["available"] for m in (await front.get("/models")).json()["data"]}
    assert models == {CHAT: True, PRO: False, EMBED: True, "test/image": True}


async def test_a_price_change_and_the_receipts_before_it(front: Front) -> None:
    front.shop.price(1, {"input": 10_000_000, "output": 20_000_000}, at=int(time.time()) - 1)
    answer = await front.chat(max_tokens=5)
    assert answer.headers["x-sellapi-credits-charged"] == "20"
    old, new = await front.settled(2)
    assert (old["charge"], new["charge"]) == (2_000_000, 20_000_000)
    receipt = (await front.get(f"/usage/{old['request_id']}")).json()
    assert receipt["prices"]["usd_per_million_tokens"] == {"input": "1", "output": "2"}
    assert receipt["credits_charged"] == "2"
    assert sum(float(x["credits"]) for x in receipt["arithmetic"]["lines"]) == 2
    shown = (await front.get(f"/models/{CHAT}")).json()
    assert shown["pricing"]["prompt"] == "0.00001"
    assert shown["credits"]["prompt"] == "1"


async def test_a_scheduled_price_takes_over_by_itself(front: Front) -> None:
    at = int(time.time()) + 2
    front.shop.price(1, {"input": 10_000_000, "output": 20_000_000}, at=at)
    assert (await front.chat(max_tokens=5)).headers["x-sellapi-credits-charged"] == "2"
    while time.time() < at:
        time.sleep(0.05)
    assert (await front.chat(max_tokens=5)).headers["x-sellapi-credits-charged"] == "20"


async def test_a_disabled_an_enabled_and_a_new_model(front: Front) -> None:
    front.shop.execute("UPDATE models SET enabled = 0 WHERE slug = ?", CHAT)
    assert await status(front) == (404, "model_not_found")
    assert (await front.get(f"/models/{CHAT}")).status_code == 404
    front.shop.execute("UPDATE models SET enabled = 1 WHERE slug = ?", CHAT)
    assert (await status(front))[0] == 200
    assert await status(front, model="new/model") == (404, "model_not_found")
    front.shop.model("new/model", front.provider, upstream="chat-1")
    assert (await status(front, model="new/model"))[0] == 200
    assert "new/model" in [m["id"] for m in (await front.get("/models")).json()["data"]]


async def test_a_model_without_a_price_or_route_is_not_sold(front: Front) -> None:
    front.shop._insert(
        "models",
        {"slug": "no/price", "name": "x", "mode": "chat", "tier": "free", "created_at": 1},
    )
    front.shop.route(5, front.provider, "chat-1")
    assert await status(front, model="no/price") == (404, "model_not_found")
    front.shop.execute("DELETE FROM routes WHERE model_id = 1")
    assert await status(front) == (404, "model_not_found")
    listed = [m["id"] for m in (await front.get("/models")).json()["data"]]
    assert "no/price" not in listed
    assert CHAT not in listed


async def test_a_provider_that_moved_or_was_switched_off(front: Front) -> None:
    from tests.support.fake_openai import FakeOpenAI

    async with FakeOpenAI() as other:
        front.shop.execute("UPDATE providers SET base_url = ?", other.url)
        assert (await status(front))[0] == 200
        assert len(other.requests) == 1
    front.shop.execute("UPDATE providers SET enabled = 0")
    assert await status(front) == (404, "model_not_found")


async def test_a_keys_allowlist_limit_and_expiry(front: Front) -> None:
    front.shop.execute("UPDATE keys SET models = '[\"test/embed\"]'")
    assert await status(front) == (404, "model_not_found")
    assert EMBED in (await front.chat()).json()["error"]["message"]
    front.shop.execute("UPDATE keys SET models = NULL, spend_limit = 1")
    assert await status(front) == (402, "insufficient_credits")
    front.shop.execute("UPDATE keys SET spend_limit = NULL, expires_at = ?", int(time.time()) - 1)
    assert await status(front) == (401, "invalid_api_key")
    assert "expired" in (await front.chat()).json()["error"]["message"]
    front.shop.execute("UPDATE keys SET expires_at = ?", int(time.time()) + 1)
    assert (await status(front))[0] == 200
    time.sleep(1.05)
    assert await status(front) == (401, "invalid_api_key")


async def test_a_keys_addresses(front: Front) -> None:
    front.shop.execute("UPDATE keys SET ips = '[\"10.0.0.0/8\"]'")
    assert await status(front) == (401, "invalid_api_key")
    front.shop.execute('UPDATE keys SET ips = \'["10.0.0.0/8", "127.0.0.1"]\'')
    assert (await status(front))[0] == 200


async def test_a_rotated_secret_works_to_the_end_of_its_grace(front: Front) -> None:
    minted = keys.mint()
    front.shop.execute("UPDATE key_secrets SET expires_at = ?", int(time.time()) + 2)
    row = {"digest": minted.digest, "key_id": 1, "prefix": "x", "last4": "y", "created_at": 1}
    front.shop._insert("key_secrets", row)
    assert (await front.chat(max_tokens=5)).status_code == 200
    assert (await front.chat(key=minted.secret, max_tokens=5)).status_code == 200
    time.sleep(2.05)
    assert (await front.chat(max_tokens=5)).status_code == 401
    answer = await front.chat(key=minted.secret, max_tokens=5)
    assert answer.status_code == 200
    assert answer.headers["x-ratelimit-remaining"] == "16"  # one counter for both secrets


async def test_other_limits_of_a_tier(front: Front) -> None:
    front.shop.execute("UPDATE tiers SET rpm = 3 WHERE name = 'free'")
    answers = [await front.chat(max_tokens=5) for _ in range(4)]
    assert [a.status_code for a in answers].count(200) in (2, 3)
    assert answers[-1].status_code == 429


async def test_credits_that_were_granted_or_taken(front: Front) -> None:
    from sellapi.storage import ledger

    with front.shop.database.transaction() as tx:
        ledger.debit(tx, front.account, "deduct", 9_997_000_000, now_ms=1, actor="test")
    assert (await front.get("/credits")).json()["available"] == "1"
    assert (await status(front))[0] == 402
    with front.shop.database.transaction() as tx:
        ledger.credit(tx, front.account, "grant", 5_000_000, now_ms=1, actor="test")
    assert (await status(front))[0] == 200


async def test_account_limit_counts_over_all_keys(front: Front) -> None:
    front.shop.execute("UPDATE tiers SET rpm = 4, account_rpm = 6 WHERE name = 'free'")
    second, third = front.shop.key(front.account), front.shop.key(front.account)
    seen = [(await front.chat(key=second, max_tokens=5)) for _ in range(4)]
    assert [a.status_code for a in seen] == [200] * 4
    assert (await front.chat(key=second, max_tokens=5)).status_code == 429
    answer = await front.chat(key=third, max_tokens=5)
    assert answer.status_code == 200
    # the account's limit is the tighter one now (the fixture's call counts under another limit)
    assert answer.headers["x-ratelimit-limit"] == "6"
    last = [(await front.chat(key=third, max_tokens=5)) for _ in range(2)]
    assert last[-1].status_code == 429
    assert "account" in last[-1].json()["error"]["message"]


async def test_rejected_calls_burn_no_quota(front: Front) -> None:
    before = int((await front.chat(max_tokens=5)).headers["x-ratelimit-remaining"])
    for fields in (
        {"model": "nope"},
        {"model": PRO},
        {"max_tokens": -1},
        {"n": 128, "max_tokens": 9_000},
    ):
        assert (await front.chat(**fields)).status_code in (400, 402, 403, 404)
    await front.get("/models")
    after = int((await front.chat(max_tokens=5)).headers["x-ratelimit-remaining"])
    assert after == before - 1


async def test_a_pack_bought_while_rate_limited(front: Front) -> None:
    for _ in range(20):
        answer = await front.chat(max_tokens=5)
    assert answer.status_code == 429
    front.shop.execute("UPDATE accounts SET tier = 'pro'")
    assert (await front.chat(max_tokens=5)).status_code in (200, 429)  # asked once a second at most
    time.sleep(1.05)
    assert (await front.chat(max_tokens=5)).status_code == 200


async def test_a_lower_price_of_a_model_that_was_too_dear(front: Front) -> None:
    front.shop.price(1, {"input": 1, "output": 10**12}, at=int(time.time()) - 2)
    answer = await front.chat()
    assert answer.status_code == 402, answer.text
    front.shop.price(1, {"input": 1_000_000, "output": 2_000_000}, at=int(time.time()) - 1)
    assert (await front.chat()).status_code == 200
