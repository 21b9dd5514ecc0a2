"""Several routes: which is tried when, what each failure costs, who cools down and comes back."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sellapi.gateway import router
from tests.support.fake_openai import (
    CUT,
    FakeOpenAI,
    Received,
    Response,
    error_reply,
    json_reply,
    raw_reply,
    stream_reply,
)
from tests.support.shopfront import Front, chunk, completion, open_front, usage_chunk

SLUG = "test/two"
WHOLE = 10_000_000_000
GOOD = json_reply(completion("from the other one"))


@dataclass
class Two:
    """A shop whose model has two routes, ``a`` before ``b``."""

    front: Front
    a: FakeOpenAI
    b: FakeOpenAI
    model: int

    async def ask(self, **fields: Any) -> Any:
        return await self.front.chat(model=SLUG, **fields)

    def attempts(self) -> list[dict[str, Any]]:
        return list(json.loads(self.front.requests()[-1]["attempts"]))

    async def routes(self) -> list[dict[str, Any]]:
        """What the server's status row says of each."""
        services = self.front.run.services
        return list(services.status(await services.shop.catalog())["routes"])

    def health(self, number: int) -> router.Health:
        """Of the route that was added first (0) or second (1)."""
        ids = [
            r["id"]
            for r in self.front.shop.rows(
                "SELECT id FROM routes WHERE model_id = ? ORDER BY id", self.model
            )
        ]
        return self.front.run.services.router._health[ids[number]]


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Two]:
    async with open_front(tmp_path, tier="pro") as front, FakeOpenAI() as b:
        front.shop.provider("b", b.url)
        model = front.shop.model(SLUG, front.provider, upstream="up-a")
        front.shop.execute('UPDATE routes SET cost = \'{"input": 500000, "output": 500000}\'')
        front.shop.route(model, 2, "up-b", priority=1)
        b.script("/chat/completions", lambda r: answer(r, "from the other one"))
        yield Two(front, front.fake, b, model)


def answer(received: Received, text: str = "Hi.") -> Response:
    """A good answer, streamed if that was asked for."""
    if received.body.get("stream"):
        return stream_reply([chunk(text), chunk(finish="stop"), usage_chunk()])
    return json_reply(completion(text))


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


NEXT = {
    "408": error_reply(408),
    "429": error_reply(429),
    "500": error_reply(500),
    "503": error_reply(503),
    "529": error_reply(529),
    "401": error_reply(401, "bad key"),
    "403": error_reply(403, "not yours"),
    "404": error_reply(404, "no such model"),
    "error in a 200": json_reply({"error": {"message": "overloaded", "code": 503}}),
    "error as first event": raw_reply(event({"error": {"message": "overloaded"}})),
}


@pytest.mark.parametrize("name", NEXT)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_next_route_answers_and_is_charged_once(
    two: Two, name: str, stream: bool
) -> None:
    two.a.script("/chat/completions", NEXT[name])
    got = await two.ask(stream=stream)
    assert got.status_code == 200, got.text
    assert got.headers["x-sellapi-route"] == "b:up-b"
    assert got.text.count("from the other one") == 1
    assert "overloaded" not in got.text
    (row,) = await two.front.settled()
    assert (row["state"], row["charge"], row["provider"]) == ("settled", 2_000_000, "b")
    assert two.front.balance() == WHOLE - 2_000_000
    first, second = two.attempts()
    assert (first["route"], second["route"]) == ("fake:up-a", "b:up-b")
    assert first["outcome"] not in ("ok", "running")
    assert second["outcome"] == "ok"
    receipt = (await two.front.get(f"/usage/{got.headers['x-request-id']}")).json()
    assert [a["route"] for a in receipt["attempts"]] == ["fake:up-a", "b:up-b"]
    assert len(two.front.shop.rows("SELECT 1 FROM entries WHERE kind = 'charge'")) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_provider_that_cannot_be_reached_is_passed_over(two: Two, stream: bool) -> None:
    two.front.shop.execute("UPDATE providers SET base_url = 'http://127.0.0.1:1/v1' WHERE id = 1")
    got = await two.ask(stream=stream)
    assert got.status_code == 200
    first, _ = two.attempts()
    assert (first["outcome"], first["sent"]) == ("connect", False)
    (row,) = await two.front.settled()
    assert row["loss"] == 0


