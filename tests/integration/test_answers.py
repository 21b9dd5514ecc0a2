"""What providers answer and what the customer reads, through the whole gateway."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import openai
import pytest
import pytest_asyncio

from tests.support.fake_anthropic import event, events
from tests.support.fake_gemini import JPEG, Scripted
from tests.support.fake_openai import error_reply, json_reply, raw_reply, stream_reply
from tests.support.providers_say import reply
from tests.support.world import CHAT, World, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

KINDS = tuple(CHAT)
ODD = 'a\u2028b\u2029c\u0085d\u200be👩‍👩‍👧 \ufeff\x7f "\\/\t\r\n data: [DONE]\n\nä'
"""Text whose bytes have broken many a splitter of lines."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def providers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    async with world(tmp_path_factory.mktemp("world")) as found:
        yield found


@pytest.fixture
def shop(providers: World) -> World:
    return providers.newcomer()


# --- a provider's answers, each in its own shape


def message(text: str = "", *, usage: Any = None, **more: Any) -> dict[str, Any]:
    """Anthropic's."""
    body = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m"}
    body |= {"content": [{"type": "text", "text": text}], "stop_reason": "end_turn"}
    return body | {"stop_sequence": None, "usage": usage or {}} | more


def candidate(*parts: Any, finish: str | None = "STOP", **more: Any) -> dict[str, Any]:
    """Gemini's."""
    found: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}}
    return {"candidates": [found | ({"finishReason": finish} if finish else {})]} | more


def completion(text: str, **more: Any) -> dict[str, Any]:
    """OpenAI's."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}}
    choice["finish_reason"] = "stop"
    head = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
    return head | {"choices": [choice]} | more


def chunks(text: str, **more: Any) -> list[Any]:
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    deltas = [({"role": "assistant", "content": ""}, None), ({"content": text}, None), ({}, "stop")]
    return [
        head | {"choices": [{"index": 0, "delta": d, "finish_reason": f}]} | more for d, f in deltas
    ]


def says(shop: World, kind: str, text: str, *, stream: bool) -> None:
    """The provider's next answer is ``text``, without usage."""
    if kind == "openai" and stream:
        shop.openai.script_once("/chat/completions", stream_reply(chunks(text)))
    elif kind == "openai":
        shop.openai.script_once("/chat/completions", json_reply(completion(text)))
    elif kind == "anthropic":
        whole = message(text)
        body = events(whole | {"usage": {"output_tokens": None}}) if stream else dumped(whole)
        reply(shop, kind, 200, body)
    else:
        whole = candidate({"text": text})
        body = b"data: " + dumped(whole) + b"\r\n\r\n" if stream else dumped(whole)
        shop.google.script.append(Scripted(200, body))


def dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


async def ask(shop: World, kind: str, *, stream: bool = False, model: str = "", **more: Any) -> Any:
    body = {"model": model or CHAT[kind], "messages": [{"role": "user", "content": "Hi there"}]}
    return await shop.post("/chat/completions", body | {"stream": stream} | more)


def told(response: Any) -> list[Any]:
    """The chunks of a stream that ended well."""
    assert response.status_code == 200, response.text
    found = [part[6:] for part in response.text.split("\n\n") if part.startswith("data: ")]
    assert found.pop() == "[DONE]"
    return [json.loads(part) for part in found]


# --- usage


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_without_usage_carries_the_one_that_is_charged(
    shop: World, kind: str, stream: bool
) -> None:
    """We count for ourselves, tell the client what we counted and mark the receipt."""
    says(shop, kind, "Good morning to you!", stream=stream)
    options = {"stream_options": {"include_usage": True}} if stream else {}
    response = await ask(shop, kind, stream=stream, **options)
    usage = told(response)[-1]["usage"] if stream else response.json()["usage"]
    assert usage["completion_tokens"] == 5  # 20 characters / 4
    assert usage["prompt_tokens"] > 1
    assert usage["total_tokens"] == usage["prompt_tokens"] + 5
    await shop.gateway.quiet()
    (row,) = shop.shop.rows(
        "SELECT estimated, input_tokens, output_tokens FROM requests WHERE account_id = ?",
        shop.account,
    )
    assert row == {"estimated": 1, "input_tokens": usage["prompt_tokens"], "output_tokens": 5}


async def test_embeddings_without_usage_carry_the_one_that_is_charged(shop: World) -> None:
    """Of compatible providers too."""
    data = [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]
    shop.openai.script_once(
        "/embeddings", json_reply({"object": "list", "data": data, "model": "m"})
    )
    body = {"model": "openai/text-embedding-3-small", "input": "x" * 40}
    response = await shop.post("/embeddings", body)
    assert response.json()["usage"] == {"prompt_tokens": 10, "total_tokens": 10}


