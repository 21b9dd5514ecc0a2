"""What Gemini answers, in OpenAI's shapes; the files in recorded/gemini follow wire notes 6.5 to 6.7."""

from __future__ import annotations

import base64
import re
import struct
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import CreateEmbeddingResponse, ImagesResponse
from openai.types.chat import ChatCompletion

from sellapi.domain.usage import Usage
from sellapi.errors import InvalidRequest, UpstreamFailed
from sellapi.upstream.adapter import UpstreamFailure
from sellapi.upstream.gemini import GeminiAdapter
from sellapi.upstream.gemini_reply import gemini_usage
from sellapi.upstream.gemini_signatures import SignatureStore
from tests.support.gemini_job import gemini_job

RECORDED = Path(__file__).parents[1] / "recorded" / "gemini"
CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


def decode(body, request=CHAT, adapter=None, **more):
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    job = gemini_job(request, **more)
    return (adapter or GeminiAdapter()).decode(job, [raw])


def recorded(name):
    answer = decode((RECORDED / name).read_bytes())
    completion = orjson.loads(answer.body)
    ChatCompletion.model_validate(completion)
    assert completion["model"] == "google/gemini-3.1-flash-lite"
    return answer, completion


def only(completion):
    assert [choice["index"] for choice in completion["choices"]] == [0]
    return completion["choices"][0]


# --- chat


def test_text_is_joined_and_its_signature_rides_on_the_message():
    answer, completion = recorded("text.json")
    message = only(completion)["message"]
    assert message["content"] == "Hello world"
    assert message["extra_content"] == {
        "google": {"thought_signature": "c2lnMQ=="},
        "sellapi": {"model": "gemini-3.1-flash-lite"},
    }
    assert "tool_calls" not in message
    assert only(completion)["finish_reason"] == "stop"
    assert answer.finish_reasons == ("stop",)
    assert completion["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 8,
        "total_tokens": 18,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 5},
    }


def test_function_calls_have_unique_ids_json_arguments_and_the_signature():
    store = SignatureStore()
    raw = (RECORDED / "tools.json").read_bytes()
    choice = only(orjson.loads(decode(raw, adapter=GeminiAdapter(store)).body))
    calls = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me check."
    assert [c["function"]["arguments"] for c in calls] == ['{"city":"Berlin"}', "{}", "{}"]
    assert calls[0]["id"] == "fc1"
    assert all(re.fullmatch(r"call_[0-9a-f]{24}", c["id"]) for c in calls[1:])
    assert calls[1]["id"] != calls[2]["id"]
    assert calls[0]["extra_content"] == {
        "google": {"thought_signature": "c2lnMg=="},
        "sellapi": {"model": "gemini-3.1-flash-lite"},
    }
    assert "extra_content" not in calls[1]
    assert store.get("acct-tag", "fc1") == ("gemini-3.1-flash-lite", "c2lnMg==")


def test_thoughts_never_get_into_the_content():
    _, completion = recorded("thinking.json")
    message = only(completion)["message"]
    assert (message["reasoning_content"], message["content"]) == ("Pondering.", "42")


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("blocked.json", None, "content_filter"),
        ("safety.json", None, "content_filter"),
        ("length.json", "", "length"),
    ],
)
def test_an_answer_without_content_is_a_choice_all_the_same(name, content, reason):
    answer, completion = recorded(name)
    assert only(completion)["message"]["content"] == content
    assert only(completion)["finish_reason"] == reason
    assert answer.usage.total_input == 12


def test_parts_of_unknown_kinds_are_skipped_and_counted():
    answer, completion = recorded("unknown_parts.json")
    assert only(completion)["message"]["content"] == "ok"
    assert answer.skipped == 3


def test_logprobs_are_openais():
    _, completion = recorded("logprobs.json")
    first, second = only(completion)["logprobs"]["content"]
    assert (first["token"], first["logprob"], first["bytes"]) == ("Hi", -0.1, [72, 105])
    assert [top["token"] for top in first["top_logprobs"]] == ["Hi", "Yo"]
    assert (second["token"], second["logprob"]) == (" é", 0.0)
    assert second["bytes"] == list(" é".encode())


def test_choices_come_in_the_order_of_their_index():
    answer, completion = recorded("two_choices.json")
    found = [(c["message"]["content"], c["finish_reason"]) for c in completion["choices"]]
    assert found == [("A", "length"), ("B", "stop")]
    assert answer.finish_reasons == ("length", "stop")


