"""OpenAI's Python SDK, every helper of it, against each kind of provider behind the gateway."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
import pytest_asyncio
from pydantic import BaseModel

from tests.support.fake_openai import stream_reply
from tests.support.world import CHAT, World, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

KINDS = tuple(CHAT)
ASK = [
    {
        "role": "user",
        "content": "Please call all: call get_weather and call get_time, in Berlin and Paris.",
    }
]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "description": name, "parameters": CITY}}
    for name in ("get_weather", "get_time")
]
PNG = "data:image/png;base64,iVBORw0KGgo="


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def providers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    async with world(tmp_path_factory.mktemp("world")) as found:
        yield found
        assert found.complaints() == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(providers: World) -> Any:
    async with providers.client() as found:
        yield found


async def whole(client: Any, **body: Any) -> Any:
    return await client.chat.completions.create(**body)


async def streamed(client: Any, **body: Any) -> Any:
    options = {"stream_options": {"include_usage": True}}
    async with client.chat.completions.stream(**body, **options) as events:
        async for _ in events:
            pass
        final = await events.get_final_completion()
    assert final.usage.total_tokens > 0
    return final


def unmodified(message: Any) -> Any:
    return message


def dumped(message: Any) -> Any:
    return message.model_dump()


def bare(message: Any) -> Any:
    """What a client keeps that knows the documented fields only."""
    dump = message.model_dump()
    calls = [
        {
            "id": call["id"],
            "type": "function",
            "function": {k: call["function"][k] for k in ("name", "arguments")},
        }
        for call in dump["tool_calls"]
    ]
    return {"role": "assistant", "content": dump["content"], "tool_calls": calls}


@pytest.mark.parametrize("effort", [None, "medium"])
@pytest.mark.parametrize("back", [unmodified, dumped, bare])
@pytest.mark.parametrize("ask", [whole, streamed])
@pytest.mark.parametrize("kind", [*KINDS, "budget", "always"])
async def test_parallel_tools_in_two_steps(
    client: Any, kind: str, ask: Any, back: Any, effort: str | None
) -> None:
    """Calls come out well-formed, their results go back in any order, thinking survives the trip."""
    models = CHAT | {"budget": "anthropic/claude-haiku-4.5", "always": "anthropic/claude-opus-5.5"}
    body = {"model": models[kind], "tools": TOOLS}
    body |= {"reasoning_effort": effort} if effort else {}
    first = (await ask(client, messages=ASK, **body)).choices[0]
    assert first.finish_reason == "tool_calls"
    calls = first.message.tool_calls
    assert len({call.id for call in calls}) == len(calls) >= 2
    assert all(isinstance(json.loads(call.function.arguments), dict) for call in calls)
    if effort and kind != "openai":
        assert first.message.reasoning_content == "Let me think."
    results = [{"role": "tool", "tool_call_id": c.id, "content": '{"degrees":9}'} for c in calls]
    messages = [*ASK, back(first.message), *reversed(results)]
    second = (await ask(client, messages=messages, **body)).choices[0]
    assert second.finish_reason == "stop"
    assert second.message.content


@pytest.mark.parametrize("kind", KINDS)
async def test_the_chunks_of_a_stream_follow_openais_grammar(client: Any, kind: str) -> None:
    """Role once and first, then text or calls, then the finish, then usage, one id all along."""
    for more in ({}, {"tools": TOOLS}):
        stream = await client.chat.completions.create(
            model=CHAT[kind],
            messages=ASK,
            stream=True,
            stream_options={"include_usage": True},
            **more,
        )
        chunks = [chunk async for chunk in stream]
        assert len({(c.id, c.created, c.model, c.object) for c in chunks}) == 1
        *inner, last = chunks
        assert (last.choices, last.model) == ([], CHAT[kind])
        assert last.usage.total_tokens == last.usage.prompt_tokens + last.usage.completion_tokens
        assert last.sellapi["request_id"].startswith("req_")
        assert all(chunk.usage is None and len(chunk.choices) == 1 for chunk in inner)
        deltas = [chunk.choices[0].delta for chunk in inner]
        assert [d.role for d in deltas] == ["assistant"] + [None] * (len(deltas) - 1)
        finishes = [chunk.choices[0].finish_reason for chunk in inner]
        assert finishes[:-1] == [None] * (len(inner) - 1)
        assert finishes[-1] == ("tool_calls" if more else "stop")
        check_calls([call for d in deltas for call in d.tool_calls or ()], expected=bool(more))


def check_calls(pieces: list[Any], *, expected: bool) -> None:
    """Dense indexes, one call after the other, id and name in a call's first piece only."""
    assert bool(pieces) is expected
    indexes = [piece.index for piece in pieces]
    assert indexes == sorted(indexes)
    assert set(indexes) == set(range(len(set(indexes))))
    for index in set(indexes):
        first, *rest = [piece for piece in pieces if piece.index == index]
        assert first.id
        assert first.function.name
        assert first.type == "function"
        assert not any(piece.id or piece.function.name for piece in rest)
        json.loads("".join(p.function.arguments or "" for p in [first, *rest]))


