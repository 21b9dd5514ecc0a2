"""OpenAI chat requests in Gemini's shape, rule by rule of wire notes 6.2 to 6.7."""

from __future__ import annotations

import base64
import json

import orjson
import pytest

from sellapi.errors import InvalidRequest
from sellapi.upstream.adapter import Media
from sellapi.upstream.gemini import GeminiAdapter
from sellapi.upstream.gemini_signatures import SignatureStore
from tests.support.fake_gemini import SKIP, check_generate
from tests.support.gemini_job import gemini_job

NEW = "gemini-3.1-flash-lite"
OLD = "gemini-2.5-flash-lite"
PLAIN = "gemini-2.0-flash"
USER = {"role": "user", "content": "Hi"}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
BARE = {"type": "function", "function": {"name": "now"}}


@pytest.mark.parametrize(
    ("model", "effort", "thinks"),
    [
        (OLD, "none", False),
        (OLD, None, True),
        ("gemini-2.5-pro", "none", True),  # its least budget is 128
        (NEW, "none", True),  # minimal is a level, too
    ],
)
def test_whether_the_model_thinks_is_known(model, effort, thinks):
    body = {"messages": [USER]} | ({"reasoning_effort": effort} if effort else {})
    assert GeminiAdapter().encode(gemini_job(body, model)).thinks is thinks


def encode(body, model=NEW, adapter=None, **more):
    """The body sent, checked by the fake's rules."""
    job = gemini_job({"messages": [USER]} | body, model, **more)
    outbound = (adapter or GeminiAdapter()).encode(job)
    sent = json.loads(outbound.body)
    check_generate(model, sent)
    return sent


def config(body, model=NEW, **more):
    return encode(body, model, **more).get("generationConfig", {})


def refused(body, model=NEW, **more):
    with pytest.raises(InvalidRequest) as caught:
        encode(body, model, **more)
    assert caught.value.status == 400
    return caught.value.param


def call(identifier, name="get_weather", arguments='{"city":"Berlin"}', **extra):
    function = {"name": name, "arguments": arguments}
    return {"id": identifier, "type": "function", "function": function} | extra


def asked(*calls, **extra):
    return {"role": "assistant", "content": None, "tool_calls": list(calls)} | extra


def told(identifier, content="9 degrees"):
    return {"role": "tool", "tool_call_id": identifier, "content": content}


def signed(signature):
    return {"extra_content": {"google": {"thought_signature": signature}}}


# --- where the call goes


@pytest.mark.parametrize(
    "model, stream, path",
    [
        (NEW, False, f"/v1beta/models/{NEW}:generateContent"),
        (NEW, True, f"/v1beta/models/{NEW}:streamGenerateContent?alt=sse"),
        (f"models/{NEW}", False, f"/v1beta/models/{NEW}:generateContent"),
        ("odd/id?x#y", False, "/v1beta/models/odd%2Fid%3Fx%23y:generateContent"),
    ],
)
def test_the_path_holds_the_quoted_model_and_its_method(model, stream, path):
    job = gemini_job({"messages": [USER], "stream": stream}, model)
    outbound = GeminiAdapter().encode(job)
    assert (outbound.path, outbound.stream, outbound.repeat) == (path, stream, 1)


def test_the_key_goes_into_a_header_and_nowhere_else():
    headers = GeminiAdapter().headers("AIzaSecret")
    assert headers == {"content-type": "application/json", "x-goog-api-key": "AIzaSecret"}
    assert "x-goog-api-key" not in GeminiAdapter().headers(None)


# --- messages