FINISH = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    "FINISH_REASON_UNSPECIFIED": "stop",
    "SOMETHING_NEW": "stop",
} | dict.fromkeys(
    [
        "SAFETY",
        "RECITATION",
        "LANGUAGE",
        "OTHER",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "IMAGE_SAFETY",
        "NO_IMAGE",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_OTHER",
        "IMAGE_RECITATION",
        "ESCALATION",
        "MODEL_ARMOR",
        "PUP_LIMITED_DISABLED",
    ],
    "content_filter",
)


@pytest.mark.parametrize("reason, expected", FINISH.items())
def test_every_finish_reason_has_its_word(reason, expected):
    body = {"candidates": [{"content": {"parts": [{"text": "x"}]}, "finishReason": reason}]}
    assert decode(body).finish_reasons == (expected,)


@pytest.mark.parametrize(
    "reason, expected",
    [("STOP", "tool_calls"), ("MAX_TOKENS", "tool_calls"), ("SAFETY", "content_filter")],
)
def test_a_call_makes_the_reason_tool_calls_unless_it_was_filtered(reason, expected):
    parts = [{"functionCall": {"name": "f"}}]
    body = {"candidates": [{"content": {"parts": parts}, "finishReason": reason}]}
    assert decode(body).finish_reasons == (expected,)


@pytest.mark.parametrize(
    "reason",
    [
        "MALFORMED_FUNCTION_CALL",
        "MALFORMED_RESPONSE",
        "UNEXPECTED_TOOL_CALL",
        "TOO_MANY_TOOL_CALLS",
        "MISSING_THOUGHT_SIGNATURE",
    ],
)
def test_an_unusable_answer_is_the_providers_failure(reason):
    with pytest.raises(UpstreamFailure, match=reason) as caught:
        decode({"candidates": [{"finishReason": reason}]})
    assert caught.value.error.status == 502
    assert caught.value.retryable


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b'"x"',
        b"{}",
        b'{"candidates": []}',
        b'{"candidates": {}, "usageMetadata": {"promptTokenCount": 5}}',
        b'{"candidates": {"a": 1}}',
        b'{"candidates": [1]}',
        b'{"candidates": [{"content": {"parts": [{"functionCall": {"args": {}}}]}}]}',
        b'{"candidates": [{"index": "x"}]}',
    ],
)
def test_an_answer_that_makes_no_sense_is_a_502(body):
    with pytest.raises(UpstreamFailure) as caught:
        decode(body)
    assert (caught.value.reason, caught.value.error.status) == ("garbage", 502)


@pytest.mark.parametrize("wrap", [False, True])
def test_an_error_inside_a_200_is_an_error_with_its_own_status(wrap):
    error = {"error": {"code": 429, "message": "slow", "status": "RESOURCE_EXHAUSTED"}}
    with pytest.raises(UpstreamFailure) as caught:
        decode([error] if wrap else error)
    assert caught.value.status == 429


def test_text_that_came_back_is_counted_for_answers_without_usage():
    parts = [{"text": "abcd", "thought": True}, {"text": "👋"}]
    answer = decode({"candidates": [{"content": {"parts": parts}}]})
    assert answer.usage is None
    assert answer.text.tokens == 3
    assert "usage" not in orjson.loads(answer.body)


# --- usage