@pytest.mark.parametrize("ask", [whole, streamed])
@pytest.mark.parametrize("kind", ["anthropic", "gemini"])
async def test_the_deprecated_functions_are_answered_in_their_own_way(
    client: Any, kind: str, ask: Any
) -> None:
    """function_call instead of tool_calls, its result under the role function."""
    functions = [tool["function"] for tool in TOOLS]
    body = {"model": CHAT[kind], "functions": functions, "function_call": "auto"}
    first = (await ask(client, messages=ASK, **body)).choices[0]
    assert first.finish_reason == "function_call"
    assert not first.message.tool_calls
    called = first.message.function_call
    assert (called.name, isinstance(json.loads(called.arguments), dict)) == ("get_weather", True)
    result = {"role": "function", "name": called.name, "content": "9"}
    second = (await ask(client, messages=[*ASK, first.message, result], **body)).choices[0]
    assert (second.finish_reason, bool(second.message.content)) == ("stop", True)


class Answer(BaseModel):
    answer: str


@pytest.mark.parametrize("kind", KINDS)
async def test_structured_answers_are_parsed(client: Any, kind: str) -> None:
    """A pydantic class as response_format comes back as its instance, streamed too."""
    body: Any = {"model": CHAT[kind], "messages": [{"role": "user", "content": "4"}]}
    done = await client.chat.completions.parse(**body, response_format=Answer)
    assert done.choices[0].message.parsed == Answer(answer="4")
    async with client.chat.completions.stream(**body, response_format=Answer) as events:
        final = await events.get_final_completion()
    assert final.choices[0].message.parsed == Answer(answer="4")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_an_image_in_a_prompt_arrives(
    providers: World, client: Any, kind: str, stream: bool
) -> None:
    """As inline data in the provider's own words."""
    part = {"type": "image_url", "image_url": {"url": PNG, "detail": "high"}}
    content = [{"type": "text", "text": "What is it?"}, part]
    reply = await client.chat.completions.create(
        model=CHAT[kind], messages=[{"role": "user", "content": content}], stream=stream
    )
    if stream:
        assert [chunk async for chunk in reply]
    assert PNG.partition(",")[2] in json.dumps(providers.last(kind))


@pytest.mark.parametrize("kind", KINDS)
async def test_request_ids_and_credits_are_in_the_headers(client: Any, kind: str) -> None:
    """What support asks for, and what the seed document promises."""
    raw = await client.chat.completions.with_raw_response.create(
        model=CHAT[kind], messages=[{"role": "user", "content": "Hi"}]
    )
    parsed = raw.parse()
    assert parsed._request_id == raw.headers["x-request-id"]
    assert float(raw.headers["x-sellapi-credits-charged"]) > 0
    for name in ("request-id", "openai-organization", "set-cookie", "server"):
        assert name not in raw.headers