def test_system_and_developer_messages_become_the_system_instruction_in_order():
    sent = encode(
        {
            "messages": [
                {"role": "system", "content": "One."},
                USER,
                {"role": "developer", "content": [{"type": "text", "text": "Two."}]},
            ]
        }
    )
    assert sent["systemInstruction"] == {"parts": [{"text": "One."}, {"text": "Two."}]}
    assert sent["contents"] == [{"role": "user", "parts": [{"text": "Hi"}]}]


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "Only this."}],
        [{"role": "user", "content": ""}],
        [{"role": "user", "content": []}],
        [{"role": "assistant", "content": "I begin."}, USER],
        [asked(call("a")), told("a")],
    ],
)
def test_a_conversation_without_a_user_in_front_gets_one(messages):
    sent = encode({"messages": messages})
    assert sent["contents"][0]["role"] == "user"
    assert sent["contents"][0]["parts"][0]["text"]


def test_neighbours_of_one_role_are_joined_and_empty_text_is_left_out():
    sent = encode(
        {
            "messages": [
                USER,
                {"role": "user", "content": [{"type": "text", "text": ""}]},
                {"role": "user", "content": [{"type": "text", "text": "there"}]},
                {"role": "assistant", "content": "A"},
                {"role": "assistant", "content": [{"type": "refusal", "refusal": "B"}]},
                {"role": "assistant", "content": None, "refusal": None, "audio": None},
                {"role": "user", "content": "C"},
            ]
        }
    )
    assert sent["contents"] == [
        {"role": "user", "parts": [{"text": "Hi"}, {"text": "there"}]},
        {"role": "model", "parts": [{"text": "A"}, {"text": "B"}]},
        {"role": "user", "parts": [{"text": "C"}]},
    ]


def test_a_model_without_system_instruction_reads_it_in_front_of_the_first_user_turn():
    body = {"messages": [{"role": "system", "content": "Be brief."}, USER]}
    sent = orjson.loads(GeminiAdapter().encode(gemini_job(body, "gemma-3-27b-it")).body)
    assert "systemInstruction" not in sent
    assert sent["contents"] == [{"role": "user", "parts": [{"text": "Be brief."}, {"text": "Hi"}]}]


def test_nothing_that_names_the_customer_or_keeps_data_is_sent():
    sent = encode(
        {
            "user": "jo@example.com",
            "safety_identifier": "jo",
            "prompt_cache_key": "jo",
            "metadata": {"who": "jo"},
            "store": True,
            "prediction": {"type": "content", "content": "jo"},
            "logit_bias": {"1": 1},
            "verbosity": "low",
            "some_unknown_key": "jo",
            "messages": [USER | {"name": "jo", "cache_control": {"type": "ephemeral"}}],
        }
    )
    assert sent == {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}], "store": False}


# --- parts


def parts_of(part, **more):
    sent = encode({"messages": [{"role": "user", "content": [part]}]}, **more)
    return sent["contents"][0]["parts"]


def image(url):
    return {"type": "image_url", "image_url": {"url": url, "detail": "low"}}


def file(**fields):
    return {"type": "file", "file": fields}


PDF = base64.b64encode(b"%PDF-1.7 hello").decode()


@pytest.mark.parametrize(
    "part, mime, data",
    [
        (image("data:image/png;base64,aGk="), "image/png", "aGk="),
        (image("data:image/jpg;base64,aGk="), "image/jpeg", "aGk="),
        (image("data:IMAGE/JPEG;charset=utf-8;base64,aGk="), "image/jpeg", "aGk="),
        (
            {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}},
            "audio/wav",
            "aGk=",
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "mp3"}},
            "audio/mp3",
            "aGk=",
        ),
        (file(file_data=f"data:application/pdf;base64,{PDF}"), "application/pdf", PDF),
        (file(file_data=PDF), "application/pdf", PDF),
        (file(file_data="aGk=", filename="a.pdf"), "application/pdf", "aGk="),
        (file(file_data="data:text/csv;base64,aGk="), "text/plain", "aGk="),
        (file(file_data="aGk=", filename="notes.md"), "text/plain", "aGk="),
        (file(file_data="data:image/png;base64,aGk="), "image/png", "aGk="),
        (file(file_data="data:audio/mpeg;base64,aGk="), "audio/mp3", "aGk="),
    ],
)
def test_media_goes_inline_with_its_right_type(part, mime, data):
    assert parts_of(part) == [{"inlineData": {"mimeType": mime, "data": data}}]


