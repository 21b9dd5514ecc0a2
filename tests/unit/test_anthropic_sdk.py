"""The official OpenAI SDK talks to the translator, the translator to the strict fake Anthropic."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import openai
import pytest

from sellapi.domain.quirks import quirks_for
from sellapi.errors import ApiError
from sellapi.upstream.adapter import Job, Outbound, UpstreamFailure
from sellapi.upstream.anthropic import AnthropicAdapter
from sellapi.upstream.openai_shape import openai_usage
from tests.support.fake_anthropic import KEY, FakeAnthropic

TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("get_weather", "now")
]
ASK: Any = [{"role": "user", "content": "call get_weather and call now"}]


class Bridge(httpx.AsyncBaseTransport):
    """A gateway without money: one POST in, one POST out, through the translator."""

    def __init__(self, fake: FakeAnthropic, adapter: AnthropicAdapter) -> None:
        self.fake = fake
        self.adapter = adapter
        self.client = httpx.AsyncClient(trust_env=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        fields = msgspec.json.decode(await request.aread(), type=dict[str, msgspec.Raw])
        model = msgspec.json.decode(fields["model"], type=str)
        stream = fields.get("stream") is not None and bytes(fields["stream"]) == b"true"
        job = Job(
            "chat", fields, model, model, quirks_for("anthropic", model), "req_1", 1_790_000_000,
            stream=stream, include_usage=stream, output_limit=4_096, account_tag="acct",
        )  # fmt: skip
        try:
            return await self._answer(job, self.adapter.encode(job))
        except ApiError as error:
            return httpx.Response(error.status, json=error.body())
        except UpstreamFailure as failure:
            return httpx.Response(failure.error.status, json=failure.error.body())

    async def _answer(self, job: Job, out: Outbound) -> httpx.Response:
        headers = self.adapter.headers(KEY)
        reply = await self.client.post(self.fake.url + out.path, content=out.body, headers=headers)
        if reply.status_code != 200:
            raise self.adapter.failure(reply.status_code, reply.headers, reply.content)
        if not job.stream:
            body = self.adapter.decode(job, [reply.content]).body
            return httpx.Response(200, content=body, headers={"content-type": "application/json"})
        decoder = self.adapter.decoder(job)
        data = decoder.feed(reply.content) + decoder.end()
        assert decoder.usage is not None
        data += decoder.usage_chunk(openai_usage(decoder.usage), {"sellapi": {}})
        return httpx.Response(
            200, content=data + b"data: [DONE]\n\n", headers={"content-type": "text/event-stream"}
        )


@pytest.fixture
async def fake() -> AsyncIterator[FakeAnthropic]:
    async with FakeAnthropic() as server:
        yield server


@pytest.fixture
async def client(fake: FakeAnthropic) -> AsyncIterator[openai.AsyncOpenAI]:
    bridge = Bridge(fake, AnthropicAdapter())
    http = httpx.AsyncClient(transport=bridge)
    async with openai.AsyncOpenAI(
        api_key="x", base_url="http://gateway/v1", http_client=http, max_retries=0
    ) as made:
        yield made
    await bridge.client.aclose()


MODELS = (
    "claude-haiku-4-5",
    "claude-sonnet-4-6",
    "claude-opus-4-8",
    "claude-sonnet-5-5",
    "claude-opus-5-5",
)


@pytest.mark.parametrize("model", MODELS)
async def test_a_tool_loop_with_thinking_runs_unstreamed(fake, client, model: str):
    messages = [*ASK]
    first = await client.chat.completions.create(
        model=model, messages=messages, tools=TOOLS, reasoning_effort="low"
    )
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    assert [c.function.arguments for c in message.tool_calls] == ['{"city":"Zürich"}', "{}"]
    messages.append(message)
    messages += [
        {"role": "tool", "tool_call_id": c.id, "content": "9 degrees"} for c in message.tool_calls
    ]
    second = await client.chat.completions.create(
        model=model, messages=messages, tools=TOOLS, reasoning_effort="low"
    )
    assert second.choices[0].message.content == "You said: 9 degrees"
    assert fake.refusals == []
    kinds = [block["type"] for block in fake.requests[-1]["messages"][1]["content"]]
    assert kinds == ["thinking", "tool_use", "tool_use"]


@pytest.mark.parametrize("model", MODELS)
async def test_a_tool_loop_with_thinking_runs_through_the_stream_helper(fake, client, model: str):
    messages = [*ASK]
    async with client.chat.completions.stream(
        model=model,
        messages=messages,
        tools=TOOLS,
        reasoning_effort="low",
        stream_options={"include_usage": True},
    ) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_completion()
    message = final.choices[0].message
    assert [c.id for c in message.tool_calls] == ["toolu_1_0", "toolu_1_1"]
    assert message.role == "assistant"
    assert final.usage.total_tokens == 25
    messages.append(message.model_dump())
    messages += [
        {"role": "tool", "tool_call_id": c.id, "content": "ok"} for c in message.tool_calls
    ]
    await client.chat.completions.create(
        model=model, messages=messages, tools=TOOLS, reasoning_effort="low"
    )
    assert fake.refusals == []
    assert fake.requests[-1]["messages"][1]["content"][0]["type"] == "thinking"


async def test_the_follow_up_without_tools_works_as_the_seed_document_shows(fake, client):
    first = await client.chat.completions.create(
        model="claude-sonnet-4-6", messages=ASK, tools=TOOLS, tool_choice="auto"
    )
    message = first.choices[0].message
    results = [
        {"role": "tool", "tool_call_id": c.id, "content": "9 degrees"} for c in message.tool_calls
    ]
    second = await client.chat.completions.create(
        model="claude-sonnet-4-6", messages=[*ASK, message, *results]
    )
    assert second.choices[0].message.content == "You said: 9 degrees"
    assert second.choices[0].finish_reason == "stop"


async def test_an_unknown_model_upstream_is_not_the_clients_fault(client):
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat.completions.create(model="claude-nope", messages=ASK)
    assert caught.value.status_code == 502


async def test_a_refusal_of_the_api_reaches_the_client_with_its_words(client, fake):
    body = b'{"type":"error","error":{"type":"invalid_request_error","message":"messages: no"}}'
    head = f"HTTP/1.1 400 X\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    fake.script.append([head, body])
    with pytest.raises(openai.BadRequestError, match="messages: no"):
        await client.chat.completions.create(model="claude-sonnet-4-6", messages=ASK)
