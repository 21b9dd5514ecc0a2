"""Any OpenAI conversation becomes a request the Messages API takes: checked by the fake's rules."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sellapi.upstream.anthropic import AnthropicAdapter
from tests.support.anthropic_jobs import job
from tests.support.fake_anthropic_rules import check

MODELS = (
    "claude-haiku-4-5-20251001",
    "claude-sonnet-4-5",
    "claude-opus-4-5",
    "claude-sonnet-4-6",
    "claude-opus-4-6",
    "claude-opus-4-7",
    "claude-opus-4-8",
    "claude-sonnet-5",
    "claude-opus-5",
    "claude-haiku-5-5",
    "claude-sonnet-5-5",
    "claude-opus-5-5",
    "claude-fable-5",
    "claude-fable-5-1",
    "claude-mythos-5-2",
)

texts = st.sampled_from(["", " ", "hi", "hi \n", "Grüße \u2028 😀", "call f"])
marks = st.sampled_from(
    [
        {},
        {"cache_control": {"type": "ephemeral"}},
        {"cache_control": {"type": "ephemeral", "ttl": "1h"}},
    ]
)
PIXEL = "data:image/jpg;foo=bar;base64,/9j/4AAQ"
parts = st.one_of(
    st.builds(lambda text, mark: {"type": "text", "text": text, **mark}, texts, marks),
    st.just({"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}}),
    st.just({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}),
    st.just({"type": "file", "file": {"file_data": "JVBERi0xLjQ=", "filename": "a.pdf"}}),
)
text_parts = st.builds(lambda text, mark: {"type": "text", "text": text, **mark}, texts, marks)
contents = st.one_of(texts, st.lists(parts, max_size=3))
text_contents = st.one_of(texts, st.lists(text_parts, max_size=3))
ids = st.sampled_from(["call_1", "call_2", "toolu_0", "ü:weird id/…", "x" * 90])
calls = st.builds(
    lambda i, name, arguments: {
        "id": i,
        "type": "function",
        "index": 0,
        "function": {"name": name, "arguments": arguments, "parsed_arguments": None},
    },
    ids,
    st.sampled_from(["f", "g", "strange name!"]),
    st.sampled_from(["", "{}", '{"city": "Zürich"}', "null"]),
)
messages = st.one_of(
    st.builds(lambda c: {"role": "system", "content": c}, text_contents),
    st.builds(lambda c: {"role": "developer", "content": c}, text_contents),
    st.builds(lambda c, mark: {"role": "user", "content": c, **mark}, contents, marks),
    st.builds(
        lambda c, t: {
            "role": "assistant",
            "content": c,
            "refusal": None,
            "annotations": [],
            "audio": None,
            "parsed": None,
            "reasoning_content": "hm",
            **({"tool_calls": t} if t else {}),
        },
        st.one_of(st.none(), text_contents),
        st.lists(calls, max_size=3),
    ),
    st.builds(
        lambda i, c: {"role": "tool", "tool_call_id": i, "content": c}, ids, st.one_of(contents)
    ),
)
tools = st.lists(
    st.builds(
        lambda name, parameters, strict: {
            "type": "function",
            "function": {
                "name": name,
                **({} if parameters is None else {"parameters": parameters}),
                **({} if strict is None else {"strict": strict}),
            },
        },
        st.sampled_from(["f", "g"]),
        st.sampled_from(
            [
                None,
                {},
                {"properties": {"a": {"type": "integer", "minimum": 1}}},
                {"anyOf": [{"properties": {"a": {"type": "string"}}, "required": ["a"]}]},
            ]
        ),
        st.sampled_from([None, True, False]),
    ),
    max_size=3,
)


@st.composite
def bodies(draw: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": draw(st.lists(messages, min_size=1, max_size=8))}
    offered = draw(tools)
    if offered:
        body["tools"] = offered
        body["tool_choice"] = draw(
            st.sampled_from(
                [
                    None,
                    "auto",
                    "none",
                    "required",
                    {"type": "function", "function": offered[0]["function"]},
                    {
                        "type": "allowed_tools",
                        "allowed_tools": {
                            "mode": "required",
                            "tools": [{"type": "function", "function": {"name": "f"}}],
                        },
                    },
                ]
            )
        )
        body["parallel_tool_calls"] = draw(st.sampled_from([None, True, False]))
    for name, values in {
        "temperature": [None, 0, 1.7],
        "top_p": [None, 0.5],
        "reasoning_effort": [None, "none", "minimal", "low", "medium", "high", "xhigh", "max"],
        "max_tokens": [None, 1, 1024, 1025, 5000, 500_000],
        "stop": [None, "x", ["a", " ", "\n"]],
        "user": [None, "joe@example.com"],
        "response_format": [
            None,
            {"type": "json_object"},
            {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
            {"type": "json_schema", "json_schema": {"name": "n", "schema": TREE}},
        ],
    }.items():
        if (value := draw(st.sampled_from(values))) is not None:
            body[name] = value
    return body


SCHEMA = {
    "type": "object",
    "properties": {
        "minimum": {"type": "integer", "minimum": 1, "description": "least"},
        "when": {"oneOf": [{"type": "string", "format": "date"}, {"type": "null"}]},
        "p": {"$ref": "#/$defs/P"},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}, "minItems": 2},
    },
    "required": ["minimum"],
    "$defs": {"P": {"type": "object", "properties": {"x": {"type": "number"}}}},
}
TREE = {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#"}}}}


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=bodies())
def test_any_conversation_becomes_a_request_the_api_takes(model: str, body: dict[str, Any]):
    out = AnthropicAdapter().encode(job(body, model, account_tag="acct"))
    sent = json.loads(out.body)
    assert check(sent) is None, (check(sent), sent)
    assert out.stream == sent.get("stream", False)
