"""From chunks to one completion, and from one completion to chunks."""

from __future__ import annotations

from typing import Any

from sellapi.upstream.adapter import Job
from sellapi.upstream.openai_reply import dumps, loads, public_usage

__all__ = ["gather", "split_completion"]

_TEXTS = ("content", "reasoning_content", "reasoning", "refusal")


def gather(chunks: list[Any], job: Job, usage: bytes) -> bytes:
    """One ``chat.completion`` from a stream's chunks: texts joined, calls by index, logprobs."""
    body: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        body |= {k: v for k, v in chunk.items() if k not in _REPLACED and v is not None}
        for piece in chunk.get("choices") or ():
            if isinstance(piece, dict):
                _add(choices, piece)
    body.setdefault("id", f"chatcmpl-{job.request_id.removeprefix('req_')}")
    body.setdefault("created", job.created)
    body |= {
        "object": "chat.completion",
        "model": job.slug,
        "choices": [choices[index] for index in sorted(choices)],
    }
    for choice in body["choices"]:
        calls = choice["message"].get("tool_calls")
        if calls:
            choice["message"]["tool_calls"] = [calls[k] for k in sorted(calls)]
    if usage:
        body["usage"] = loads(public_usage(usage))
    return dumps(body)


_REPLACED = ("choices", "object", "model", "usage", "obfuscation")


def _add(choices: dict[int, dict[str, Any]], piece: dict[str, Any]) -> None:
    index = piece.get("index") or 0
    choice = choices.setdefault(
        index,
        {
            "index": index,
            "message": {"role": "assistant", "content": None, "refusal": None},
            "logprobs": None,
            "finish_reason": None,
        },
    )
    if piece.get("finish_reason"):
        choice["finish_reason"] = piece["finish_reason"]
    if isinstance(piece.get("logprobs"), dict):
        _add_logprobs(choice, piece["logprobs"])
    delta = piece.get("delta")
    if isinstance(delta, dict):
        _add_delta(choice["message"], delta)


def _add_logprobs(choice: dict[str, Any], found: dict[str, Any]) -> None:
    held = choice["logprobs"] = choice["logprobs"] or {"content": None, "refusal": None}
    for name, tokens in found.items():
        held[name] = (held.get(name) or []) + tokens if isinstance(tokens, list) else held.get(name)


def _add_delta(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for name, value in delta.items():
        if value is None or name == "role":
            continue
        if name in _TEXTS and isinstance(value, str):
            message[name] = (message.get(name) or "") + value
        elif name == "tool_calls" and isinstance(value, list):
            for place, call in enumerate(value):
                _add_call(message.setdefault("tool_calls", {}), place, call)
        elif name == "function_call" and isinstance(value, dict):
            _merge(message.setdefault(name, {}), value)
        elif isinstance(value, list) and isinstance(message.get(name), list):
            message[name] += value
        else:
            message[name] = value


def _add_call(calls: dict[int, dict[str, Any]], place: int, call: dict[str, Any]) -> None:
    index = call.get("index")
    index = place if index is None else index
    held = calls.get(index)
    if held is None:
        held = calls[index] = {"type": call.get("type") or "function"}
    for name, value in call.items():
        if name == "index" or value is None:
            continue
        if isinstance(value, dict):
            _merge(held.setdefault(name, {}), value)
        elif not held.get(name):
            held[name] = value


def _merge(held: dict[str, Any], value: dict[str, Any]) -> None:
    """Names once, arguments joined."""
    for name, part in value.items():
        if name in ("arguments", "input") and isinstance(part, str):
            held[name] = held.get(name, "") + part
        elif not held.get(name):
            held[name] = part


def split_completion(body: dict[str, Any]) -> list[bytes]:
    """A whole completion as the chunks of a stream: one per choice, then the usage."""
    head = {k: v for k, v in body.items() if k not in ("choices", "usage")}
    head["object"] = "chat.completion.chunk"
    events = []
    for choice in body["choices"]:
        delta = dict(choice.get("message") or {})
        calls = delta.get("tool_calls")
        if isinstance(calls, list):
            delta["tool_calls"] = [{"index": k, **call} for k, call in enumerate(calls)]
        piece = {k: v for k, v in choice.items() if k != "message"}
        events.append(head | {"choices": [piece | {"delta": delta}]})
    if body.get("usage") is not None:
        events.append(head | {"choices": [], "usage": body["usage"]})
    return [dumps(event) for event in events]