@pytest.mark.parametrize(
    "part, ending",
    [
        (file(file_id="file-1"), ".file.file_id"),
        (file(file_data="aGk="), ".file.file_data"),
        (file(file_data="data:application/zip;base64,aGk="), ".file.file_data"),
        (file(file_data="data:text/plain;base64,/w=="), ".file.file_data"),
        (image("data:image/svg+xml;base64,aGk="), ".image_url.url"),
        (image("ftp://example.com/a.png"), ".image_url.url"),
        (image("gs://bucket/file"), ".image_url.url"),
        (image("https://generativelanguage.googleapis.com/v1beta/files/abc"), ".image_url.url"),
        (image("https://GenerativeLanguage.googleapis.com./v1beta/files/abc"), ".image_url.url"),
        ({"type": "input_audio", "input_audio": {"data": "aGk=", "format": "x"}}, ".format"),
        ({"type": "video_url", "video_url": {"url": "x"}}, ".type"),
    ],
)
def test_a_part_that_cannot_be_sent_is_refused_by_name(part, ending):
    param = refused({"messages": [USER, {"role": "user", "content": [part]}]})
    assert param.startswith("messages[1].content[0]")
    assert param.endswith(ending)


def test_image_urls_are_listed_for_the_guard_and_inlined_from_what_it_fetched():
    url = "https://example.com/a.png"
    message = {"role": "user", "content": [image(url), image(url)]}
    adapter = GeminiAdapter()
    job = gemini_job({"messages": [message]})
    assert adapter.media_urls(job) == {url: "messages[0].content[0].image_url.url"}
    job.media = {url: Media("image/jpg", b"hi")}
    sent = orjson.loads(adapter.encode(job).body)
    inline = {"inlineData": {"mimeType": "image/jpeg", "data": "aGk="}}
    assert sent["contents"][0]["parts"] == [inline, inline]


def test_a_url_the_guard_did_not_fetch_is_refused():
    assert refused(
        {"messages": [{"role": "user", "content": [image("https://example.com/a.png")]}]}
    ).endswith("image_url.url")


@pytest.mark.parametrize(
    "content",
    ["plain https://example.com", [image("gs://b/a.png")], [image("data:image/png;base64,aGk=")]],
)
def test_what_needs_no_fetching_is_not_listed_for_the_guard(content):
    job = gemini_job({"messages": [{"role": "user", "content": content}]})
    assert GeminiAdapter().media_urls(job) == {}


def test_a_gs_image_is_passed_as_file_data():
    assert parts_of(image("gs://bucket/a.jpg")) == [
        {"fileData": {"mimeType": "image/jpeg", "fileUri": "gs://bucket/a.jpg"}}
    ]


# --- tool calls and results


def test_results_of_a_step_follow_it_together_in_the_order_of_its_calls():
    sent = encode(
        {
            "messages": [
                USER,
                asked(call("a"), call("b", "now", "")),
                {"role": "user", "content": "quick"},
                told("b", '{"now": 5}'),
                told("a"),
            ]
        }
    )
    assert sent["contents"][2] == {
        "role": "user",
        "parts": [
            {
                "functionResponse": {
                    "name": "get_weather",
                    "response": {"output": "9 degrees"},
                    "id": "a",
                }
            },
            {"functionResponse": {"name": "now", "response": {"now": 5}, "id": "b"}},
            {"text": "quick"},
        ],
    }


def responses(messages, model=NEW):
    sent = encode({"messages": messages}, model)
    return [
        part["functionResponse"]["response"]
        for turn in sent["contents"]
        for part in turn["parts"]
        if "functionResponse" in part
    ]


