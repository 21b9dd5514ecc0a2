"""However a request ends, it is charged once, by what was used, or not at all."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sellapi.admin import Admin
from tests.support.fake_openai import (
    CUT,
    Response,
    error_reply,
    json_reply,
    raw_reply,
    stream_reply,
)
from tests.support.raw_server import CHUNKED, Peer, chunked, head, raw_server
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
    usage_chunk,
)

WHOLE = 20_000_000_000
PROMPT = 900_000
"""What the prompt of `HELLO` is estimated at: 36 characters, 9 tokens of 0.1 credits."""


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with open_front(tmp_path, grant=WHOLE // 1_000_000) as front:
        yield front


def data(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


class Caller:
    """A client on a raw socket, which may leave whenever it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.seen = b""

    @classmethod
    async def post(cls, front: Front, path: str = "/chat/completions", **fields: Any) -> Caller:
        body = json.dumps(
            {"model": CHAT, "messages": HELLO} | fields, separators=(",", ":")
        ).encode()
        host, port = front.run.origin.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            f"POST /v1{path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {front.key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        return cls(reader, writer)

    async def until(self, mark: bytes) -> bytes:
        """Read until ``mark`` was seen."""
        async with asyncio.timeout(5):
            while mark not in self.seen:
                more = await self.reader.read(65_536)
                assert more, self.seen
                self.seen += more
        return self.seen

    def leave(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


async def asked(front: Front, count: int = 1) -> None:
    """Until the provider has received ``count`` calls."""
    async with asyncio.timeout(5):
        while len(front.fake.requests) < count:
            await asyncio.sleep(0.005)


# -- answers -------------------------------------------------------------------------------------


async def test_a_whole_answer_is_charged_by_the_providers_usage(front: Front) -> None:
    front.fake.script("/chat/completions", json_reply(completion()))
    assert (await front.chat()).status_code == 200
    (row,) = await front.settled()
    assert (row["state"], row["charge"], row["delivery"], row["estimated"]) == (
        "settled",
        2_000_000,
        1,
        0,
    )
    assert front.balance() == WHOLE - 2_000_000
    assert json.loads(row["usage_raw"]) == {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
    }


@pytest.mark.parametrize("finish", ["length", "content_filter", "stop"])
async def test_an_empty_or_filtered_answer_is_charged_by_its_usage(
    front: Front, finish: str
) -> None:
    front.fake.script("/chat/completions", json_reply(completion("", finish=finish)))
    assert (await front.chat(max_tokens=5)).status_code == 200
    (row,) = await front.settled()
    assert row["charge"] == 2_000_000
    assert row["bounded"] == 0  # the customer's own limit cut it


async def test_without_usage_prompt_and_answer_are_counted_and_marked(front: Front) -> None:
    text = "abcd" * 10 + "é" * 4  # 10 tokens, and 4 for 8 bytes
    front.fake.script("/chat/completions", json_reply(completion(text, usage=None)))
    answer = await front.chat()
    (row,) = await front.settled()
    assert row["estimated"] == 1
    assert row["output_tokens"] == 14
    assert row["charge"] == PROMPT + 14 * 200_000
    assert answer.headers["x-sellapi-credits-charged"] == "3.7"
    receipt = (await front.get(f"/usage/{row['request_id']}")).json()
    assert receipt["estimated"] is True


async def test_a_receipt_tells_what_was_given_back_later(front: Front) -> None:
    answer = await front.chat()
    await front.settled()
    path = f"/usage/{answer.headers['x-request-id']}"
    before = (await front.get(path)).json()
    assert before["refunded"] is None
    shop = Admin(front.shop.database, actor="t", via="cli", env={})
    shop.credits.refund(before["request_id"])
    after = (await front.get(path)).json()
    assert after == {**before, "refunded": before["credits_charged"]}
    assert (await front.get("/usage")).json()["data"] == [after]
    front.shop.assert_sound()


async def test_a_stream_without_usage_is_estimated_and_says_so(front: Front) -> None:
    front.fake.script("/chat/completions", stream_reply([chunk("abcdefgh"), chunk(finish="stop")]))
    text = (await front.chat(stream=True)).text
    assert '"estimated":true' in text
    (row,) = await front.settled()
    assert row["charge"] == PROMPT + 2 * 200_000


async def test_k_of_n_images_charge_k(front: Front) -> None:
    image = {"b64_json": "aGk="}
    front.fake.script("/images/generations", json_reply({"created": 1, "data": [image, image, {}]}))
    answer = await front.post("/images/generations", {"model": IMAGE, "prompt": "x", "n": 3})
    assert answer.status_code == 200
    assert len(answer.json()["data"]) == 2
    (row,) = await front.settled()
    assert (row["images"], row["charge"]) == (2, 2 * 4_000_000_000)
    assert row["hold"] == 3 * 4_000_000_000


async def test_more_images_than_asked_for_are_not_charged(front: Front) -> None:
    image = {"b64_json": "aGk="}
    front.fake.script("/images/generations", json_reply({"created": 1, "data": [image] * 3}))
    await front.post("/images/generations", {"model": IMAGE, "prompt": "x"})
    (row,) = await front.settled()
    assert row["charge"] == 4_000_000_000


async def test_an_answer_that_cost_more_than_held_is_taken_from_what_is_there_then_owed(
    front: Front,
) -> None:
    usage = {"prompt_tokens": 60_000, "completion_tokens": 5, "total_tokens": 60_005}
    front.fake.script("/chat/completions", json_reply(completion(usage=usage)))
    poor = front.shop.user("poor@example.com", grant=4_000)
    key = front.shop.key(poor)
    assert (await front.chat(key=key, max_tokens=5)).status_code == 200
    await front.run.quiet()
    account = front.shop.account(poor)
    assert (account["balance"], account["held"], account["owed"]) == (0, 0, 2_001_000_000)
    answer = await front.chat(key=key, max_tokens=5)
    assert answer.status_code == 402
    assert "2001 owed" in answer.json()["error"]["message"]
    assert answer.json()["error"]["message"].lower().count("top up") == 1
    assert "retry-after" not in answer.headers
    from sellapi.storage import ledger

    with front.shop.database.transaction() as tx:
        ledger.credit(tx, poor, "grant", 3_000_000_000, now_ms=1, actor="test")
    account = front.shop.account(poor)
    assert (account["balance"], account["owed"]) == (999_000_000, 0)
    front.fake.script("/chat/completions", json_reply(completion()))
    assert (await front.chat(key=key, max_tokens=5)).status_code == 200
    front.shop.assert_sound()


async def test_a_free_model_stays_callable_at_zero(front: Front) -> None:
    front.shop.model(
        "test/gift", front.provider, upstream="chat-1", prices={"input": 0, "output": 0}
    )
    key = front.shop.key(front.shop.user("broke@example.com", grant=0))
    for fields in ({}, {"max_tokens": 5}, {"stream": True}):
        answer = await front.chat(key=key, model="test/gift", **fields)
        assert answer.status_code == 200, answer.text
    rows = await front.settled(3)
    assert [r["charge"] for r in rows] == [0, 0, 0]
    receipt = (await front.get(f"/usage/{rows[0]['request_id']}", key=key)).json()
    assert receipt["credits_charged"] == "0"
    assert receipt["ledger_entry"] is None


# -- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        error_reply(500),
        error_reply(400, "no"),
        Response(drop=True),
        raw_reply(b"<html>", content_type="text/html"),
        json_reply({"error": {"message": "overloaded", "code": 503}}),
        json_reply({"object": "nonsense"}),
        raw_reply(data({"error": {"message": "overloaded"}})),
        raw_reply(b'{"id": "x', CUT, content_type="application/json"),
    ],
    ids=["500", "400", "drop", "html", "error-in-200", "nonsense", "error-event", "cut"],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_before_anything_came_is_not_charged(
    front: Front, reply: Response, stream: bool
) -> None:
    front.fake.script("/chat/completions", reply)
    answer = await front.chat(stream=stream)
    assert answer.status_code in (400, 502), answer.text
    (row,) = await front.settled()
    assert (row["state"], row["charge"]) == ("voided", 0)
    assert row["http_status"] == answer.status_code
    assert front.balance() == WHOLE