@pytest.mark.parametrize(
    "meta, expected",
    [
        ({"promptTokenCount": 5, "totalTokenCount": 5}, Usage(input=5)),
        (
            {"promptTokenCount": 5, "candidatesTokenCount": 3, "totalTokenCount": 8},
            Usage(input=5, output=3),
        ),
        (
            {
                "promptTokenCount": 100,
                "cachedContentTokenCount": 60,
                "candidatesTokenCount": 10,
                "thoughtsTokenCount": 20,
                "toolUsePromptTokenCount": 7,
                "totalTokenCount": 137,
            },
            Usage(input=47, cache_read=60, output=30, reasoning=20),
        ),
        (  # the candidates hold the thoughts already
            {
                "promptTokenCount": 10,
                "candidatesTokenCount": 30,
                "thoughtsTokenCount": 20,
                "totalTokenCount": 40,
            },
            Usage(input=10, output=30, reasoning=20),
        ),
        (  # the total has more than was itemised
            {"promptTokenCount": 10, "candidatesTokenCount": 3, "totalTokenCount": 50},
            Usage(input=10, output=40),
        ),
        (
            {
                "promptTokenCount": 100,
                "cachedContentTokenCount": 30,
                "promptTokensDetails": [
                    {"modality": "TEXT", "tokenCount": 20},
                    {"modality": "IMAGE", "tokenCount": 30},
                    {"modality": "AUDIO", "tokenCount": 50},
                ],
                "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 10}],
                "candidatesTokenCount": 1300,
                "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290}],
                "totalTokenCount": 1400,
            },
            Usage(input=30, cache_read=30, audio_input=40, output=10, image_output=1290),
        ),
        ({"promptTokenCount": "12", "totalTokenCount": "12"}, Usage(input=12)),
        ({"totalTokenCount": 9}, Usage(input=9)),
        ({}, None),
        (None, None),
        ({"promptTokenCount": -5}, None),
        ({"promptTokenCount": 5, "candidatesTokenCount": 10**18}, None),
        ({"promptTokenCount": 5, "totalTokenCount": "9" * 5_000}, Usage(input=5)),
    ],
)
def test_usage_is_split_into_disjoint_buckets(meta, expected):
    found = gemini_usage(meta)
    if expected is None:
        assert found is None
    else:
        assert found.buckets() == expected.buckets()
        assert found.reasoning == expected.reasoning
        assert orjson.loads(found.raw) == meta


_COUNT = st.integers(0, 10**6)
_DETAILS = st.lists(
    st.fixed_dictionaries(
        {"modality": st.sampled_from(["TEXT", "AUDIO", "IMAGE"])}, optional={"tokenCount": _COUNT}
    ),
    max_size=3,
)


@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            (
                "promptTokenCount",
                "cachedContentTokenCount",
                "candidatesTokenCount",
                "thoughtsTokenCount",
                "toolUsePromptTokenCount",
                "totalTokenCount",
            ),
            _COUNT,
        )
        | dict.fromkeys(
            ("promptTokensDetails", "cacheTokensDetails", "candidatesTokensDetails"), _DETAILS
        ),
    )
)
def test_buckets_are_never_negative_and_cover_what_was_counted(meta):
    found = gemini_usage(meta)
    if found is None:
        return
    itemised = meta.get("promptTokenCount", 0) + meta.get("toolUsePromptTokenCount", 0)
    if meta.get("promptTokenCount"):
        assert found.total_input == itemised
    assert found.total_output >= meta.get("candidatesTokenCount", 0)
    assert found.total_input + found.total_output >= meta.get("totalTokenCount", 0)


# --- errors


def failure(status, error, headers=None):
    body = error if isinstance(error, bytes) else orjson.dumps({"error": error})
    return GeminiAdapter().failure(status, headers or {}, body)


@pytest.mark.parametrize(
    "status, kind, retryable, key_refused",
    [
        (400, InvalidRequest, False, False),
        (401, UpstreamFailed, True, True),
        (403, UpstreamFailed, True, True),
        (404, UpstreamFailed, True, False),
        (409, UpstreamFailed, True, False),
        (413, InvalidRequest, False, False),
        (429, UpstreamFailed, True, False),
        (499, UpstreamFailed, True, False),
        (500, UpstreamFailed, True, False),
        (503, UpstreamFailed, True, False),
        (504, UpstreamFailed, True, False),
    ],
)
def test_statuses_say_whose_trouble_it_is(status, kind, retryable, key_refused):
    found = failure(status, {"code": status, "message": "words", "status": "X"})
    assert type(found.error) is kind
    assert (found.retryable, found.key_refused, found.status) == (retryable, key_refused, status)
    assert found.reason == f"status_{status}"
    assert found.sent


@pytest.mark.parametrize(
    "error",
    [
        {
            "code": 400,
            "message": "API key not valid. Please pass a valid API key.",
            "status": "INVALID_ARGUMENT",
        },
        {
            "code": 400,
            "message": "x",
            "details": [{"reason": "API_KEY_INVALID", "domain": "googleapis.com"}],
        },
        {"code": 400, "message": "User location is not supported for the API use."},
    ],
)
def test_a_400_about_our_key_is_not_the_clients(error):
    found = failure(400, error)
    assert (found.error.status, found.error.type) == (502, "upstream_error")
    assert found.key_refused
    assert "API key" not in found.error.message


