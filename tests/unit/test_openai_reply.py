"""Whole answers of OpenAI-compatible providers: bytes kept, usage normalised, media unified."""

import base64
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sellapi.upstream.adapter import UpstreamFailure
from sellapi.upstream.openai import OpenAIAdapter
from sellapi.upstream.openai_reply import _read_any, _read_usual, read_usage
from tests.support.openai_job import openai_job

RECORDED = Path(__file__).parents[1] / "recorded" / "openai"


def decode(reply, mode="chat", **more):
    raw = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
    return OpenAIAdapter().decode(openai_job(mode, **more), [raw])


def test_a_completion_comes_back_as_it_came_but_for_the_model():
    raw = (RECORDED / "completion.json").read_bytes()
    answer = decode(raw)
    assert answer.body == raw.replace(
        b'"model":"gpt-5.4-2026-03-05"', b'"model":"openai/gpt-5.4"', 1
    )
    assert answer.finish_reasons == ("stop",)
    assert (answer.usage.input, answer.usage.cache_read, answer.usage.output) == (16, 32, 16)
    assert json.loads(answer.usage.raw)["total_tokens"] == 64


@pytest.mark.parametrize(
    "body",
    [
        '{"model" : "m","choices":[]}',
        '{"x":{"model":"m"},"model":"m","choices":[]}',
        '{"x":{"model":"m"},"mod\\u0065l":"m","choices":[]}',
        '{"x":"model","model": "m","choices":[]}',
        '{"choices":[]}',
        '{"model":"m","big":99999999999999999999999999,"lone":"\\ud800","choices":[]}',
        '{"model":null,"choices":[]}',
        '{"model":7,"choices":[]}',
    ],
)
def test_only_the_top_level_model_is_renamed(body):
    body = body.replace("}", ',"usage":{"prompt_tokens":1}}') if "x" not in body else body
    wanted = json.loads(body) | {"model": "openai/gpt-5.4"}
    if '"usage"' not in body:
        body = body[:-1] + ',"usage":{"prompt_tokens":1}}'
        wanted["usage"] = {"prompt_tokens": 1}
    assert json.loads(decode(body.encode()).body) == wanted


@pytest.mark.parametrize(
    "body, reason, status",
    [
        ({"error": {"message": "no", "code": 429}}, "error_in_200", 502),
        ({"error": {"message": "no", "code": "429"}}, "error_in_200", 502),
        ({"error": {"message": "bad", "type": "invalid_request_error"}}, "error_in_200", 400),
        ({"error": "no"}, "error_in_200", 502),
        ({"object": "error", "message": "bad", "code": 400}, "error_in_200", 400),
        ({"choices": [{"finish_reason": "error", "message": {}}]}, "error_in_200", 502),
        (
            {"choices": [{"error": {"code": 400, "message": "bad"}, "finish_reason": None}]},
            "error_in_200",
            400,
        ),
        ({"choices": []}, "garbage", 502),
        ({}, "garbage", 502),
        ([], "garbage", 502),
        (b"<html>", "garbage", 502),
        (b"", "garbage", 502),
        (b"[" * 100_000, "garbage", 502),
    ],
)
def test_an_error_under_a_200_is_an_error(body, reason, status):
    with pytest.raises(UpstreamFailure) as caught:
        decode(body)
    assert caught.value.reason == reason
    assert caught.value.error.status == status


def test_the_recorded_error_under_a_200_is_told_without_the_key():
    with pytest.raises(UpstreamFailure) as caught:
        decode((RECORDED / "error_in_200.json").read_bytes())
    assert caught.value.error.message == "messages: too long for [removed]"


def test_a_stream_nobody_asked_for_is_gathered():
    answer = decode((RECORDED / "text.sse").read_bytes())
    assert json.loads(answer.body)["choices"][0]["message"]["content"].endswith(" ok")