@pytest.mark.parametrize("ending", ["cut", "error", "garbage", "silence"])
async def test_a_stream_that_breaks_off_charges_what_came_and_says_so(
    front: Front, ending: str
) -> None:
    front.shop.execute("UPDATE routes SET timeout_ms = 200")
    last: list[Any] = {
        "cut": [CUT],
        "error": [data({"error": {"message": "Overloaded", "type": "server_error"}})],
        "garbage": [b"data: {nonsense\n\n"],
        "silence": [5.0],
    }[ending]
    front.fake.script("/chat/completions", raw_reply(data(chunk("abcdefgh")), 0.02, *last))
    answer = await front.chat(stream=True)
    assert answer.status_code == 200
    got = events(answer.text)
    assert got[0]["choices"][0]["delta"]["content"] == "abcdefgh"
    assert got[-1]["error"]["type"] in ("upstream_error", "upstream_timeout")
    assert "[DONE]" not in answer.text
    (row,) = await front.settled()
    assert (row["state"], row["estimated"]) == ("settled", 1)
    assert row["charge"] == PROMPT + 2 * 200_000
    assert row["output_tokens"] == 2


async def test_the_end_of_a_broken_stream_is_told_when_its_charge_is_written(front: Front) -> None:
    front.fake.script("/chat/completions", raw_reply(data(chunk("abcdefgh")), 0.2, CUT))
    caller = await Caller.post(front, stream=True)
    caller.seen += await caller.reader.readuntil(b"abcdefgh")
    with front.shop.database.transaction():  # nobody else can write meanwhile
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await caller.reader.readuntil(b'"error"')
    async with asyncio.timeout(5):
        await caller.reader.readuntil(b'"error"')
    assert front.balance() == WHOLE - PROMPT - 2 * 200_000
    caller.leave()