def test_a_400_keeps_the_providers_words_and_code_but_no_secrets():
    found = failure(
        400,
        {
            "code": 400,
            "message": "Invalid value at 'x' for AIzaSyD-1234567890abcdef at https://a.googleapis.com",
            "status": "INVALID_ARGUMENT",
        },
    )
    assert found.error.code == "INVALID_ARGUMENT"
    assert "Invalid value at 'x'" in found.error.message
    assert "AIza" not in str(found.error.body())
    assert "googleapis" not in str(found.error.body())


def test_a_prompt_that_is_too_long_has_openais_code():
    message = "The input token count (9) exceeds the maximum number of tokens allowed (8)."
    assert failure(400, {"message": message}).error.code == "context_length_exceeded"


@pytest.mark.parametrize(
    "delay, headers, expected",
    [("30s", {}, "30"), ("1.5s", {}, "2"), (None, {"retry-after": "7"}, "7"), ("x", {}, "30")],
)
def test_a_rate_limit_tells_when_to_come_back(delay, headers, expected):
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}
    error = {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [{"reason": "x"}, info]}
    found = failure(429, error, headers)
    assert found.error.status == 502
    assert found.error.headers.get("retry-after") == expected


@pytest.mark.parametrize("body", [b"", b"<html>Bad gateway</html>", b'{"error": "x"}', b'{"a":1}'])
def test_an_error_page_that_is_no_json_is_understood_by_its_status(body):
    assert failure(502, body).error.status == 502
    assert failure(400, body).error.status == 400


def test_an_error_in_an_array_is_unwrapped():
    body = b'[{"error": {"code": 400, "message": "words", "status": "OUT_OF_RANGE"}}]'
    assert failure(400, body).error.message == "words"


# --- embeddings


def embedding(body, model="gemini-embedding-001"):
    return gemini_job(body, model, mode="embedding", output_limit=None)


def test_each_input_is_a_request_of_its_own():
    outbound = GeminiAdapter().encode(embedding({"input": ["a", "b"], "dimensions": 256}))
    assert outbound.path == "/v1beta/models/gemini-embedding-001:batchEmbedContents"
    assert orjson.loads(outbound.body) == {
        "requests": [
            {
                "model": "models/gemini-embedding-001",
                "content": {"parts": [{"text": text}]},
                "outputDimensionality": 256,
            }
            for text in "ab"
        ]
    }


@pytest.mark.parametrize(
    "body, param",
    [
        ({"input": [1, 2]}, "input"),
        ({"input": [[1, 2]]}, "input"),
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": ["a", None]}, "input"),
        ({}, "input"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ],
)
def test_inputs_that_cannot_be_embedded_are_refused_by_name(body, param):
    with pytest.raises(InvalidRequest) as caught:
        GeminiAdapter().encode(embedding(body))
    assert caught.value.param == param


VECTORS = b'{"embeddings": [{"values": [0.5, -1]}, {"values": [0.25, 2]}]}'


def test_vectors_keep_their_order():
    answer = GeminiAdapter().decode(embedding({"input": ["a", "b"]}), [VECTORS])
    body = orjson.loads(answer.body)
    assert [item["index"] for item in body["data"]] == [0, 1]
    assert [item["embedding"] for item in body["data"]] == [[0.5, -1], [0.25, 2]]


def test_tokens_of_embeddings_are_counted_by_us_when_the_provider_does_not_tell():
    answer = GeminiAdapter().decode(embedding({"input": ["abcdefgh", "é"]}), [VECTORS])
    assert answer.usage == Usage(input=3, estimated=True)
    assert orjson.loads(answer.body)["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


def test_base64_is_packed_by_us_as_little_endian_floats():
    job = embedding({"input": ["a", "b"], "encoding_format": "base64"})
    body = orjson.loads(GeminiAdapter().decode(job, [VECTORS]).body)
    packed = base64.b64decode(body["data"][1]["embedding"])
    assert struct.unpack("<2f", packed) == (0.25, 2.0)


def test_usage_of_embeddings_is_told_when_the_provider_tells_it():
    raw = b'{"embeddings": [{"values": [1]}], "usageMetadata": {"promptTokenCount": 4}}'
    answer = GeminiAdapter().decode(embedding({"input": "a"}), [raw])
    assert answer.usage.buckets() == {"input": 4}
    parsed = CreateEmbeddingResponse.model_validate_json(answer.body)
    assert (parsed.usage.prompt_tokens, parsed.usage.total_tokens) == (4, 4)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"embeddings": []}',
        b"{}",
        b'{"embeddings": [{"values": []}]}',
        b'{"embeddings": [{"values": ["x"]}]}',
        b'{"embeddings": [{"values": [1]}, {"values": [2]}]}',
    ],
)
def test_vectors_that_do_not_match_the_inputs_are_garbage(raw):
    job = embedding({"input": "a", "encoding_format": "base64"})
    with pytest.raises(UpstreamFailure) as caught:
        GeminiAdapter().decode(job, [raw])
    assert caught.value.reason == "garbage"


