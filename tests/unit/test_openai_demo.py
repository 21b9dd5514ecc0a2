"""The demo provider, reached as the gateway reaches it: adapter, call, reply, decoder."""

import asyncio
import base64
import json
import math
import struct
import time
import zlib

import openai
import pytest
from openai.types import CreateEmbeddingResponse, ImagesResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from sellapi.upstream.client import Call
from sellapi.upstream.demo import BASE_URL, DemoEngine, answer
from sellapi.upstream.openai import OpenAIAdapter
from tests.support.fake_openai import CUT, FakeOpenAI, error_reply, raw_reply, stream_reply
from tests.support.openai_job import openai_job

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get current weather for a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "City name"}},
            "required": ["city"],
        },
    },
}
ASKED = {"role": "user", "content": "What's the weather in Berlin?"}


async def whole(mode="chat", upstream_id="gpt-5.4", **body):
    adapter = OpenAIAdapter()
    more = {"output_limit": body["max_tokens"]} if "max_tokens" in body else {}
    job = openai_job(mode, upstream_id, body=body, n=body.get("n", 1), **more)
    out = adapter.encode(job)
    call = Call(BASE_URL + out.path, adapter.headers(None), out.body)
    async with DemoEngine().open(call) as reply:
        assert reply.status == 200
        return adapter.decode(job, [await reply.read(10**7)])


async def chat(**body):
    found = await whole(**body)
    return ChatCompletion.model_validate_json(found.body, strict=False), found


async def test_the_answer_depends_on_the_last_user_message_and_on_nothing_else():
    body, found = await chat(messages=[{"role": "system", "content": "Be kind"}, ASKED])
    again, _ = await chat(messages=[{"role": "system", "content": "Be kind"}, ASKED])
    assert "weather in Berlin" in body.choices[0].message.content
    assert body.choices == again.choices
    assert body.model == "openai/gpt-5.4"
    assert found.usage.input > 0
    assert found.usage.output == body.usage.completion_tokens > 0


async def test_a_stream_says_the_same_as_a_whole_answer_and_takes_time():
    adapter, engine = OpenAIAdapter(), DemoEngine()
    job = openai_job(stream=True, include_usage=True)
    out = adapter.encode(job)
    decoder = adapter.decoder(job)
    pieces, started = [], time.monotonic()
    async with engine.open(Call(BASE_URL + out.path, {}, out.body)) as reply:
        while (data := await reply.chunk()) is not None:
            pieces.append(decoder.feed(data))
    pieces.append(decoder.end())
    assert time.monotonic() - started > 0.02
    chunks = [ChatCompletionChunk.model_validate_json(p[6:]) for p in pieces if p]
    text = "".join(c.choices[0].delta.content or "" for c in chunks)
    body, found = await chat()
    assert text == body.choices[0].message.content
    assert decoder.usage == found.usage
    assert len(chunks) > 5


async def test_the_weather_example_of_the_api_document_works_in_both_steps():
    for choice in ("auto", "required", {"type": "function", "function": {"name": "get_weather"}}):
        body, _ = await chat(messages=[ASKED], tools=[WEATHER], tool_choice=choice)
        (call,) = body.choices[0].message.tool_calls
        assert (call.function.name, call.function.arguments) == ("get_weather", '{"city":"Berlin"}')
        assert body.choices[0].finish_reason == "tool_calls"
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"temp":9,"sky":"grey"}'}
    said = body.choices[0].message.model_dump()
    follow, _ = await chat(messages=[ASKED, said, result], tools=[WEATHER])
    assert "temp 9, sky grey" in follow.choices[0].message.content
    none, _ = await chat(messages=[ASKED], tools=[WEATHER], tool_choice="none")
    assert none.choices[0].message.tool_calls is None


async def test_several_places_are_several_calls_unless_that_is_forbidden():
    ask = {"role": "user", "content": "Compare the weather in Berlin and New York"}
    body, _ = await chat(messages=[ask], tools=[WEATHER])
    calls = body.choices[0].message.tool_calls
    assert [json.loads(c.function.arguments)["city"] for c in calls] == ["Berlin", "New York"]
    assert len({c.id for c in calls}) == 2
    body, _ = await chat(messages=[ask], tools=[WEATHER], parallel_tool_calls=False)
    assert len(body.choices[0].message.tool_calls) == 1


async def test_limits_stops_choices_and_logprobs_are_respected():
    body, found = await chat(max_tokens=3)
    assert body.choices[0].finish_reason == "length"
    assert found.usage.output == 3
    body, _ = await chat(stop=["demo"])
    assert body.choices[0].message.content == "Hello from the "
    body, _ = await chat(n=3)
    assert [c.index for c in body.choices] == [0, 1, 2]
    assert len({c.message.content for c in body.choices}) == 3
    body, _ = await chat(logprobs=True, top_logprobs=2)
    tokens = body.choices[0].logprobs.content
    assert "".join(t.token for t in tokens) == body.choices[0].message.content
    assert all(len(t.top_logprobs) == 2 for t in tokens)