async def test_after_an_error_in_a_stream_the_connection_closes(front: Front) -> None:
    front.fake.script("/chat/completions", raw_reply(data(chunk("abcdefgh")), 0.02, CUT))
    caller = await Caller.post(front, stream=True)
    async with asyncio.timeout(5):
        while more := await caller.reader.read(65_536):
            caller.seen += more
    assert b'"error"' in caller.seen
    assert b"[DONE]" not in caller.seen
    caller.leave()


async def test_more_than_20_calls_that_came_to_nothing_rest_for_a_while(tmp_path: Path) -> None:
    async with open_front(tmp_path, tier="pro") as front:
        front.fake.script("/chat/completions", Response(drop=True))
        for _ in range(21):
            assert (await front.chat()).status_code == 502
        answer = await front.chat()
        assert answer.status_code == 429
        assert answer.headers["retry-after"].isdecimal()
        assert int(answer.headers["retry-after"]) > 60
        assert answer.headers["x-should-retry"] == "false"
        assert answer.headers["x-ratelimit-limit"] == "600"
        assert answer.headers["x-ratelimit-remaining"] == "0"
        assert answer.headers["x-ratelimit-reset"] == answer.headers["retry-after"]
        other = front.shop.key(front.shop.user("other@example.com"))
        assert (await front.chat(key=other)).status_code == 502
        assert len(front.fake.requests) == 22


# -- clients that leave ----------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["leave", "reset"])
@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_before_the_first_byte_charges_the_prompt(
    front: Front, stream: bool, way: str
) -> None:
    slow = stream_reply([chunk("Hi")]) if stream else json_reply(completion())
    slow.before_s = 5.0
    front.fake.script("/chat/completions", slow)
    caller = await Caller.post(front, stream=stream)
    await asked(front)
    getattr(caller, way)()
    (row,) = await front.settled()
    assert (row["state"], row["estimated"], row["delivery"]) == ("settled", 1, 2)
    assert row["charge"] == PROMPT
    assert front.balance() == WHOLE - PROMPT
    async with asyncio.timeout(2):
        while not front.fake.aborted:  # the provider's call was ended too
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_while_an_error_comes_in_costs_nothing(front: Front, stream: bool) -> None:
    front.fake.script("/chat/completions", raw_reply(b'{"error"', 5.0, b": {}}", status=503))
    caller = await Caller.post(front, stream=stream)
    await asked(front)
    await asyncio.sleep(0.2)
    caller.leave()
    (row,) = await front.settled()
    assert (row["state"], row["charge"], row["loss"]) == ("voided", 0, 0)
    assert json.loads(row["attempts"])[0]["status"] == 503


