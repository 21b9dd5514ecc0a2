"""Gemini's streams as OpenAI's chunks (wire notes 1.7, 6.5), whatever way the bytes arrive."""

from __future__ import annotations

from pathlib import Path

import httpx
import openai
import orjson
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from sellapi.upstream.adapter import UpstreamFailure
from sellapi.upstream.gemini import GeminiAdapter
from sellapi.upstream.openai_shape import openai_usage
from tests.support.gemini_job import gemini_job

RECORDED = Path(__file__).parents[1] / "recorded" / "gemini"
BODY = {
    "messages": [{"role": "user", "content": "Hi"}],
    "stream": True,
    "stream_options": {"include_usage": True},
}
WHOLE = ["stream_text", "stream_tools", "stream_lf_signature", "stream_blocked", "stream_length"]


def recorded(name):
    return (RECORDED / f"{name}.sse").read_bytes()


def decoder(adapter=None, **more):
    return (adapter or GeminiAdapter()).decoder(gemini_job(BODY | more))


def run(pieces):
    """(bytes for the client, decoder) of a stream that ends well."""
    stream = decoder()
    out = b"".join(stream.feed(piece) for piece in pieces)
    return out + stream.end(), stream


def chunks(data):
    events = data.split(b"\n\n")
    assert events.pop() == b""
    found = [orjson.loads(event.removeprefix(b"data: ")) for event in events]
    for chunk in found:
        ChatCompletionChunk.model_validate(chunk)
        assert chunk["usage"] is None
        assert (chunk["id"], chunk["created"]) == ("chatcmpl-test", 1_790_000_000)
    return found


def deltas(data):
    return [
        (chunk["choices"][0]["delta"], chunk["choices"][0]["finish_reason"])
        for chunk in chunks(data)
    ]


ROLE = ({"role": "assistant", "content": ""}, None)


def test_text_comes_as_it_came_and_the_signature_once_before_the_end():
    out, stream = run([recorded("stream_text")])
    assert deltas(out) == [
        ROLE,
        ({"content": "Grüße \u2028\u2029\u0085"}, None),
        ({"content": " 👋🏽 from"}, None),
        ({"content": " Gemini"}, None),
        (
            {
                "extra_content": {
                    "google": {"thought_signature": "c2lnMQ=="},
                    "sellapi": {"model": "gemini-3.1-flash-lite"},
                }
            },
            None,
        ),
        ({}, "stop"),
    ]
    assert stream.usage.buckets() == {"input": 10, "output": 11}
    assert stream.usage.reasoning == 5
    assert stream.finish_reasons == {0: "stop"}


def test_the_kth_call_of_the_stream_has_index_k_and_comes_whole():
    out, stream = run([recorded("stream_tools")])
    assert deltas(out) == [
        ROLE,
        ({"reasoning_content": "Thinking."}, None),
        (
            {
                "tool_calls": [
                    {
                        "index": 0,
                        "id": "fc1",
                        "type": "function",
                        "function": {"name": "get_weather", "arguments": '{"city":"Zürich"}'},
                        "extra_content": {
                            "google": {"thought_signature": "c2lnMg=="},
                            "sellapi": {"model": "gemini-3.1-flash-lite"},
                        },
                    }
                ]
            },
            None,
        ),
        (
            {
                "tool_calls": [
                    {
                        "index": 1,
                        "id": "fc2",
                        "type": "function",
                        "function": {"name": "now", "arguments": "{}"},
                    }
                ]
            },
            None,
        ),
        ({}, "tool_calls"),
    ]
    assert stream.usage.buckets() == {"input": 52, "output": 65}


@pytest.mark.parametrize(
    "name, expected",
    [
        ("stream_blocked", [ROLE, ({}, "content_filter")]),
        ("stream_length", [ROLE, ({"content": "Once"}, None), ({}, "length")]),
        (
            "stream_lf_signature",
            [
                ROLE,
                ({"content": "Done."}, None),
                (
                    {
                        "extra_content": {
                            "google": {"thought_signature": "c2lnMw=="},
                            "sellapi": {"model": "gemini-3.1-flash-lite"},
                        }
                    },
                    None,
                ),
                ({}, "stop"),
            ],
        ),
    ],
)
def test_other_ends(name, expected):
    out, stream = run([recorded(name)])
    assert deltas(out) == expected
    assert stream.usage is not None


@pytest.mark.parametrize("name", WHOLE)
def test_the_bytes_may_be_cut_anywhere(name):
    data = recorded(name)
    whole, stream = run([data])
    for cut in range(1, len(data)):
        assert run([data[:cut], data[cut:]])[0] == whole
    single, other = run([data[i : i + 1] for i in range(len(data))])
    assert single == whole
    assert other.usage == stream.usage
    assert other.text.tokens == stream.text.tokens


@pytest.mark.parametrize("name", WHOLE)
def test_line_ends_comments_and_a_missing_last_blank_line_change_nothing(name):
    data = recorded(name)
    whole, _ = run([data])
    lines = data.replace(b"\r\n", b"\n")
    assert run([lines])[0] == whole
    assert run([b": hello\n\n" + lines.replace(b"\n\n", b"\n\n: ping\n\n")])[0] == whole
    assert run([lines.rstrip(b"\n")])[0] == whole
    assert run([lines + b"data: [DONE]\n\n"])[0] == whole


