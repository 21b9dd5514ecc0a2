"""A server that is told to stop, and one that is killed: what was promised is there afterwards."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.fake_openai import FakeOpenAI, json_reply, raw_reply
from tests.support.process import clean_env, serve
from tests.support.running import Shopkeeper, running
from tests.support.shopfront import CHAT, HELLO, chunk, completion, told, usage_chunk

WHOLE = 10_000_000_000


def data(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def stock(folder: Path, fake: FakeOpenAI) -> tuple[Shopkeeper, str]:
    shop = Shopkeeper.open(folder / "sellapi.db")
    shop.model(CHAT, shop.provider("fake", fake.url), upstream="chat-1")
    return shop, shop.key(shop.user("customer@example.com", tier="pro"))


def body(**fields: Any) -> dict[str, Any]:
    return {"model": CHAT, "messages": HELLO, "max_tokens": 100} | fields


def account(shop: Shopkeeper) -> tuple[int, int]:
    row = shop.account(1)
    return row["balance"], row["held"]


async def test_sigterm_lets_a_stream_end_and_settles_it(tmp_path: Path) -> None:
    async with FakeOpenAI() as fake:
        shop, key = stock(tmp_path, fake)
        fake.script(
            "/chat/completions",
            raw_reply(
                data(chunk("one")),
                0.6,
                data(chunk("two")),
                data(chunk(finish="stop")),
                data(usage_chunk()),
                b"data: [DONE]\n\n",
            ),
        )
        with serve(cwd=tmp_path, env=clean_env(tmp_path)) as served:
            async with httpx.AsyncClient(headers={"authorization": f"Bearer {key}"}) as http:
                text = ""
                async with http.stream(
                    "POST", served.url + "/chat/completions", json=body(stream=True)
                ) as answer:
                    async for piece in answer.aiter_text():
                        if not text:
                            served.process.send_signal(signal.SIGTERM)
                        text += piece
            assert text.rstrip().endswith("data: [DONE]")
            assert told(text)["credits_charged"] == "2"
            assert await asyncio.to_thread(served.process.wait, 10) == 0
        (row,) = shop.rows("SELECT * FROM requests")
        assert (row["state"], row["charge"], row["delivery"]) == ("settled", 2_000_000, 1)
        assert account(shop) == (WHOLE - 2_000_000, 0)
        assert shop.rows("SELECT * FROM instances") == []
        assert list(tmp_path.glob("*.lock")) == []
        shop.assert_sound()


async def test_a_server_that_was_stopped_leaves_one_file_to_copy(tmp_path: Path) -> None:
    async with FakeOpenAI() as fake:
        shop, key = stock(tmp_path, fake)
        shop.database.close()
        fake.script("/chat/completions", json_reply(completion()))
        with serve(cwd=tmp_path, env=clean_env(tmp_path)) as served:
            async with httpx.AsyncClient(headers={"authorization": f"Bearer {key}"}) as http:
                answer = await http.post(served.url + "/chat/completions", json=body())
            assert answer.status_code == 200
            assert (tmp_path / "sellapi.db-wal").exists()
            assert served.stop() == 0
        assert [file.name for file in tmp_path.glob("sellapi.db*")] == ["sellapi.db"]


async def test_after_kill_9_answers_are_charged_and_open_holds_given_back(
    tmp_path: Path,
) -> None:
    async with FakeOpenAI() as fake:
        shop, key = stock(tmp_path, fake)
        stuck = json_reply(completion())
        stuck.before_s = 30.0
        env = clean_env(tmp_path)
        with serve(cwd=tmp_path, env=env) as served:
            async with httpx.AsyncClient(headers={"authorization": f"Bearer {key}"}) as http:
                fake.script("/chat/completions", json_reply(completion()))
                url = served.url + "/chat/completions"
                answers = [await http.post(url, json=body()) for _ in range(3)]
                assert [a.headers["x-sellapi-credits-charged"] for a in answers] == ["2"] * 3
                fake.script("/chat/completions", stuck)
                hanging = [asyncio.ensure_future(http.post(url, json=body())) for _ in range(4)]
                while len(fake.requests) < 7:
                    await asyncio.sleep(0.01)
                assert account(shop)[1] > 0
                served.process.kill()
                served.process.wait(10)
                lost = await asyncio.gather(*hanging, return_exceptions=True)
                assert all(isinstance(e, httpx.HTTPError) for e in lost)
        assert account(shop)[1] > 0  # nobody has looked yet
        with serve(cwd=tmp_path, env=env) as served:
            assert "Closed 4 requests" in served.output
            assert account(shop) == (WHOLE - 6_000_000, 0)
            states = [r["state"] for r in shop.rows("SELECT state FROM requests ORDER BY id")]
            assert states == ["settled"] * 3 + ["swept"] * 4
            async with httpx.AsyncClient(headers={"authorization": f"Bearer {key}"}) as http:
                fake.script("/chat/completions", json_reply(completion()))
                again = await http.post(served.url + "/chat/completions", json=body())
                assert again.headers["x-sellapi-credits-balance"] == "9992"
                seen = (await http.get(served.url + "/usage")).json()["data"]
                assert [r["status"] for r in seen[1:5]] == ["voided"] * 4
        shop.assert_sound()


def held(shop: Shopkeeper, instance: str, number: int, *, state: str = "held") -> str:
    """A request as a process that died has left it."""
    from sellapi.storage import ledger

    request_id = f"req_{number:032x}"
    with shop.database.transaction() as tx:
        got = ledger.hold(
            tx,
            ledger.HoldRequest(
                request_id=request_id,
                amount=1_000_000,
                account_id=1,
                account_version=tx.value("SELECT version FROM accounts"),
                key_id=1,
                key_version=tx.value("SELECT version FROM keys"),
                catalog_version=tx.catalog_version,
                instance_id=instance,
                model=CHAT,
                mode="chat",
                price_id=1,
                streamed=False,
                bounded=False,
                created_ms=1,
            ),
        )
        assert isinstance(got, ledger.Held)
        if state == "settled":
            ledger.settle(tx, settlement(request_id))
    return request_id


def settlement(request_id: str, charge: int = 600_000) -> Any:
    from sellapi.storage import ledger

    return ledger.Settlement(
        request_id=request_id,
        charge=charge,
        usage="{}",
        usage_raw=None,
        input_tokens=1,
        output_tokens=1,
        images=0,
        estimated=False,
        bounded=False,
        provider="fake",
        upstream_id="chat-1",
        finished_ms=2,
    )


async def test_the_next_start_sweeps_what_the_dead_left_and_marks_the_undelivered(
    tmp_path: Path,
) -> None:
    async with FakeOpenAI() as fake:
        shop, key = stock(tmp_path, fake)
        now = int(time.time())
        shop.execute(
            "INSERT INTO instances (id, pid, host, started_at, status_at) VALUES (?,?,?,?,?)",
            "dead",
            1,
            "x",
            now,
            now,
        )
        open_hold = held(shop, "dead", 1)
        unsaid = held(shop, "dead", 2, state="settled")
        async with running(tmp_path / "sellapi.db") as run:
            rows = {r["request_id"]: r for r in shop.rows("SELECT * FROM requests")}
            assert rows[open_hold]["state"] == "swept"
            assert (rows[unsaid]["state"], rows[unsaid]["delivery"]) == ("settled", 2)
            assert account(shop) == (WHOLE - 600_000, 0)
            async with httpx.AsyncClient() as http:
                receipt = await http.get(
                    f"{run.url}/usage/{unsaid}", headers={"authorization": f"Bearer {key}"}
                )
            assert receipt.json()["undelivered"] is True
        shop.assert_sound()


async def test_a_swept_hold_that_is_settled_all_the_same_charges_once(tmp_path: Path) -> None:
    from sellapi.storage import ledger

    async with FakeOpenAI() as fake:
        shop, _ = stock(tmp_path, fake)
        request_id = held(shop, "dead", 1)
        with shop.database.transaction() as tx:
            assert ledger.sweep(tx, "dead", now_ms=2) == 1
        assert account(shop) == (WHOLE, 0)
        for repeated in (False, True):
            with shop.database.transaction() as tx:
                done = ledger.settle(tx, settlement(request_id))
            assert done.repeated is repeated
            assert account(shop) == (WHOLE - 600_000, 0)
        with shop.database.transaction() as tx:
            assert not ledger.void(tx, request_id, now_ms=3)
            ledger.sweep(tx, "dead", now_ms=4)
        assert account(shop) == (WHOLE - 600_000, 0)
        shop.assert_sound()


async def test_two_servers_share_one_ledger_and_do_not_sweep_each_other(tmp_path: Path) -> None:
    async with FakeOpenAI() as fake:
        shop, key = stock(tmp_path, fake)
        slow = json_reply(completion())
        slow.before_s = 0.3
        fake.script("/chat/completions", slow)
        path = tmp_path / "sellapi.db"
        async with running(path) as one, httpx.AsyncClient() as http:
            auth = {"authorization": f"Bearer {key}"}
            first = asyncio.ensure_future(
                http.post(one.url + "/chat/completions", json=body(), headers=auth)
            )
            while not fake.requests:
                await asyncio.sleep(0.01)
            async with running(path) as two:  # its start sweeps the dead, and `one` lives
                assert account(shop)[1] > 0
                second = await http.post(two.url + "/chat/completions", json=body(), headers=auth)
                assert second.status_code == 200
                assert (await first).status_code == 200
                await two.quiet()
            await one.quiet()
        assert account(shop) == (WHOLE - 4_000_000, 0)
        assert {r["state"] for r in shop.rows("SELECT state FROM requests")} == {"settled"}
        shop.assert_sound()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_server_that_stops_refuses_new_calls_and_finishes_running_ones(
    tmp_path: Path, stream: bool
) -> None:
    async with FakeOpenAI() as fake:
        shop, key = stock(tmp_path, fake)
        slow = json_reply(completion())
        if stream:
            slow = raw_reply(
                data(chunk("x")),
                data(chunk(finish="stop")),
                data(usage_chunk()),
                b"data: [DONE]\n\n",
            )
        slow.before_s = 0.5
        fake.script("/chat/completions", slow)
        with serve(cwd=tmp_path, env=clean_env(tmp_path)) as served:
            async with httpx.AsyncClient(headers={"authorization": f"Bearer {key}"}) as http:
                url = served.url + "/chat/completions"
                await http.get(served.url + "/models")  # a connection kept alive
                call = asyncio.ensure_future(http.post(url, json=body(stream=stream)))
                while not fake.requests:
                    await asyncio.sleep(0.01)
                served.process.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.1)
                try:
                    late = await http.post(url, json=body())
                    assert late.status_code == 503
                except httpx.HTTPError:
                    pass  # the listener is closed
                answer = await call
                assert answer.status_code == 200
            assert await asyncio.to_thread(served.process.wait, 10) == 0
        (row,) = shop.rows("SELECT * FROM requests WHERE state <> 'voided'")
        assert (row["state"], row["charge"], row["delivery"]) == ("settled", 2_000_000, 1)
        assert account(shop) == (WHOLE - 2_000_000, 0)