@pytest.mark.parametrize("stream", [False, True])
async def test_what_a_call_cost_the_operator_is_not_told(shop: World, stream: bool) -> None:
    """OpenRouter and others put their price beside the token counts."""
    usage = {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10, "cost": 0.0123}
    usage |= {"is_byok": False, "cost_details": {"upstream_inference_cost": 0.01}}
    if stream:
        last = chunks("Hi")[0] | {"choices": [], "usage": usage}
        shop.openai.script_once("/chat/completions", stream_reply([*chunks("Hi"), last]))
    else:
        shop.openai.script_once("/chat/completions", json_reply(completion("Hi", usage=usage)))
    options = {"stream_options": {"include_usage": True}} if stream else {}
    response = await ask(shop, "openai", stream=stream, **options)
    found = told(response)[-1]["usage"] if stream else response.json()["usage"]
    assert found == {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
    await shop.gateway.quiet()
    sql = "SELECT usage_raw FROM requests WHERE account_id = ?"
    assert "0.0123" in shop.shop.value(sql, shop.account)


# --- text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_odd_text_arrives_as_it_was_written(shop: World, kind: str, stream: bool) -> None:
    """Separators that are no line ends, emoji of many parts, controls, and our own end mark."""
    says(shop, kind, ODD, stream=stream)
    async with shop.client() as client:
        body: Any = {"model": CHAT[kind], "messages": [{"role": "user", "content": ODD}]}
        if stream:
            got = await client.chat.completions.create(**body, stream=True)
            text = "".join([c.choices[0].delta.content or "" async for c in got if c.choices])
        else:
            text = (await client.chat.completions.create(**body)).choices[0].message.content or ""
    assert text == ODD
    assert ODD in json.dumps(shop.last(kind), ensure_ascii=False).replace(
        json.dumps(ODD, ensure_ascii=False)[1:-1], ODD
    )


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
async def test_a_stream_in_pieces_of_one_byte_is_the_same_stream(shop: World, kind: str) -> None:
    """With CRLF, comments and events of several data lines between."""
    noise = b": hello\r\n\r\n"
    if kind == "openai":
        first, *rest = chunks(ODD)
        split = dumped(first).replace(b', "object"', b'\r\ndata: , "object"', 1)
        body = b"data: " + split + b"\r\n\r\n" + noise
        body += b"".join(b"data:" + dumped(chunk) + b"\r\n\r\n" for chunk in rest)
        body += b"data: [DONE]\r\n\r\n"
        pieces = [body[k : k + 1] for k in range(len(body))]
        shop.openai.script_once("/chat/completions", raw_reply(*pieces))
    else:
        usage = {"input_tokens": 5, "output_tokens": 7}
        body = events(message(ODD, usage=usage)).replace(b"\n", b"\r\n") + noise
        head = b"HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\n\r\n"
        shop.anthropic.script.append([head, *(body[k : k + 1] for k in range(len(body)))])
    found = told(await ask(shop, kind, stream=True))
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in found) == ODD


# --- how an answer ends


