"""Whole conversations with a Gemini that refuses what Google would refuse."""

from __future__ import annotations

import base64
import struct
from itertools import chain

import httpx
import orjson
import pytest
from google import genai
from google.genai import types
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from sellapi.errors import InvalidRequest
from sellapi.upstream.adapter import UpstreamFailure
from sellapi.upstream.gemini import GeminiAdapter
from tests.support.fake_gemini import (
    JPEG,
    PNG,
    Refusal,
    Scripted,
    check_generate,
    fake_gemini,
)
from tests.support.gemini_job import gemini_job

MODELS = [
    "gemini-3.1-flash-lite",
    "gemini-3.8-flash",
    "gemini-3.1-pro-preview",
    "gemini-2.5-flash-lite",
    "gemini-2.5-pro",
    "gemini-2.0-flash",
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    },
    {"type": "function", "function": {"name": "now"}},
]


@pytest.fixture(scope="module")
def google():
    with fake_gemini() as server:
        yield server


class Gateway:
    """The adapter and a plain HTTP client: what the pipeline does, without money."""

    def __init__(self, google):
        self.google = google
        self.adapter = GeminiAdapter()

    def post(self, outbound):
        headers = self.adapter.headers(self.google.key)
        url = self.google.url + outbound.path
        reply = httpx.post(url, content=outbound.body, headers=headers, timeout=10)
        if reply.status_code != 200:
            raise self.adapter.failure(reply.status_code, dict(reply.headers), reply.content)
        return reply.content

    def ask(self, body, model, **more):
        job = gemini_job(body, model, **more)
        outbound = self.adapter.encode(job)
        bodies = [self.post(outbound) for _ in range(outbound.repeat)]
        if not outbound.stream:
            return self.adapter.decode(job, bodies)
        stream = self.adapter.decoder(job)
        return stream.feed(bodies[0]) + stream.end(), stream

    def message(self, body, model, stream):
        """The assistant message as a client would send it back, SDK types in between."""
        if not stream:
            completion = ChatCompletion.model_validate_json(self.ask(body, model).body)
            return completion.choices[0].message.model_dump(), completion.choices[0].finish_reason
        data, decoder = self.ask(body | {"stream": True}, model)
        message = {"role": "assistant", "content": ""}
        for event in data.split(b"\n\n")[:-1]:
            chunk = ChatCompletionChunk.model_validate_json(event.removeprefix(b"data: "))
            delta = chunk.choices[0].delta.model_dump(exclude_none=True)
            message["content"] += delta.get("content", "")
            message.setdefault("tool_calls", []).extend(delta.get("tool_calls", []))
            message.update(
                {k: delta[k] for k in ("reasoning_content", "extra_content") if k in delta}
            )
        if not message.get("tool_calls"):
            message.pop("tool_calls", None)
        return message, decoder.finish_reasons[0]


@pytest.fixture
def gateway(google):
    google.script.clear()
    google.requests.clear()
    return Gateway(google)


def forget(message):
    """What clients do that know no extra_content."""
    calls = [{k: v for k, v in c.items() if k != "extra_content"} for c in message["tool_calls"]]
    return {"role": "assistant", "content": message["content"], "tool_calls": calls}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_a_tool_conversation_runs_to_its_end(gateway, model, stream, drop):
    messages = [
        {"role": "system", "content": "Help."},
        {"role": "user", "content": "Please call all tools"},
    ]
    body = {"messages": messages, "tools": TOOLS, "reasoning_effort": "low"}
    for _ in range(2):
        message, reason = gateway.message(body, model, stream)
        assert reason == "tool_calls"
        assert [c["function"]["name"] for c in message["tool_calls"]] == ["get_weather", "now"]
        messages.append(forget(message) if drop else message)
        messages += [
            {"role": "tool", "tool_call_id": c["id"], "content": "9"}
            for c in reversed(message["tool_calls"])
        ]
        answer, reason = gateway.message(body, model, stream)
        assert (answer["content"], reason) == ("Grüße 👋 from Gemini.", "stop")
        thinks = "2.0" not in model
        assert (answer.get("reasoning_content") == "Let me think.") is thinks
        messages += [answer, {"role": "user", "content": "Again, call all"}]
    sent = orjson.dumps(gateway.google.requests[-1][1])
    assert b"skip_thought" not in sent  # also dropped signatures were remembered


def test_a_gateway_that_forgot_everything_still_gets_through(google):
    body = {"messages": [{"role": "user", "content": "call"}], "tools": TOOLS}
    message, _ = Gateway(google).message(body, MODELS[0], False)
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "9"}
    body["messages"] += [forget(message), result]
    answer, _ = Gateway(google).message(body, MODELS[0], False)
    assert answer["content"].startswith("Grüße")
    assert b"skip_thought" in orjson.dumps(google.requests[-1][1])