async def test_a_provider_that_cannot_be_set_up_costs_its_own_models_only(
    two: Two, caplog: pytest.LogCaptureFixture
) -> None:
    two.front.shop.execute("UPDATE providers SET base_url = 'http://[nowhere' WHERE id = 1")
    got = await two.ask()
    assert (got.status_code, got.headers["x-sellapi-route"]) == (200, "b:up-b")
    assert (await two.front.chat()).status_code == 404
    services = two.front.run.services
    status = services.status(await services.shop.catalog())
    assert {"name": "fake", "usable": False, "broken": True} in status["providers"]
    (told,) = [r.getMessage() for r in caplog.records if "set up" in r.getMessage()]
    assert "provider fake" in told
    assert "nowhere" not in told


async def test_a_fault_of_the_request_is_not_tried_elsewhere(two: Two) -> None:
    two.a.script("/chat/completions", error_reply(400, "wrong field", "bad", "top_k"))
    got = await two.ask()
    assert got.status_code == 400
    assert two.b.requests == []
    two.a.script("/chat/completions", answer)
    assert (await two.ask()).headers["x-sellapi-route"] == "fake:up-a"  # and nobody cools down


@pytest.mark.parametrize("stream", [False, True])
async def test_after_a_reset_nothing_is_sent_twice(two: Two, stream: bool) -> None:
    two.a.script("/chat/completions", Response(drop=True))
    got = await two.ask(stream=stream)
    assert got.status_code == 502
    assert two.b.requests == []
    (row,) = await two.front.settled()
    assert row["state"] == "voided"
    assert row["loss"] > 0


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_after_a_timeout_only_where_the_route_allows_it(
    two: Two, stream: bool, allowed: bool
) -> None:
    two.front.shop.execute(
        "UPDATE routes SET timeout_ms = 100, retry_on_timeout = ? WHERE upstream_id = 'up-a'",
        allowed,
    )
    slow = json_reply(completion())
    slow.before_s = 5.0
    two.a.script("/chat/completions", slow)
    got = await two.ask(stream=stream)
    assert got.status_code == (200 if allowed else 504), got.text
    (row,) = await two.front.settled()
    assert (row["state"], row["charge"]) == (("settled", 2_000_000) if allowed else ("voided", 0))
    assert row["loss"] == 9 * 50_000  # the prompt, at what that provider charges us
    assert len(two.b.requests) == int(allowed)


async def test_after_the_first_visible_word_nothing_is_tried_again(two: Two) -> None:
    two.a.script("/chat/completions", raw_reply(event(chunk("Hello")), 0.02, CUT))
    got = await two.ask(stream=True)
    assert got.status_code == 200
    assert '"error"' in got.text
    assert "from the other one" not in got.text
    assert two.b.requests == []
    (row,) = await two.front.settled()
    assert (row["state"], row["estimated"], row["provider"]) == ("settled", 1, "fake")


async def test_when_all_fail_the_last_failure_is_told(two: Two) -> None:
    two.a.script("/chat/completions", error_reply(500))
    two.b.script("/chat/completions", error_reply(429, "slow", retry_after="9"))
    got = await two.ask()
    assert got.status_code == 502
    assert got.headers["retry-after"] == "9"
    (row,) = await two.front.settled()
    assert row["state"] == "voided"
    assert [a["status"] for a in two.attempts()] == [500, 429]