async def test_structured_answers_are_valid_for_their_schema():
    schema = {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "mood": {"enum": ["bad", "good"]},
            "days": {"type": "array", "items": {"$ref": "#/$defs/day"}, "minItems": 2},
        },
        "required": ["city", "mood", "days"],
        "$defs": {"day": {"anyOf": [{"type": "null"}, {"type": "integer", "maximum": 5}]}},
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    body, _ = await chat(messages=[ASKED], response_format=wanted)
    value = json.loads(body.choices[0].message.content)
    assert value == {"city": "Berlin", "mood": "bad", "days": [1, 1]}
    body, _ = await chat(messages=[ASKED], response_format={"type": "json_object"})
    assert json.loads(body.choices[0].message.content)


async def test_pictures_in_a_message_are_seen_and_counted():
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QQ=="}}
    text = {"type": "text", "text": "What is it?"}
    _, plain = await chat(messages=[{"role": "user", "content": [text]}])
    body, seen = await chat(messages=[{"role": "user", "content": [text, part]}])
    assert "[image_url]" in body.choices[0].message.content
    assert seen.usage.input > plain.usage.input + 50


async def test_vectors_are_of_length_one_and_the_same_in_both_encodings():
    floats = await whole("embedding", "text-embedding-3-small", input=["a", "b"])
    packed = await whole("embedding", "m", input=["a", "b"], encoding_format="base64")
    body = CreateEmbeddingResponse.model_validate_json(floats.body)
    first, second = (item.embedding for item in body.data)
    assert len(first) == 1536
    assert math.isclose(math.hypot(*first), 1.0, rel_tol=1e-4)
    assert first != second
    raw = base64.b64decode(json.loads(packed.body)["data"][0]["embedding"])
    assert struct.unpack("<1536f", raw) == pytest.approx(first, abs=1e-6)
    short = await whole("embedding", "m", input=[1, 2, 3], dimensions=8)
    assert len(json.loads(short.body)["data"][0]["embedding"]) == 8
    assert short.usage.input == 3


async def test_pictures_are_real_and_depend_on_the_prompt():
    found = await whole("image", "imagen", prompt="A sunset over the ocean", n=2, size="64x32")
    body = ImagesResponse.model_validate_json(found.body)
    pictures = [base64.b64decode(item.b64_json) for item in body.data]
    assert (found.images, found.usage.images, len(set(pictures))) == (2, 2, 2)
    raw = pictures[0]
    assert raw.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", raw[16:24]) == (64, 32)
    size = struct.unpack(">I", raw[33:37])[0]
    assert raw[37:41] == b"IDAT"
    assert len(zlib.decompress(raw[41 : 41 + size])) == 32 * (1 + 3 * 64)
    again = await whole("image", "imagen", prompt="A sunset over the ocean", n=2, size="64x32")
    assert json.loads(again.body)["data"] == json.loads(found.body)["data"]


@pytest.mark.parametrize(
    "path, body, status",
    [
        ("/chat/completions", b"[]", 400),
        ("/chat/completions", b"{}", 400),
        ("/chat/completions", b'{"messages":[7]}', 400),
        ("/chat/completions", b'{"messages":[{"content":7}],"n":"x"}', 400),
        ("/embeddings", b'{"input":""}', 400),
        ("/images/generations", b"{}", 400),
        ("/audio", b"{}", 404),
    ],
)
def test_nonsense_is_refused_in_openais_shape(path, body, status):
    got, _, pieces = answer(path, body)
    assert got == status
    assert json.loads(pieces[0])["error"]["type"] == "invalid_request_error"


# --- the stand-in for tests


async def test_the_stand_in_answers_the_official_sdk_and_checks_what_it_gets():
    async with FakeOpenAI() as fake:
        client = openai.AsyncOpenAI(base_url=fake.url, api_key="k", max_retries=0)
        stream = await client.chat.completions.create(model="m", messages=[ASKED], stream=True)
        assert "Berlin" in "".join([c.choices[0].delta.content or "" async for c in stream])
        assert (await client.embeddings.create(model="m", input="a")).data
        assert (await client.images.generate(model="m", prompt="a")).data
        assert fake.problems == []
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(model="m", messages=[{"role": "user"}])
        assert fake.problems
        assert fake.requests[0].headers["authorization"] == "Bearer k"
        await client.close()


async def test_the_stand_in_misbehaves_as_told():
    async with FakeOpenAI() as fake:
        client = openai.AsyncOpenAI(base_url=fake.url, api_key="k", max_retries=0)
        ask = {"model": "m", "messages": [ASKED]}
        fake.script_once("/chat/completions", error_reply(429, "slow", retry_after="3"))
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(**ask)
        assert caught.value.response.headers["retry-after"] == "3"
        fake.script("/chat/completions", raw_reply(b"data: {}\n\n", CUT))
        with pytest.raises(openai.APIError):
            async for _ in await client.chat.completions.create(**ask, stream=True):
                pass
        fake.script("/chat/completions", stream_reply([{"choices": []}] * 9, pause_s=5))
        stream = await client.chat.completions.create(**ask, stream=True)
        await anext(stream.__aiter__())
        await stream.close()
        await client.close()
        deadline = time.monotonic() + 2
        while not fake.aborted and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert fake.aborted == 1
