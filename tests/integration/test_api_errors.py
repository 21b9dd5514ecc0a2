"""Every error of the contract: status, type, and a message that says what to do next."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support.fake_openai import error_reply, json_reply
from tests.support.shopfront import (
    CHAT,
    EMBED,
    HELLO,
    IMAGE,
    PRO,
    Front,
    completion,
    open_front,
)

POSTS: dict[str, dict[str, Any]] = {
    "/chat/completions": {"model": CHAT, "messages": HELLO},
    "/embeddings": {"model": EMBED, "input": "text"},
    "/images/generations": {"model": IMAGE, "prompt": "a sunset"},
}


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with open_front(tmp_path, help_url="https://sellapi.example/keys") as front:
        yield front


def error_of(answer: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    """The error object, after the checks that hold for all of them."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"].startswith("req_")
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == kind
    assert error["message"]
    assert answer.json().keys() == {"error"}
    return dict(error)


# -- 401 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Basic c2s6",
        "sk-sellapi-nothing",
        "Bearer sk-sellapi-short",
        "Bearer sk-sellapi-" + "x" * 43,
        "Bearer sk-sellapi-" + "x" * 5_000,
        "Bearer sk-sellapi-" + "ü" * 43,
        "Bearer sk-sellapi-' OR 1=1 --" + "x" * 30,
        "Bearer sk-proj-" + "x" * 60,
        "Bearer \x01\x02",
    ],
)
async def test_whatever_is_no_key_is_401(front: Front, authorization: str | None) -> None:
    headers = {} if authorization is None else {"authorization": authorization.encode()}
    answer = await front.http.post(
        front.run.url + "/chat/completions", json=POSTS["/chat/completions"], headers=headers
    )
    error = error_of(answer, 401, "invalid_api_key")
    assert error["code"] == "invalid_api_key"
    assert "https://sellapi.example/keys" in error["message"]
    if authorization and len(authorization) > 30:
        assert authorization[20:] not in answer.text


async def test_the_scheme_is_case_insensitive(front: Front) -> None:
    for scheme in ("bearer", "BEARER", "Bearer "):
        answer = await front.http.get(
            front.run.url + "/credits", headers={"authorization": f"{scheme} {front.key}"}
        )
        assert answer.status_code == 200, scheme


async def test_bad_keys_are_slowed_down_and_good_ones_are_not(front: Front) -> None:
    async def bad() -> float:
        begun = time.monotonic()
        answer = await front.chat(key="sk-sellapi-" + "z" * 43)
        assert answer.status_code == 401
        return time.monotonic() - begun

    took = [await bad() for _ in range(5)]
    took += await asyncio.gather(*(bad() for _ in range(12)))
    assert max(took) < 2
    assert max(took) > 0.4
    floods = [asyncio.ensure_future(bad()) for _ in range(5)]
    begun = time.monotonic()
    assert (await front.chat()).status_code == 200
    assert time.monotonic() - begun < 0.5
    await asyncio.gather(*floods)


# -- 402 -----------------------------------------------------------------------------------------


async def test_402_says_what_is_needed_there_and_would_fit(front: Front) -> None:
    poor = front.shop.user("poor@example.com", grant=100)
    key = front.shop.key(poor)
    answer = await front.chat(key=key, max_tokens=10_000)
    error = error_of(answer, 402, "insufficient_credits")
    message = error["message"]
    assert "2003.5" in message, message  # 10,000 tokens at 0.2 and the prompt
    assert "100 are available" in message
    assert "0 held" in message
    assert "0 owed" in message
    assert "https://sellapi.example/keys" in message
    assert "retry-after" not in answer.headers
    assert "x-should-retry" not in answer.headers
    fits = int(message.partition("max_tokens that would fit is ")[2].partition(".")[0])
    assert (await front.chat(key=key, max_tokens=fits + 1)).status_code == 402
    assert (await front.chat(key=key, max_tokens=fits)).status_code == 200


async def test_the_sdk_raises_402_as_a_status_error_it_does_not_retry(front: Front) -> None:
    key = front.shop.key(front.shop.user("poor@example.com", grant=0))
    with pytest.raises(openai.APIStatusError) as caught:
        await front.openai(key, max_retries=2).chat.completions.create(
            model=CHAT, messages=HELLO, max_tokens=5
        )
    assert caught.value.status_code == 402
    assert caught.value.type == "insufficient_credits"
    assert caught.value.code == "insufficient_credits"
    assert front.shop.value("SELECT sum(count) FROM rejections") in (None, 1)


# -- 403 and 404 ---------------------------------------------------------------------------------


async def test_a_pro_model_says_how_to_get_it(front: Front) -> None:
    error = error_of(await front.chat(model=PRO), 403, "tier_restricted")
    assert error["param"] == "model"
    assert "pack" in error["message"]
    assert "https://sellapi.example/keys" in error["message"]
    with pytest.raises(openai.PermissionDeniedError):
        await front.openai().chat.completions.create(model=PRO, messages=HELLO)