@pytest.mark.parametrize(
    "raw, wanted",
    [
        ({"prompt_tokens": 10, "completion_tokens": 5}, (10, 0, 0, 0, 0, 5, 0)),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
            },
            (4, 4, 2, 0, 0, 5, 0),
        ),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "prompt_tokens_details": {"audio_tokens": 3, "image_tokens": 2, "text_tokens": 5},
                "completion_tokens_details": {"reasoning_tokens": 3},
            },
            (5, 0, 0, 3, 2, 5, 3),
        ),
        (
            {
                "prompt_tokens": 10,
                "prompt_tokens_details": {"cached_tokens": 99, "audio_tokens": 9},
            },
            (0, 10, 0, 0, 0, 0, 0),
        ),
        ({"prompt_tokens": "10", "completion_tokens": 5.0}, (10, 0, 0, 0, 0, 5, 0)),
        ({"prompt_tokens": -3, "completion_tokens": 5}, None),
        ({"prompt_tokens": 10, "prompt_cache_hit_tokens": 4}, (6, 4, 0, 0, 0, 0, 0)),
        ({"input_tokens": 10, "output_tokens": 5}, (10, 0, 0, 0, 0, 5, 0)),
        ({"total_tokens": 15, "completion_tokens": 5}, (10, 0, 0, 0, 0, 5, 0)),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": 22,
                "completion_tokens_details": {"reasoning_tokens": 7},
            },
            (10, 0, 0, 0, 0, 12, 7),
        ),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "completion_tokens_details": {"reasoning_tokens": 7},
                "prompt_tokens_details": None,
            },
            (10, 0, 0, 0, 0, 5, 5),
        ),
        ({"prompt_tokens": True}, None),
        ({"prompt_tokens": 10**30}, None),
        ({}, None),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, None),
        ({"prompt_tokens": 0, "total_tokens": 0}, None),
        (None, None),
        ([], None),
        ("x", None),
    ],
)
def test_usage_becomes_disjoint_buckets(raw, wanted):
    usage = read_usage(json.dumps(raw).encode())
    if wanted is None:
        assert usage is None
        return
    names = ("input", "cache_read", "cache_write", "audio_input", "image_input", "output")
    assert (*(getattr(usage, name) for name in names), usage.reasoning) == wanted


COUNT = st.one_of(
    st.integers(-5, 10**12), st.floats(), st.none(), st.text(max_size=4), st.booleans()
)
NAMES = ("cached_tokens", "cache_write_tokens", "audio_tokens", "image_tokens", "reasoning_tokens")
DETAILS = st.one_of(COUNT, st.dictionaries(st.sampled_from(NAMES), COUNT))


@given(st.integers(1, 10**6), st.integers(0, 10**6), DETAILS, DETAILS)
def test_buckets_always_sum_to_what_was_reported(prompt, completion, into, out):
    raw = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "prompt_tokens_details": into,
        "completion_tokens_details": out,
    }
    usage = read_usage(json.dumps(raw).encode())
    assert usage.total_input == prompt
    assert usage.total_output == completion


USUAL = st.fixed_dictionaries(
    {"prompt_tokens": COUNT, "completion_tokens": COUNT, "total_tokens": COUNT},
    optional={
        "prompt_tokens_details": DETAILS,
        "completion_tokens_details": DETAILS,
        "reasoning_tokens": COUNT,
        "cached_tokens": COUNT,
        "prompt_cache_hit_tokens": COUNT,
        "input_tokens": COUNT,
        "cost": COUNT,
    },
)
SMALL = st.integers(0, 50)
LIKELY = st.builds(
    lambda parts, output, reasoning: {
        "prompt_tokens": sum(parts.values()),
        "completion_tokens": output + reasoning,
        "total_tokens": sum(parts.values()) + output + reasoning,
        "prompt_tokens_details": {k: v for k, v in parts.items() if k != "text_tokens"},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    },
    st.fixed_dictionaries(dict.fromkeys((*NAMES[:4], "text_tokens"), SMALL)),
    SMALL,
    SMALL,
).filter(lambda said: said["total_tokens"] > 0)


@given(USUAL | LIKELY)
def test_the_short_way_to_read_usage_gives_what_the_long_way_gives(said):
    raw = json.dumps(said).encode()
    assert _read_usual(raw) in (None, _read_any(raw))


@given(LIKELY)
def test_usage_of_the_usual_shape_takes_the_short_way(said):
    assert _read_usual(json.dumps(said).encode()) is not None


# --- embeddings


def vectors(*items, **more):
    data = [{"object": "embedding", "index": i, "embedding": e} for i, e in items]
    usage = {"prompt_tokens": 2, "total_tokens": 2}
    return {
        "object": "list",
        "model": "text-embedding-3-small",
        "data": data,
        "usage": usage,
    } | more


