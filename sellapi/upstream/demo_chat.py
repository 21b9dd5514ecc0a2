"""What the demo provider says: an answer that depends on the last message, and nothing else."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import orjson

from sellapi.upstream.demo_tools import arguments_for, filled, places_in

__all__ = ["Completion", "complete"]

_PIECE = re.compile(r"\s*\S{1,6}|\s+$")
_ECHO = 400
"""Characters of a message that are repeated at most."""
_IMAGE_TOKENS = 85
_MAX_CHOICES = 16


@dataclass(slots=True)
class _Choice:
    pieces: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str = "stop"
    logprobs: list[dict[str, Any]] | None = None

    @property
    def tokens(self) -> int:
        called = [f"{c['function']['name']} {c['function']['arguments']}" for c in self.calls]
        return len(self.pieces) + sum(len(_PIECE.findall(text)) for text in called)


@dataclass(slots=True)
class Completion:
    """An answer, to be shown whole or in pieces."""

    head: dict[str, Any]
    choices: list[_Choice]
    usage: dict[str, Any]

    def whole(self) -> dict[str, Any]:
        """A ``chat.completion``."""
        shown = []
        for index, choice in enumerate(self.choices):
            text = "".join(choice.pieces)
            message: dict[str, Any] = {
                "role": "assistant",
                "content": None if choice.calls else text,
                "refusal": None,
            }
            if choice.calls:
                message["tool_calls"] = choice.calls
            shown.append(
                {
                    "index": index,
                    "message": message,
                    "logprobs": _logprobs(choice.logprobs),
                    "finish_reason": choice.finish_reason,
                }
            )
        return self.head | {"object": "chat.completion", "choices": shown, "usage": self.usage}

    def chunks(self, *, include_usage: bool) -> list[dict[str, Any]]:
        """The chunks of a stream in OpenAI's order; several choices take turns."""
        head = self.head | {"object": "chat.completion.chunk"}
        tail = {"usage": None} if include_usage else {}
        turns = zip_longest(*(_deltas(index, choice) for index, choice in enumerate(self.choices)))
        shown = [
            head | {"choices": [piece]} | tail
            for turn in turns
            for piece in turn
            if piece is not None
        ]
        if include_usage:
            shown.append(head | {"choices": [], "usage": self.usage})
        return shown


def _deltas(index: int, choice: _Choice) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    def add(delta: dict[str, Any], finish: str | None = None, logprobs: Any = None) -> None:
        piece = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        found.append(piece)

    add({"role": "assistant", "content": None if choice.calls else "", "refusal": None})
    for place, text in enumerate(choice.pieces):
        tokens = choice.logprobs[place : place + 1] if choice.logprobs is not None else None
        add({"content": text}, logprobs=_logprobs(tokens))
    for place, call in enumerate(choice.calls):
        function = call["function"]
        start = {"name": function["name"], "arguments": ""}
        add({"tool_calls": [{"index": place, **call, "function": start}]})
        for text in _PIECE.findall(function["arguments"]):
            add({"tool_calls": [{"index": place, "function": {"arguments": text}}]})
    add({}, choice.finish_reason)
    return found


def _logprobs(tokens: list[dict[str, Any]] | None) -> dict[str, Any] | None:
    return None if tokens is None else {"content": tokens, "refusal": None}


def complete(request: Mapping[str, Any], created: int) -> Completion:
    """The answer to a chat request; raises ValueError or TypeError when it makes no sense."""
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError("messages must be a list of at least one message")
    if not all(isinstance(message, dict) for message in messages):
        raise TypeError("every message must be an object")
    limit = request.get("max_completion_tokens") or request.get("max_tokens")
    count = max(1, min(int(request.get("n") or 1), _MAX_CHOICES))
    choices = [_choice(request, messages, index, limit) for index in range(count)]
    seed = orjson.dumps([messages, request.get("tools"), request.get("model")])
    head = {
        "id": "chatcmpl-demo" + hashlib.sha256(seed).hexdigest()[:24],
        "created": created,
        "model": request.get("model"),
        "service_tier": "default",
        "system_fingerprint": "fp_demo",
    }
    prompt = sum(_prompt_tokens(message) for message in messages)
    prompt += len(orjson.dumps(request.get("tools"))) // 4 if request.get("tools") else 0
    output = sum(choice.tokens for choice in choices)
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }
    return Completion(head, choices, usage)


def _choice(
    request: Mapping[str, Any], messages: list[dict[str, Any]], index: int, limit: int | None
) -> _Choice:
    calls = _calls(request, messages)
    if calls:
        return _cut_calls(_Choice(calls=calls, finish_reason="tool_calls"), limit)
    text = _text(request, messages)
    if index:
        text = text if text.startswith("{") else f"{text} (Take {index + 1}.)"
    stops = request.get("stop") or []
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.partition(stop)[0] if stop else text
    pieces = _PIECE.findall(text)
    choice = _Choice(pieces=pieces)
    if limit is not None and len(pieces) > limit:
        choice.pieces, choice.finish_reason = pieces[:limit], "length"
    if request.get("logprobs"):
        most = int(request.get("top_logprobs") or 0)
        choice.logprobs = [_logprob(piece, most) for piece in choice.pieces]
    return choice