async def test_unknown_models_are_404_and_the_message_names_the_slug(front: Front) -> None:
    front.shop.execute("UPDATE models SET enabled = 0 WHERE slug = ?", EMBED)
    for path, slug in (
        ("/chat/completions", "nope/model"),
        ("/chat/completions", CHAT.upper()),
        ("/chat/completions", CHAT + "\u0000"),
        ("/chat/completions", "\U0001f600" * 60),
        ("/embeddings", EMBED),
    ):
        answer = await front.post(path, POSTS[path] | {"model": slug})
        error = error_of(answer, 404, "model_not_found")
        assert error["param"] == "model"
        assert "/v1/models" in error["message"]
        assert slug[:20] in error["message"]


async def test_a_model_asked_at_the_wrong_route_is_told_the_right_one(front: Front) -> None:
    answer = await front.post("/embeddings", {"model": CHAT, "input": "x"})
    error = error_of(answer, 404, "model_not_found")
    assert "/v1/chat/completions" in error["message"]


@pytest.mark.parametrize(
    "path",
    [
        "/chat/completions",
        "/embeddings",
        "/images/generations",
        "/models",
        "/v1/v1/chat/completions",
    ],
)
async def test_a_wrong_base_url_is_told_to_end_in_v1(front: Front, path: str) -> None:
    answer = await front.http.post(front.run.origin + path, json={})
    error = error_of(answer, 404, "not_found")
    assert "end in /v1" in error["message"]


async def test_the_sdk_with_a_wrong_base_url_reads_the_hint(front: Front) -> None:
    for base in (front.run.origin, front.run.url + "/v1"):
        client = openai.AsyncOpenAI(base_url=base, api_key=front.key, max_retries=0)
        with pytest.raises(openai.NotFoundError, match="end in /v1"):
            await client.chat.completions.create(model=CHAT, messages=HELLO)


async def test_other_routes_are_404_in_json(front: Front) -> None:
    for path in ("/", "/v1", "/v1/", "/v1/responses", "/favicon.ico", "/v1/chat", "/v2/models"):
        answer = await front.http.get(front.run.origin + path)
        error = error_of(answer, 404, "not_found")
        assert "/v1" in error["message"]


async def test_someone_elses_receipt_does_not_exist(front: Front) -> None:
    await front.chat()
    request_id = front.requests()[0]["request_id"]
    other = front.shop.key(front.shop.user("other@example.com"))
    error_of(await front.get(f"/usage/{request_id}", key=other), 404, "not_found")
    assert (await front.get(f"/usage/{request_id}")).status_code == 200
    assert (await front.get("/usage", key=other)).json()["data"] == []


# -- 405, 413, 415 -------------------------------------------------------------------------------


async def test_wrong_methods_are_405_and_name_the_right_one(front: Front) -> None:
    for method, path, allowed in (
        ("GET", "/v1/chat/completions", "POST"),
        ("PUT", "/v1/embeddings", "POST"),
        ("DELETE", f"/v1/models/{CHAT}", "GET"),
        ("POST", "/v1/models", "GET"),
        ("PATCH", "/health", "GET"),
    ):
        answer = await front.http.request(method, front.run.origin + path)
        error = error_of(answer, 405, "invalid_request_error")
        assert allowed in error["message"]
        assert allowed in answer.headers["allow"]


async def test_40_megabytes_are_413_to_httpx_and_to_the_sdk(front: Front) -> None:
    text = "x" * 40_000_000
    answer = await front.chat(messages=[{"role": "user", "content": text}])
    error = error_of(answer, 413, "invalid_request_error")
    assert "32 MB" in error["message"]
    with pytest.raises(openai.APIStatusError) as caught:
        await front.openai(max_retries=0).embeddings.create(model=EMBED, input=text)
    assert caught.value.status_code == 413
    assert front.fake.requests == []


async def test_an_endless_chunked_body_is_413_too(front: Front) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 1_000_000

    answer = await front.http.post(
        front.run.url + "/embeddings",
        content=pieces(),
        headers={"authorization": f"Bearer {front.key}", "content-type": "application/json"},
    )
    error_of(answer, 413, "invalid_request_error")


async def test_a_large_body_with_a_bad_key_is_401(front: Front) -> None:
    answer = await front.chat(
        key="sk-sellapi-" + "y" * 43, messages=[{"role": "user", "content": "x" * 5_000_000}]
    )
    error_of(answer, 401, "invalid_api_key")


async def test_what_is_not_json_is_415(front: Front) -> None:
    for kind in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data"):
        answer = await front.http.post(
            front.run.url + "/chat/completions",
            content=json.dumps(POSTS["/chat/completions"]).encode(),
            headers={"authorization": f"Bearer {front.key}", "content-type": kind},
        )
        error = error_of(answer, 415, "invalid_request_error")
        assert "application/json" in error["message"]


# -- 429 -----------------------------------------------------------------------------------------


