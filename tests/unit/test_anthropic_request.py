"""OpenAI chat requests in Anthropic's shape, rule by rule of wire notes 5.3, 5.5 and 5.6."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from sellapi.errors import InvalidRequest
from sellapi.upstream.adapter import Media
from sellapi.upstream.anthropic import AnthropicAdapter
from tests.support.anthropic_jobs import job
from tests.support.fake_anthropic_rules import check

USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
MARK = {"type": "ephemeral"}


def sent(body: dict[str, Any], model: str = "claude-sonnet-4-6", **more: Any) -> dict[str, Any]:
    request = json.loads(AnthropicAdapter().encode(job(body, model, **more)).body)
    assert check(request) is None, check(request)
    return request


@pytest.mark.parametrize(
    ("model", "effort", "thinks"),
    [
        ("claude-haiku-5-5", None, True),
        ("claude-haiku-5-5", "none", False),
        ("claude-opus-5-5", "none", True),  # cannot be switched off
        ("claude-sonnet-5-5", "none", True),  # only between tools
        ("claude-sonnet-4-6", None, False),
    ],
)
def test_whether_the_model_thinks_is_known(model: str, effort: str | None, thinks: bool) -> None:
    body: dict[str, Any] = {"messages": [USER]}
    if effort is not None:
        body["reasoning_effort"] = effort
    assert AnthropicAdapter().encode(job(body, model)).thinks is thinks


def refused(body: dict[str, Any], **more: Any) -> str | None:
    with pytest.raises(InvalidRequest) as caught:
        AnthropicAdapter().encode(job(body, **more))
    return caught.value.param


def call(identifier: str, arguments: str = "{}", name: str = "f") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": identifier, "type": "function", "function": function}


def asked(*calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)}


def told(identifier: str, content: Any = "ok") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": identifier, "content": content}


def test_system_and_developer_messages_are_joined_in_order_wherever_they_stand():
    """Also those in the middle go to the top."""
    body = sent(
        {
            "messages": [
                {"role": "system", "content": "One"},
                USER,
                {"role": "developer", "content": [{"type": "text", "text": "Two"}]},
                {"role": "system", "content": " "},
            ]
        }
    )
    assert body["system"] == "One\nTwo"
    assert body["messages"] == [USER]


def test_a_conversation_of_system_messages_alone_gets_a_user_turn():
    body = sent({"messages": [{"role": "system", "content": "One"}]})
    assert body["messages"][0]["role"] == "user"


def test_results_stand_first_in_one_user_message_and_lost_ones_are_made_up():
    body = sent(
        {
            "messages": [
                USER,
                asked(call("a"), call("b"), call("c")),
                told("c", "3"),
                {"role": "user", "content": "and?"},
                told("a", [{"type": "text", "text": "1"}, {"type": "text", "text": ""}]),
            ],
            "tools": [TOOL],
        }
    )
    last = body["messages"][-1]["content"]
    assert [b.get("tool_use_id") for b in last] == ["a", "b", "c", None]
    assert last[0]["content"] == "1"
    assert last[1]["is_error"] is True
    assert last[3] == {"type": "text", "text": "and?"}


def test_a_result_without_a_call_becomes_text():
    body = sent({"messages": [USER, told("zzz", "42")]})
    assert "42" in json.dumps(body["messages"])
    assert "tool_result" not in json.dumps(body["messages"])


def test_strange_and_repeated_ids_are_mapped_consistently():
    body = sent(
        {
            "messages": [
                USER,
                asked(call("call:1/ü")),
                told("call:1/ü", "first"),
                asked(call("call:1/ü")),
                told("call:1/ü", "second"),
            ],
            "tools": [TOOL],
        }
    )
    blocks = [b for m in body["messages"][1:] for b in m["content"]]
    assert blocks[0]["id"] == blocks[1]["tool_use_id"]
    assert blocks[2]["id"] == blocks[3]["tool_use_id"] != blocks[0]["id"]
    assert [blocks[1]["content"], blocks[3]["content"]] == ["first", "second"]


def test_integers_keep_every_digit_in_the_history():
    """Amounts in wei, say, are longer than 64 bits; a float would round them unnoticed."""
    asks = asked(call("a", '{"wei": 1234567890123456789012}'))
    body = sent({"messages": [USER, asks, told("a")], "tools": [TOOL]})
    assert body["messages"][1]["content"][0]["input"] == {"wei": 1234567890123456789012}


def test_a_history_with_calls_but_no_tools_gets_tools_that_may_not_be_called():
    body = sent({"messages": [USER, asked(call("a")), told("a")]})
    assert body["tools"] == [{"name": "f", "input_schema": {"type": "object", "properties": {}}}]
    assert body["tool_choice"] == {"type": "none"}


def test_the_deprecated_functions_are_tools():
    body = sent(
        {
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": None,
                    "function_call": {"name": "f", "arguments": ""},
                },
                {"role": "function", "name": "f", "content": "7"},
            ],
            "functions": [{"name": "f"}],
            "function_call": {"name": "f"},
        }
    )
    one = {"disable_parallel_tool_use": True}  # the old shape has room for one call
    assert body["tool_choice"] == {"type": "tool", "name": "f"} | one
    use, result = body["messages"][1]["content"][0], body["messages"][2]["content"][0]
    assert (use["input"], result["tool_use_id"], result["content"]) == ({}, use["id"], "7")


@pytest.mark.parametrize(
    "part, block",
    [
        (
            {"type": "image_url", "image_url": {"url": "data:image/jpg;a=b;base64,/9j/4A=="}},
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/jpeg", "data": "/9j/4A=="},
            },
        ),
        (
            {"type": "image_url", "image_url": {"url": "https://x.test/a.png", "detail": "high"}},
            {"type": "image", "source": {"type": "url", "url": "https://x.test/a.png"}},
        ),
        (
            {
                "type": "file",
                "file": {"file_data": "data:application/pdf;base64,JVBERi0x", "filename": "a.pdf"},
            },
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0x"},
                "title": "a.pdf",
            },
        ),
        (
            {"type": "file", "file": {"file_data": "JVBERi0x"}},
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0x"},
            },
        ),
        (
            {"type": "file", "file": {"file_data": "data:text/plain;charset=utf-8;base64,w7w="}},
            {
                "type": "document",
                "source": {"type": "text", "media_type": "text/plain", "data": "ü"},
            },
        ),
    ],
)
def test_images_and_documents_are_told_as_blocks(part: dict[str, Any], block: dict[str, Any]):
    body = sent({"messages": [{"role": "user", "content": [part, {"type": "text", "text": ""}]}]})
    assert body["messages"][0]["content"] == [block]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,/9j/4A=="}},
        {"type": "file", "file": {"file_data": "data:image/png;base64,/9j/4A=="}},
    ],
)
def test_an_image_is_what_its_bytes_say(part: dict[str, Any]):
    """Anthropic refuses a JPEG that is called a PNG; OpenAI does not care, so clients do neither."""
    body = sent({"messages": [{"role": "user", "content": [part]}]})
    source = body["messages"][0]["content"][0]["source"]
    assert source == {"type": "base64", "media_type": "image/jpeg", "data": "/9j/4A=="}


@pytest.mark.parametrize(
    "body, param",
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"audio": {"voice": "x", "format": "wav"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        (
            {"messages": [USER, asked(call("a", "{oops"))]},
            "messages[1].tool_calls[0].function.arguments",
        ),
        (
            {"messages": [USER, asked(call("a", "[1]"))]},
            "messages[1].tool_calls[0].function.arguments",
        ),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": "5"}, "max_completion_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "g"}}, "tools": [TOOL]},
            "tool_choice",
        ),
        ({"service_tier": "priority"}, "service_tier"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_the_provider_cannot_do_is_refused_by_name(body: dict[str, Any], param: str):
    assert refused(body) == param


@pytest.mark.parametrize(
    "part, field",
    [
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, "input_audio"),
        ({"type": "file", "file": {"file_id": "file-1"}}, "file.file_id"),
        (
            {"type": "image_url", "image_url": {"url": "data:image/svg+xml;base64,AAAA"}},
            "image_url",
        ),
        ({"type": "file", "file": {"file_data": "data:application/zip;base64,AAAA"}}, "file"),
        ({"type": "hologram"}, "type"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,@@@"}}, "image_url.url"),
    ],
)
def test_content_the_provider_cannot_take_is_refused_by_place(part: dict[str, Any], field: str):
    body = {"messages": [{"role": "user", "content": [part]}]}
    assert refused(body) == f"messages[0].content[0].{field}"


def test_what_changes_nothing_is_ignored_and_no_user_identifier_passes():
    body = sent(
        {
            "seed": 1,
            "presence_penalty": 1,
            "frequency_penalty": 1,
            "logit_bias": {"1": 2},
            "prediction": {"type": "content", "content": "x"},
            "store": True,
            "verbosity": "low",
            "metadata": {"mail": "joe@example.com"},
            "logprobs": False,
            "user": "joe@example.com",
            "safety_identifier": "joe",
            "prompt_cache_key": "k",
            "anything": {"else": 1},
        },
        account_tag="acct-hash",
    )
    assert set(body) == {"model", "max_tokens", "messages", "metadata"}
    assert body["metadata"] == {"user_id": "acct-hash"}


@pytest.mark.parametrize(
    "fields, model, expected",
    [
        ({"temperature": 1.5}, "claude-sonnet-4-6", {"temperature": 1}),
        ({"temperature": 0.2, "top_p": 0.9}, "claude-haiku-4-5", {"temperature": 0.2}),
        ({"top_p": 0.9}, "claude-haiku-4-5", {"top_p": 0.9}),
        ({"temperature": 0.2, "top_p": 0.9}, "claude-opus-4-7", {}),
        ({"temperature": 0.2, "reasoning_effort": "high"}, "claude-sonnet-4-6", {}),
    ],
)
def test_sampling_is_clamped_or_dropped_by_model(
    fields: dict[str, Any], model: str, expected: dict[str, Any]
):
    body = sent(fields, model)
    assert {k: body[k] for k in ("temperature", "top_p") if k in body} == expected


@pytest.mark.parametrize(
    "model, effort, thinking, output_config",
    [
        ("claude-sonnet-4-6", None, None, None),
        ("claude-sonnet-4-6", "minimal", {"type": "adaptive"}, {"effort": "low"}),
        ("claude-sonnet-4-6", "xhigh", {"type": "adaptive"}, {"effort": "high"}),
        ("claude-sonnet-4-6", "none", None, None),
        (
            "claude-opus-4-8",
            "xhigh",
            {"type": "adaptive", "display": "summarized"},
            {"effort": "xhigh"},
        ),
        ("claude-haiku-4-5", "low", {"type": "enabled", "budget_tokens": 1024}, None),
        ("claude-haiku-4-5", "max", {"type": "enabled", "budget_tokens": 3072}, None),
        ("claude-sonnet-5", "none", {"type": "disabled"}, None),
        ("claude-sonnet-5-5", "none", {"type": "between_tools"}, None),
        ("claude-opus-5-5", "none", None, {"effort": "low"}),
        ("claude-opus-5-5", None, None, None),
    ],
)
def test_reasoning_effort_is_told_as_each_family_takes_it(model, effort, thinking, output_config):
    body = sent({"reasoning_effort": effort}, model)
    assert body.get("thinking") == thinking
    assert body.get("output_config") == output_config


def test_a_budget_never_reaches_max_tokens():
    assert "thinking" not in sent(
        {"reasoning_effort": "high", "max_tokens": 1024}, "claude-haiku-4-5"
    )
    body = sent({"reasoning_effort": "high", "max_tokens": 1025}, "claude-haiku-4-5")
    assert body["thinking"]["budget_tokens"] == 1024


@pytest.mark.parametrize(
    "choice, model, expected",
    [
        (None, "claude-sonnet-4-6", None),
        ("auto", "claude-sonnet-4-6", {"type": "auto"}),
        ("none", "claude-sonnet-4-6", {"type": "none"}),
        ("required", "claude-sonnet-4-6", {"type": "any"}),
        (
            {"type": "function", "function": {"name": "f"}},
            "claude-sonnet-4-6",
            {"type": "tool", "name": "f"},
        ),
        ("required", "claude-opus-5-5", {"type": "auto"}),
    ],
)
def test_tool_choice_is_mapped_and_forcing_is_softened_where_refused(choice, model, expected):
    assert sent({"tools": [TOOL], "tool_choice": choice}, model).get("tool_choice") == expected


def test_forcing_while_thinking_becomes_a_wish():
    body = sent({"tools": [TOOL], "tool_choice": "required", "reasoning_effort": "low"})
    assert body["tool_choice"] == {"type": "auto"}
    assert "tool" in body["system"]


def test_allowed_tools_filters_the_tools():
    other = {"type": "function", "function": {"name": "g"}}
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "g"}}]}
    body = sent(
        {"tools": [TOOL, other], "tool_choice": {"type": "allowed_tools", "allowed_tools": allowed}}
    )
    assert [tool["name"] for tool in body["tools"]] == ["g"]
    assert body["tool_choice"] == {"type": "any"}


def test_parallel_calls_are_switched_off_with_a_choice_object():
    body = sent({"tools": [TOOL], "parallel_tool_calls": False})
    assert body["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    body = sent({"tools": [TOOL], "parallel_tool_calls": False, "tool_choice": "none"})
    assert body["tool_choice"] == {"type": "none"}


def test_a_json_schema_is_closed_and_refused_keywords_become_words():
    schema = {
        "type": "object",
        "properties": {
            "age": {"type": "integer", "minimum": 0},
            "x": {"oneOf": [{"type": "null"}]},
        },
        "required": ["age"],
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": schema}}
    body = sent({"response_format": wanted})
    assert body["output_config"]["format"]["schema"] == {
        "type": "object",
        "properties": {
            "age": {"type": "integer", "description": "{minimum: 0}"},
            "x": {"anyOf": [{"type": "null"}]},
        },
        "required": ["age"],
        "additionalProperties": False,
    }


def test_a_json_object_and_an_unsayable_schema_are_asked_for_in_the_system_prompt():
    body = sent({"response_format": {"type": "json_object"}})
    assert "JSON" in body["system"]
    tree = {"type": "object", "properties": {"kid": {"$ref": "#"}}}
    body = sent({"response_format": {"type": "json_schema", "json_schema": {"schema": tree}}})
    assert '"kid"' in body["system"]
    assert "output_config" not in body


@pytest.mark.parametrize(
    "open_part",
    [
        {"type": "object", "additionalProperties": True},
        {"type": "object"},
        {"anyOf": [{"type": "object", "properties": {}, "additionalProperties": True}]},
        {"type": "object", "patternProperties": {"^x": {"type": "string"}}},
        {"title": "Anything"},
        {"type": "array", "items": {}},
        {"not": {"type": "null"}},
    ],
)
def test_a_schema_that_leaves_a_part_open_is_asked_for_in_words(open_part: dict[str, Any]):
    """Closed, a map would always be answered empty; a schema of nothing is a 400 upstream."""
    schema = {"type": "object", "properties": {"part": open_part}, "required": ["part"]}
    body = sent({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}})
    assert '"part"' in body["system"]
    assert "output_config" not in body
    function = {"name": "f", "strict": True, "parameters": schema}
    tool = sent({"tools": [{"type": "function", "function": function}]})["tools"][0]
    assert (tool["input_schema"], tool.get("strict")) == (schema, None)


def test_an_allof_of_one_is_that_one_and_of_several_is_asked_for_in_words():
    """Closed, each of several objects forbids what the others require."""
    one, two = (
        {"type": "object", "properties": {name: {"type": "string"}}, "required": [name]}
        for name in ("a", "b")
    )
    part = {"allOf": [{"$ref": "#/$defs/One"}], "default": None}
    schema: dict[str, Any] = {"type": "object", "properties": {"part": part}, "$defs": {"One": one}}
    body = sent({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}})
    told = body["output_config"]["format"]["schema"]
    assert told["properties"]["part"] == {"$ref": "#/$defs/One"}
    for both in ({"allOf": [one, two]}, one | {"allOf": [two]}):
        wanted = {"type": "json_schema", "json_schema": {"schema": both}}
        body = sent({"response_format": wanted})
        assert '"allOf"' in body["system"]
        assert "output_config" not in body


def test_an_object_without_properties_is_closed_where_it_says_so():
    nothing = {"type": "object", "properties": {}, "additionalProperties": False}
    silent = {"type": "object", "properties": {}}
    schema = {"type": "object", "properties": {"a": nothing, "b": silent}}
    body = sent({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}})
    told = body["output_config"]["format"]["schema"]["properties"]
    assert told == {"a": nothing, "b": nothing}
    tool = sent({"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]})
    assert tool["tools"][0]["strict"] is True


@pytest.mark.parametrize(
    "stop, expected", [("x", ["x"]), (["a", " ", "\n", "a"], ["a"]), ("", None)]
)
def test_stop_is_a_list_without_blank_entries(stop: Any, expected: Any):
    assert sent({"stop": stop}).get("stop_sequences") == expected


@pytest.mark.parametrize(
    "fields, limit, model, expected, streamed",
    [
        ({}, 4096, "claude-sonnet-4-6", 4096, False),
        ({"max_tokens": 9, "max_completion_tokens": 7}, 4096, "claude-sonnet-4-6", 7, False),
        ({}, 128_000, "claude-haiku-4-5", 64_000, True),
        ({"max_tokens": 500_000}, 128_000, "claude-sonnet-4-6", 128_000, True),
    ],
)
def test_max_tokens_is_bounded_and_long_answers_are_streamed(
    fields, limit, model, expected, streamed
):
    out = AnthropicAdapter().encode(job(fields, model, output_limit=limit))
    assert json.loads(out.body)["max_tokens"] == expected
    assert out.stream is streamed


def test_an_assistants_last_word_is_a_prefill_where_taken_and_continued_elsewhere():
    messages = [USER, {"role": "assistant", "content": "The answer is \n"}]
    assert sent({"messages": messages}, "claude-haiku-4-5")["messages"][-1] == {
        "role": "assistant",
        "content": "The answer is",
    }
    assert sent({"messages": messages}, "claude-sonnet-4-6")["messages"][-1]["role"] == "user"


def test_cache_control_is_passed_on_and_at_most_four_times():
    content = [{"type": "text", "text": str(n), "cache_control": MARK} for n in range(5)]
    body = sent(
        {
            "messages": [
                {
                    "role": "system",
                    "content": [{"type": "text", "text": "S", "cache_control": MARK}],
                },
                {"role": "user", "content": content},
            ],
            "tools": [{**TOOL, "cache_control": {**MARK, "ttl": "1h"}}],
        }
    )
    assert [b.get("cache_control") for b in body["messages"][0]["content"]] == [None, *[MARK] * 4]
    few = sent(
        {"messages": [{**USER, "cache_control": MARK}], "tools": [{**TOOL, "cache_control": MARK}]}
    )
    assert few["tools"][0]["cache_control"] == MARK
    assert few["messages"][0]["content"][0]["cache_control"] == MARK


def test_media_goes_through_our_guard_at_a_private_base_url_only():
    url = "https://x.test/a.png"
    body = {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
        ]
    }
    adapter = AnthropicAdapter()
    assert adapter.media_urls(job(body)) == {}
    assert adapter.media_urls(job(body, private_base_url=True)) == {
        url: "messages[0].content[0].image_url.url"
    }
    media = {url: Media("image/png", b"png")}
    source = sent(body, private_base_url=True, media=media)["messages"][0]["content"][0]["source"]
    assert base64.b64decode(source["data"]) == b"png"
    left = sent(body, private_base_url=True)["messages"][0]["content"][0]["source"]
    assert left == {"type": "url", "url": url}  # the guard left it to the provider


@pytest.mark.parametrize("content", [None, "", " ", [], [{"type": "text", "text": ""}]])
def test_empty_content_never_reaches_the_api(content: Any):
    lone = sent({"messages": [{"role": "user", "content": content}]})
    assert [m["role"] for m in lone["messages"]] == ["user"]
    said = {"role": "assistant", "content": "x"}
    later = sent({"messages": [USER, said, {"role": "user", "content": content}]})
    assert [m["role"] for m in later["messages"]] == ["user", "assistant", "user"]
    mute = sent({"messages": [USER, {"role": "assistant", "content": content}, USER]})
    assert [m["role"] for m in mute["messages"]] == ["user"]
    result = sent({"messages": [USER, asked(call("a")), told("a", content)], "tools": [TOOL]})
    assert result["messages"][-1]["content"][0]["tool_use_id"] == "a"


def test_the_default_service_tier_is_standard_and_other_modes_are_refused():
    assert sent({"service_tier": "default"})["service_tier"] == "standard_only"
    assert refused({}, mode="embedding") == "model"


def test_the_pinned_version_and_the_key_are_in_the_headers():
    headers = AnthropicAdapter().headers("k")
    assert headers["anthropic-version"] == "2023-06-01"
    assert headers["x-api-key"] == "k"
    assert "authorization" not in headers


def test_the_probe_is_a_valid_request_of_one_token():
    body = json.loads(AnthropicAdapter().probe("claude-opus-5-5").body)
    assert check(body) is None
    assert body["max_tokens"] == 1