@pytest.mark.parametrize(
    "content, response",
    [
        ("9", {"output": "9"}),
        ("[1]", {"output": "[1]"}),
        ('{"a": 1}', {"a": 1}),
        ("{broken", {"output": "{broken"}),
        ("", {"output": ""}),
        (None, {"output": ""}),
        ([{"type": "text", "text": "x"}, {"type": "text", "text": "y"}], {"output": "x\ny"}),
    ],
)
def test_a_result_is_an_object_whatever_the_tool_said(content, response):
    assert responses([USER, asked(call("a")), told("a", content)]) == [response]


def test_integers_keep_every_digit_in_calls_and_results():
    asks = asked(call("a", arguments='{"wei": 1234567890123456789012}'))
    body = encode({"messages": [USER, asks, told("a", '{"wei": 1234567890123456789012}')]})
    wei = {"wei": 1234567890123456789012}
    assert body["contents"][1]["parts"][0]["functionCall"]["args"] == wei
    assert body["contents"][2]["parts"][0]["functionResponse"]["response"] == wei


def test_a_lost_result_is_made_up_as_an_error():
    found = responses([USER, asked(call("a"), call("b", "now")), told("a"), USER])
    assert found[0] == {"output": "9 degrees"}
    assert list(found[1]) == ["error"]


def test_ids_that_repeat_over_the_steps_are_answered_step_by_step():
    step = [asked(call("call_0")), told("call_0", "first")]
    again = [asked(call("call_0")), told("call_0", "second")]
    assert responses([USER, *step, *again]) == [{"output": "first"}, {"output": "second"}]


def test_ids_that_repeat_within_a_step_are_answered_one_after_the_other():
    """A call that was carried out must not look as if it had not been."""
    twice = asked(call("same"), call("same"))
    found = responses([USER, twice, told("same", "first"), told("same", "second")])
    assert found == [{"output": "first"}, {"output": "second"}]
    found = responses(
        [USER, twice, told("same", "first"), told("same", "second"), told("same", "third")]
    )
    assert found == [{"output": "first"}, {"output": "third"}]


def test_a_result_of_no_call_is_refused_by_name():
    assert refused({"messages": [USER, told("nowhere")]}) == "messages[1].tool_call_id"


def test_an_image_in_a_result_stands_beside_the_responses():
    content = [{"type": "text", "text": "see"}, image("data:image/png;base64,aGk=")]
    sent = encode({"messages": [USER, asked(call("a")), told("a", content)]})
    kinds = [next(iter(part)) for part in sent["contents"][2]["parts"]]
    assert kinds == ["functionResponse", "inlineData"]


@pytest.mark.parametrize("model, has_id", [(NEW, True), (OLD, False), (PLAIN, False)])
def test_ids_go_only_to_models_that_take_them(model, has_id):
    sent = encode({"messages": [USER, asked(call("a")), told("a")]}, model)
    for turn, key in ((1, "functionCall"), (2, "functionResponse")):
        assert ("id" in sent["contents"][turn]["parts"][0][key]) is has_id


def test_the_deprecated_function_messages_are_tool_calls_too():
    sent = encode(
        {
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": None,
                    "function_call": {"name": "now", "arguments": "{}"},
                },
                {"role": "function", "name": "now", "content": "5"},
            ],
            "functions": [{"name": "now"}],
            "function_call": {"name": "now"},
        }
    )
    assert sent["contents"][1]["parts"][0]["functionCall"]["name"] == "now"
    assert sent["contents"][2]["parts"][0]["functionResponse"]["response"] == {"output": "5"}
    assert sent["toolConfig"]["functionCallingConfig"]["allowedFunctionNames"] == ["now"]


@pytest.mark.parametrize("arguments", ["{", "[1]", "1"])
def test_arguments_that_are_no_json_object_are_refused_by_name(arguments):
    messages = [USER, asked(call("a", arguments=arguments)), told("a")]
    assert refused({"messages": messages}) == "messages[1].tool_calls[0].function.arguments"


# --- signatures


def signatures(sent):
    return [
        part.get("thoughtSignature")
        for turn in sent["contents"]
        for part in turn["parts"]
        if "functionCall" in part
    ]


