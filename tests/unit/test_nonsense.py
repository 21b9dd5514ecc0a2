"""Requests and answers with something wrong anywhere: refused or read, never a crash."""

from __future__ import annotations

import json
import time
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from sellapi.domain.quirks import quirks_for
from sellapi.errors import InvalidRequest
from sellapi.upstream.adapter import Job, UpstreamFailure
from sellapi.upstream.anthropic import AnthropicAdapter
from sellapi.upstream.gemini import GeminiAdapter
from sellapi.upstream.openai import OpenAIAdapter
from tests.support.fake_anthropic import events

ADAPTERS: dict[str, Any] = {
    "openai": OpenAIAdapter(),
    "anthropic": AnthropicAdapter(),
    "gemini": GeminiAdapter(),
}
MODELS = {
    "openai": "gpt-5.4",
    "anthropic": "claude-sonnet-4-6",
    "gemini": "gemini-3.1-flash-lite",
}
VALUES: list[Any] = [
    None,
    True,
    -1,
    2**70,
    1.5,
    "",
    "auto",
    "data:,",
    "\u2028",
    [],
    {},
    [[]],
    {"a": {}},
]
KINDS = pytest.mark.parametrize("kind", list(MODELS))


def spoilt(value: Any, random: Random, rate: float) -> Any:
    """The value with things missing, moved, said twice or replaced by others."""
    if random.random() < rate:
        return random.choice(VALUES)
    if isinstance(value, dict):
        kept = [key for key in value if random.random() >= rate / 2]
        return {key: spoilt(value[key], random, rate) for key in kept}
    if isinstance(value, list):
        made = [spoilt(item, random, rate) for item in value]
        if made and random.random() < rate:
            made.append(random.choice(made))
        return made
    return value


def make_job(kind: str, body: dict[str, Any], **more: Any) -> Job:
    raw = json.dumps(body).encode()
    return Job(
        mode="chat",
        fields=msgspec.json.decode(raw, type=dict[str, msgspec.Raw]),
        slug="a/b",
        upstream_id=MODELS[kind],
        quirks=quirks_for(kind, MODELS[kind]),
        request_id="req_1",
        created=1,
        output_limit=900,
        account_tag="tag",
        include_usage=True,
        **more,
    )


def call(identifier: str, name: str) -> dict[str, Any]:
    function = {"name": name, "arguments": '{"city":"A"}'}
    extra = {"google": {"thought_signature": "c2ln"}, "sellapi": {"model": "m"}}
    return {"id": identifier, "type": "function", "function": function, "extra_content": extra}


THOUGHT = {"type": "thinking", "thinking": "x", "signature": "s"}
SCHEMA = {
    "type": "object",
    "properties": {"x": {"type": "array", "items": {"$ref": "#/$defs/a"}}, "y": {"anyOf": [{}]}},
    "required": ["x"],
    "$defs": {"a": {"type": "object", "properties": {"z": {"type": "string", "minLength": 2}}}},
}
REQUEST = {
    "messages": [
        {"role": "system", "content": "Be"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": "JVBERi0xLjQ="}},
            ],
        },
        {
            "role": "assistant",
            "content": "ok",
            "refusal": None,
            "tool_calls": [call("a", "get"), call("b", "now")],
            "extra_content": {"anthropic": {"model": "", "thinking": [THOUGHT], "layout": [-1, 2]}},
        },
        {"role": "tool", "tool_call_id": "b", "content": "2"},
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "1"}]},
        {"role": "user", "content": "go"},
    ],
    "tools": [
        {"type": "function", "function": {"name": "get", "strict": True, "parameters": SCHEMA}}
    ],
    "tool_choice": {"type": "function", "function": {"name": "get"}},
    "parallel_tool_calls": False,
    "stop": ["a"],
    "temperature": 0.5,
    "reasoning_effort": "low",
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}},
    "functions": [{"name": "old"}],
    "function_call": "auto",
    "cache_control": {"type": "ephemeral"},
    "stream_options": {"include_usage": True},
    "max_tokens": 500,
    "user": "u",
    "prompt_cache_key": "k",
}
RATES = st.sampled_from([0.01, 0.03, 0.1])
SEEDS = st.integers(0, 2**32)


@KINDS
@settings(max_examples=150, deadline=None)
@given(SEEDS, RATES, st.booleans())
def test_a_spoilt_request_is_written_or_refused_by_name(
    kind: str, seed: int, rate: float, private: bool
) -> None:
    """Whatever a client sends: valid JSON goes out, or a 400 names the field."""
    random = Random(seed)
    body = {name: spoilt(value, random, rate) for name, value in REQUEST.items()}
    job = make_job(kind, body, private_base_url=private, native=not private)
    adapter = ADAPTERS[kind]
    try:
        adapter.media_urls(job)
        assert isinstance(json.loads(adapter.encode(job).body), dict)
    except InvalidRequest as refusal:
        assert refusal.param  # noqa: PT017 - it may as well not be raised


