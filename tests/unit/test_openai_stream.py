"""Streams of OpenAI-compatible providers, every oddity of wire notes 1.2 and 1.7 by name."""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from sellapi.domain.usage import Usage
from sellapi.upstream import openai_stream
from sellapi.upstream.adapter import UpstreamFailure
from sellapi.upstream.openai import OpenAIAdapter
from tests.support.openai_job import openai_job

RECORDED = Path(__file__).parents[1] / "recorded" / "openai"
WHOLE = (
    "text",
    "tools",
    "openrouter_crlf",
    "usage_on_every_chunk",
    "no_done",
    "interleaved",
    "done_without_finish",
    "repeats",
)
BROKEN = {
    "error_midstream": ("stream_error", True),
    "finish_error": ("stream_error", True),
    "error_first": ("stream_error", False),
    "truncated": ("truncated", True),
    "cut_event": ("truncated", True),
    "garbage": ("garbage", True),
}
COUNTED = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
USAGE = {"input": 16, "cache_read": 32, "output": 16, "reasoning": 4}


def recorded(name):
    return (RECORDED / f"{name}.sse").read_bytes()


def decoder(**more):
    return OpenAIAdapter().decoder(openai_job(stream=True, **more))


def run(pieces, **more):
    found = decoder(**more)
    out = b"".join(found.feed(piece) for piece in pieces)
    return found, out + found.end()


def events(out):
    assert out.endswith(b"\n\n")
    blocks = out.decode().removesuffix("\n\n").split("\n\n")
    assert all(block.startswith("data: ") for block in blocks)
    return [json.loads(block[6:]) for block in blocks]


def buckets(usage):
    return {k: v for k in USAGE if (v := getattr(usage, k))}


@pytest.mark.parametrize("ask", [False, True])
@pytest.mark.parametrize("name", WHOLE)
def test_bytes_cut_at_every_position_give_the_same_output(name, ask):
    raw = recorded(name)
    whole, expected = run([raw], include_usage=ask)
    single, out = run([raw[i : i + 1] for i in range(len(raw))], include_usage=ask)
    assert out == expected
    for at in range(0, len(raw), 7):
        cut, out = run([raw[:at], raw[at:]], include_usage=ask)
        assert out == expected
        assert cut.usage == whole.usage == single.usage
        assert cut.finish_reasons == whole.finish_reasons
        assert cut.text.tokens == whole.text.tokens
        assert cut.done


@settings(max_examples=30)
@given(st.lists(st.integers(0, 2000), max_size=9), st.sampled_from(WHOLE))
def test_random_cuts_give_the_same_output(cuts, name):
    raw = recorded(name)
    ends = [0, *sorted(min(c, len(raw)) for c in cuts), len(raw)]
    pieces = [raw[a:b] for a, b in itertools.pairwise(ends)]
    assert run(pieces)[1] == run([raw])[1]


@pytest.mark.parametrize("ask", [False, True])
@pytest.mark.parametrize("name", WHOLE)
def test_the_sdk_reads_what_goes_out(name, ask):
    found, out = run([recorded(name)], include_usage=ask)
    chunks = events(out)
    if ask:
        chunks += events(found.usage_chunk(COUNTED, {"sellapi": {"x": "1"}}))
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["sellapi"] == {"x": "1"}
    state = ChatCompletionStreamState()
    for chunk in chunks:
        assert chunk["model"] == "openai/gpt-5.4"
        assert "obfuscation" not in chunk
        assert ("usage" in chunk) is ask
        assert not ask or chunk is chunks[-1] or chunk["usage"] is None
        state.handle_chunk(ChatCompletionChunk.model_validate(chunk))
    final = state.current_completion_snapshot
    assert all(choice.finish_reason for choice in final.choices)
    assert all(choice.message.role == "assistant" for choice in final.choices)