def test_a_signature_comes_back_in_its_own_part():
    messages = [USER, asked(call("a", **signed("c2ln")), call("b")), told("a"), told("b")]
    assert signatures(encode({"messages": messages})) == ["c2ln", None]


def test_the_signature_of_a_plain_answer_comes_back_with_its_text():
    messages = [USER, {"role": "assistant", "content": "Hello"} | signed("c2ln"), USER]
    sent = encode({"messages": messages})
    assert sent["contents"][1]["parts"] == [{"text": "Hello", "thoughtSignature": "c2ln"}]


@pytest.mark.parametrize(
    "made",
    [
        call("a__thought__c2ln"),
        call("a", provider_specific_fields={"thought_signature": "c2ln"}),
        call("a")
        | {
            "function": {
                "name": "x",
                "arguments": "",
                "provider_specific_fields": {"thought_signature": "c2ln"},
            }
        },
    ],
)
def test_signatures_in_litellms_places_are_found(made):
    sent = encode({"messages": [USER, asked(made), told(made["id"])]})
    assert signatures(sent) == ["c2ln"]
    assert sent["contents"][1]["parts"][0]["functionCall"]["id"] == "a"
    assert sent["contents"][2]["parts"][0]["functionResponse"]["id"] == "a"


def test_a_signature_the_client_dropped_is_remembered_for_its_own_account_only():
    store = SignatureStore()
    store.put("acct-tag", "a", NEW, "c2ln")
    messages = [USER, asked(call("a")), told("a")]
    adapter = GeminiAdapter(store)
    assert signatures(encode({"messages": messages}, adapter=adapter)) == ["c2ln"]
    stranger = encode({"messages": messages}, adapter=adapter, account_tag="someone-else")
    assert signatures(stranger) == [SKIP]


def test_a_signature_of_another_model_is_not_sent():
    store = SignatureStore()
    store.put("acct-tag", "a", "gemini-3.8-flash", "c2ln")
    messages = [USER, asked(call("a", **signed("c2ln"))), told("a")]
    assert signatures(encode({"messages": messages}, adapter=GeminiAdapter(store))) == [SKIP]


def test_the_last_resort_stands_on_the_first_call_of_each_step_since_the_last_user_turn():
    messages = [
        USER,
        asked(call("a"), call("b")),
        told("a"),
        told("b"),
        {"role": "assistant", "content": "Done."},
        USER,
        asked(call("c"), call("d")),
        told("c"),
        told("d"),
        asked(call("e")),
        told("e"),
    ]
    assert signatures(encode({"messages": messages})) == [None, None, SKIP, None, SKIP]
    assert signatures(encode({"messages": messages}, OLD)) == [None] * 5


def test_a_model_that_knows_no_signatures_gets_none():
    messages = [USER, asked(call("a", **signed("c2ln"))), told("a")]
    assert signatures(encode({"messages": messages}, PLAIN)) == [None]


def test_the_store_forgets_the_oldest_beyond_its_bounds():
    store = SignatureStore(entries_max=2, chars_max=1_000)
    for name in "abc":
        store.put("t", name, NEW, name)
    assert [store.get("t", name) for name in "abc"] == [None, (NEW, "b"), (NEW, "c")]
    store.put("t", "d", NEW, "x" * 998)
    assert len(store) == 1
    assert store.get("t", "d") is not None
    store.put("t", "e", NEW, "x" * 2_000)
    assert len(store) == 0


# --- tools


def test_tools_are_declared_with_plain_json_schema():
    sent = encode({"tools": [TOOL, BARE]})
    weather, now = sent["tools"][0]["functionDeclarations"]
    assert weather == {
        "name": "get_weather",
        "description": "Weather of a city",
        "parametersJsonSchema": TOOL["function"]["parameters"],
    }
    assert now == {"name": "now"}
    assert sent["toolConfig"] == {"functionCallingConfig": {"mode": "AUTO"}}


