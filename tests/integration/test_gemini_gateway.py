"""OpenAI's own client, the whole gateway, and a Gemini that refuses what Google would refuse."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest
from sanic import Sanic

from sellapi.admin import default_catalog
from sellapi.admin.models import parse_prices
from sellapi.domain.pricing import Prices
from sellapi.storage.database import Database
from tests.support.fake_gemini import JPEG, PNG, Scripted, fake_gemini
from tests.support.raw_server import Peer, raw_server
from tests.support.running import Shopkeeper, running

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
MODELS = {
    "gemini-3.1-flash-lite": ("chat", None),
    "gemini-2.5-flash-lite": ("chat", None),
    "gemini-embedding-001": ("embedding", {"input": 150_000}),
    "gemini-3.1-flash-image": (
        "image",
        {"input": 500_000, "output": 3_000_000, "image_output": 60_000_000},
    ),
    "imagen-4.0-generate-001": ("image", {"images": {"*:*": 40_000}}),
}


@pytest.fixture
def google():
    with fake_gemini() as server:
        yield server


@pytest.fixture
async def shop(google, tmp_path, monkeypatch):
    """A shop that sells Google's models only; the account can pay two images."""
    monkeypatch.setattr(Sanic, "test_mode", True)  # several apps in one process
    monkeypatch.setenv("FAKE_GEMINI_KEY", google.key)
    keeper = Shopkeeper.open(tmp_path / "shop.db")
    provider = keeper.provider("google", google.url, "gemini", api_key_env="FAKE_GEMINI_KEY")
    for name, (mode, prices) in MODELS.items():
        keeper.model(f"google/{name}", provider, mode=mode, upstream=name, prices=prices)
    imagen = next(m for m in default_catalog.MODELS if m.slug == "google/imagen-4.0-generate-001")
    by_the_image = parse_prices(Prices(), imagen.prices, imagen.images).to_json()
    keeper.model(
        "google/by-the-image", provider, mode="image", upstream=imagen.upstream, prices=by_the_image
    )
    key = keeper.key(keeper.user("a@example.com", tier="pro", grant=40_000))
    async with running(tmp_path / "shop.db") as gateway:
        async with openai.AsyncOpenAI(api_key=key, base_url=gateway.url, max_retries=0) as client:
            yield client
        await gateway.quiet()
        keeper.assert_sound()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["google/gemini-3.1-flash-lite", "google/gemini-2.5-flash-lite"])
async def test_a_tool_conversation_through_openais_client(shop, google, model, stream):
    messages = [{"role": "user", "content": "Please call it"}]
    first = await ask(shop, stream, model=model, messages=messages, tools=TOOLS)
    assert first.finish_reason == "tool_calls"
    call = first.message.tool_calls[0]
    assert orjson.loads(call.function.arguments) == {"city": "Berlin"}
    result = {"role": "tool", "tool_call_id": call.id, "content": "9 degrees"}
    messages += [first.message.model_dump(exclude_none=True), result]
    second = await ask(shop, stream, model=model, messages=messages, tools=TOOLS)
    assert (second.message.content, second.finish_reason) == ("Grüße 👋 from Gemini.", "stop")
    assert b"skip_thought" not in orjson.dumps(google.requests[-1][1])


async def ask(client, stream, **body):
    """The first choice of an answer, read whole or by the SDK's stream helper."""
    if not stream:
        return (await client.chat.completions.create(**body)).choices[0]
    async with client.chat.completions.stream(
        stream_options={"include_usage": True}, **body
    ) as events:
        final = await events.get_final_completion()
    assert final.usage.total_tokens > 40
    return final.choices[0]


async def test_vectors_come_to_a_client_that_asked_for_nothing_special(shop):
    reply = await shop.embeddings.create(model="google/gemini-embedding-001", input=["a", "bbb"])
    assert [item.embedding for item in reply.data] == [[0.5, 1.0, -0.25], [0.5, 3.0, -0.25]]
    assert reply.usage.prompt_tokens == 1


@pytest.mark.parametrize(
    "model, image, file_type",
    [
        ("google/gemini-3.1-flash-image", JPEG, "jpeg"),
        ("google/imagen-4.0-generate-001", PNG, "png"),
    ],
)
async def test_images_come_as_base64(shop, model, image, file_type):
    reply = await shop.images.generate(model=model, prompt="A cat", n=2, response_format="b64_json")
    assert [item.b64_json for item in reply.data] == [image, image]
    assert reply.output_format == file_type


