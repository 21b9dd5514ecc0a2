"""What a provider's refusal means to the customer and to the router."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from sellapi.upstream.clean import clean_message
from sellapi.upstream.openai import OpenAIAdapter


def failure(status, body=None, **headers):
    raw = body if isinstance(body, bytes) else json.dumps({"error": body or {}}).encode()
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return OpenAIAdapter().failure(status, named, raw)


@pytest.mark.parametrize(
    "status, code, told, retryable, key_refused",
    [
        (400, None, 400, False, False),
        (413, None, 400, False, False),
        (422, None, 400, False, False),
        (400, "invalid_api_key", 502, True, True),
        (401, "invalid_api_key", 502, True, True),
        (402, None, 502, True, False),
        (403, None, 502, True, True),
        (404, "model_not_found", 502, True, False),
        (400, "model_not_found", 502, True, False),
        (405, None, 502, True, False),
        (408, None, 502, True, False),
        (409, None, 502, True, False),
        (429, "rate_limit_exceeded", 502, True, False),
        (429, "insufficient_quota", 502, True, False),
        (500, None, 502, True, False),
        (503, None, 502, True, False),
        (529, None, 502, True, False),
        (302, None, 502, True, False),
    ],
)
def test_each_status_has_its_meaning(status, code, told, retryable, key_refused):
    found = failure(status, {"message": "words", "code": code})
    assert found.error.status == told
    assert (found.retryable, found.key_refused, found.sent) == (retryable, key_refused, True)
    assert (found.status, found.reason) == (status, f"status_{status}")
    assert found.error.type == ("invalid_request_error" if told == 400 else "upstream_error")
    permanent = status in (302, 401, 402, 403, 404, 405) or code in (
        "insufficient_quota",
        "model_not_found",
        "invalid_api_key",
    )
    assert (found.error.headers.get("x-should-retry") == "false") is permanent


def test_the_providers_own_words_on_a_400_are_told_with_its_code_and_param():
    words = {"message": "Too long.", "code": "context_length_exceeded", "param": "messages"}
    assert failure(400, words).error.body()["error"] == words | {"type": "invalid_request_error"}
    numeric = failure(400, {"message": "x", "code": 400}).error
    assert numeric.code == "invalid_request_error"


@pytest.mark.parametrize(
    "body, message",
    [
        (b'{"detail":[{"loc":["body","n"],"msg":"bad"}]}', '[{"loc":["body","n"],"msg":"bad"}]'),
        (b'{"detail":"bad"}', "bad"),
        (b'{"message":"bad"}', "bad"),
        (b'{"error":"bad"}', "bad"),
        (b'[{"error":{"message":"bad"}}]', "bad"),
        (b'{"error":{"message":{"a":1}}}', '{"a":1}'),
    ],
)
def test_other_shapes_of_a_400_are_read(body, message):
    assert failure(400, body).error.message == message


@pytest.mark.parametrize("body", [b"<html>Bad Request</html>", b"", b"7", b"null"])
def test_a_400_without_words_gets_ours(body):
    message = failure(400, body).error.message
    assert "without saying why" in message
    assert "html" not in message


@pytest.mark.parametrize(
    "headers, wait, header",
    [
        ({"retry_after": "7"}, 7.0, "7"),
        ({"retry_after_ms": "1500", "retry_after": "9"}, 1.5, "2"),
        ({"retry_after": "x"}, 5.0, "5"),
        ({"retry_after": "nan"}, 5.0, "5"),
        ({}, 5.0, "5"),
        ({"retry_after": "-3"}, 0.0, "1"),
        ({"retry_after": "600"}, 600.0, "600"),
    ],
)
def test_a_rate_limit_says_when_to_come_back(headers, wait, header):
    found = failure(429, {"message": "slow down org-secret12345"}, **headers)
    assert (found.retry_after, found.error.headers["retry-after"]) == (wait, header)
    assert (found.error.headers.get("x-should-retry") == "false") is (wait > 60)


def test_a_rate_limit_may_name_a_date():
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 27 <= failure(429, {}, retry_after=moment).retry_after <= 30


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500])
def test_no_word_of_the_provider_is_told_where_the_operator_is_at_fault(status):
    message = failure(status, {"message": "Incorrect key sk-proj-abc123def456"}).error.message
    assert "sk-proj" not in message
    assert "Incorrect" not in message


@pytest.mark.parametrize(
    "text, clean",
    [
        ("Incorrect API key provided: sk-proj-****abcd", "Incorrect API key provided: [removed]"),
        ("key AIzaSyA-1234567 bad", "key [removed] bad"),
        ("sent Bearer abc.def-ghi1 to it", "sent [removed] to it"),
        ("see https://platform.openai.com/x?key=1.", "see [removed]."),
        ("api.openai.com:443 and localhost:8080 failed", "[removed] and [removed] failed"),
        ("at 10.0.0.3:80 or [::1]:80", "at [removed] or [removed]"),
        ("in organization org-AbCd1234Ef on", "in organization [removed] on"),
        ("request req_0123456789abcdef failed", "request [removed] failed"),
        ("id 123e4567-e89b-12d3-a456-426614174000", "id [removed]"),
        ("mail a.b@c.example now", "mail [removed] now"),
        ("a\n\t\x00b\u202ec", "a b c"),
    ],
)
def test_secrets_places_and_ids_are_taken_out(text, clean):
    assert clean_message(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "Function tools are not supported in /v1/chat/completions. Please use /v1/responses.",
        "messages.0.content.1.text: Field required",
        "Invalid 'tools[0].function.parameters': user_location and web_search_options.city",
        "max_tokens: 128001 > 128000 (request-level, key_value_pairs) for claude-sonnet-4.6",
        "This model's maximum context length is 8192 tokens; at 12:30:45",
    ],
)
def test_words_about_the_request_stay(text):
    assert clean_message(text) == text


def test_a_long_message_is_cut():
    assert len(clean_message("word " * 10_000)) <= 500