@pytest.mark.parametrize(
    "schema",
    [
        None,
        {},
        {"type": "object"},
        {"type": "object", "properties": {}},
        {"type": "object", "properties": {}, "additionalProperties": False, "required": []},
        {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "properties": {}},
    ],
)
def test_a_function_without_arguments_has_no_schema(schema):
    tool = {"type": "function", "function": {"name": "now", "parameters": schema}}
    assert encode({"tools": [tool]})["tools"] == [{"functionDeclarations": [{"name": "now"}]}]


@pytest.mark.parametrize(
    "choice, config",
    [
        ("auto", {"mode": "AUTO"}),
        ("required", {"mode": "ANY"}),
        ("none", {"mode": "NONE"}),
        (
            {"type": "function", "function": {"name": "now"}},
            {"mode": "ANY", "allowedFunctionNames": ["now"]},
        ),
    ],
)
def test_tool_choice_is_a_calling_mode(choice, config):
    sent = encode({"tools": [TOOL, BARE], "tool_choice": choice, "parallel_tool_calls": False})
    assert sent["toolConfig"] == {"functionCallingConfig": config}


@pytest.mark.parametrize("mode, wanted", [("auto", "AUTO"), ("required", "ANY")])
def test_allowed_tools_are_the_only_ones_that_can_be_called(mode, wanted):
    allowed = {"mode": mode, "tools": [{"type": "function", "function": {"name": "now"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    sent = encode({"tools": [TOOL, BARE], "tool_choice": choice})
    assert sent["toolConfig"]["functionCallingConfig"]["mode"] == wanted
    assert [d["name"] for d in sent["tools"][0]["functionDeclarations"]] == ["now"]


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_a_calling_mode_without_tools_is_not_sent(choice):
    sent = encode({"tool_choice": choice, "tools": []})
    assert "toolConfig" not in sent
    assert "tools" not in sent


@pytest.mark.parametrize(
    "body, param",
    [
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "1st"}}]}, "tools[0].function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {"tools": [BARE], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice",
        ),
        ({"tools": [BARE], "tool_choice": {"type": "custom"}}, "tool_choice"),
    ],
)
def test_tools_that_cannot_be_done_are_refused_by_name(body, param):
    assert refused(body) == param


# --- generationConfig


@pytest.mark.parametrize(
    "body, model, expected",
    [
        ({"max_tokens": 50}, NEW, {"maxOutputTokens": 50}),
        ({"max_completion_tokens": 60, "max_tokens": 50}, NEW, {"maxOutputTokens": 60}),
        ({"temperature": 1.5, "top_p": 0.5}, NEW, {"temperature": 1.5, "topP": 0.5}),
        ({"temperature": 1.5, "top_p": 0.5, "top_k": 3}, "gemini-3.8-flash", {}),
        ({"temperature": 0}, "gemini-3.5-flash-lite", {}),
        ({"top_k": 3}, OLD, {"topK": 3}),
        (
            {"presence_penalty": 1, "frequency_penalty": -1},
            OLD,
            {"presencePenalty": 1, "frequencyPenalty": -1},
        ),
        ({"presence_penalty": 1, "frequency_penalty": -1}, NEW, {}),
        ({"stop": "END"}, NEW, {"stopSequences": ["END"]}),
        ({"stop": ["a", "", "b"]}, NEW, {"stopSequences": ["a", "b"]}),
        ({"stop": None, "temperature": None, "tools": None}, NEW, {}),
        ({"seed": 7}, NEW, {"seed": 7}),
        ({"seed": 2**40 + 7}, NEW, {"seed": 7}),
        ({"seed": -1}, NEW, {"seed": 2**31 - 1}),
        ({"n": 3}, NEW, {"candidateCount": 3}),
        ({"logprobs": True, "top_logprobs": 2}, OLD, {"responseLogprobs": True, "logprobs": 2}),
        ({"logprobs": True}, OLD, {"responseLogprobs": True}),
        ({"logprobs": False}, OLD, {}),
        ({"response_format": {"type": "text"}}, NEW, {}),
        (
            {"response_format": {"type": "json_object"}},
            NEW,
            {"responseMimeType": "application/json"},
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "strict": True, "schema": {"type": "object"}},
                }
            },
            OLD,
            {"responseMimeType": "application/json", "responseJsonSchema": {"type": "object"}},
        ),
    ],
)
def test_parameters_are_mapped_or_left_out_as_the_model_has_it(body, model, expected):
    assert config(body, model) == expected