@pytest.mark.parametrize("name", WHOLE)
def test_a_stream_read_for_an_unstreamed_client_is_the_same_answer(name):
    stream = decoder(stream=False)
    stream.feed(recorded(name))
    stream.end()
    completion = ChatCompletion.model_validate_json(stream.answer().body)
    streamed, _ = run([recorded(name)])
    text = "".join(delta.get("content") or "" for delta, _ in deltas(streamed))
    assert (completion.choices[0].message.content or "") == text
    assert completion.choices[0].finish_reason == deltas(streamed)[-1][1]


def test_the_stream_is_done_when_the_upstream_closes_and_not_before():
    """A last object may bring nothing but usage."""
    stream = decoder()
    out = stream.feed(recorded("stream_length"))
    assert not stream.done
    out += stream.feed(b'data: {"usageMetadata":{"promptTokenCount":6,"totalTokenCount":6}}\n\n')
    out += stream.end()
    assert stream.done
    assert deltas(out)[-1] == ({}, "length")
    assert stream.usage.buckets() == {"input": 6}


@pytest.mark.parametrize(
    "name, forwarded, reason, status",
    [
        ("stream_error_first", 0, "status_503", 503),
        ("stream_error_later", 2, "status_500", 500),
        ("stream_malformed", 2, "stream_error", None),
    ],
)
def test_an_error_in_the_stream_is_raised_after_what_came_before_it(
    name, forwarded, reason, status
):
    stream = decoder()
    with pytest.raises(UpstreamFailure) as caught:
        stream.feed(recorded(name))
    assert len(chunks(stream.pending)) == forwarded
    assert (caught.value.reason, caught.value.status) == (reason, status)
    assert caught.value.error.status == 502
    assert "googleapis" not in caught.value.error.message


@pytest.mark.parametrize("name", [*WHOLE, "stream_truncated"])
def test_a_stream_that_ends_without_its_end_is_truncated(name):
    data = recorded(name)
    last = data.rstrip().rindex(b"data: ") if name != "stream_truncated" else len(data)
    for end in (last, len(data) - 8 if last < len(data) else last):
        stream = decoder()
        stream.feed(data[:end])
        with pytest.raises(UpstreamFailure) as caught:
            stream.end()
        assert caught.value.reason == "truncated"


@pytest.mark.parametrize(
    "body",
    [
        b'[{\n "error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "x"}\n}]',
        b'{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "x"}}',
    ],
)
def test_an_error_that_is_no_event_is_understood(body):
    stream = decoder()
    for index in range(len(body)):
        assert stream.feed(body[index : index + 1]) == b""
    with pytest.raises(UpstreamFailure) as caught:
        stream.end()
    assert caught.value.status == 429


@pytest.mark.parametrize("event", [b"{", b"1", b'{"candidates":[{"index":-1}]}', b'"\xff"'])
def test_an_event_that_makes_no_sense_is_garbage(event):
    with pytest.raises(UpstreamFailure) as caught:
        decoder().feed(b"data: " + event + b"\n\n")
    assert caught.value.reason == "garbage"


def test_a_call_that_comes_after_the_finish_reason_is_not_lost():
    parts = [{"functionCall": {"name": "now"}}]
    events = [
        {"candidates": [{"content": {"parts": [{"text": "a"}]}, "finishReason": "STOP"}]},
        {"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]},
    ]
    out, _ = run([b"data: " + orjson.dumps(event) + b"\n\n" for event in events])
    assert [finish for _, finish in deltas(out)] == [None, None, None, "tool_calls"]


def test_logprobs_ride_on_the_choice():
    result = {"chosenCandidates": [{"token": "a", "logProbability": -1}]}
    candidate = {"content": {"parts": [{"text": "a"}]}, "logprobsResult": result}
    event = orjson.dumps({"candidates": [candidate | {"finishReason": "STOP"}]})
    out, _ = run([b"data: " + event + b"\n\n"])
    found = [chunk["choices"][0]["logprobs"] for chunk in chunks(out)]
    assert [entry and entry["content"][0]["token"] for entry in found] == [None, None, "a", None]


def sdk(data):
    """OpenAI's own client reading these bytes."""

    def reply(request):
        return httpx.Response(200, content=data, headers={"content-type": "text/event-stream"})

    http = httpx.Client(transport=httpx.MockTransport(reply))
    return openai.OpenAI(api_key="x", base_url="http://sdk.test/v1", http_client=http)


@pytest.mark.parametrize("name", ["stream_text", "stream_tools", "stream_lf_signature"])
def test_openais_stream_helper_builds_the_message(name):
    out, stream = run([recorded(name)])
    out += stream.usage_chunk(openai_usage(stream.usage), {"sellapi": {"credits_charged": "1"}})
    client = sdk(out + b"data: [DONE]\n\n")
    messages = [{"role": "user", "content": "Hi"}]
    with client.chat.completions.stream(model="m", messages=messages) as events:
        for _ in events:
            pass
        final = events.get_final_completion()
    choice = final.choices[0]
    assert choice.finish_reason == stream.finish_reasons[0]
    assert choice.message.role == "assistant"
    assert final.usage.prompt_tokens == stream.usage.total_input
    if name == "stream_tools":
        calls = choice.message.tool_calls
        assert [c.id for c in calls] == ["fc1", "fc2"]
        echoed = choice.message.model_dump(exclude_none=True)["tool_calls"][0]
        assert echoed["extra_content"] == {
            "google": {"thought_signature": "c2lnMg=="},
            "sellapi": {"model": "gemini-3.1-flash-lite"},
        }