def test_a_signature_of_one_model_is_not_shown_to_the_next(gateway):
    body = {"messages": [{"role": "user", "content": "call"}], "tools": TOOLS}
    message, _ = gateway.message(body, "gemini-3.1-flash-lite", False)
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "9"}
    body["messages"] += [message, result]
    answer, _ = gateway.message(body, "gemini-3.8-flash", False)
    assert answer["content"].startswith("Grüße")


def test_n_choices_are_n_choices(gateway):
    answer = gateway.ask({"messages": [{"role": "user", "content": "x"}], "n": 2}, MODELS[0])
    assert [c.index for c in ChatCompletion.model_validate_json(answer.body).choices] == [0, 1]


def test_embeddings_come_packed_and_in_order(gateway):
    body = {"input": ["a", "bbb"], "encoding_format": "base64", "dimensions": 3}
    answer = gateway.ask(body, "gemini-embedding-001", mode="embedding")
    data = orjson.loads(answer.body)["data"]
    vectors = [struct.unpack("<3f", base64.b64decode(item["embedding"])) for item in data]
    assert vectors == [(0.5, 1.0, -0.25), (0.5, 3.0, -0.25)]


@pytest.mark.parametrize(
    "model, images",
    [("gemini-3.1-flash-image", [JPEG] * 3), ("imagen-4.0-generate-001", [PNG] * 3)],
)
def test_images_come_n_at_a_time_or_n_times_one(gateway, model, images):
    body = {"prompt": "A cat", "n": 3, "size": "1536x1024"}
    if "imagen" in model:
        body["size"] = "1792x1024"
    answer = gateway.ask(body, model, mode="image")
    assert [item["b64_json"] for item in orjson.loads(answer.body)["data"]] == images
    assert answer.usage.images == 3


@pytest.mark.parametrize("model", ["gemini-3.1-flash-image", "imagen-4.0-generate-001"])
def test_a_forbidden_picture_is_a_400(gateway, model):
    with pytest.raises(UpstreamFailure) as caught:
        gateway.ask({"prompt": "A forbidden cat"}, model, mode="image")
    assert caught.value.error.code == "content_policy_violation"


def test_the_probe_is_answered_for_every_kind_of_model_that_does_not_draw(gateway):
    for model in (*MODELS, "gemini-embedding-001"):
        assert gateway.post(gateway.adapter.probe(model))


def test_a_wrong_key_is_the_operators_trouble(gateway):
    gateway.google, right = (
        type(gateway.google)(url=gateway.google.url, key="wrong"),
        gateway.google,
    )
    with pytest.raises(UpstreamFailure) as caught:
        gateway.ask({"messages": [{"role": "user", "content": "x"}]}, MODELS[0])
    assert caught.value.key_refused
    assert caught.value.error.status == 502
    gateway.google = right


def test_an_unknown_model_is_the_operators_trouble(gateway):
    with pytest.raises(UpstreamFailure) as caught:
        gateway.ask({"messages": [{"role": "user", "content": "x"}]}, "no-such-model")
    assert (caught.value.status, caught.value.error.status) == (404, 502)


def test_a_scripted_overload_is_a_retryable_502(gateway):
    error = {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}
    gateway.google.script.append(Scripted(503, orjson.dumps(error)))
    with pytest.raises(UpstreamFailure) as caught:
        gateway.ask({"messages": [{"role": "user", "content": "x"}]}, MODELS[0])
    assert caught.value.retryable
    assert caught.value.error.status == 502


# --- the fake itself, against Google's own SDK


@pytest.mark.parametrize("model", ["gemini-3.1-flash-lite", "gemini-2.5-flash-lite"])
def test_googles_sdk_is_content_with_the_fake(google, model):
    client = genai.Client(api_key=google.key, http_options=types.HttpOptions(base_url=google.url))
    tool = types.Tool(
        function_declarations=[types.FunctionDeclaration(name="get_weather", description="x")]
    )
    config = types.GenerateContentConfig(
        tools=[tool], automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True)
    )
    reply = client.models.generate_content(model=model, contents="call", config=config)
    assert reply.function_calls[0].args == {"city": "Berlin"}
    stream = client.models.generate_content_stream(model=model, contents="Hi")
    assert "".join(chunk.text or "" for chunk in stream) == "Grüße 👋 from Gemini."