GOOGLE = {
    "candidates": [
        {
            "index": 0,
            "content": {
                "role": "model",
                "parts": [
                    {"text": "a", "thought": True},
                    {"text": "b"},
                    {"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "c2ln"},
                ],
            },
            "finishReason": "STOP",
        }
    ],
    "usageMetadata": {
        "promptTokenCount": 5,
        "candidatesTokenCount": 5,
        "thoughtsTokenCount": 3,
        "totalTokenCount": 13,
        "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 2}],
    },
}
CLAUDE = {
    "type": "message",
    "content": [
        THOUGHT,
        {"type": "text", "text": "a"},
        {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
    ],
    "stop_reason": "tool_use",
    "usage": {"input_tokens": 5, "output_tokens": 5, "cache_read_input_tokens": 2},
}
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
OPENAI = {
    "id": "c",
    "created": 1,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "a", "tool_calls": [CALL]},
            "finish_reason": "tool_calls",
        }
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10},
}
ANSWERS: dict[str, Any] = {"openai": OPENAI, "anthropic": CLAUDE, "gemini": GOOGLE}


def stream_of(kind: str) -> list[Any]:
    if kind == "gemini":
        return [GOOGLE]
    if kind == "anthropic":
        lines = events({**CLAUDE, "stop_sequence": None}).decode().split("\n")
        return [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    deltas: list[Any] = [
        {"role": "assistant"},
        {"content": "a"},
        {"tool_calls": [{"index": 0, **CALL}]},
    ]
    made = [{**OPENAI, "choices": [{"index": 0, "delta": d}]} for d in deltas]
    return [*made, {**OPENAI, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]


@KINDS
@settings(max_examples=150, deadline=None)
@given(SEEDS, RATES)
def test_a_spoilt_answer_is_read_or_the_providers_failure(
    kind: str, seed: int, rate: float
) -> None:
    """What a translator makes of it is valid for OpenAI's SDK."""
    body = json.dumps(spoilt(ANSWERS[kind], Random(seed), rate)).encode()
    try:
        answer = ADAPTERS[kind].decode(make_job(kind, {}), [body])
    except UpstreamFailure as failure:
        assert failure.error.status in (400, 502)  # noqa: PT017 - it may not be raised
        return
    if kind != "openai":
        ChatCompletion.model_validate_json(answer.body)


@KINDS
@settings(max_examples=150, deadline=None)
@given(SEEDS, RATES, st.floats(0, 1))
def test_a_spoilt_stream_is_read_or_the_providers_failure(
    kind: str, seed: int, rate: float, place: float
) -> None:
    """Cut anywhere; every chunk that a translator writes is valid for OpenAI's SDK."""
    random = Random(seed)
    found = [spoilt(event, random, rate) for event in stream_of(kind)]
    data = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in found)
    decoder = ADAPTERS[kind].decoder(make_job(kind, {}, stream=True))
    cut = int(len(data) * place)
    out = b""
    try:
        for step in (
            lambda: decoder.feed(data[:cut]),
            lambda: decoder.feed(data[cut:]),
            decoder.end,
        ):
            out += step()
    except UpstreamFailure as failure:
        assert failure.error.status in (400, 502)  # noqa: PT017 - it may not be raised
        out += decoder.pending
    assert decoder.usage is None or decoder.usage.total_input >= 0
    for event in out.split(b"\n\n"):
        if kind != "openai" and event.startswith(b"data: "):
            ChatCompletionChunk.model_validate_json(event[6:])


@KINDS
def test_what_is_nested_deeper_than_can_be_written_is_refused(kind: str) -> None:
    """A schema of 400 levels is a 400 that names the tools; a pass-through leaves it to the provider."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(200):
        schema = {"type": "object", "properties": {"a": schema}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    body = {"messages": [{"role": "user", "content": "Hi"}], "tools": tools}
    if kind == "openai":
        assert ADAPTERS[kind].encode(make_job(kind, body)).body
        return
    with pytest.raises(InvalidRequest) as caught:
        ADAPTERS[kind].encode(make_job(kind, body))
    assert caught.value.param == "tools"
    deep = b"[" * 400 + b"]" * 400
    part = b'{"functionCall":{"name":"f","args":{"a":%b}}}' % deep
    google = b'{"candidates":[{"content":{"parts":[%b]}}]}' % part
    claude = b'{"content":[{"type":"tool_use","id":"t","name":"f","input":{"a":%b}}]}' % deep
    with pytest.raises(UpstreamFailure):
        ADAPTERS[kind].decode(make_job(kind, {}), [google if kind == "gemini" else claude])


def test_a_schema_of_references_to_references_is_read_in_linear_time() -> None:
    """Each of forty definitions names the next one twice: 2^40 paths, forty definitions."""
    names = {f"d{k}": {"$ref": f"#/$defs/d{k + 1}"} for k in range(40)}
    definitions: dict[str, Any] = {
        name: {"type": "object", "properties": {"a": target, "b": target}}
        for name, target in names.items()
    }
    definitions["d40"] = {"type": "string"}
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": definitions}
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    body = {"messages": [{"role": "user", "content": "Hi"}], "response_format": wanted}
    for kind in MODELS:
        assert ADAPTERS[kind].encode(make_job(kind, body)).body


@KINDS
def test_a_history_of_one_id_is_read_in_linear_time(kind: str) -> None:
    """Eighteen thousand calls, and as many results, that all have the same id."""
    turn = [
        {"role": "assistant", "content": None, "tool_calls": [call("a", "get")]},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
    ]
    calls = [{"role": "assistant", "content": None, "tool_calls": [call("a", "get")] * 9_000}]
    results = [{"role": "tool", "tool_call_id": "a", "content": "1"}] * 9_000
    user = [{"role": "user", "content": "Hi"}]
    started = time.process_time()
    ADAPTERS[kind].encode(make_job(kind, {"messages": user + turn * 9_000 + calls + results}))
    assert time.process_time() - started < 8