# --- images

GEMINI_IMAGE = "gemini-3.1-flash-image"
IMAGEN = "imagen-4.0-generate-001"


def images(body, model=GEMINI_IMAGE):
    return gemini_job({"prompt": "A cat"} | body, model, mode="image", output_limit=None)


@pytest.mark.parametrize(
    "size, expected",
    [
        (None, None),
        ("auto", None),
        ("1024x1024", {"aspectRatio": "1:1"}),
        ("512x512", {"aspectRatio": "1:1"}),
        ("1536x1024", {"aspectRatio": "3:2"}),
        ("1024x1536", {"aspectRatio": "2:3"}),
        ("1792x1024", {"aspectRatio": "16:9"}),
        ("1024x1792", {"aspectRatio": "9:16"}),
        ("2048x2048", {"aspectRatio": "1:1", "imageSize": "2K"}),
        ("3840x2160", {"aspectRatio": "16:9", "imageSize": "4K"}),
        ("1000x1100", {"aspectRatio": "1:1"}),
    ],
)
def test_size_becomes_a_shape_and_a_class(size, expected):
    outbound = GeminiAdapter().encode(images({"size": size, "n": 3, "quality": "high"}))
    config = orjson.loads(outbound.body)["generationConfig"]
    assert outbound.path == f"/v1beta/models/{GEMINI_IMAGE}:generateContent"
    assert outbound.repeat == 3
    assert config == {"responseModalities": ["IMAGE"]} | (
        {"imageConfig": expected} if expected else {}
    )


@pytest.mark.parametrize(
    "body, model, param",
    [
        ({"size": "big"}, GEMINI_IMAGE, "size"),
        ({"size": "3000x100"}, GEMINI_IMAGE, "size"),
        ({"size": "8192x8192"}, GEMINI_IMAGE, "size"),
        ({"size": "2048x2048"}, "gemini-2.5-flash-image", "size"),
        ({"size": "4096x4096"}, IMAGEN, "size"),
        ({"n": 11}, GEMINI_IMAGE, "n"),
        ({"prompt": ""}, GEMINI_IMAGE, "prompt"),
        ({"prompt": ["x"]}, GEMINI_IMAGE, "prompt"),
        ({"background": "transparent"}, GEMINI_IMAGE, "background"),
        ({"output_format": "webp"}, IMAGEN, "output_format"),
    ],
)
def test_images_that_cannot_be_drawn_are_refused_by_name(body, model, param):
    with pytest.raises(InvalidRequest) as caught:
        GeminiAdapter().encode(images(body, model))
    assert caught.value.param == param


@pytest.mark.parametrize(
    "n, per_call, repeat",
    [(1, 1, 1), (2, 2, 1), (4, 4, 1), (5, 1, 5), (6, 3, 2), (8, 4, 2), (9, 3, 3), (10, 2, 5)],
)
def test_imagen_draws_up_to_four_a_call(n, per_call, repeat):
    body = {"n": n, "size": "1024x1792", "output_format": "jpeg", "response_format": "url"}
    outbound = GeminiAdapter().encode(images(body, IMAGEN))
    assert outbound.path == f"/v1beta/models/{IMAGEN}:predict"
    assert outbound.repeat == repeat
    assert orjson.loads(outbound.body) == {
        "instances": [{"prompt": "A cat"}],
        "parameters": {
            "sampleCount": per_call,
            "aspectRatio": "9:16",
            "outputOptions": {"mimeType": "image/jpeg"},
        },
    }