@pytest.mark.parametrize("size", [20_000, 66_000, 1_000_000])
async def test_leaving_is_seen_however_long_the_prompt_was(front: Front, size: int) -> None:
    """Sanic stops reading in the middle of a long body, and does not look for the end by itself."""
    slow = json_reply(completion())
    slow.before_s = 5.0
    front.fake.script("/chat/completions", slow)
    words = [{"role": "user", "content": "x" * size}]
    caller = await Caller.post(front, messages=words, max_tokens=5)
    await asked(front)
    await asyncio.sleep(0.02)
    caller.leave()
    async with asyncio.timeout(2):
        while not front.fake.aborted:
            await asyncio.sleep(0.005)
    (row,) = await front.settled()
    assert (row["state"], row["estimated"], row["delivery"]) == ("settled", 1, 2)


async def test_leaving_mid_stream_charges_what_was_received(front: Front) -> None:
    front.fake.script(
        "/chat/completions",
        raw_reply(data(chunk("abcdefgh")), 5.0, data(chunk("x" * 400)), data(chunk(finish="stop"))),
    )
    caller = await Caller.post(front, stream=True)
    await caller.until(b"abcdefgh")
    caller.leave()
    (row,) = await front.settled()
    assert (row["state"], row["estimated"], row["delivery"]) == ("settled", 1, 2)
    assert row["charge"] == PROMPT + 2 * 200_000
    async with asyncio.timeout(2):
        while not front.fake.aborted:
            await asyncio.sleep(0.005)


async def test_leaving_where_thoughts_are_hidden_charges_for_the_time(front: Front) -> None:
    front.shop.model("test/thinker", front.provider, upstream="gpt-5.5")
    slow = stream_reply([chunk("Hi")])
    slow.before_s = 5.0
    front.fake.script("/chat/completions", slow)
    caller = await Caller.post(front, stream=True, model="test/thinker", max_tokens=2_000)
    await asked(front)
    await asyncio.sleep(0.3)
    caller.leave()
    (row,) = await front.settled()
    assert 30 <= row["output_tokens"] <= 150  # 0.3 s at 150 tokens a second
    assert row["charge"] <= row["hold"]


@pytest.mark.parametrize("full", ["routes SET max_concurrency", "providers SET max_connections"])
async def test_time_spent_in_line_is_no_time_for_thoughts(front: Front, full: str) -> None:
    front.shop.model("test/thinker", front.provider, upstream="gpt-5.5")
    front.shop.execute(f"UPDATE {full} = 1")
    slow = json_reply(completion())
    slow.before_s = 1.0
    front.fake.script("/chat/completions", slow)
    first = asyncio.ensure_future(front.chat(model="test/thinker", max_tokens=5))
    await asked(front)
    caller = await Caller.post(front, model="test/thinker", max_tokens=2_000)
    await asked(front, 2)
    caller.leave()
    assert (await first).status_code == 200
    row = (await front.settled(2))[1]
    assert (row["state"], row["estimated"]) == ("settled", 1)
    assert row["output_tokens"] <= 75  # half a second at 150 tokens a second, for a slow machine


async def test_leaving_where_no_thoughts_were_wanted_charges_what_was_received(
    front: Front,
) -> None:
    front.shop.model("test/thinker", front.provider, upstream="gpt-5.5")
    front.fake.script("/chat/completions", raw_reply(data(chunk("abcdefgh")), 5.0))
    caller = await Caller.post(
        front, stream=True, model="test/thinker", max_tokens=2_000, reasoning_effort="none"
    )
    await caller.until(b"abcdefgh")
    await asyncio.sleep(0.3)
    caller.leave()
    (row,) = await front.settled()
    assert (row["output_tokens"], row["charge"]) == (2, PROMPT + 2 * 200_000)


async def test_leaving_where_the_provider_counts_the_thoughts_charges_by_its_count(
    front: Front,
) -> None:
    front.shop.model("test/thinker", front.provider, upstream="gpt-5.5")
    so_far = {
        "prompt_tokens": 10,
        "completion_tokens": 7,
        "total_tokens": 17,
        "completion_tokens_details": {"reasoning_tokens": 5},
    }
    front.fake.script("/chat/completions", raw_reply(data(chunk("abcdefgh", usage=so_far)), 5.0))
    caller = await Caller.post(front, stream=True, model="test/thinker", max_tokens=2_000)
    await caller.until(b"abcdefgh")
    await asyncio.sleep(0.3)
    caller.leave()
    (row,) = await front.settled()
    assert (row["output_tokens"], row["charge"]) == (7, 10 * 100_000 + 7 * 200_000)