def _cut_calls(choice: _Choice, limit: int | None) -> _Choice:
    """A limit may cut a call's arguments: they are then no valid JSON, as with real models."""
    if limit is None or choice.tokens <= limit:
        return choice
    choice.calls = choice.calls[:1]
    function = choice.calls[0]["function"]
    room = max(0, limit - len(_PIECE.findall(function["name"])))
    function["arguments"] = "".join(_PIECE.findall(function["arguments"])[:room])
    choice.finish_reason = "length"
    return choice


def _logprob(piece: str, most: int) -> dict[str, Any]:
    own = {
        "token": piece,
        "logprob": -0.01 * (1 + len(piece)),
        "bytes": list(piece.encode("utf-8", "replace")),
    }
    others = [{"token": f"{piece}{k}", "logprob": -1.5 * k, "bytes": None} for k in range(1, most)]
    return own | {"top_logprobs": [own, *others] if most else []}


def _content(message: Mapping[str, Any]) -> str:
    """A message's text; other parts are named in brackets."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    shown = [
        str(part.get("text") or "") if part.get("type") == "text" else f"[{part.get('type')}]"
        for part in parts
        if isinstance(part, dict)
    ]
    return " ".join(text for text in shown if text)


def _prompt_tokens(message: Mapping[str, Any]) -> int:
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    seen = sum(isinstance(p, dict) and p.get("type") == "image_url" for p in parts)
    size = len(_content(message).encode("utf-8", "replace"))
    size += len(orjson.dumps(message["tool_calls"])) if message.get("tool_calls") else 0
    return int(4 + -(-size // 4) + _IMAGE_TOKENS * seen)


def _last(messages: list[dict[str, Any]], role: str) -> dict[str, Any]:
    return next((m for m in reversed(messages) if m.get("role") == role), {})


def _calls(request: Mapping[str, Any], messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tool calls of the answer, if it consists of some."""
    tools = [t["function"] for t in request.get("tools") or () if t.get("type") == "function"]
    choice = request.get("tool_choice") or "auto"
    if not tools or choice == "none" or messages[-1].get("role") != "user":
        return []
    if isinstance(choice, dict):
        named = (choice.get("function") or {}).get("name")
        tools = [tool for tool in tools if tool["name"] == named] or tools
    text = _content(messages[-1])
    tool = max(tools, key=lambda tool: _fitness(tool, text))  # the first one among equals
    many = request.get("parallel_tool_calls") is not False
    places = places_in(text) or [""]
    found = [arguments_for(tool, text, place) for place in (places if many else places[:1])]
    distinct = list(dict.fromkeys(found))
    return [
        {
            "id": "call_" + hashlib.sha256(f"{tool['name']}{place}{a}".encode()).hexdigest()[:24],
            "type": "function",
            "function": {"name": tool["name"], "arguments": a},
        }
        for place, a in enumerate(distinct)
    ]


def _fitness(tool: Mapping[str, Any], text: str) -> int:
    words = re.findall(r"[a-z]{4,}", f"{tool['name']} {tool.get('description') or ''}".lower())
    return sum(word in text.lower() for word in set(words))


def _text(request: Mapping[str, Any], messages: list[dict[str, Any]]) -> str:
    text = _content(_last(messages, "user")).strip()[:_ECHO]
    wanted = request.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        schema = (wanted.get("json_schema") or {}).get("schema") or {}
        return orjson.dumps(filled(schema, text or "demo")).decode()
    if wanted.get("type") == "json_object":
        return orjson.dumps({"answer": f"You said: {text}"}).decode()
    if messages[-1].get("role") in ("tool", "function"):
        return f"Here is what I found: {_results(messages)}."
    said = f"You said: “{text}”. " if text else ""
    system = _content(_last(messages, "developer") or _last(messages, "system")).strip()[:80]
    asked = f"I keep in mind: “{system}”. " if system else ""
    return f"Hello from the demo model! {said}{asked}A real provider would answer here."


def _results(messages: list[dict[str, Any]]) -> str:
    """The tool results at the end of the conversation, made readable."""
    shown: list[str] = []
    for message in reversed(messages):
        if message.get("role") not in ("tool", "function"):
            break
        text = _content(message)[:_ECHO]
        try:
            value = orjson.loads(text)
        except ValueError:
            value = text
        if isinstance(value, dict):
            text = ", ".join(f"{k} {v}" for k, v in value.items())
        shown.insert(0, text.rstrip(". "))
    return "; ".join(shown)