ENDINGS = [
    ("anthropic", "end_turn", "stop"),
    ("anthropic", "stop_sequence", "stop"),
    ("anthropic", "pause_turn", "stop"),
    ("anthropic", "max_tokens", "length"),
    ("anthropic", "model_context_window_exceeded", "length"),
    ("anthropic", "refusal", "content_filter"),
    ("anthropic", "compaction", "stop"),
    ("gemini", "STOP", "stop"),
    ("gemini", "MAX_TOKENS", "length"),
    ("gemini", "CONTINUATION", "length"),
    ("gemini", "SAFETY", "content_filter"),
    ("gemini", "RECITATION", "content_filter"),
    ("gemini", "MODEL_ARMOR", "content_filter"),
    ("gemini", "OTHER", "content_filter"),
    ("gemini", "SOMETHING_NEW", "stop"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind, theirs, ours", ENDINGS)
async def test_each_ending_has_openais_word(
    shop: World, kind: str, theirs: str, ours: str, stream: bool
) -> None:
    """Also endings nobody knows yet; the usage is charged whatever the answer holds."""
    if kind == "anthropic":
        usage = {"input_tokens": 5, "output_tokens": 7}
        whole = message("Well", usage=usage, stop_reason=theirs)
        whole["content"].append({"type": "brand_new_block", "data": "?"})
        reply(shop, kind, 200, events(whole) if stream else dumped(whole))
    else:
        counts = {"promptTokenCount": 5, "candidatesTokenCount": 7, "totalTokenCount": 12}
        parts = [{"text": "Well"}, {"brandNewPart": {}}]
        whole = candidate(*parts, finish=theirs, usageMetadata=counts)
        body = b"data: " + dumped(whole) + b"\n\n" if stream else dumped(whole)
        reply(shop, kind, 200, body)
    response = await ask(shop, kind, stream=stream)
    choice = told(response)[-1]["choices"][0] if stream else response.json()["choices"][0]
    assert choice["finish_reason"] == ours
    if not stream:
        assert choice["message"]["content"] == "Well"
    await shop.gateway.quiet()
    sql = "SELECT output_tokens FROM requests WHERE account_id = ?"
    assert shop.shop.value(sql, shop.account) == 7


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "finish", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "MISSING_THOUGHT_SIGNATURE"]
)
async def test_an_answer_that_is_none_is_an_error(shop: World, finish: str, stream: bool) -> None:
    """Gemini ends so when what the model wrote cannot be used."""
    whole = candidate(finish=finish)
    reply(shop, "gemini", 200, b"data: " + dumped(whole) + b"\n\n" if stream else dumped(whole))
    response = await ask(shop, "gemini", stream=stream)
    assert (response.status_code, response.json()["error"]["type"]) == (502, "upstream_error")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_blocked_prompt_is_an_empty_filtered_answer(shop: World, stream: bool) -> None:
    """HTTP 200, null content; the prompt counts."""
    counts = {"promptTokenCount": 5, "totalTokenCount": 5}
    whole = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": counts}
    reply(shop, "gemini", 200, b"data: " + dumped(whole) + b"\n\n" if stream else dumped(whole))
    response = await ask(shop, "gemini", stream=stream)
    choice = told(response)[-1]["choices"][0] if stream else response.json()["choices"][0]
    assert choice["finish_reason"] == "content_filter"
    if not stream:
        assert choice["message"]["content"] is None
        assert response.json()["usage"]["prompt_tokens"] == 5


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_without_arguments_has_an_empty_object(shop: World, stream: bool) -> None:
    """ "{}" and never "": clients parse it."""
    block = {"type": "tool_use", "id": "toolu_1", "name": "now", "input": {}}
    usage = {"input_tokens": 5, "output_tokens": 7}
    whole = message(usage=usage, content=[block], stop_reason="tool_use")
    reply(shop, "anthropic", 200, events(whole) if stream else dumped(whole))
    part = {"functionCall": {"name": "now"}}
    google = candidate(part)
    body = b"data: " + dumped(google) + b"\n\n" if stream else dumped(google)
    reply(shop, "gemini", 200, body)
    tools = [{"type": "function", "function": {"name": "now"}}]
    for kind in ("anthropic", "gemini"):
        response = await ask(shop, kind, stream=stream, tools=tools)
        if stream:
            deltas = [c["choices"][0]["delta"] for c in told(response)]
            calls = [call for d in deltas for call in d.get("tool_calls", ())]
            arguments = "".join(call["function"].get("arguments", "") for call in calls)
        else:
            choice = response.json()["choices"][0]
            assert choice["message"]["content"] is None
            (call,) = choice["message"]["tool_calls"]
            assert call["id"]
            arguments = call["function"]["arguments"]
        assert arguments == "{}"


@pytest.mark.parametrize("stream", [False, True])
async def test_thinking_never_mixes_with_the_answer(shop: World, stream: bool) -> None:
    """Thoughts are reasoning_content, an answer eaten up by them is empty and cut."""
    counts = {"promptTokenCount": 5, "thoughtsTokenCount": 9, "totalTokenCount": 14}
    google = candidate({"text": "Hm", "thought": True}, finish="MAX_TOKENS", usageMetadata=counts)
    reply(shop, "gemini", 200, b"data: " + dumped(google) + b"\n\n" if stream else dumped(google))
    content = [{"type": "thinking", "thinking": "Hm", "signature": "sig"}]
    usage = {"input_tokens": 5, "output_tokens": 9}
    claude = message(content=content, usage=usage, stop_reason="max_tokens")
    reply(shop, "anthropic", 200, events(claude) if stream else dumped(claude))
    for kind in ("gemini", "anthropic"):
        response = await ask(shop, kind, stream=stream)
        if stream:
            found = told(response)
            deltas = [c["choices"][0]["delta"] for c in found]
            assert "".join(d.get("reasoning_content") or "" for d in deltas) == "Hm"
            assert not any(d.get("content") for d in deltas)
            assert found[-1]["choices"][0]["finish_reason"] == "length"
        else:
            body = response.json()
            assert body["choices"][0]["message"]["reasoning_content"] == "Hm"
            assert not body["choices"][0]["message"]["content"]
            assert body["choices"][0]["finish_reason"] == "length"
            assert body["usage"]["completion_tokens"] == 9