async def test_leaving_after_the_finish_reason_waits_for_the_real_usage(front: Front) -> None:
    front.fake.script(
        "/chat/completions",
        raw_reply(
            data(chunk("abcdefgh")),
            data(chunk(finish="stop")),
            0.3,
            data(usage_chunk()),
            b"data: [DONE]\n\n",
        ),
    )
    caller = await Caller.post(front, stream=True)
    await caller.until(b'"stop"')
    caller.leave()
    (row,) = await front.settled()
    assert (row["estimated"], row["charge"], row["delivery"]) == (0, 2_000_000, 2)


async def test_leaving_after_the_finish_reason_is_no_time_for_thoughts(front: Front) -> None:
    """No usage comes: who stayed would pay prompt and answer, so does who left."""
    front.shop.model("test/thinker", front.provider, upstream="gpt-5.5")
    end = data(chunk(finish="stop"))
    front.fake.script(
        "/chat/completions", raw_reply(0.2, data(chunk("abcd")), end, 0.5, b"data: [DONE]\n\n")
    )
    caller = await Caller.post(front, stream=True, model="test/thinker", max_tokens=2_000)
    await caller.until(b'"stop"')
    caller.leave()
    (row,) = await front.settled()
    assert (row["state"], row["estimated"]) == ("settled", 1)
    assert row["charge"] == PROMPT + 200_000


async def test_leaving_in_the_moment_the_usage_comes_charges_by_it(front: Front) -> None:
    """The event loop learns of both at once, first that the client has left."""
    peers: list[Peer] = []

    async def script(peer: Peer) -> None:
        peers.append(peer)
        await peer.request()
        words = data(chunk("abcdefgh")), data(chunk(finish="stop"))
        peer.send(head(200, CHUNKED), chunked(*words, end=False))
        await peer.gone()

    async with raw_server(script) as server:
        front.shop.model("test/raw", front.shop.provider("raw", server.url), upstream="chat-1")
        caller = await Caller.post(front, stream=True, model="test/raw")
        await caller.until(b'"stop"')
        await asyncio.sleep(0.02)  # until nothing else is to be done
        with socket.socket(fileno=os.dup(caller.writer.get_extra_info("socket").fileno())) as sock:
            sock.shutdown(socket.SHUT_RDWR)
        peers[0].send(chunked(data(usage_chunk()), b"data: [DONE]\n\n", end=False))
        await asyncio.sleep(0.1)
        peers[0].writer.close()
        (row,) = await front.settled()
    assert (row["estimated"], row["charge"], row["delivery"]) == (0, 2_000_000, 2)


async def test_leaving_right_after_the_last_byte_is_a_delivered_answer(front: Front) -> None:
    front.fake.script(
        "/chat/completions", stream_reply([chunk("Hi"), chunk(finish="stop"), usage_chunk()])
    )
    for number in range(1, 9):
        caller = await Caller.post(front, stream=True)
        await caller.until(b"data: [DONE]")
        caller.reset() if number % 2 else caller.leave()
        rows = await front.settled(number)
        assert rows[-1]["charge"] == 2_000_000
        assert rows[-1]["delivery"] == 1


async def test_a_client_that_leaves_while_the_charge_is_written_is_undelivered(
    front: Front,
) -> None:
    gate = asyncio.Event()
    writer = front.run.services.writer
    submit = writer.submit

    def slowed(op: Any, *together: Any, **options: Any) -> Any:
        future = submit(op, *together, **options)
        if not options.get("must"):
            return future

        async def later() -> Any:
            result = await future
            await gate.wait()
            return result

        return asyncio.ensure_future(later())

    writer.submit = slowed  # type: ignore[method-assign, assignment]
    front.fake.script("/chat/completions", json_reply(completion()))
    caller = await Caller.post(front)
    await asked(front)
    await asyncio.sleep(0.1)
    caller.leave()
    await asyncio.sleep(0.05)
    gate.set()
    writer.submit = submit  # type: ignore[method-assign]
    (row,) = await front.settled()
    assert (row["state"], row["charge"], row["delivery"]) == ("settled", 2_000_000, 2)


async def test_embeddings_are_charged_to_the_hundredth_of_a_credit(front: Front) -> None:
    front.fake.script(
        "/embeddings",
        json_reply(
            {
                "object": "list",
                "model": "embed-1",
                "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
                "usage": {"prompt_tokens": 10, "total_tokens": 10},
            }
        ),
    )
    answer = await front.post("/embeddings", {"model": EMBED, "input": "ten tokens"})
    assert answer.headers["x-sellapi-credits-charged"] == "0.02"
    assert answer.headers["x-sellapi-credits-balance"] == "19999.98"


