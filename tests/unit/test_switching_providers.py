"""One conversation, another provider at every turn: what one signed never breaks the next."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from sellapi.domain.quirks import quirks_for
from sellapi.upstream.adapter import Job
from sellapi.upstream.anthropic import AnthropicAdapter
from sellapi.upstream.gemini import GeminiAdapter
from sellapi.upstream.openai import OpenAIAdapter
from tests.support.fake_anthropic import KEY, FakeAnthropic
from tests.support.fake_gemini import FakeGemini
from tests.support.fake_openai import Received, problems_of

MODELS = {
    "gpt-5.4": "openai",
    "claude-sonnet-4-6": "anthropic",
    "claude-haiku-4-5": "anthropic",
    "claude-opus-5-5": "anthropic",
    "claude-sonnet-5-5": "anthropic",
    "gemini-3.1-flash-lite": "gemini",
    "gemini-3.8-flash": "gemini",
    "gemini-2.5-flash-lite": "gemini",
}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": name, "parameters": CITY}}
    for name in ("get_weather", "get_time")
]
ASK = "Please call all: call get_weather and call get_time, in Berlin and Paris."
OPENAI_KEYS = {"role", "content", "name", "refusal", "tool_calls", "tool_call_id", "audio"}
"""What api.openai.com takes in a message; anything else is a 400 there."""


class Shop:
    """The three adapters as one process has them, each before a provider that refuses."""

    def __init__(self) -> None:
        self.claude, self.google = FakeAnthropic(), FakeGemini()
        self.native = True
        self.restart()

    def restart(self) -> None:
        """Forget what only this process remembers."""
        self.adapters: dict[str, Any] = {
            "openai": OpenAIAdapter(),
            "anthropic": AnthropicAdapter(),
            "gemini": GeminiAdapter(),
        }

    def ask(self, model: str, body: dict[str, Any]) -> dict[str, Any]:
        """The assistant's message, as a client reads it."""
        kind = MODELS[model]
        adapter = self.adapters[kind]
        job = make_job(model, body)
        self.native = job.native
        outbound = adapter.encode(job)
        reply = getattr(self, f"_{kind}")(adapter, outbound)
        if outbound.stream:
            decoder = adapter.decoder(job)
            decoder.feed(reply)
            decoder.end()
            answer = decoder.answer()
        else:
            answer = adapter.decode(job, [reply])
        message: dict[str, Any] = orjson.loads(answer.body)["choices"][0]["message"]
        return message

    def _openai(self, adapter: Any, outbound: Any) -> bytes:
        received = Received("POST", outbound.path, adapter.headers("k"), outbound.body)
        assert problems_of(received) == []
        for message in received.body["messages"]:
            assert set(message) <= OPENAI_KEYS | (set() if self.native else {"reasoning_content"})
            for call in message.get("tool_calls", ()):
                assert set(call) == {"id", "type", "function"}
                assert set(call["function"]) == {"name", "arguments"}
        from sellapi.upstream import demo

        return b"".join(demo.answer(outbound.path, outbound.body)[2])

    def _anthropic(self, adapter: Any, outbound: Any) -> bytes:
        line = f"POST {outbound.path} HTTP/1.1"
        status, _, reply = self.claude.answer(line, adapter.headers(KEY), outbound.body)
        assert status == 200, reply
        return reply

    def _gemini(self, adapter: Any, outbound: Any) -> bytes:
        reply = self.google.respond(outbound.path, self.google.key, outbound.body)
        assert reply.status == 200, reply.body
        return reply.body


def make_job(model: str, body: dict[str, Any]) -> Job:
    return Job(
        mode="chat",
        fields=msgspec.json.decode(orjson.dumps(body), type=dict[str, msgspec.Raw]),
        slug=f"x/{model}",
        upstream_id=model,
        quirks=quirks_for(MODELS[model], model),
        request_id="req_1",
        created=1,
        output_limit=body.get("max_tokens", 8_000),
        account_tag="acct",
        native=body.get("native", True),
    )


def without_extras(message: dict[str, Any]) -> dict[str, Any]:
    known = {name: message.get(name) for name in ("role", "content")}
    if message.get("tool_calls"):
        known["tool_calls"] = [
            {name: call[name] for name in ("id", "type", "function")}
            for call in message["tool_calls"]
        ]
    return known


STEP = st.fixed_dictionaries(
    {
        "model": st.sampled_from(list(MODELS)),
        "effort": st.sampled_from([None, "none", "low", "high"]),
        "extras": st.booleans(),
        "limit": st.sampled_from([None, 300, 40_000]),
        "reverse": st.booleans(),
        "lost": st.booleans(),
        "tools": st.booleans(),
        "litellm": st.booleans(),
        "restart": st.booleans(),
        "native": st.booleans(),
    }
)


@settings(max_examples=100, deadline=None)
@given(st.lists(STEP, min_size=2, max_size=5))
def test_a_conversation_may_change_its_provider_at_any_turn(steps: list[dict[str, Any]]) -> None:
    """Ids, signatures and thoughts of one provider are valid, or left out, at every other."""
    shop = Shop()
    messages: list[dict[str, Any]] = [{"role": "user", "content": ASK}]
    for step in steps:
        body: dict[str, Any] = {"messages": messages, "model": step["model"]}
        if MODELS[step["model"]] == "openai":
            body["native"] = step["native"]
        if step["tools"] or messages[-1]["role"] == "tool":
            body["tools"] = TOOLS
        if step["effort"] and MODELS[step["model"]] != "openai":
            body["reasoning_effort"] = step["effort"]
        if step["limit"]:
            body["max_tokens"] = step["limit"]
        if step["restart"]:
            shop.restart()
        said = shop.ask(step["model"], body)
        calls = said.get("tool_calls") or []
        if step["litellm"] and step["extras"] and calls and "extra_content" in calls[0]:
            calls[0]["id"] += (
                "__thought__" + calls[0]["extra_content"]["google"]["thought_signature"]
            )
        messages.append(said if step["extras"] else without_extras(said))
        results = [
            {"role": "tool", "tool_call_id": call["id"], "content": '{"degrees": 9}'}
            for call in (calls[1:] if step["lost"] else calls)
        ]
        messages += reversed(results) if step["reverse"] else results
        if not results:
            messages.append({"role": "user", "content": ASK})


@settings(max_examples=60, deadline=None)
@given(
    st.text(min_size=1, max_size=80).filter(lambda text: text.isprintable()),
    st.sampled_from(list(MODELS)),
)
def test_ids_of_any_alphabet_are_taken(identifier: str, model: str) -> None:
    """A history may come from anywhere, its ids too."""
    call = {
        "id": identifier,
        "type": "function",
        "function": {"name": "get_time", "arguments": '{"city":"A"}'},
        "extra_content": {"google": {"thought_signature": "!?"}, "anthropic": {"thinking": 3}},
    }
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": identifier, "content": "9"},
    ]
    shop = Shop()
    shop.google.issued["!?"] = (model, "get_time")
    said = shop.ask(model, {"model": model, "messages": messages, "tools": TOOLS})
    assert said["content"]
    if MODELS[model] == "anthropic":
        sent = json.dumps(shop.claude.requests[-1]["messages"])
        (one,) = set(re.findall(r'"(?:id|tool_use_id)": "([^"]+)"', sent))
        assert re.fullmatch(r"[A-Za-z0-9_-]+", one)