async def test_a_long_answer_is_streamed_upstream_and_gathered(shop: World) -> None:
    """Anthropic refuses long unstreamed calls; the client still gets one document."""
    model = "anthropic/claude-haiku-4.5"
    response = await ask(shop, "anthropic", model=model, max_tokens=40_000)
    assert shop.anthropic.requests[-1]["stream"] is True
    body = response.json()
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["content"] == "You said: Hi there"
    assert body["usage"]["total_tokens"] == 25


async def test_cache_tokens_are_told_as_openai_tells_them(shop: World) -> None:
    """The prompt is the sum; cached and written tokens are subsets."""
    usage = {"input_tokens": 100, "cache_read_input_tokens": 300, "output_tokens": 62}
    usage |= {"cache_creation_input_tokens": 30}
    reply(shop, "anthropic", 200, dumped(message("Hi", usage=usage)))
    found = (await ask(shop, "anthropic")).json()["usage"]
    assert (found["prompt_tokens"], found["total_tokens"]) == (430, 492)
    details = found["prompt_tokens_details"]
    assert (details["cached_tokens"], details["cache_write_tokens"]) == (300, 30)


async def test_an_overload_after_the_start_is_an_event(shop: World) -> None:
    """Under HTTP 200, behind message_start: the role has left, so the status cannot change."""
    start = events(message("x", usage={"input_tokens": 1, "output_tokens": 1}))
    start = start[: start.index(b"event: content_block_start")]
    error = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    reply(shop, "anthropic", 200, start + error, {"content-type": "text/event-stream"})
    response = await ask(shop, "anthropic", stream=True)
    assert response.status_code == 200
    assert "[DONE]" not in response.text
    assert '"upstream_error"' in response.text


# --- embeddings


def floats(text: str) -> list[float]:
    raw = base64.b64decode(text)
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))


async def test_a_provider_that_knows_no_base64_is_packed_for(shop: World) -> None:
    """Many compatible ones answer numbers whatever is asked; old JS SDKs then read nothing."""
    data = [{"object": "embedding", "index": i, "embedding": [0.5, float(i)]} for i in (1, 0)]
    answer = {"object": "list", "data": data, "usage": {"prompt_tokens": 2, "total_tokens": 2}}
    shop.openai.script_once("/embeddings", json_reply(answer))
    body = {"model": "openai/text-embedding-3-small", "input": ["a", "b"]}
    response = await shop.post("/embeddings", body | {"encoding_format": "base64"})
    found = response.json()
    assert found["model"] == "openai/text-embedding-3-small"
    assert [floats(item["embedding"]) for item in found["data"]] == [[0.5, 0.0], [0.5, 1.0]]


async def test_one_failing_batch_fails_all_embeddings(shop: World) -> None:
    """Vectors are never delivered with holes, and nothing is charged."""
    shop.google.script.append(Scripted(500, b"{}"))
    body = {"model": "google/gemini-embedding-001", "input": ["x"] * 350}
    response = await shop.post("/embeddings", body)
    assert (response.status_code, response.json()["error"]["type"]) == (502, "upstream_error")
    await shop.gateway.quiet()
    assert shop.shop.account(shop.account)["balance"] == 10_000_000 * 10**6


async def test_many_inputs_go_in_calls_of_a_hundred(shop: World) -> None:
    """As many as Google takes, in order."""
    body = {"model": "google/gemini-embedding-001", "input": ["x"] * 250, "dimensions": 64}
    response = await shop.post("/embeddings", body)
    assert len(response.json()["data"]) == 250
    assert sorted(len(sent["requests"]) for _, sent in shop.google.requests) == [50, 100, 100]


# --- images


async def draw(shop: World, model: str, n: int = 1, **more: Any) -> Any:
    body = {"model": model, "prompt": "A cat", "n": n, "size": "1024x1024"}
    return await shop.post("/images/generations", body | more)


GEMINI_IMAGE = "google/gemini-3.1-flash-image"
IMAGEN = "google/imagen-4.0-generate-001"


async def test_response_format_never_reaches_a_gpt_image_model(shop: World) -> None:
    """OpenAI refuses it there."""
    response = await draw(shop, "openai/gpt-image-2", response_format="b64_json")
    assert response.status_code == 200
    assert "response_format" not in shop.openai.requests[-1].body