def test_text_passes_byte_by_byte_but_for_model_usage_and_obfuscation():
    raw = recorded("text")
    _, out = run([raw])
    first = raw.split(b"\n\n")[1]
    wanted = first.replace(b'"model":"gpt-5.4-2026-03-05"', b'"model":"openai/gpt-5.4"')
    wanted = wanted.replace(b',"usage":null,"obfuscation":"p4Xz"', b"")
    assert wanted in out
    assert 'Grüße \u2028 \\"model\\":\\"x\\" 😀'.encode() in wanted


@pytest.mark.parametrize(
    "name", ["text", "tools", "openrouter_crlf", "usage_on_every_chunk", "no_done", "interleaved"]
)
def test_usage_is_found_wherever_it_stands(name):
    found, _ = run([recorded(name)])
    assert buckets(found.usage) == USAGE


@pytest.mark.parametrize("spoilt", [b'"content":"a\xf0\x9f"', b'"content":"a","x\xff":1'])
def test_bytes_that_are_no_utf8_are_replaced(spoilt):
    """Half an emoji, say: the SDKs, which decode strictly, would stop there."""
    raw = recorded("text").replace(b'"content":""', spoilt, 1)
    found, out = run([raw])
    assert events(out)[0]["choices"][0]["delta"]["content"] in ("a", "a\ufffd")
    assert buckets(found.usage) == USAGE
    plain = b'{"choices":[{"message":{%b},"finish_reason":"stop"}]}' % spoilt
    answer = OpenAIAdapter().decode(openai_job(), [plain])
    assert json.loads(answer.body)["choices"][0]["message"]["content"] in ("a", "a\ufffd")


@pytest.mark.parametrize("last", [b"{}", b'{"prompt_tokens":"many"}', b"[]"])
def test_usage_that_says_nothing_replaces_none_however_the_bytes_are_cut(last):
    raw = recorded("text").replace(b"data: [DONE]", b'data: {"choices":[],"usage":%b}\n\n' % last)
    for pieces in ([raw], [raw[i : i + 1] for i in range(len(raw))]):
        found, _ = run(pieces, include_usage=True)
        assert buckets(found.usage) == USAGE
        (told,) = events(found.usage_chunk(COUNTED, {}))
        assert told["usage"]["prompt_tokens"] == 48


def test_the_last_chunk_is_the_providers_own_usage_as_it_came():
    found, _ = run([recorded("text")], include_usage=True)
    (last,) = events(found.usage_chunk(COUNTED, {}))
    assert last["usage"]["completion_tokens_details"]["accepted_prediction_tokens"] == 0
    assert last["usage"]["prompt_tokens"] == 48
    assert last["id"] == "chatcmpl-2"


def test_the_last_chunk_says_our_count_when_the_provider_sent_none():
    found, _ = run([recorded("repeats")], include_usage=True)
    assert found.usage is None
    (last,) = events(found.usage_chunk(COUNTED, {}))
    assert last["usage"] == COUNTED
    assert last["id"] == "chatcmpl-2"


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_stream_is_an_error_and_what_came_before_is_forwarded(name):
    reason, forwarded = BROKEN[name]
    raw = recorded(name)
    for pieces in ([raw], [raw[i : i + 1] for i in range(len(raw))]):
        found, out = decoder(), b""
        with pytest.raises(UpstreamFailure) as caught:
            for piece in pieces:
                out += found.feed(piece)
            out += found.end()
        out += found.pending
        assert caught.value.reason == reason
        assert "secret" not in caught.value.error.message
        assert bool(out) is forwarded
        assert not found.done
        if forwarded:
            assert events(out)[0]["choices"][0]["delta"]["content"] == "a"


def test_an_error_as_first_event_keeps_its_status():
    with pytest.raises(UpstreamFailure) as caught:
        run([recorded("error_first")])
    assert caught.value.status == 429
    assert caught.value.error.status == 502
    assert caught.value.error.headers["retry-after"]


