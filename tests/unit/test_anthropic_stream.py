"""Anthropic's streams as OpenAI's chunks (wire notes 1.7, 5.4, 5.7), from recorded bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from sellapi.upstream.adapter import UpstreamFailure
from sellapi.upstream.anthropic import AnthropicAdapter
from tests.support.anthropic_jobs import job
from tests.support.fake_anthropic import event

RECORDED = Path(__file__).parent.parent / "recorded" / "anthropic"
WHOLE = ("text", "tool_use", "thinking", "interleaved_calls")


def recorded(name: str) -> bytes:
    return (RECORDED / f"{name}.sse").read_bytes()


def run(*pieces: bytes, stream: bool = True) -> tuple[bytes, Any]:
    decoder = AnthropicAdapter().decoder(job({}, stream=stream, include_usage=True))
    out = b"".join(decoder.feed(piece) for piece in pieces)
    return out + decoder.end(), decoder


def chunks(out: bytes) -> list[dict[str, Any]]:
    """The chunks, each valid by the SDK's type."""
    events = [e for e in out.decode().split("\n\n") if e.startswith("data: ")]
    found = [json.loads(e[6:]) for e in events]
    for chunk in found:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    return found


def deltas(out: bytes) -> list[dict[str, Any]]:
    return [chunk["choices"][0]["delta"] for chunk in chunks(out)]


@pytest.mark.parametrize("name", WHOLE)
def test_a_stream_cut_anywhere_gives_the_same_chunks(name: str):
    data = recorded(name)
    expected, _ = run(data)
    for cut in range(1, len(data)):
        assert run(data[:cut], data[cut:])[0] == expected
    assert run(*(data[i : i + 1] for i in range(len(data))))[0] == expected


@pytest.mark.parametrize("name", WHOLE)
def test_the_chunk_grammar_holds(name: str):
    out, decoder = run(recorded(name))
    found = chunks(out)
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert sum("role" in d for d in deltas(out)) == 1
    assert [c["choices"][0]["finish_reason"] for c in found].count(None) == len(found) - 1
    assert found[-1]["choices"][0]["delta"] == {}
    assert all(chunk["usage"] is None for chunk in found)
    assert len({(c["id"], c["created"], c["model"]) for c in found}) == 1
    assert decoder.done
    assert decoder.finish_reasons == {0: found[-1]["choices"][0]["finish_reason"]}


@pytest.mark.parametrize("name", WHOLE)
def test_the_gathered_answer_says_what_the_stream_says(name: str):
    data = recorded(name)
    _, decoder = run(data, stream=False)
    answer = json.loads(decoder.answer().body)
    ChatCompletion.model_validate(answer, strict=True)
    message = answer["choices"][0]["message"]
    streamed = deltas(run(data)[0])
    assert (message["content"] or "") == "".join(d.get("content") or "" for d in streamed)
    reasoning = "".join(d.get("reasoning_content", "") for d in streamed)
    assert message.get("reasoning_content", "") == reasoning
    arguments: dict[int, str] = {}
    for delta in streamed:
        for call in delta.get("tool_calls", ()):
            piece = call["function"]["arguments"]
            arguments[call["index"]] = arguments.get(call["index"], "") + piece
    calls = message.get("tool_calls", [])
    assert [c["function"]["arguments"] for c in calls] == list(arguments.values())


def test_text_keeps_every_character_and_pings_are_comments():
    out, decoder = run(recorded("text"))
    text = "".join(d.get("content", "") for d in deltas(out))
    assert text == "Grüße \u2028\u2029\u0085 😀👩‍👩‍👧!"
    assert b": ping\n\n" in out
    assert decoder.text.tokens > 5


def test_calls_have_dense_indexes_ids_once_and_empty_arguments_as_an_object():
    out, _ = run(recorded("tool_use"))
    calls = [call for d in deltas(out) for call in d.get("tool_calls", ())]
    assert [(c["index"], c.get("id")) for c in calls if "id" in c] == [
        (0, "toolu_1"),
        (1, "toolu_2"),
    ]
    joined = ["".join(c["function"]["arguments"] for c in calls if c["index"] == i) for i in (0, 1)]
    assert [json.loads(text) for text in joined] == [{"city": "Zürich"}, {}]


def test_one_call_is_finished_before_the_next_begins():
    out, _ = run(recorded("interleaved_calls"))
    order = [call["index"] for d in deltas(out) for call in d.get("tool_calls", ())]
    assert order == sorted(order)