def drawn(mime="image/png", data="aGk=", **more):
    part = {"inlineData": {"mimeType": mime, "data": data}} | more
    usage = {
        "promptTokenCount": 5,
        "candidatesTokenCount": 1290,
        "totalTokenCount": 1295,
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290}],
    }
    candidate = {"content": {"parts": [{"text": "Here."}, part]}, "finishReason": "STOP"}
    return orjson.dumps({"candidates": [candidate], "usageMetadata": usage})


def filtered(reason="IMAGE_SAFETY"):
    usage = {"promptTokenCount": 5, "totalTokenCount": 5}
    return orjson.dumps({"candidates": [{"finishReason": reason}], "usageMetadata": usage})


def test_images_of_several_calls_are_one_answer_with_their_usage_added():
    answer = GeminiAdapter().decode(images({"n": 3}), [drawn(), filtered(), drawn(data="-_8=")])
    body = ImagesResponse.model_validate_json(answer.body)
    assert [item.b64_json for item in body.data] == ["aGk=", "+/8="]
    assert answer.images == 2
    assert answer.usage.buckets() == {"input": 15, "image_output": 2580, "images": 2}
    assert len(orjson.loads(answer.usage.raw)) == 3


def test_the_answer_says_what_format_was_delivered():
    job = images({"output_format": "png"})
    body = orjson.loads(GeminiAdapter().decode(job, [drawn("image/jpeg")]).body)
    assert body["output_format"] == "jpeg"


def test_sketches_made_while_thinking_are_no_images():
    with pytest.raises(UpstreamFailure):
        GeminiAdapter().decode(images({}), [drawn(thought=True)])


def test_image_tokens_without_details_are_image_tokens_all_the_same():
    reply = orjson.loads(drawn())
    del reply["usageMetadata"]["candidatesTokensDetails"]
    answer = GeminiAdapter().decode(images({}), [orjson.dumps(reply)])
    assert answer.usage.image_output == 1290


@pytest.mark.parametrize(
    "bodies",
    [
        [filtered()],
        [filtered("NO_IMAGE"), filtered("PROHIBITED_CONTENT")],
        [b'{"promptFeedback": {"blockReason": "SAFETY"}}'],
        [orjson.dumps({"candidates": [{"content": {"parts": [{"text": "No."}]}}]})],
        [b'{"error": {"code": 500}}', filtered()],
    ],
)
def test_no_image_at_all_is_a_400_about_the_prompt(bodies):
    with pytest.raises(UpstreamFailure) as caught:
        GeminiAdapter().decode(images({"n": len(bodies)}), bodies)
    error = caught.value.error
    assert (error.status, error.code, error.param) == (400, "content_policy_violation", "prompt")
    assert not caught.value.retryable


def test_an_image_call_that_failed_is_no_matter_when_another_drew():
    answer = GeminiAdapter().decode(images({"n": 2}), [b'{"error": {"code": 500}}', drawn()])
    assert answer.images == 1


def test_image_calls_that_all_failed_tell_the_providers_error():
    with pytest.raises(UpstreamFailure) as caught:
        GeminiAdapter().decode(images({}), [b'{"error": {"code": 503, "message": "busy"}}'])
    assert (caught.value.status, caught.value.error.status) == (503, 502)


def test_imagen_counts_what_it_delivered():
    raw = orjson.dumps(
        {
            "predictions": [
                {"mimeType": "image/png", "bytesBase64Encoded": "aGk=", "prompt": "A fine cat"},
                {"raiFilteredReason": "no"},
            ]
        }
    )
    answer = GeminiAdapter().decode(images({"n": 2}, IMAGEN), [raw])
    body = ImagesResponse.model_validate_json(answer.body)
    assert [(i.b64_json, i.revised_prompt) for i in body.data] == [("aGk=", "A fine cat")]
    assert body.output_format == "png"
    assert (answer.images, answer.usage.buckets()) == (1, {"images": 1})


@pytest.mark.parametrize("raw", [b"{}", b'{"predictions": [{"raiFilteredReason": "x"}]}'])
def test_imagen_that_filtered_all_is_a_400_about_the_prompt(raw):
    with pytest.raises(UpstreamFailure) as caught:
        GeminiAdapter().decode(images({}, IMAGEN), [raw])
    assert caught.value.error.code == "content_policy_violation"