def test_repeated_roles_ids_and_names_are_said_once_and_calls_count_from_zero():
    _, out = run([recorded("repeats")])
    deltas = [chunk["choices"][0]["delta"] for chunk in events(out)]
    assert [d.get("role") for d in deltas] == ["assistant", None, None, None, None]
    calls = [call for d in deltas for call in d.get("tool_calls", ())]
    assert [(c["index"], c.get("id"), c["function"].get("name")) for c in calls] == [
        (0, "c1", "f"),
        (0, None, None),
        (1, "c2", "g"),
    ]


def test_a_choice_that_done_leaves_open_gets_its_finish_reason():
    found, out = run([recorded("done_without_finish")])
    assert events(out)[-1]["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    assert found.finish_reasons == {0: "stop"}


@pytest.mark.parametrize(
    "body, reason",
    [
        (b'{"error":{"message":"no","code":503}}', "stream_error"),
        (b'{"error":"no"}', "stream_error"),
        (b'{"object":"list"}', "garbage"),
        (b"<html>no</html>", "garbage"),
        (b"data: [DONE]\n\n", "garbage"),
        (b"data: 7\n\n", "garbage"),
        (b'data: {"object":"error","message":"no","code":400}\n\n', "stream_error"),
        (b"", "truncated"),
        (b": ping\n\n", "truncated"),
        (b'{"choices": [', "truncated"),
    ],
)
def test_what_is_no_stream_is_an_error(body, reason):
    with pytest.raises(UpstreamFailure) as caught:
        run([body])
    assert caught.value.reason == reason


def test_a_whole_completion_instead_of_a_stream_becomes_one():
    found, out = run([(RECORDED / "completion.json").read_bytes()])
    assert events(out)[0]["choices"][0]["delta"]["content"].startswith("say")
    assert buckets(found.usage) == USAGE


@pytest.mark.parametrize(
    "payload, tokens",
    [
        ('{"choices":[{"index":0,"delta":{"content":"abcdefgh"}}]}', 2),
        ('{"choices":[{"index":0,"delta":{"reasoning_content":"abcd","reasoning":"abcd"}}]}', 1),
        ('{"choices":[{"index":0,"delta":{"refusal":"éé"}}]}', 2),
        ('{"choices":[{"index":0,"delta":{"content":"\\ud83d"}}]}', 2),
        ('{"choices":[{"index":0,"delta":{"content":[{"type":"text","text":"abcd"}]}}]}', 1),
        ('{"choices":[{"index":0,"delta":{"content":7}}]}', 0),
        (
            '{"choices":[{"delta":{"tool_calls":[{"function":{"name":"abcd","arguments":"{}zz"}}]}}]}',
            2,
        ),
        ('{"choices":[],"prompt_filter_results":[]}', 0),
        ('{"choices":null}', 0),
        ('{"created":99999999999999999999999,"choices":[{"delta":{"content":"abcd"}}]}', 1),
    ],
)
def test_everything_the_model_wrote_is_counted_and_odd_types_survive(payload, tokens):
    found = decoder()
    found.feed(b"data: " + payload.encode() + b"\n\n")
    assert found.text.tokens == tokens


TEXTS = st.text(max_size=6) | st.sampled_from(
    ("word ", "", ' "quoted" ', "back\\slash", "\n", "é", "雨", "a" * 40, '"content":"', "usage")
)
DELTAS = st.sampled_from(
    (
        lambda text: {"content": text},
        lambda text: {"content": text},
        lambda text: {"role": "assistant", "content": text},
        lambda text: {"content": text, "refusal": None, "tool_calls": None},
        lambda text: {"content": text, "extra": text},
        lambda text: {"content": text, "reasoning": "content"},
        lambda text: {"reasoning_content": text, "content": None},
        lambda text: {"tool_calls": [{"index": 0, "function": {"arguments": text}}]},
    )
)
SHAPES = st.builds(
    lambda delta, index, usage, more: (
        lambda text: (
            {
                "id": "c1",
                "model": "up-1",
                "choices": [{"index": index, "delta": delta(text)} | more],
            }
            | usage
        )
    ),
    DELTAS,
    st.sampled_from((0, 0, 0, 1)),
    st.sampled_from(
        ({}, {"usage": None}, {"usage": None, "x": 1}, {"obfuscation": "ab"}, {"usage": COUNTED})
    ),
    st.sampled_from(({}, {"logprobs": None}, {"finish_reason": None}, {"finish_reason": "stop"})),
)
RUNS = st.lists(st.tuples(SHAPES, st.lists(TEXTS, min_size=1, max_size=6)), max_size=8)


@given(RUNS, st.booleans(), st.sampled_from(((",", ":"), None)), st.integers(1, 5))
def test_words_that_take_the_short_way_come_out_as_by_the_long_way(runs, ask, separators, joined):
    chunks = [shape(text) for shape, texts in runs for text in texts]
    raw = [
        b"data: " + json.dumps(c, separators=separators, ensure_ascii=n % 2 == 0).encode() + b"\n\n"
        for n, c in enumerate(chunks)
    ]
    raw.append(b"data: [DONE]\n\n")
    raw = [b"".join(raw[n : n + joined]) for n in range(0, len(raw), joined)]

    def outcome(frames):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(openai_stream, "_FRAMES_MAX", frames)
            found = decoder(include_usage=ask)
            try:
                out = b"".join(found.feed(piece) for piece in raw) + found.end()
            except UpstreamFailure as failure:
                return failure.reason, found.pending
        last = found.usage_chunk({}, {})
        return out, last, (found.text.ascii, found.text.other), found.finish_reasons, found.usage

    assert outcome(1_000) == outcome(0)


def test_what_stands_behind_a_word_is_not_counted_as_text():
    found = decoder()
    for delta in ('{"content":"abc"}', '{"content":"def","extra":"ghi"}', '{"content":"jkl"}'):
        found.feed(b'data: {"model":"m","choices":[{"delta":%b}]}\n\n' % delta.encode())
    assert found.text.ascii == len("abcdefjkl")


@pytest.mark.parametrize("joined", [1, 3])
def test_a_last_word_that_looks_like_an_event_does_not_spoil_the_end(joined):
    """What the stream ends with is made like its last event."""
    texts = ["say", "data: ", "data: {}", "a data: b"]
    raw = [
        b'data: {"model":"m","choices":[{"delta":{"content":"%b"}}]}\n\n' % t.encode()
        for t in texts
    ]
    found = decoder(include_usage=True)
    out = found.feed(raw[0])
    out += b"".join(found.feed(b"".join(raw[n : n + joined])) for n in range(1, len(raw), joined))
    out += found.feed(b"data: [DONE]\n\n")
    *words, last = [e["choices"][0] for e in events(out)]
    assert [word["delta"]["content"] for word in words] == texts
    assert last["finish_reason"] == "stop"
    assert b'"choices":[]' in found.usage_chunk({}, {})


def test_an_unstreamed_client_gets_one_completion():
    job = openai_job()
    for name in WHOLE:
        found = OpenAIAdapter().decoder(job)
        found.feed(recorded(name))
        found.end()
        answer = found.answer()
        body = ChatCompletion.model_validate_json(answer.body, strict=False)
        assert body.model == job.slug
        assert [c.finish_reason for c in body.choices] == list(answer.finish_reasons)
        assert isinstance(answer.usage, Usage) is (name not in ("repeats", "done_without_finish"))
        if name == "tools":
            calls = body.choices[0].message.tool_calls
            assert [c.function.arguments for c in calls] == ['{"city":"Berlin"}', '{"city":"Rome"}']
            assert [c.id for c in calls] == ["call_a1", "call_a2"]
        if name == "openrouter_crlf":
            message = json.loads(answer.body)["choices"][0]["message"]
            assert (message["content"], message["reasoning"]) == ("Hello!", "Hm")
        if name == "interleaved":
            assert [c.message.content for c in body.choices] == ["a0b0", "a1"]