async def test_the_21st_call_of_a_minute_is_429_and_says_when(front: Front) -> None:
    front.fake.script("/chat/completions", json_reply(completion()))
    for left in range(19, -1, -1):
        answer = await front.chat(max_tokens=1)
        assert answer.headers["x-ratelimit-remaining"] == str(left)
    answer = await front.chat(max_tokens=1)
    error = error_of(answer, 429, "rate_limit_exceeded")
    wait = answer.headers["retry-after"]
    assert wait.isdecimal()
    assert 1 <= int(wait) <= 60
    assert wait in error["message"]
    assert answer.headers["x-ratelimit-limit"] == "20"
    assert answer.headers["x-ratelimit-remaining"] == "0"
    assert "x-ratelimit-reset-requests" in answer.headers
    with pytest.raises(openai.RateLimitError):
        await front.openai().chat.completions.create(model=CHAT, messages=HELLO)
    assert (await front.get("/credits")).status_code == 200  # GETs have a window of their own


# -- 502 and what a provider says ----------------------------------------------------------------


async def test_a_providers_400_keeps_its_code_and_param(front: Front) -> None:
    front.fake.script(
        "/chat/completions",
        error_reply(400, "Too long for this model.", "context_length_exceeded", "messages"),
    )
    error = error_of(await front.chat(), 400, "invalid_request_error")
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "messages"
    assert error["message"] == "Too long for this model."
    assert (await front.settled())[0]["state"] == "voided"


@pytest.mark.parametrize("status", [401, 402, 403, 404, 418, 429, 500, 503, 529])
async def test_a_providers_failure_is_502_and_never_the_customers_fault(
    front: Front, status: int
) -> None:
    secret = f"Incorrect key sk-proj-abcdefghijklmnopqrstuv for {front.fake.url}"
    front.fake.script("/chat/completions", error_reply(status, secret, retry_after="7"))
    for stream in (False, True):
        answer = await front.chat(stream=stream)
        error = error_of(answer, 502, "upstream_error")
        assert "sk-proj" not in answer.text
        assert "127.0.0.1" not in answer.text
        if status == 429:
            assert answer.headers["retry-after"] == "7"
            assert "7 s" in error["message"]
    rows = await front.settled(2)
    assert {r["state"] for r in rows} == {"voided"}
    assert front.balance() == 10_000_000_000


async def test_the_receipt_of_a_failure_is_final_when_the_error_is_there(front: Front) -> None:
    front.fake.script("/chat/completions", error_reply(503, "busy"))
    for stream in (False, True):
        answer = await front.chat(stream=stream)
        assert answer.status_code == 502
        (row,) = front.shop.rows(
            f"SELECT state, http_status FROM requests "
            f"WHERE request_id = '{answer.headers['x-request-id']}'"
        )
        assert (row["state"], row["http_status"]) == ("voided", 502)


async def test_refused_bodies_count_too_before_they_are_read_without_end(tmp_path: Path) -> None:
    async with open_front(tmp_path) as front:
        statuses = [(await front.post("/chat/completions", b"{")).status_code for _ in range(202)]
        assert (set(statuses[:200]), statuses[200:]) == ({400}, [429] * 2)  # ten times its calls
        front.fake.script("/chat/completions", json_reply(completion()))
        assert (await front.chat()).status_code == 200  # what was paid for is not touched


async def test_a_long_wait_is_not_worth_retrying(front: Front) -> None:
    front.fake.script("/chat/completions", error_reply(429, "slow", retry_after="3600"))
    answer = await front.chat()
    assert answer.headers["retry-after"] == "3600"
    assert answer.headers["x-should-retry"] == "false"


async def test_a_provider_that_is_not_there_is_502(front: Front) -> None:
    front.shop.execute("UPDATE providers SET base_url = 'http://127.0.0.1:1/v1'")
    error = error_of(await front.chat(), 502, "upstream_error")
    assert "reached" in error["message"]
    assert "127.0.0.1" not in error["message"]


# -- 503 and 504 ---------------------------------------------------------------------------------


async def test_a_server_that_shuts_down_says_503(front: Front) -> None:
    front.run.services.gateway.closing = True
    answer = await front.chat()
    error_of(answer, 503, "overloaded")
    assert answer.headers["retry-after"].isdecimal()


async def test_no_answer_in_time_is_504_void_a_loss_and_not_worth_repeating(front: Front) -> None:
    front.shop.execute("UPDATE routes SET timeout_ms = 100, cost = '{\"input\": 1000000}'")
    slow = json_reply(completion())
    slow.before_s = 3.0
    front.fake.script("/chat/completions", slow)
    for stream in (False, True):
        answer = await front.chat(stream=stream)
        error_of(answer, 504, "upstream_timeout")
        assert answer.headers["x-should-retry"] == "false"
    rows = await front.settled(2)
    assert [r["state"] for r in rows] == ["voided", "voided"]
    assert all(r["loss"] > 0 for r in rows)
    assert front.balance() == 10_000_000_000
