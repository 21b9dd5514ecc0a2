"""The user's own API document, sentence by sentence, over the demo provider and the real SDK."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support.running import Running, Shopkeeper, running

CLAUDE = "anthropic/claude-sonnet-4.6"
GPT = "openai/gpt-5.4"
EMBEDDING = "openai/text-embedding-3-small"
IMAGEN = "google/imagen-4.0-generate-001"
FREE = "openai/gpt-5.4-nano"
WEATHER: Any = {
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


@dataclass
class Seed:
    shop: Shopkeeper
    run: Running
    pro: str
    free: str
    clients: list[openai.AsyncOpenAI] = field(default_factory=list)

    def client(self, key: str | None = None) -> openai.AsyncOpenAI:
        client = openai.AsyncOpenAI(base_url=self.run.url, api_key=key or self.pro, max_retries=0)
        self.clients.append(client)
        return client


@pytest.fixture
async def seed(tmp_path: Path) -> AsyncIterator[Seed]:
    shop = Shopkeeper.open(tmp_path / "sellapi.db")
    demo = shop.provider("demo", "http://demo.invalid/v1", kind="demo")
    for slug in (CLAUDE, GPT):
        shop.model(slug, demo, tier="pro")
    shop.model(FREE, demo, tier="free")
    shop.model(EMBEDDING, demo, mode="embedding", prices={"input": 20_000})
    shop.model(IMAGEN, demo, mode="image", tier="pro", prices={"images": {"*:*": 40_000}})
    pro = shop.key(shop.user("pro@example.com", tier="pro", grant=100_000))
    free = shop.key(shop.user("free@example.com"))
    async with running(tmp_path / "sellapi.db") as run:
        seed = Seed(shop, run, pro, free)
        try:
            yield seed
        finally:
            for client in seed.clients:
                await client.close()


async def test_the_basic_curl(seed: Seed) -> None:
    async with httpx.AsyncClient() as http:
        answer = await http.post(
            seed.run.url + "/chat/completions",
            headers={
                "Authorization": f"Bearer {seed.pro}",
                "Content-Type": "application/json",
                "User-Agent": "curl/8",
            },
            content=b'{\n"model": "anthropic/claude-sonnet-4.6",\n'
            b'"messages": [{ "role": "user", "content": "Hello!" }]\n}',
        )
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"]
    assert answer.json()["model"] == CLAUDE
    assert float(answer.headers["x-sellapi-credits-charged"]) > 0
    assert float(answer.headers["x-sellapi-credits-balance"]) < 100_000
    assert int(answer.headers["x-ratelimit-limit"]) == 600
    assert int(answer.headers["x-ratelimit-remaining"]) == 599


async def test_token_streaming(seed: Seed) -> None:
    stream = await seed.client().chat.completions.create(
        model=GPT, messages=[{"role": "user", "content": "Write a haiku"}], stream=True
    )
    pieces = [c.choices[0].delta.content or "" async for c in stream if c.choices]
    assert len(pieces) > 3
    assert "Write a haiku" in "".join(pieces)


async def test_the_two_step_weather_example_is_billed_twice(seed: Seed) -> None:
    client = seed.client()
    asked: Any = {"role": "user", "content": "What's the weather in Berlin?"}
    raw = await client.chat.completions.with_raw_response.create(
        model=CLAUDE, messages=[asked], tools=[WEATHER], tool_choice="auto"
    )
    result = raw.parse()
    call = result.choices[0].message.tool_calls[0]  # type: ignore[index]
    assert call.id
    assert call.function.name == "get_weather"  # type: ignore[union-attr]
    assert json.loads(call.function.arguments) == {"city": "Berlin"}  # type: ignore[union-attr]
    follow = await client.chat.completions.with_raw_response.create(
        model=CLAUDE,
        messages=[
            asked,
            result.choices[0].message,  # type: ignore[list-item]
            {"role": "tool", "tool_call_id": call.id, "content": json.dumps({"celsius": 21})},
        ],
    )
    assert "21" in (follow.parse().choices[0].message.content or "")
    assert float(raw.headers["x-sellapi-credits-charged"]) > 0
    assert float(follow.headers["x-sellapi-credits-charged"]) > 0
    assert raw.headers["x-request-id"] != follow.headers["x-request-id"]
    await seed.run.quiet()
    assert seed.shop.value("SELECT count(*) FROM entries WHERE kind = 'charge'") == 2


@pytest.mark.parametrize(
    ("choice", "calls"),
    [
        ("required", True),
        ("none", False),
        ({"type": "function", "function": {"name": "get_weather"}}, True),
    ],
)
async def test_the_other_tool_choices(seed: Seed, choice: Any, calls: bool) -> None:
    result = await seed.client().chat.completions.create(
        model=CLAUDE,
        messages=[{"role": "user", "content": "Weather in Paris?"}],
        tools=[WEATHER],
        tool_choice=choice,
    )
    assert bool(result.choices[0].message.tool_calls) is calls


async def test_a_streamed_tool_call_adds_up(seed: Seed) -> None:
    async with seed.client().chat.completions.stream(
        model=GPT,
        messages=[{"role": "user", "content": "What's the weather in Berlin?"}],
        tools=[WEATHER],
    ) as stream:
        final = await stream.get_final_completion()
    call = final.choices[0].message.tool_calls[0]  # type: ignore[index]
    assert json.loads(call.function.arguments) == {"city": "Berlin"}


async def test_system_messages_and_image_parts(seed: Seed) -> None:
    result = await seed.client().chat.completions.create(
        model=GPT,
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": "Really."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
                ],
            },
        ],
    )
    assert "What is this?" in (result.choices[0].message.content or "")


async def test_embeddings_one_per_input(seed: Seed) -> None:
    client = seed.client(seed.free)
    both = await client.embeddings.create(model=EMBEDDING, input=["Hello world", "Another text"])
    assert [d.index for d in both.data] == [0, 1]
    assert len(both.data[0].embedding) == 1_536
    one = await client.embeddings.create(model=EMBEDDING, input="Hello world")
    assert len(one.data) == 1
    assert one.data[0].embedding == both.data[0].embedding
    floats = await client.embeddings.create(
        model=EMBEDDING, input="Hello world", encoding_format="float", dimensions=8
    )
    assert len(floats.data[0].embedding) == 8
    assert isinstance(floats.data[0].embedding[0], float)


async def test_the_image_curl_gives_a_png(seed: Seed) -> None:
    async with httpx.AsyncClient() as http:
        answer = await http.post(
            seed.run.url + "/images/generations",
            headers={"Authorization": f"Bearer {seed.pro}", "Content-Type": "application/json"},
            content=json.dumps(
                {"model": IMAGEN, "prompt": "A sunset over the ocean", "n": 1}
            ).encode(),
        )
    assert answer.status_code == 200
    assert list(answer.json()["data"][0]) == ["b64_json"]
    assert base64.b64decode(answer.json()["data"][0]["b64_json"]).startswith(b"\x89PNG\r\n\x1a\n")
    assert answer.headers["x-sellapi-credits-charged"] == "4000"


async def test_the_list_of_models_with_price_and_eligibility(seed: Seed) -> None:
    async with httpx.AsyncClient() as http:
        public = (await http.get(seed.run.url + "/models")).json()["data"]
        mine = (
            await http.get(
                seed.run.url + "/models", headers={"authorization": f"Bearer {seed.free}"}
            )
        ).json()["data"]
    assert {m["id"] for m in public} == {CLAUDE, GPT, FREE, EMBEDDING, IMAGEN}
    for model in public:
        assert model["object"] == "model"
        assert isinstance(model["created"], int)
        assert model["owned_by"]
        assert model["tier"] in ("free", "pro")
        assert model["mode"] in ("chat", "embedding", "image")
        for name in ("name", "context_length", "max_output_tokens", "input_modalities"):
            assert name in model
        for prices in (model["pricing"], model["credits"]):
            for price in (prices["prompt"], prices["completion"]):
                assert re.fullmatch(r"\d+(\.\d+)?", price)
        assert "available" not in model
    image = next(m for m in public if m["id"] == IMAGEN)
    assert (image["pricing"]["image"], image["credits"]["image"]) == ("0.04", "4000")
    chat = next(m for m in public if m["id"] == GPT)
    assert (chat["pricing"]["prompt"], chat["credits"]["prompt"]) == ("0.000001", "0.1")
    assert {m["id"]: m["available"] for m in mine} == {
        CLAUDE: False,
        GPT: False,
        FREE: True,
        EMBEDDING: True,
        IMAGEN: False,
    }


async def test_the_sdk_lists_and_retrieves_models(seed: Seed) -> None:
    client = seed.client()
    assert CLAUDE in [m.id async for m in client.models.list()]
    assert (await client.models.retrieve(CLAUDE)).id == CLAUDE
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("not/here")


async def test_free_users_call_cheap_models_only(seed: Seed) -> None:
    client = seed.client(seed.free)
    hello: Any = [{"role": "user", "content": "Hi"}]
    assert (await client.chat.completions.create(model=FREE, messages=hello)).choices
    for slug in (CLAUDE, GPT):
        with pytest.raises(openai.PermissionDeniedError) as caught:
            await client.chat.completions.create(model=slug, messages=hello)
        assert caught.value.type == "tier_restricted"
    with pytest.raises(openai.AuthenticationError):
        await seed.client("sk-sellapi-" + "n" * 43).models.list()


async def test_structured_output_n_and_logprobs(seed: Seed) -> None:
    client = seed.client()
    hello: Any = [{"role": "user", "content": "Hi"}]
    result = await client.chat.completions.create(
        model=GPT, messages=hello, n=2, logprobs=True, top_logprobs=2, seed=1, temperature=0.5
    )
    assert len(result.choices) == 2
    assert result.choices[0].logprobs is not None
    schema: Any = {
        "type": "json_schema",
        "json_schema": {
            "name": "x",
            "schema": {"type": "object", "properties": {"a": {"type": "string"}}},
        },
    }
    shaped = await client.chat.completions.create(model=GPT, messages=hello, response_format=schema)
    assert "a" in json.loads(shaped.choices[0].message.content or "")