async def test_a_refused_key_is_the_operators_trouble_and_the_model_stays_listed(
    two: Two,
) -> None:
    two.a.script("/chat/completions", error_reply(401, "Incorrect API key sk-abcdefghijklmnop"))
    two.b.script("/chat/completions", error_reply(403, "no"))
    for stream in (False, True):
        got = await two.ask(stream=stream)
        assert got.status_code == 502
        assert "sk-abc" not in got.text
    assert two.health(0).key_refused
    listed = (await two.front.get("/models")).json()["data"]
    assert SLUG in [m["id"] for m in listed]
    assert (await two.front.http.get(two.front.run.origin + "/ready")).status_code == 200
    status = two.front.run.services.status(await two.front.run.services.shop.catalog())
    assert any(r["key_refused"] for r in status["routes"])


async def test_one_call_that_is_let_in_ends_the_alert_on_every_route_of_the_provider(
    two: Two,
) -> None:
    two.front.shop.model("other/model", two.front.provider, upstream="up-c")
    two.a.script("/chat/completions", error_reply(401, "bad key"))
    for slug in (SLUG, "other/model"):
        await two.front.chat(model=slug, max_tokens=5)
    assert {r["route"]: r["key_refused"] for r in await two.routes()} == {
        "fake:up-a": True,
        "fake:up-c": True,
        "b:up-b": False,
    }
    two.a.script("/chat/completions", answer)
    assert (await two.front.chat(model="other/model", max_tokens=5)).status_code == 200
    assert not any(r["key_refused"] for r in await two.routes())


async def test_a_model_the_key_may_not_use_stays_told_while_others_work(two: Two) -> None:
    two.front.shop.model("other/model", two.front.provider, upstream="up-c")
    two.a.script("/chat/completions", error_reply(403, "not this model"))
    await two.ask()
    two.a.script("/chat/completions", answer)
    assert (await two.front.chat(model="other/model", max_tokens=5)).status_code == 200
    assert [r["route"] for r in await two.routes() if r["key_refused"]] == ["fake:up-a"]


async def test_ready_shows_cool_downs_and_latency_without_names(two: Two) -> None:
    two.a.script("/chat/completions", error_reply(503))
    late = json_reply(completion())
    late.before_s = 0.01  # the figure is in milliseconds: an answer may take none
    two.b.script("/chat/completions", late)
    assert (await two.ask()).status_code == 200
    got = await two.front.http.get(two.front.run.origin + "/ready")
    told = got.json()["checks"]["providers"]
    assert (told["routes"], told["cooling"]) == (2, 1)
    assert 0 < told["cooling_s"] <= 2
    assert told["latency_ms"] > 0
    assert "up-a" not in got.text


# -- cool-down -----------------------------------------------------------------------------------


async def test_a_failing_route_rests_and_is_tried_again(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router, "PAUSE_FIRST_S", 0.15)
    two.a.script("/chat/completions", error_reply(500))
    await two.ask()
    for _ in range(3):
        assert (await two.ask()).headers["x-sellapi-route"] == "b:up-b"
    assert len(two.a.requests) == 1  # it rests
    await asyncio.sleep(0.16)
    await two.ask()
    assert len(two.a.requests) == 2  # tried again, failed again: a longer rest
    assert two.health(0).cool_until - time.monotonic() > 0.2
    await asyncio.sleep(0.31)
    two.a.script("/chat/completions", answer)
    assert (await two.ask()).headers["x-sellapi-route"] == "fake:up-a"
    assert (await two.ask()).headers["x-sellapi-route"] == "fake:up-a"
    assert two.health(0).failures == 0


async def test_retry_after_says_how_long_to_rest(two: Two) -> None:
    two.a.script("/chat/completions", error_reply(429, "slow", retry_after="40"))
    await two.ask()
    assert 38 < two.health(0).cool_until - time.monotonic() <= 40


async def test_many_failures_at_the_same_moment_are_one_incident(two: Two) -> None:
    late = error_reply(500)
    late.before_s = 0.1
    two.a.script("/chat/completions", late)
    await asyncio.gather(*(two.ask(max_tokens=5) for _ in range(12)))
    assert len(two.a.requests) == 12
    assert two.health(0).cool_until - time.monotonic() < 5