def picture(usage: Any = None) -> Scripted:
    part = {"inlineData": {"mimeType": "image/jpeg", "data": JPEG}}
    return Scripted(200, dumped(candidate(part) | ({"usageMetadata": usage} if usage else {})))


USAGE = {
    "promptTokenCount": 10,
    "candidatesTokenCount": 1_000,
    "totalTokenCount": 1_010,
    "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1_000}],
}
ONE = 10 * 50_000 + 1_000 * 6_000_000
"""Microcredits: ten prompt tokens at $0.50 and a thousand image tokens at $60 a million."""


@pytest.mark.parametrize(
    "replies, delivered, charged, estimated",
    [
        ([picture(USAGE)] * 3, 3, 3 * ONE, 0),
        ([picture(USAGE), Scripted(500, b"{}"), picture(USAGE)], 2, 2 * ONE, 0),
        ([picture(USAGE), picture(), picture(USAGE)], 3, 3 * ONE, 1),
        ([picture(USAGE), Scripted(200, b"<html>"), Scripted(429, b"{}")], 1, ONE, 0),
    ],
)
async def test_of_parallel_drawings_those_delivered_are_charged(
    shop: World, replies: Any, delivered: int, charged: int, estimated: int
) -> None:
    """k of n; a drawing whose usage was not told counts as the others."""
    shop.google.script.extend(replies)
    response = await draw(shop, GEMINI_IMAGE, 3)
    assert len(response.json()["data"]) == delivered
    await shop.gateway.quiet()
    (row,) = shop.shop.rows(
        "SELECT charge, images, estimated FROM requests WHERE account_id = ?", shop.account
    )
    assert row == {"charge": charged, "images": delivered, "estimated": estimated}


@pytest.mark.parametrize("model", [GEMINI_IMAGE, IMAGEN])
async def test_a_filtered_drawing_is_a_400_with_openais_code(shop: World, model: str) -> None:
    """Nothing is delivered, nothing charged."""
    response = await draw(shop, model, prompt="something forbidden")
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "content_policy_violation"
    assert shop.shop.account(shop.account)["balance"] == 10_000_000 * 10**6


async def test_some_of_several_predictions_may_be_filtered(shop: World) -> None:
    """Data is then shorter than n, and so is the charge."""
    one = {"mimeType": "image/png", "bytesBase64Encoded": "iVBORw0KGgo="}
    body = {"predictions": [one, {"raiFilteredReason": "no"}]}
    shop.google.script.append(Scripted(200, dumped(body)))
    response = await draw(shop, IMAGEN, 2)
    assert response.json()["data"] == [{"b64_json": "iVBORw0KGgo="}]
    assert response.headers["x-sellapi-credits-charged"] == "0.4"


async def test_a_refused_prompt_of_openais_keeps_its_code(shop: World) -> None:
    """On a 400 from a provider its own code and param are kept."""
    refusal = error_reply(400, "Your request was rejected.", "moderation_blocked", "prompt")
    shop.openai.script_once("/images/generations", refusal)
    async with shop.client() as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.images.generate(model="openai/gpt-image-2", prompt="A cat")
    assert (caught.value.code, caught.value.param) == ("moderation_blocked", "prompt")


# --- another provider's turn


@pytest.fixture(scope="module")
def mixed(providers: World) -> str:
    """A model that Claude answers, and Gemini when Claude cannot."""
    ids = {row["name"]: row["id"] for row in providers.shop.rows("SELECT id, name FROM providers")}
    model = providers.shop.model("mixed/one", ids["anthropic"], upstream="claude-sonnet-4-6")
    providers.shop.route(model, ids["google"], "gemini-3.1-flash-lite", priority=1)
    return "mixed/one"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_provider_of_another_kind_takes_over(shop: World, mixed: str, stream: bool) -> None:
    """The same request, said again in the other one's words."""
    shop.gateway.services.router._health.clear()
    whole = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    reply(shop, "anthropic", 529, dumped(whole))
    response = await ask(shop, "anthropic", model=mixed, stream=stream)
    assert response.status_code == 200, response.text
    assert response.headers["x-sellapi-route"] == "google:gemini-3.1-flash-lite"
    found = told(response) if stream else [response.json()]
    assert {chunk["model"] for chunk in found} == {mixed}


async def test_what_one_provider_cannot_do_another_may(shop: World, mixed: str) -> None:
    """Several choices: not from Claude, but from Gemini."""
    shop.gateway.services.router._health.clear()
    response = await ask(shop, "anthropic", model=mixed, n=2)
    assert response.status_code == 200, response.text
    assert len(response.json()["choices"]) == 2
    assert not shop.anthropic.requests
