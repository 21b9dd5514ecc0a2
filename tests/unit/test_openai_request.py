"""What goes out to an OpenAI-compatible provider for what came in."""

import json

import msgspec
import pytest

from sellapi.errors import InvalidRequest
from sellapi.upstream.openai import OpenAIAdapter
from tests.support.openai_job import openai_job

TOOLS = [{"type": "function", "function": {"name": "f"}}]
CUSTOM = [{"type": "custom", "custom": {"name": "f"}}]


def sent(job):
    return json.loads(OpenAIAdapter().encode(job).body)


def test_a_plain_request_goes_out_with_its_model_and_is_not_stored():
    out = OpenAIAdapter().encode(openai_job(body={"stream": False}))
    assert out.path == "/chat/completions"
    assert not out.stream
    assert json.loads(out.body) == {
        "model": "gpt-5.4",
        "messages": [{"role": "user", "content": "Hi"}],
        "store": False,
    }


def test_unknown_and_known_fields_keep_their_bytes():
    body = {
        "temperature": 0.70,
        "seed": 12345678901234567890123,
        "x_unknown": {"b": [1.0, None, "é\u2028"]},
        "tools": TOOLS,
        "logit_bias": {"50256": -100},
        "metadata": {"a": "b"},
        "response_format": {"type": "json_object"},
    }
    job = openai_job(body=None)
    raw = json.dumps(body, ensure_ascii=False).encode()
    job.fields.update(msgspec.json.decode(raw, type=dict[str, msgspec.Raw]))
    out = OpenAIAdapter().encode(job).body
    for key, value in body.items():
        assert f'"{key}":{json.dumps(value, ensure_ascii=False)}'.encode() in out


@pytest.mark.parametrize(
    "upstream_id, effort, thinks",
    [
        ("gpt-5.4", None, False),
        ("gpt-5.1-mini", None, False),
        ("gpt-5.4", "low", True),
        ("gpt-5.5", None, True),
        ("gpt-5.5", "none", False),
        ("gpt-5", None, True),
        ("gpt-5-mini", None, True),
        ("gpt-5.2-chat-latest", None, True),
        ("gpt-5.4-pro", None, True),
        ("o3", None, True),
    ],
)
def test_whether_the_model_thinks_is_known_by_the_effort(upstream_id, effort, thinks):
    """Wire notes 1.3."""
    body = {} if effort is None else {"reasoning_effort": effort}
    out = OpenAIAdapter().encode(openai_job(upstream_id=upstream_id, body=body))
    assert out.thinks is thinks


@pytest.mark.parametrize("name", ["reasoning", "Reasoning", "enable_thinking", "thinking"])
def test_another_switch_for_thinking_may_have_turned_it_on(name):
    """As compatible providers have: what they understand is not known here."""
    for body in ({name: {"effort": "high"}}, {name: True, "reasoning_effort": "none"}):
        assert OpenAIAdapter().encode(openai_job(upstream_id="gpt-5.1", body=body)).thinks


def test_tools_switch_thinking_off_where_openai_wants_it_so():
    job = openai_job(upstream_id="gpt-5.5", body={"tools": TOOLS}, native=True)
    assert not OpenAIAdapter().encode(job).thinks


@pytest.mark.parametrize(
    "options, wanted",
    [
        (None, {"include_usage": True}),
        ({}, {"include_usage": True}),
        ({"include_usage": False}, {"include_usage": True}),
        (
            {"include_obfuscation": True, "x": 1},
            {"include_obfuscation": False, "x": 1, "include_usage": True},
        ),
        ([], {"include_usage": True}),
    ],
)
def test_usage_is_always_asked_for_in_a_stream(options, wanted):
    out = sent(openai_job(stream=True, body={"stream": True, "stream_options": options}))
    assert out["stream"] is True
    assert out["stream_options"] == wanted


def test_stream_options_never_go_out_without_a_stream():
    assert "stream_options" not in sent(openai_job(body={"stream_options": {}}))