@pytest.mark.parametrize(
    "model, body",
    [
        ("gemini-3.1-flash-lite", {"contents": []}),
        ("gemini-3.1-flash-lite", {"contents": [{"role": "model", "parts": [{"text": "x"}]}]}),
        ("gemini-2.0-flash", {"generationConfig": {"thinkingConfig": {"thinkingBudget": 0}}}),
        ("gemini-3.8-flash", {"generationConfig": {"temperature": 1}}),
        ("gemini-3.8-flash", {"generationConfig": {"presencePenalty": 1}}),
        ("gemini-3.8-flash", {"generationConfig": {"speed": 1}}),
        ("gemini-2.5-pro", {"generationConfig": {"thinkingConfig": {"thinkingBudget": 0}}}),
        ("gemini-2.5-pro", {"toolConfig": {"functionCallingConfig": {"mode": "AUTO"}}}),
        ("gemini-2.5-pro", {"contents": [{"role": "user", "parts": [{"text": ""}]}]}),
        ("gemini-2.5-pro", {"unknown": 1}),
    ],
)
def test_the_fake_refuses_what_google_refuses(model, body):
    with pytest.raises(Refusal):
        check_generate(model, {"contents": [{"role": "user", "parts": [{"text": "x"}]}]} | body)


# --- any conversation

_TEXT = st.sampled_from(["", " ", "Hi", '{"a":1}', "[1]", "Grüße 👋", "call", "\u2028"])
_IDS = st.sampled_from(["a", "b", "c", "call_1", "x__thought__c2ln"])
_PART = st.one_of(
    st.builds(lambda t: {"type": "text", "text": t}, _TEXT),
    st.just({"type": "image_url", "image_url": {"url": "data:image/jpg;base64,aGk="}}),
    st.just({"type": "input_audio", "input_audio": {"data": "aGk=", "format": "mp3"}}),
    st.just({"type": "file", "file": {"file_data": "data:application/pdf;base64,aGk="}}),
)
_TEXTS = st.one_of(
    _TEXT, st.lists(st.builds(lambda t: {"type": "text", "text": t}, _TEXT), max_size=2)
)
_EXTRA = st.sampled_from([{}, {"extra_content": {"google": {"thought_signature": "c2ln"}}}])


@st.composite
def _call(draw):
    function = {
        "name": draw(st.sampled_from(["get_weather", "now"])),
        "arguments": draw(st.sampled_from(["", "{}", '{"city":"Bärlin"}'])),
    }
    return {"id": draw(_IDS), "type": "function", "function": function} | draw(_EXTRA)


@st.composite
def _turn(draw):
    """Messages that belong together: a word, or a step with some of its results in any order."""
    kind = draw(st.sampled_from(["system", "user", "assistant", "step"]))
    if kind == "system":
        return [{"role": draw(st.sampled_from(["system", "developer"])), "content": draw(_TEXTS)}]
    if kind == "user":
        content = draw(st.one_of(_TEXT, st.lists(_PART, max_size=3)))
        return [{"role": "user", "content": content}]
    if kind == "assistant":
        content = draw(st.one_of(_TEXTS, st.none()))
        return [{"role": "assistant", "content": content} | draw(_EXTRA)]
    calls = draw(st.lists(_call(), min_size=1, max_size=3, unique_by=lambda c: c["id"]))
    said = {"role": "assistant", "content": draw(st.one_of(_TEXT, st.none())), "tool_calls": calls}
    results = [
        {"role": "tool", "tool_call_id": c["id"], "content": draw(_TEXTS)}
        for c in draw(st.permutations(calls))
        if draw(st.integers(0, 3))
    ]
    return [said, *results]


_REQUEST = st.fixed_dictionaries(
    {"messages": st.lists(_turn(), min_size=1, max_size=5).map(lambda t: list(chain(*t)))},
    optional={
        "tools": st.sampled_from([[], TOOLS, TOOLS[1:]]),
        "tool_choice": st.sampled_from(["auto", "none", "required"]),
        "temperature": st.sampled_from([0, 1.5, None]),
        "top_p": st.sampled_from([0.5, None]),
        "presence_penalty": st.just(1),
        "seed": st.integers(-(2**63), 2**63 - 1),
        "stop": st.sampled_from(["x", ["a", ""], None]),
        "n": st.integers(1, 3),
        "max_tokens": st.integers(1, 100),
        "reasoning_effort": st.sampled_from(["none", "minimal", "low", "medium", "high", "max"]),
        "response_format": st.sampled_from(
            [
                {"type": "text"},
                {"type": "json_object"},
                {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
            ]
        ),
        "logprobs": st.booleans(),
    },
)


@given(_REQUEST, st.sampled_from(MODELS))
def test_any_conversation_is_one_google_takes(body, model):
    try:
        outbound = GeminiAdapter().encode(gemini_job(body, model))
    except InvalidRequest as error:
        if error.param not in ("tool_choice", "response_format"):
            raise
        return
    check_generate(model, orjson.loads(outbound.body))