async def test_leaving_an_image_call_is_a_loss_and_not_free_for_long(front: Front) -> None:
    slow = json_reply({"created": 1, "data": [{"b64_json": "aGk="}]})
    slow.before_s = 5.0
    front.fake.script("/images/generations", slow)
    front.shop.execute("UPDATE tiers SET rpm = 100 WHERE name = 'free'")
    for number in range(1, 22):
        caller = await Caller.post(front, "/images/generations", model=IMAGE, prompt="x")
        await asked(front, number)
        caller.leave()
        rows = await front.settled(number)
        assert (rows[-1]["charge"], rows[-1]["loss"]) == (0, 4_000_000_000)
    answer = await front.post("/images/generations", {"model": IMAGE, "prompt": "x"})
    assert answer.status_code == 429


async def test_leaving_an_image_call_priced_by_tokens_is_a_loss_too(front: Front) -> None:
    prices = {"input": 5_000_000, "output": 10_000_000, "image_output": 40_000_000}
    front.shop.model(
        "test/drawer", front.provider, upstream="gpt-image-2", mode="image", prices=prices
    )
    slow = json_reply({"created": 1, "data": [{"b64_json": "aGk="}]})
    slow.before_s = 5.0
    front.fake.script("/images/generations", slow)
    front.shop.execute("UPDATE tiers SET rpm = 100 WHERE name = 'free'")
    ask: dict[str, Any] = {"model": "test/drawer", "prompt": "x", "n": 2, "quality": "low"}
    for number in range(1, 22):
        caller = await Caller.post(front, "/images/generations", **ask)
        await asked(front, number)
        caller.leave()
        rows = await front.settled(number)
        assert (rows[-1]["charge"], rows[-1]["loss"]) == (500_000, 2 * 400 * 4_000_000)
    assert (await front.post("/images/generations", ask)).status_code == 429


async def test_leaving_an_image_call_is_not_charged_for_thoughts_nobody_held_for(
    front: Front,
) -> None:
    """Some models that draw hide thoughts, too; what is held for them is a prompt and images."""
    prices = {"input": 500_000, "output": 1_000_000_000, "image_output": 60_000_000}
    front.shop.model("test/drawer", front.provider, upstream="gpt-5.5", mode="image", prices=prices)
    slow = json_reply({"created": 1, "data": [{"b64_json": "aGk="}]})
    slow.before_s = 5.0
    front.fake.script("/images/generations", slow)
    caller = await Caller.post(
        front, "/images/generations", model="test/drawer", prompt="x", quality="low"
    )
    await asked(front)
    await asyncio.sleep(0.3)
    caller.leave()
    (row,) = await front.settled()
    assert (row["charge"], row["output_tokens"]) == (50_000, 0)


async def test_images_that_did_not_come_in_time_are_a_loss(front: Front) -> None:
    front.shop.execute("UPDATE routes SET timeout_ms = 50, cost = ?", '{"images": {"*:*": 30000}}')
    slow = json_reply({"created": 1, "data": [{"b64_json": "aGk="}]})
    slow.before_s = 5.0
    front.fake.script("/images/generations", slow)
    answer = await front.post("/images/generations", {"model": IMAGE, "prompt": "x", "n": 2})
    assert answer.status_code == 504
    (row,) = await front.settled()
    assert (row["state"], row["loss"]) == ("voided", 2 * 3_000_000_000)


async def test_leaving_while_waiting_for_a_connection_costs_nothing(front: Front) -> None:
    front.shop.execute("UPDATE providers SET max_connections = 1")
    slow = json_reply(completion())
    slow.before_s = 0.5
    front.fake.script("/chat/completions", slow)
    first = asyncio.ensure_future(front.chat(max_tokens=5))
    await asked(front)
    caller = await Caller.post(front)
    async with asyncio.timeout(5):
        while len(front.requests()) < 2:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    caller.leave()
    assert (await first).status_code == 200
    rows = await front.settled(2)
    assert [r["state"] for r in rows] == ["settled", "voided"]
    assert front.balance() == WHOLE - 2_000_000
    assert len(front.fake.requests) == 1
