"""What a customer is told when a provider fails, through the whole gateway, for all three kinds."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from tests.support.fake_anthropic import KEY as ANTHROPIC_KEY
from tests.support.providers_say import KINDS, reply, say_error, say_text_then, stream_error
from tests.support.world import CHAT, OPENAI_KEY, World, world

SECRETS = (
    "Ask https://api.openai.com/v1/help or 10.1.2.3:8000 at gpu7.example.internal with "
    f"{OPENAI_KEY} or {ANTHROPIC_KEY} for org-AbCdEf0123456789 in projects/my-project-42 "
    "(request req_011CSHoEeqs5C35K2UUqR7Fy, mail ops@example.com): 'temperature' is wrong"
)
LEAKS = ("api.openai", "10.1.2.3", "gpu7", "sk-", "org-", "my-project", "req_011", "ops@", "fake")


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def providers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    async with world(tmp_path_factory.mktemp("world")) as found:
        yield found


@pytest.fixture
def shop(providers: World) -> World:
    return providers.newcomer()


async def ask(shop: World, kind: str, *, stream: bool = False, **more: Any) -> httpx.Response:
    body = {"model": CHAT[kind], "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    return await shop.post("/chat/completions", body | more)


def told(response: httpx.Response) -> dict[str, Any]:
    """The error of an answer, which has OpenAI's shape and holds nothing of the provider's."""
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"].startswith("req_0")
    text = response.text + str(response.headers)
    text = text.replace(response.headers["x-request-id"], "")
    for leak in (*LEAKS, "127.0.0.1", "set-cookie", "openai-organization", "AIza"):
        assert leak not in text, leak
    return body["error"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_fault_of_the_request_is_a_400_in_the_providers_words(
    shop: World, kind: str, status: int, stream: bool
) -> None:
    """The provider's own message arrives, cleaned of hosts, keys, accounts and request ids."""
    say_error(shop, kind, status, SECRETS)
    response = await ask(shop, kind, stream=stream)
    error = told(response)
    assert (response.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["message"].endswith("'temperature' is wrong")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [401, 402, 403, 404, 408, 409, 429, 500, 502, 503, 504, 529])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_fault_of_the_operator_or_provider_is_a_502(
    shop: World, kind: str, status: int, stream: bool
) -> None:
    """It never looks like the customer's key, credits or model; nothing is charged."""
    say_error(shop, kind, status, SECRETS)
    response = await ask(shop, kind, stream=stream)
    error = told(response)
    assert (response.status_code, error["type"], error["code"]) == (
        502,
        "upstream_error",
        "upstream_error",
    )
    assert ("retry-after" in response.headers) is (status == 429)
    permanent = status in (401, 402, 403, 404)
    assert (response.headers.get("x-should-retry") == "false") is permanent
    await shop.gateway.quiet()
    account = shop.shop.account(shop.account)
    assert (account["held"], account["balance"]) == (0, 10_000_000 * 10**6)


@pytest.mark.parametrize(
    "seconds, retry", [("7", None), ("60", None), ("61", "false"), ("3600", "false")]
)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_rate_limited_provider_says_how_long(
    shop: World, kind: str, seconds: str, retry: str | None
) -> None:
    """Waits over a minute are no use to SDKs that ignore them: those are told not to retry."""
    say_error(shop, kind, 429, "slow down", retry_after=seconds)
    response = await ask(shop, kind)
    assert told(response)["type"] == "upstream_error"
    assert response.headers["retry-after"] == seconds
    assert response.headers.get("x-should-retry") == retry


@pytest.mark.parametrize("body", [b"", b"<html>502 nginx at gpu7</html>", b"null", b"[]"])
@pytest.mark.parametrize("status", [400, 500])
@pytest.mark.parametrize("kind", KINDS)
async def test_an_error_page_is_not_passed_on(
    shop: World, kind: str, status: int, body: bytes
) -> None:
    """Whatever stands in front of a provider answers, the customer gets a sentence."""
    reply(shop, kind, status, body, {"content-type": "text/html"})
    response = await ask(shop, kind)
    assert response.status_code == {400: 400, 500: 502}[status]
    assert len(told(response)["message"]) > 20