async def test_an_older_call_that_succeeds_does_not_end_a_rest(two: Two) -> None:
    slow = json_reply(completion())
    slow.before_s = 0.2
    two.a.script_once("/chat/completions", slow, error_reply(429, "slow", retry_after="60"))
    old = asyncio.ensure_future(two.ask(max_tokens=5))
    while not two.a.requests:
        await asyncio.sleep(0.005)
    await two.ask(max_tokens=5)
    assert (await old).headers["x-sellapi-route"] == "fake:up-a"
    assert two.health(0).cool_until - time.monotonic() > 50


async def test_when_all_routes_rest_they_are_still_tried(two: Two) -> None:
    two.a.script_once("/chat/completions", error_reply(500))
    two.b.script_once("/chat/completions", error_reply(500))
    assert (await two.ask()).status_code == 502
    two.a.script("/chat/completions", answer)
    assert (await two.ask()).status_code == 200


async def test_a_single_route_is_tried_however_often_it_failed(two: Two) -> None:
    two.front.shop.execute("DELETE FROM routes WHERE upstream_id = 'up-b'")
    two.a.script("/chat/completions", error_reply(503))
    for _ in range(4):
        assert (await two.ask()).status_code == 502
    assert len(two.a.requests) == 4
    two.a.script("/chat/completions", answer)
    assert (await two.ask()).status_code == 200


# -- sharing -------------------------------------------------------------------------------------


async def test_routes_of_equal_priority_share_by_weight(two: Two) -> None:
    two.front.shop.execute("UPDATE routes SET priority = 0, weight = 1")
    two.front.shop.execute("UPDATE routes SET weight = 3 WHERE upstream_id = 'up-b'")
    two.a.script("/chat/completions", answer)
    seen = [(await two.ask(max_tokens=5)).headers["x-sellapi-route"] for _ in range(40)]
    assert Counter(seen) == {"fake:up-a": 10, "b:up-b": 30}
    assert all("fake:up-a" in seen[i : i + 4] for i in range(0, 40, 4))  # evenly, not in bursts


async def test_a_route_never_has_more_calls_than_it_may(two: Two) -> None:
    two.front.shop.execute("UPDATE routes SET max_concurrency = 2 WHERE upstream_id = 'up-a'")
    most = now = 0

    async def slowly(received: Received) -> Response:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.1)
        now -= 1
        return answer(received)

    two.a.script("/chat/completions", slowly)
    got = await asyncio.gather(*(two.ask(max_tokens=5) for _ in range(6)))
    assert most == 2
    routes = Counter(g.headers["x-sellapi-route"] for g in got)
    assert routes == {"fake:up-a": 2, "b:up-b": 4}


async def test_the_only_route_is_waited_for_and_a_long_queue_is_503(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    two.front.shop.execute("DELETE FROM routes WHERE upstream_id = 'up-b'")
    two.front.shop.execute("UPDATE routes SET max_concurrency = 2")
    most = now = 0

    async def slowly(received: Received) -> Response:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.1)
        now -= 1
        return answer(received)

    two.a.script("/chat/completions", slowly)
    got = await asyncio.gather(*(two.ask(max_tokens=5) for _ in range(4)))
    assert most == 2
    assert {g.status_code for g in got} == {200}
    monkeypatch.setattr(router, "QUEUE_TIMEOUT_S", 0.02)
    got = await asyncio.gather(*(two.ask(max_tokens=5) for _ in range(4)))
    assert sorted(g.status_code for g in got) == [200, 200, 503, 503]
    refused = next(g for g in got if g.status_code == 503)
    assert refused.json()["error"]["type"] == "overloaded"
    assert refused.headers["retry-after"].isdecimal()
    rows = await two.front.settled(8)
    assert [r["state"] for r in rows].count("voided") == 2
    assert sum(r["loss"] for r in rows) == 0
    assert two.health(0).in_flight == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("first", ["failed", "timed out"])