@pytest.mark.parametrize(
    ("size", "drawn"),
    [("1024x1024", None), ("2048x2048", "2K"), ("2048X2048", "2K"), ("2000x1504", "2K")]
    + [("4096x4096", "4K")],
)
async def test_an_image_never_costs_less_than_what_the_default_route_bills_for_it(
    shop, google, size, drawn
):
    """Google bills 1,120 tokens for an image, 1,680 in 2K and 2,520 in 4K, at $60 a million."""
    reply = await shop.images.with_raw_response.generate(
        model="google/by-the-image", prompt="A cat", size=size
    )
    config = google.requests[-1][1]["generationConfig"]["imageConfig"]
    assert config.get("imageSize") == drawn
    billed = {None: 1_120, "2K": 1_680, "4K": 2_520}[drawn] * 6
    assert billed < int(reply.headers["x-sellapi-credits-charged"]) < billed * 1.1


async def test_what_a_failed_call_of_several_leaves_to_pay_is_a_loss(
    shop: openai.AsyncOpenAI, google: Any, tmp_path: Path
) -> None:
    """150 texts are two calls; one is refused, the other may have been answered and billed."""
    google.script.append(Scripted(503, b'{"error": {"code": 503, "status": "UNAVAILABLE"}}'))
    with pytest.raises(openai.InternalServerError):
        await shop.embeddings.create(model="google/gemini-embedding-001", input=["word"] * 150)
    google.script.append(Scripted(503, b'{"error": {"code": 503, "status": "UNAVAILABLE"}}'))
    with pytest.raises(openai.InternalServerError):
        await shop.embeddings.create(model="google/gemini-embedding-001", input=["word"] * 50)
    with Database(tmp_path / "shop.db").read() as tx:
        rows = tx.rows("SELECT state, loss FROM requests ORDER BY id")
    assert rows == [
        {"state": "voided", "loss": 150 * 15_000},
        {"state": "voided", "loss": 0},
    ]


async def test_leaving_while_several_calls_wait_for_a_connection_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images are two calls at Google; neither was sent."""
    monkeypatch.setattr(Sanic, "test_mode", True)
    busy, over = asyncio.Event(), asyncio.Event()

    async def never(_: Peer) -> None:
        busy.set()
        await over.wait()

    async with raw_server(never) as server:
        keeper = Shopkeeper.open(tmp_path / "shop.db")
        provider = keeper.provider("google", f"http://127.0.0.1:{server.port}", "gemini")
        keeper.execute("UPDATE providers SET max_connections = 1")
        prices = {"input": 500_000, "output": 3_000_000, "image_output": 60_000_000}
        keeper.model(
            "draw", provider, mode="image", upstream="gemini-3.1-flash-image", prices=prices
        )
        key = keeper.key(keeper.user("a@example.com", tier="pro", grant=100_000))
        async with (
            running(tmp_path / "shop.db") as gateway,
            openai.AsyncOpenAI(api_key=key, base_url=gateway.url, max_retries=0) as client,
        ):
            draw = client.images.generate
            first = asyncio.ensure_future(draw(model="draw", prompt="A cat"))
            await asyncio.wait_for(busy.wait(), 5)
            second = asyncio.ensure_future(draw(model="draw", prompt="A cat", n=2))
            await asyncio.sleep(0.2)
            second.cancel()
            async with asyncio.timeout(5):
                while keeper.rows("SELECT count(*) AS open FROM requests WHERE state = 'held'") != [
                    {"open": 1}
                ]:
                    await asyncio.sleep(0.01)
            row = keeper.rows("SELECT state, charge, loss FROM requests ORDER BY id")[1]
            assert row == {"state": "voided", "charge": 0, "loss": 0}
            over.set()
            with pytest.raises(openai.APIError):
                await first
            await gateway.quiet()


async def test_a_filtered_image_is_a_400_with_openais_code(shop):
    with pytest.raises(openai.BadRequestError) as caught:
        await shop.images.generate(model="google/gemini-3.1-flash-image", prompt="forbidden")
    assert caught.value.code == "content_policy_violation"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [200, 503])
async def test_an_overload_is_a_502_also_as_first_event_of_a_stream(shop, google, status, stream):
    error = b'{"error": {"code": 503, "message": "Overloaded.", "status": "UNAVAILABLE"}}'
    body = b"data: " + error + b"\r\n\r\n" if stream and status == 200 else error
    google.script.append(Scripted(status, body))
    with pytest.raises(openai.InternalServerError) as caught:
        await shop.chat.completions.create(
            model="google/gemini-3.1-flash-lite",
            messages=[{"role": "user", "content": "Hi"}],
            stream=stream,
        )
    assert (caught.value.status_code, caught.value.type) == (502, "upstream_error")


async def test_a_stream_that_breaks_off_is_an_error_and_no_quiet_stop(shop, google):
    text = b'{"candidates":[{"content":{"parts":[{"text":"Once"}]}}]}'
    google.script.append(Scripted(200, b"data: " + text + b"\r\n\r\n"))
    stream = await shop.chat.completions.create(
        model="google/gemini-3.1-flash-lite",
        messages=[{"role": "user", "content": "Hi"}],
        stream=True,
    )
    with pytest.raises(openai.APIError, match="broke off"):
        async for _ in stream:
            pass
