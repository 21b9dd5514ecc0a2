"""Anthropic's whole answers, usage, errors and the memory of its thinking."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from sellapi.upstream.adapter import UpstreamFailure
from sellapi.upstream.anthropic import AnthropicAdapter
from sellapi.upstream.anthropic_reply import read_usage
from sellapi.upstream.anthropic_thinking import Thoughts, ThoughtsMemory
from sellapi.upstream.openai_shape import openai_usage
from tests.support.anthropic_jobs import job
from tests.support.fake_anthropic_rules import check, sign

RECORDED = Path(__file__).parent.parent / "recorded" / "anthropic"


def answer(message: dict[str, Any]) -> dict[str, Any]:
    body = json.loads(AnthropicAdapter().decode(job({}), [json.dumps(message).encode()]).body)
    ChatCompletion.model_validate(body, strict=True)
    return body


def message(*blocks: dict[str, Any], **more: Any) -> dict[str, Any]:
    usage = {"input_tokens": 1, "output_tokens": 2}
    return {
        "type": "message",
        "content": list(blocks),
        "stop_reason": "end_turn",
        "usage": usage,
        **more,
    }


def test_a_recorded_tool_call_is_told_in_openais_shape():
    body = answer(json.loads((RECORDED / "tool_use.json").read_text()))
    choice = body["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me check."
    assert choice["message"]["tool_calls"] == [
        {
            "id": "toolu_1",
            "type": "function",
            "function": {"name": "get_weather", "arguments": '{"city":"Berlin"}'},
        }
    ]
    assert body["usage"]["total_tokens"] == 442


def test_calls_alone_have_null_content_and_texts_are_joined():
    call = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
    only = answer(message(call, stop_reason="tool_use"))["choices"][0]["message"]
    assert only["content"] is None
    assert only["tool_calls"][0]["function"]["arguments"] == "{}"
    texts = answer(message({"type": "text", "text": "a"}, {"type": "text", "text": "b"}))
    assert texts["choices"][0]["message"]["content"] == "ab"
    assert "tool_calls" not in texts["choices"][0]["message"]


def test_integers_keep_every_digit_in_a_call():
    """As they do in a stream, where arguments come as text."""
    call = {"type": "tool_use", "id": "a", "name": "f", "input": {"wei": 1234567890123456789012}}
    only = answer(message(call, stop_reason="tool_use"))["choices"][0]["message"]
    assert only["tool_calls"][0]["function"]["arguments"] == '{"wei":1234567890123456789012}'


def test_unknown_blocks_are_skipped_and_counted():
    raw = json.dumps(message({"type": "brand_new"}, {"type": "text", "text": "a"})).encode()
    assert AnthropicAdapter().decode(job({}), [raw]).skipped == 1


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"content": 1}'])
def test_a_body_that_makes_no_sense_is_a_failure(body: bytes):
    with pytest.raises(UpstreamFailure) as caught:
        AnthropicAdapter().decode(job({}), [body])
    assert caught.value.reason == "garbage"


counts = st.one_of(st.none(), st.integers(0, 10**7))


@given(st.integers(0, 10**7), st.integers(0, 10**7), counts, counts, counts, counts, st.booleans())
def test_usage_buckets_are_disjoint_and_sum_to_the_total(
    fresh, output, written, read, short, long, split
):
    raw = {
        "input_tokens": fresh,
        "output_tokens": output,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "cache_creation": {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long}
        if split
        else None,
        "output_tokens_details": {"thinking_tokens": output * 2},
    }
    usage = read_usage(raw)
    assert usage is not None
    if written is None:
        written = (short or 0) + (long or 0) if split else 0
    assert usage.total_input == fresh + written + (read or 0)
    assert usage.reasoning <= usage.output == output
    told = openai_usage(usage)
    assert told["total_tokens"] == told["prompt_tokens"] + told["completion_tokens"]


@pytest.mark.parametrize("name", ["input_tokens", "output_tokens", "cache_read_input_tokens"])
def test_counts_no_request_can_have_are_not_charged(name: str):
    """The ledger could not take the charge; what was received is counted instead."""
    assert read_usage({"input_tokens": 1, "output_tokens": 1} | {name: 10**18}) is None


def test_cache_writes_are_split_by_their_time_to_live():
    usage = read_usage(
        {
            "input_tokens": 1,
            "output_tokens": 1,
            "cache_creation_input_tokens": 10,
            "cache_creation": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 6},
        }
    )
    assert usage is not None
    assert (usage.cache_write, usage.cache_write_1h) == (4, 6)


@pytest.mark.parametrize(
    "status, kind, text, ours, retryable, key_refused",
    [
        (400, "invalid_request_error", "messages: bad", 400, False, False),
        (400, "invalid_request_error", "Your credit balance is too low to access", 502, True, True),
        (413, "request_too_large", "too large", 400, False, False),
        (401, "authentication_error", "invalid x-api-key", 502, True, True),
        (402, "billing_error", "pay", 502, True, True),
        (403, "permission_error", "no", 502, True, True),
        (404, "not_found_error", "model: x", 502, True, False),
        (409, "conflict_error", "x", 502, True, False),
        (429, "rate_limit_error", "slow", 502, True, False),
        (500, "api_error", "x", 502, True, False),
        (504, "timeout_error", "x", 502, True, False),
        (529, "overloaded_error", "Overloaded", 502, True, False),
    ],
)
def test_refusals_are_mapped_by_status(status, kind, text, ours, retryable, key_refused):
    body = json.dumps({"type": "error", "error": {"type": kind, "message": text}}).encode()
    failure = AnthropicAdapter().failure(status, {"retry-after": "7"}, body)
    assert (failure.error.status, failure.retryable, failure.key_refused) == (
        ours,
        retryable,
        key_refused,
    )
    assert failure.status == status
    if status in (429, 529):
        assert failure.error.headers["retry-after"] == "7"


def test_a_spend_cap_without_retry_after_still_gets_one_and_html_is_not_shown():
    assert "retry-after" in AnthropicAdapter().failure(429, {}, b"").error.headers
    failure = AnthropicAdapter().failure(400, {}, b"<html>secret.internal</html>")
    assert "secret" not in failure.error.message


def test_messages_are_cleaned_and_a_long_prompt_has_openais_code():
    text = "prompt is too long (key sk-ant-api03-abcdef1234, see https://api.anthropic.com/x)"
    body = json.dumps({"error": {"type": "invalid_request_error", "message": text}}).encode()
    error = AnthropicAdapter().failure(400, {}, body).error
    assert error.code == "context_length_exceeded"
    assert "sk-ant" not in error.message
    assert "anthropic.com" not in error.message


# ------------------------------------------------------------------------- thinking comes back

MODEL = "claude-haiku-4-5"
TOOLS = [{"type": "function", "function": {"name": "f"}}]


def thought(text: str = "Hm.") -> dict[str, Any]:
    return {"type": "thinking", "thinking": text, "signature": sign(MODEL, text)}


def use(identifier: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": identifier, "name": "f", "input": {}}


def turn(
    adapter: AnthropicAdapter, *blocks: dict[str, Any], account: str = "a", keep: bool = True,
    asker: str = "a", model: str = MODEL,
) -> dict[str, Any]:  # fmt: skip
    """The follow-up request after an answer of these blocks went through a client."""
    raw = json.dumps(message(*blocks, stop_reason="tool_use")).encode()
    asked = job({"tools": TOOLS, "reasoning_effort": "low"}, MODEL, account_tag=account)
    reply = json.loads(adapter.decode(asked, [raw]).body)["choices"][0]["message"]
    if not keep:
        reply.pop("extra_content")
    history = [{"role": "user", "content": "Hi"}, reply]
    history += [
        {"role": "tool", "tool_call_id": call["id"], "content": "ok"}
        for call in reply["tool_calls"]
    ]
    body = {"messages": history, "tools": TOOLS, "reasoning_effort": "low"}
    request = json.loads(adapter.encode(job(body, model, account_tag=asker)).body)
    assert check(request) is None, check(request)
    return request


@pytest.mark.parametrize("keep", [True, False])
def test_thinking_comes_back_with_the_extra_field_and_without_it(keep: bool):
    request = turn(AnthropicAdapter(), thought(), use("t1"), keep=keep)
    assert request["messages"][1]["content"][0] == thought()
    assert request["thinking"]["type"] == "enabled"


def test_the_order_of_interleaved_blocks_is_kept():
    blocks = [thought("1"), {"type": "text", "text": "A"}, thought("2"), use("t1"), use("t2")]
    request = turn(AnthropicAdapter(), *blocks)
    assert request["messages"][1]["content"] == blocks


def test_another_account_never_gets_the_thoughts_and_is_not_refused_for_it():
    request = turn(AnthropicAdapter(), thought(), use("t1"), keep=False, asker="b")
    assert "Hm." not in json.dumps(request)
    assert "thinking" not in request


def test_another_models_thoughts_are_left_out():
    request = turn(AnthropicAdapter(), thought(), use("t1"), model="claude-sonnet-4-6")
    assert "Hm." not in json.dumps(request)


def test_redacted_thinking_comes_back():
    redacted = {"type": "redacted_thinking", "data": "cmVk"}
    assert turn(AnthropicAdapter(), redacted, use("t1"))["messages"][1]["content"][0] == redacted


def test_a_field_that_is_not_ours_is_ignored():
    for extra in (1, {"anthropic": {"thinking": [{"type": "thinking"}], "model": MODEL}}):
        history = [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "x", "extra_content": extra},
            {"role": "user", "content": "y"},
        ]
        request = json.loads(
            AnthropicAdapter()
            .encode(job({"messages": history, "reasoning_effort": "low"}, MODEL))
            .body
        )
        assert check(request) is None


def test_the_memory_is_bounded_by_entries_and_bytes():
    memory = ThoughtsMemory(entries=3, total_bytes=2_000, largest=1_000)
    for number in range(10):
        memory.remember("a", [str(number)], Thoughts("m", ({"data": "x" * 100},)))
    assert len(memory) == 3
    assert memory.recall("a", ["9"]) is not None
    assert memory.recall("a", ["0"]) is None
    memory.remember("a", ["big"], Thoughts("m", ({"data": "x" * 2_000},)))
    assert memory.recall("a", ["big"]) is None
    for number in range(10):
        memory.remember("a", [str(number)], Thoughts("m", ({"data": "x" * 700},)))
    assert memory.size_bytes <= 2_000