@pytest.mark.parametrize(
    "upstream, body, more, wanted",
    [
        ("gpt-5.4", {"max_tokens": 50}, {"output_limit": 50}, {"max_completion_tokens": 50}),
        ("gpt-6-luna", {"max_tokens": 500}, {"output_limit": 100}, {"max_completion_tokens": 100}),
        ("o3", {"max_tokens": 5}, {}, {"max_completion_tokens": 5}),
        ("llama-3", {"max_tokens": 50}, {"output_limit": 50}, {"max_tokens": 50}),
        (
            "llama-3",
            {"max_completion_tokens": 500},
            {"output_limit": 100},
            {"max_completion_tokens": 100},
        ),
        (
            "llama-3",
            {"max_tokens": 9, "max_completion_tokens": 70},
            {"output_limit": 70},
            {"max_tokens": 70},
        ),
        ("gpt-5.4", {"max_tokens": None}, {"output_limit": 100}, {}),
        ("gpt-5.4", {}, {"output_limit": 100, "client_stated_limit": False}, {}),
        (
            "gpt-5.4",
            {"max_tokens": None},
            {"output_limit": 64, "client_stated_limit": False, "bounded": True},
            {"max_completion_tokens": 64},
        ),
        (
            "llama-3",
            {},
            {"output_limit": 64, "client_stated_limit": False, "bounded": True},
            {"max_tokens": 64},
        ),
    ],
)
def test_one_limit_goes_out_and_never_more_than_was_paid_for(upstream, body, more, wanted):
    out = sent(openai_job(upstream_id=upstream, body=body, **more))
    assert {k: v for k, v in out.items() if k.startswith("max_")} == wanted


@pytest.mark.parametrize(
    "upstream, native, body, effort",
    [
        ("gpt-5.4", True, {"tools": TOOLS}, "none"),
        ("gpt-6-luna", True, {"tools": TOOLS, "reasoning_effort": None}, "none"),
        ("gpt-5.4", True, {"functions": [{"name": "f"}]}, "none"),
        ("gpt-5.4", True, {"tools": TOOLS, "reasoning_effort": "high"}, "high"),
        ("gpt-5.4", True, {"tools": CUSTOM}, "absent"),
        ("gpt-5.4", True, {}, "absent"),
        ("gpt-5.4", False, {"tools": TOOLS}, "absent"),
        ("gpt-5.1", True, {"tools": TOOLS}, "absent"),
        ("gpt-6-astra", True, {"tools": TOOLS}, "absent"),
        ("gpt-4o", True, {"tools": TOOLS}, "absent"),
    ],
)
def test_function_tools_switch_reasoning_off_only_where_openai_demands_it(
    upstream, native, body, effort
):
    out = sent(openai_job(upstream_id=upstream, native=native, body=body))
    assert out.get("reasoning_effort", "absent") == effort


def test_nothing_of_a_user_reaches_the_shared_account():
    body = {"user": "a@b.example", "safety_identifier": "x" * 200, "prompt_cache_key": "k" * 99}
    out = sent(openai_job(body=body))
    assert out["user"] == out["safety_identifier"] == "acct-0123abcd"
    assert out["prompt_cache_key"].startswith("acct-0123abcd-")
    assert len(out["prompt_cache_key"]) <= 64
    assert sent(openai_job(body={"prompt_cache_key": "k"}))["prompt_cache_key"] == "acct-0123abcd-k"
    assert "user" not in sent(openai_job(body={"user": None}))
    assert "user" not in sent(openai_job("embedding", body={"user": "x"}, account_tag=""))


def test_storing_is_refused_where_the_field_is_known():
    assert sent(openai_job(body={"store": True}))["store"] is False
    assert "store" not in sent(openai_job(upstream_id="mistral-large-latest"))


def test_n_goes_out_as_it_was_billed():
    assert sent(openai_job(body={"n": 5}, n=3))["n"] == 3
    assert "n" not in sent(openai_job())


@pytest.mark.parametrize("key", ["file_id", "file\\u005fid", "\\u0066\\u0069\\u006c\\u0065_id"])
def test_files_of_the_shared_account_cannot_be_named(key):
    job = openai_job()
    raw = (
        '[{"role":"user","content":"a \\"file_id\\": b"},'
        '{"role":"user","content":[{"type":"text","text":"x"},{"type":"file","file":{"%s": "f-1"}}]}]'
    )
    job.fields["messages"] = msgspec.Raw((raw % key).encode())
    with pytest.raises(InvalidRequest) as caught:
        sent(job)
    assert caught.value.param == "messages[1].content[1].file.file_id"