async def test_leaving_between_two_routes_costs_nothing(two: Two, first: str, stream: bool) -> None:
    """The first has failed, the second was not asked yet: nobody is at work for the client."""
    execute = two.front.shop.execute
    execute("UPDATE routes SET retry_on_timeout = 1, timeout_ms = 300 WHERE upstream_id = 'up-a'")
    execute("UPDATE routes SET max_concurrency = 1 WHERE upstream_id = 'up-b'")
    asked, over = asyncio.Event(), asyncio.Event()

    async def fails(_: Received) -> Response:
        await asyncio.sleep(0.2 if first == "failed" else 1)
        return error_reply(500)

    async def slowly(received: Received) -> Response:
        asked.set()
        await over.wait()
        return answer(received)

    two.a.script("/chat/completions", fails)
    two.b.script("/chat/completions", slowly)
    before = asyncio.ensure_future(two.ask(max_tokens=5))
    while not two.a.requests:
        await asyncio.sleep(0.005)
    leaver = asyncio.ensure_future(two.ask(max_tokens=500, stream=stream))
    await asyncio.wait_for(asked.wait(), 5)
    await asyncio.sleep(0.2)
    leaver.cancel()
    while two.front.requests()[-1]["state"] == "held":
        await asyncio.sleep(0.005)
    over.set()
    assert (await before).status_code == 200
    rows = await two.front.settled(2)
    assert [r["charge"] for r in rows] == [2_000_000, 0]
    assert (rows[1]["state"], len(two.b.requests)) == ("voided", 1)
    assert (rows[1]["loss"] > 0) == (first == "timed out")  # it may still be billed to us


async def test_a_full_queue_is_no_failure_of_the_route(two: Two) -> None:
    two.front.shop.execute("UPDATE providers SET max_connections = 1 WHERE id = 1")
    two.front.shop.execute("UPDATE routes SET max_concurrency = 1 WHERE upstream_id = 'up-a'")
    slow = json_reply(completion())
    slow.before_s = 0.1
    two.a.script("/chat/completions", slow)
    await asyncio.gather(*(two.ask(max_tokens=5) for _ in range(5)))
    assert two.health(0).failures == 0
    two.a.script("/chat/completions", answer)
    assert (await two.ask(max_tokens=5)).headers["x-sellapi-route"] == "fake:up-a"


async def test_a_provider_removed_meanwhile_is_a_502_not_a_crash(two: Two) -> None:
    async def slowly(_: Received) -> Response:
        two.front.shop.execute("DELETE FROM routes WHERE upstream_id = 'up-b'")
        two.front.shop.execute("DELETE FROM providers WHERE name = 'b'")
        await two.front.run.services.shop.refresh()
        return error_reply(500)

    two.a.script("/chat/completions", slowly)
    got = await two.ask()
    assert got.status_code == 502, got.text


async def test_a_mix_of_everything_at_once_charges_each_call_once(two: Two) -> None:
    """A mix of failures and successes in both routes, plain and streamed, side by side."""
    replies = [error_reply(500), error_reply(429), Response(drop=True), answer, answer]
    turn = 0

    def mixed(received: Received) -> Any:
        nonlocal turn
        turn += 1
        reply = replies[turn % len(replies)]
        return reply(received) if callable(reply) else reply

    two.a.script("/chat/completions", mixed)
    two.b.script("/chat/completions", mixed)
    two.front.shop.execute("UPDATE routes SET priority = 0")
    got = await asyncio.gather(*(two.ask(max_tokens=5, stream=bool(i % 2)) for i in range(40)))
    rows = await two.front.settled(40)
    good = [g for g in got if g.status_code == 200]
    assert good
    assert len(good) == sum(r["state"] == "settled" for r in rows)
    assert two.front.balance() == WHOLE - 2_000_000 * len(good)
    assert all(
        g.text.count('"content": "Hi."') + g.text.count('"content":"Hi."') == 1 for g in good
    )