@pytest.mark.parametrize(
    "model, count",
    [
        ("openai/text-embedding-3-small", 3),
        ("google/gemini-embedding-001", 1),
        ("google/gemini-embedding-001", 250),
    ],
)
async def test_embeddings_keep_their_order(client: Any, model: str, count: int) -> None:
    """However many inputs there are, and however many calls they take."""
    texts = ["x" * (1 + k % 7 + k // 100) for k in range(count)]
    done = await client.embeddings.create(model=model, input=texts)
    floats = await client.embeddings.create(model=model, input=texts, encoding_format="float")
    assert [item.index for item in done.data] == list(range(count))
    for text, packed, plain in zip(texts, done.data, floats.data, strict=True):
        assert packed.embedding == pytest.approx(plain.embedding, abs=1e-6)
        if model.startswith("google"):
            assert packed.embedding[1] == len(text)
    assert done.usage.prompt_tokens > 0


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(
    "model",
    ["openai/gpt-image-2", "google/gemini-3.1-flash-image", "google/imagen-4.0-generate-001"],
)
async def test_images_come_as_base64(client: Any, model: str, n: int) -> None:
    """Also where the provider draws one at a time."""
    done = await client.images.generate(model=model, prompt="A cat", n=n, size="1024x1024")
    assert len(done.data) == n
    assert all(item.b64_json and item.url is None for item in done.data)


async def test_models_with_a_slash_are_found(client: Any) -> None:
    """The SDK quotes the slash."""
    one = await client.models.retrieve("anthropic/claude-sonnet-4.6")
    assert one.id == "anthropic/claude-sonnet-4.6"
    assert one.id in [model.id async for model in client.models.list()]


async def test_each_refusal_has_its_class(providers: World, client: Any) -> None:
    """The classes and codes people catch."""
    body: Any = {"model": "anthropic/claude-sonnet-4.6", "messages": ASK}
    with pytest.raises(openai.AuthenticationError) as caught:
        await client.with_options(api_key="sk-sellapi-no").chat.completions.create(**body)
    assert (caught.value.code, caught.value.type) == ("invalid_api_key", "invalid_api_key")
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(**body | {"model": "no/such"})
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        await client.chat.completions.create(**body, n=2)
    assert wrong.value.param == "n"
    poor = providers.newcomer(grant=1)
    with pytest.raises(openai.APIStatusError) as short:
        await client.with_options(api_key=poor.key).chat.completions.create(**body, max_tokens=5000)
    assert (short.value.status_code, short.value.type) == (402, "insufficient_credits")


def odd_chunks() -> list[Any]:
    """What compatible providers send that breaks the SDK's helpers when it comes as it is."""
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}

    def piece(arguments: str, index: int) -> Any:
        function = {"name": f"f{index}", "arguments": arguments}
        return {"index": index, "id": f"call_{index}", "type": "function", "function": function}

    deltas: list[Any] = [
        {"role": "assistant", "content": "", "reasoning": "Hm."},
        {"role": "assistant", "content": "Well"},
        {"role": "assistant", "tool_calls": [piece('{"a"', 1)]},
        {"role": "assistant", "tool_calls": [piece(":1}", 1)]},
        {"role": "assistant", "tool_calls": [piece("{}", 2)]},
    ]
    return [
        head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}], "usage": usage}
        for delta in deltas
    ]


async def test_what_compatible_providers_do_wrong_is_set_right(
    providers: World, client: Any
) -> None:
    """Roles, ids and names said twice, indexes from 1, usage everywhere, no finish_reason."""
    providers.openai.script_once("/chat/completions", stream_reply(odd_chunks()))
    final = await streamed(client, model="vendor/plain-1", messages=ASK, tools=TOOLS)
    (choice,) = final.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "Well")
    assert choice.finish_reason == "tool_calls"
    called = [(c.id, c.function.name, c.function.arguments) for c in choice.message.tool_calls]
    assert called == [("call_1", "f1", '{"a":1}'), ("call_2", "f2", "{}")]
    assert final.usage.total_tokens == 3