@pytest.mark.parametrize("key", ["file_id", "file\\u005fid"])
@pytest.mark.parametrize("before", [0, 70, 2_000])
@pytest.mark.parametrize("after", [0, 70, 2_000])
def test_no_length_hides_a_file_of_the_shared_account(key, before, after):
    """Beside an image, where only the ends of long strings are looked at, and with long spaces."""
    job = openai_job()
    image = '{"type":"image_url","image_url":{"url":"data:image/png;base64,%s"}}' % ("A" * 100_000)
    raw = '[{"role":"user","content":[%s,{"type":"file","file":{"%s"%s:%s"f-1"}},%s]}]'
    job.fields["messages"] = msgspec.Raw(
        (raw % (image, key, " " * before, " " * after, image)).encode()
    )
    with pytest.raises(InvalidRequest) as caught:
        sent(job)
    assert caught.value.param == "messages[0].content[1].file.file_id"


def test_talking_about_file_ids_is_fine():
    body = {"messages": [{"role": "user", "content": 'what is "file_id": "x"? é'}]}
    assert sent(openai_job(body=body))["messages"] == body["messages"]


RETURNED = {
    "role": "assistant",
    "content": None,
    "refusal": None,
    "annotations": [],
    "audio": None,
    "function_call": None,
    "parsed": None,
    "reasoning_content": "Hm",
    "tool_calls": [
        {
            "id": "c",
            "index": 0,
            "type": "function",
            "function": {"name": "f", "arguments": "{}", "parsed_arguments": {}},
            "extra_content": {"google": {}},
        }
    ],
}


@pytest.mark.parametrize("native", [True, False])
def test_what_sdks_keep_in_returned_messages_is_taken_out(native):
    user = {"role": "user", "content": "x", "index": 3}
    first, second = sent(openai_job(body={"messages": [user, RETURNED]}, native=native))["messages"]
    assert first == user
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    wanted = {"role": "assistant", "content": None, "tool_calls": [call]}
    if not native:
        wanted["reasoning_content"] = "Hm"
        call["extra_content"] = {"google": {}}
    assert second == wanted


@pytest.mark.parametrize(
    "left", ['"tool_calls":[]', '"tool_calls": [ ]', '"reasoning_details":[{}]']
)
def test_what_openai_refuses_of_another_providers_answer_is_taken_out(left):
    """A conversation may go on with another model."""
    job = openai_job(native=True)
    raw = f'[{{"role":"assistant","content":"x",{left}}}]'
    job.fields["messages"] = msgspec.Raw(raw.encode())
    assert sent(job)["messages"] == [{"role": "assistant", "content": "x"}]


def test_messages_that_make_no_sense_go_out_for_the_provider_to_refuse():
    for messages in (7, [7, None, {"role": 5, "index": 1}], {"index": 1}):
        assert sent(openai_job(body={"messages": messages}))["messages"] == messages


def test_deep_nesting_is_a_400_naming_the_field():
    job = openai_job()
    job.fields["messages"] = msgspec.Raw(b"[" * 90_000 + b'"\\u0061"' + b"]" * 90_000)
    with pytest.raises(InvalidRequest) as caught:
        sent(job)
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "upstream, body, wanted",
    [
        ("gpt-image-2", {"response_format": "url"}, None),
        ("chatgpt-image-latest", {}, None),
        ("some-image-model", {"response_format": "url"}, "b64_json"),
        ("some-image-model", {}, "b64_json"),
    ],
)
def test_pictures_are_asked_for_as_base64_where_that_can_be_said(upstream, body, wanted):
    job = openai_job("image", upstream, body=body, n=2)
    out = OpenAIAdapter().encode(job)
    assert out.path == "/images/generations"
    assert json.loads(out.body).get("response_format") == wanted
    assert json.loads(out.body)["n"] == 2


def test_embeddings_go_out_as_they_came():
    body = {"input": [[1, 2], [3]], "encoding_format": "base64", "dimensions": 7}
    out = OpenAIAdapter().encode(openai_job("embedding", "text-embedding-3-small", body=body))
    assert out.path == "/embeddings"
    assert json.loads(out.body) == body | {"model": "text-embedding-3-small"}


def test_the_credential_is_in_the_headers_and_nowhere_else():
    assert OpenAIAdapter().headers("sk-1")["authorization"] == "Bearer sk-1"
    assert "authorization" not in OpenAIAdapter().headers(None)


def test_a_probe_costs_next_to_nothing():
    out = OpenAIAdapter().probe("gpt-6-luna")
    assert json.loads(out.body)["max_completion_tokens"] == 16
    assert OpenAIAdapter().probe("text-embedding-3-small").path == "/embeddings"