@pytest.mark.parametrize("body", [b"", b"<html>OK</html>", b"{}", b"[]", b'{"choices":[]}', b"{"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_nonsense_under_a_200_is_a_502(
    shop: World, kind: str, stream: bool, body: bytes
) -> None:
    """An answer that is none is not sold as one."""
    kinds = {"content-type": "text/event-stream" if stream else "application/json"}
    reply(shop, kind, 200, body, kinds)
    response = await ask(shop, kind, stream=stream)
    assert response.status_code == 502
    assert told(response)["type"] == "upstream_error"


@pytest.mark.parametrize("status, expected", [(400, 400), (429, 502), (503, 502), (529, 502)])
@pytest.mark.parametrize("kind", KINDS)
async def test_an_error_as_first_event_has_its_own_status(
    shop: World, kind: str, status: int, expected: int
) -> None:
    """HTTP 200 from the provider is not HTTP 200 for the customer when an error comes first."""
    event = stream_error(kind, status, SECRETS)
    for lead in (b"", b": comment\n\n", b'event: ping\ndata: {"type":"ping"}\n\n'):
        if b"ping" in lead and kind != "anthropic":
            continue
        reply(shop, kind, 200, lead + event, {"content-type": "text/event-stream"})
        response = await ask(shop, kind, stream=True)
        assert response.status_code == expected
        told(response)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_error_body_under_a_200_is_an_error(shop: World, kind: str) -> None:
    """Unstreamed too (OpenRouter answers so)."""
    body = json.loads(stream_error(kind, 503, SECRETS).partition(b"data: ")[2])
    reply(shop, kind, 200, json.dumps(body).encode())
    response = await ask(shop, kind)
    assert response.status_code == 502
    told(response)


def events_of(response: httpx.Response) -> list[Any]:
    lines = [line for line in response.text.split("\n\n") if line.startswith("data: ")]
    return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize("how", ["error", "truncated"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_stream_that_fails_later_ends_with_an_error_event(
    shop: World, kind: str, how: str, include_usage: bool
) -> None:
    """What came is delivered and charged; then the error, and neither a quiet stop nor [DONE]."""
    say_text_then(shop, kind, stream_error(kind, 503, SECRETS) if how == "error" else b"")
    more = {"stream_options": {"include_usage": True}} if include_usage else {}
    response = await ask(shop, kind, stream=True, **more)
    assert response.status_code == 200
    *chunks, last = events_of(response)
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)
    assert text == "Once upon"
    assert not any(c["choices"][0]["finish_reason"] for c in chunks)
    assert last["error"]["type"] == "upstream_error"
    for leak in LEAKS:
        assert leak not in json.dumps(last)
    await shop.gateway.quiet()
    (row,) = shop.shop.rows(
        "SELECT state, estimated, charge FROM requests WHERE account_id = ?", shop.account
    )
    assert (row["state"], row["estimated"]) == ("settled", 1)
    assert row["charge"] > 0


@pytest.mark.parametrize("kind", KINDS)
async def test_the_sdk_raises_what_it_raises_for_openai(shop: World, kind: str) -> None:
    """Classes, codes and request ids as OpenAI's own client knows them."""
    async with shop.client() as client:
        body: Any = {"model": CHAT[kind], "messages": [{"role": "user", "content": "Hi"}]}
        say_error(shop, kind, 400, "'temperature' is wrong")
        with pytest.raises(openai.BadRequestError, match="'temperature' is wrong") as bad:
            await client.chat.completions.create(**body)
        assert bad.value.request_id
        assert bad.value.request_id.startswith("req_0")
        say_error(shop, kind, 401, "wrong key")
        with pytest.raises(openai.InternalServerError) as failed:
            await client.chat.completions.create(**body)
        assert failed.value.type == "upstream_error"
        say_text_then(shop, kind, stream_error(kind, 503, "Overloaded"))
        stream = await client.chat.completions.create(**body, stream=True)
        with pytest.raises(openai.APIError) as broken:
            async for _ in stream:
                pass
        assert broken.value.type == "upstream_error"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_permanent_failure_is_asked_for_once(shop: World, kind: str) -> None:
    """An SDK with its usual retries does not repeat what cannot succeed, and repeats what may."""
    async with shop.client(max_retries=2) as client:
        body: Any = {"model": CHAT[kind], "messages": [{"role": "user", "content": "Hi"}]}
        say_error(shop, kind, 403, "no")
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(**body)
        say_error(shop, kind, 500, "hiccup")
        assert (await client.chat.completions.create(**body)).choices[0].message.content