PACKED = base64.b64encode(struct.pack("<2f", 0.5, -1.25)).decode()


@pytest.mark.parametrize(
    "asked, came, wanted",
    [
        ("base64", [0.5, -1.25], PACKED),
        ("base64", PACKED, PACKED),
        ("float", PACKED, [0.5, -1.25]),
        (None, PACKED, [0.5, -1.25]),
        (None, [0.5, -1.25], [0.5, -1.25]),
    ],
)
def test_vectors_come_in_the_encoding_the_client_asked_for(asked, came, wanted):
    body = {"encoding_format": asked} if asked else {}
    answer = decode(vectors((0, came), (1, came)), "embedding", body=body)
    out = json.loads(answer.body)
    assert [v["embedding"] for v in out["data"]] == [wanted, wanted]
    assert out["model"] == "openai/gpt-5.4"
    assert (answer.usage.input, answer.usage.output) == (2, 0)


def test_vectors_keep_their_digits():
    raw = json.dumps(vectors((0, [0.1, 1e-9]), (1, [0.10000000000000001]))).encode()
    raw = raw.replace(b"0.1,", b"0.1000,")
    assert b"0.1000," in decode(raw, "embedding").body


def test_vectors_are_put_in_the_order_of_the_inputs():
    out = json.loads(decode(vectors((1, [1.0]), (0, [0.0])), "embedding").body)
    assert [(v["index"], v["embedding"]) for v in out["data"]] == [(0, [0.0]), (1, [1.0])]


@pytest.mark.parametrize(
    "asked, count",
    [("a", 1), (["a"], 1), ([1, 2, 3], 1), ([[1, 2], [3]], 2), (["a", "b", "c"], 3)],
)
def test_one_vector_per_input_is_demanded(asked, count):
    good = vectors(*((i, [0.5]) for i in range(count)))
    assert decode(good, "embedding", body={"input": asked}).usage
    for wrong in (count - 1, count + 1):
        with pytest.raises(UpstreamFailure, match="garbage"):
            decode(vectors(*((i, [0.5]) for i in range(wrong))), "embedding", body={"input": asked})


@pytest.mark.parametrize("body", [{"data": []}, {"data": 7}, {}, b"", {"data": [{"index": 0}]}])
def test_no_vectors_is_an_error(body):
    with pytest.raises(UpstreamFailure, match="garbage"):
        decode(body, "embedding")


def test_vectors_without_usage_say_so():
    assert decode(vectors((0, [1.0]), (1, [1.0]), usage=None), "embedding").usage is None


# --- images


def test_pictures_pass_as_they_came_and_are_counted():
    usage = {
        "input_tokens": 12,
        "input_tokens_details": {"text_tokens": 10, "image_tokens": 2},
        "output_tokens": 300,
        "total_tokens": 312,
    }
    raw = json.dumps({"created": 1, "data": [{"b64_json": "QQ=="}] * 2, "usage": usage}).encode()
    answer = decode(raw, "image")
    assert answer.body == raw
    assert (answer.images, answer.usage.images) == (2, 2)
    assert (answer.usage.input, answer.usage.image_input) == (10, 2)
    assert (answer.usage.output, answer.usage.image_output) == (0, 300)


def test_pictures_by_url_are_named_and_data_urls_inlined():
    data = [
        {"url": "https://x.example/a.png", "revised_prompt": "r", "b64_json": None},
        {"url": "data:image/png;base64,QQ=="},
        {"b64_json": "data:image/png;base64,Qg=="},
        {"revised_prompt": "filtered"},
    ]
    answer = decode({"data": data}, "image")
    out = json.loads(answer.body)
    assert out["data"] == [
        {"url": "https://x.example/a.png", "revised_prompt": "r"},
        {"b64_json": "QQ=="},
        {"b64_json": "Qg=="},
    ]
    assert out["created"] == 1790000001
    assert answer.image_urls == ("https://x.example/a.png",)
    assert (answer.images, answer.skipped, answer.usage) == (3, 1, None)


@pytest.mark.parametrize("body", [{"data": []}, {"data": [{}]}, {"data": None}, b"<html>", [], {}])
def test_no_picture_is_an_error(body):
    with pytest.raises(UpstreamFailure, match="garbage"):
        decode(body, "image")