def test_later_usage_replaces_earlier_usage_and_the_buckets_are_disjoint():
    _, decoder = run(recorded("text"))
    usage = decoder.usage
    assert usage.buckets() == {"input": 101, "cache_read": 300, "cache_write": 9, "output": 62}
    _, decoder = run(recorded("thinking"))
    assert (decoder.usage.output, decoder.usage.reasoning) == (62, 40)


def test_the_usage_chunk_has_no_choices_and_our_extra_key():
    _, decoder = run(recorded("text"))
    (chunk,) = chunks(
        decoder.usage_chunk(
            {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}, {"sellapi": {"x": 1}}
        )
    )
    assert chunk["choices"] == []
    assert chunk["sellapi"] == {"x": 1}


def test_thinking_is_told_apart_from_content_and_travels_opaquely():
    out, decoder = run(recorded("thinking"))
    found = deltas(out)
    assert "".join(d.get("reasoning_content", "") for d in found) == "Let me think."
    assert "".join(d.get("content", "") for d in found) == "Sure. "
    (extra,) = [d["extra_content"] for d in found if "extra_content" in d]
    assert extra["anthropic"]["thinking"] == [
        {"type": "thinking", "thinking": "Let me think.", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "cmVk"},
    ]
    assert decoder.skipped == 2


def test_an_error_as_first_event_is_a_failure_with_its_status():
    decoder = AnthropicAdapter().decoder(job({}, stream=True))
    with pytest.raises(UpstreamFailure) as caught:
        decoder.feed(recorded("error_first"))
    failure = caught.value
    assert (failure.status, failure.reason, failure.retryable) == (529, "stream_error", True)
    assert failure.error.status == 502
    assert decoder.pending == b""


def test_an_error_mid_stream_leaves_everything_before_it_to_be_forwarded():
    decoder = AnthropicAdapter().decoder(job({}, stream=True))
    with pytest.raises(UpstreamFailure):
        decoder.feed(recorded("error_later"))
    assert "".join(d.get("content", "") for d in deltas(decoder.pending)) == "Hal"


@pytest.mark.parametrize("name", WHOLE)
def test_a_stream_that_ends_early_is_truncated_wherever_it_ends(name: str):
    data = recorded(name).replace(b"\r\n", b"\n")
    end = data.rindex(b"event: message_stop")
    for cut in range(0, end, 7):
        decoder = AnthropicAdapter().decoder(job({}, stream=True))
        decoder.feed(data[:cut])
        with pytest.raises(UpstreamFailure) as caught:
            decoder.end()
        assert caught.value.reason == "truncated"


def test_garbage_is_a_failure():
    decoder = AnthropicAdapter().decoder(job({}, stream=True))
    with pytest.raises(UpstreamFailure) as caught:
        decoder.feed(b"data: <html>\n\n")
    assert caught.value.reason == "garbage"


@pytest.mark.parametrize(
    "stop_reason, finish",
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("compaction", "stop"),
    ],
)
def test_stop_reasons_are_told_in_openais_words(stop_reason: str, finish: str):
    delta = {"stop_reason": stop_reason, "stop_details": {"explanation": "No."}}
    out, _ = run(
        event("message_start", message={"usage": {"input_tokens": 1, "output_tokens": 1}}),
        event("message_delta", delta=delta, usage={"output_tokens": 1}),
        event("message_stop"),
    )
    assert chunks(out)[-1]["choices"][0]["finish_reason"] == finish
    refusals = [d["refusal"] for d in deltas(out) if "refusal" in d]
    assert refusals == (["No."] if stop_reason == "refusal" else [])


def test_a_call_cut_by_the_limit_is_closed_and_finishes_with_length():
    out, _ = run(
        event("message_start", message={}),
        event(
            "content_block_start",
            index=0,
            content_block={"type": "tool_use", "id": "a", "name": "f", "input": {}},
        ),
        event(
            "content_block_delta",
            index=0,
            delta={"type": "input_json_delta", "partial_json": '{"a'},
        ),
        event("message_delta", delta={"stop_reason": "max_tokens"}, usage={"output_tokens": 1}),
        event("message_stop"),
    )
    assert chunks(out)[-1]["choices"][0]["finish_reason"] == "length"


def test_usage_is_unknown_when_no_final_figure_came():
    _, decoder = run(
        event("message_start", message={"usage": {"input_tokens": 1, "output_tokens": 1}}),
        event("message_stop"),
    )
    assert decoder.usage is None


def test_arguments_count_as_received_text_while_the_call_is_still_open():
    decoder = AnthropicAdapter().decoder(job({}, stream=True))
    data = recorded("tool_use")
    decoder.feed(data[: data.index(b"event: content_block_stop")])
    assert decoder.text.ascii >= len('get_weather{"city":"Zrich"}')