@pytest.mark.parametrize(
    "model, effort, expected",
    [
        (NEW, "none", {"thinkingLevel": "minimal"}),
        (NEW, "minimal", {"thinkingLevel": "minimal", "includeThoughts": True}),
        (NEW, "low", {"thinkingLevel": "low", "includeThoughts": True}),
        (NEW, "medium", {"thinkingLevel": "medium", "includeThoughts": True}),
        (NEW, "max", {"thinkingLevel": "high", "includeThoughts": True}),
        (NEW, "xhigh", {"thinkingLevel": "high", "includeThoughts": True}),
        ("gemini-3.1-pro-preview", "none", {"thinkingLevel": "low"}),
        ("gemini-3-pro-preview", "medium", {"thinkingLevel": "high", "includeThoughts": True}),
        (OLD, "none", {"thinkingBudget": 0}),
        (OLD, "low", {"thinkingBudget": 1024, "includeThoughts": True}),
        (OLD, "max", {"thinkingBudget": 24576, "includeThoughts": True}),
        ("gemini-2.5-pro", "none", {"thinkingBudget": 128}),
        ("gemini-2.5-pro", "max", {"thinkingBudget": 32768, "includeThoughts": True}),
    ],
)
def test_effort_is_a_level_or_a_budget(model, effort, expected):
    assert config({"reasoning_effort": effort}, model) == {"thinkingConfig": expected}


@pytest.mark.parametrize("model", [PLAIN, "gemini-2.5-flash-image", "gemini-3.1-flash-image"])
def test_a_model_that_does_not_think_hears_nothing_of_effort(model):
    assert config({"reasoning_effort": "high"}, model) == {}


def test_nothing_is_said_of_thinking_when_the_client_says_nothing():
    assert config({}) == {}


@pytest.mark.parametrize(
    "limit, stated, bounded, expected",
    [
        (500, False, True, {"maxOutputTokens": 500}),
        (65_536, False, False, {}),
        (500, True, False, {"maxOutputTokens": 500}),
        (None, True, False, {}),
    ],
)
def test_a_limit_is_stated_when_the_client_or_the_hold_sets_it(limit, stated, bounded, expected):
    found = config({}, output_limit=limit, client_stated_limit=stated, bounded=bounded)
    assert found == expected


JSON_FORMAT = {"response_format": {"type": "json_object"}, "tools": [BARE]}


def test_json_beside_tools_is_refused_before_gemini_3_unless_no_tool_may_be_called():
    assert refused(JSON_FORMAT, OLD) == "response_format"
    assert "tools" not in encode(JSON_FORMAT | {"tool_choice": "none"}, OLD)
    assert config(JSON_FORMAT, NEW) == {"responseMimeType": "application/json"}


@pytest.mark.parametrize(
    "body, param",
    [
        ({"n": 2, "stream": True}, "n"),
        ({"n": 9}, "n"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": 5}, "stop"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "a", "format": "mp3"}}, "audio"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(body, param):
    assert refused(body) == param


def test_the_probe_asks_for_one_token_or_one_vector_and_never_for_a_drawing():
    adapter = GeminiAdapter()
    probe = adapter.probe(NEW)
    assert probe.path.endswith(f"{NEW}:generateContent")
    check_generate(NEW, orjson.loads(probe.body))
    assert orjson.loads(probe.body)["generationConfig"] == {"maxOutputTokens": 1}
    assert adapter.probe("gemini-embedding-001").path.endswith(":batchEmbedContents")
    assert adapter.probe("imagen-4.0-generate-001") is None
    assert adapter.probe("gemini-3.1-flash-image") is None
