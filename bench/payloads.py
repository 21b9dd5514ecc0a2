"""What stand-in providers answer and what customers ask, as bytes made once."""

from __future__ import annotations

import base64
import json
import random
import struct
from typing import Any

__all__ = ["EVENTS", "answers", "big_body", "chat_body", "chunked", "openai_events"]

EVENTS = 52
"""Events of every stream here, ``[DONE]`` aside: a role, 49 words, the finish, the usage."""
TEXT = (
    "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut "
    "labore et dolore magna aliqua. Ut enim ad minim veniam, quis nostrud exercitation ullamco "
    "laboris nisi ut aliquip ex ea commodo consequat. Duis aute irure dolor in reprehenderit in "
    "voluptate velit esse cillum dolore eu fugiat nulla pariatur. Excepteur sint occaecat "
    "cupidatat non proident, sunt in culpa qui officia deserunt mollit anim id est laborum. "
    "Sed ut perspiciatis unde omnis iste natus error sit voluptatem accusantium doloremque "
    "laudantium, totam rem aperiam, eaque ipsa quae ab illo inventore veritatis et quasi."
)
IN_TOKENS, OUT_TOKENS = 48, 160
CREATED = 1_790_000_000
_USAGE = {
    "prompt_tokens": IN_TOKENS,
    "completion_tokens": OUT_TOKENS,
    "total_tokens": IN_TOKENS + OUT_TOKENS,
    "prompt_tokens_details": {"cached_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
}


def _words(count: int) -> list[str]:
    words = TEXT.split()
    return [words[i % len(words)] + " " for i in range(count)]


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


# -- OpenAI ------------------------------------------------------------------------------------


def openai_answer() -> bytes:
    """About 1 KB, the size of the comparisons in issue 7."""
    message = {"role": "assistant", "content": TEXT, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": CREATED}
    rest = {"model": "gpt-bench", "choices": [choice], "usage": _USAGE}
    return _json(head | rest | {"system_fingerprint": "fp_1"})


def openai_events() -> list[bytes]:
    """`EVENTS` events; the last one is followed by ``[DONE]`` in the same piece."""

    def event(choices: list[Any], usage: Any = None) -> bytes:
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": CREATED}
        rest = {"model": "gpt-bench", "choices": choices, "usage": usage}
        return b"data: " + _json(head | rest) + b"\n\n"

    def choice(delta: Any, finish: str | None = None) -> list[Any]:
        return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]

    found = [event(choice({"role": "assistant", "content": ""}))]
    found += [event(choice({"content": word})) for word in _words(EVENTS - 3)]
    found.append(event(choice({}, "stop")))
    found.append(event([], _USAGE) + b"data: [DONE]\n\n")
    return found


# -- Anthropic ---------------------------------------------------------------------------------


def _claude(content: list[Any], usage: Any, stop: str | None) -> dict[str, Any]:
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-haiku-4-5"}
    return head | {"content": content, "stop_reason": stop, "stop_sequence": None, "usage": usage}


def anthropic_answer() -> bytes:
    usage = {"input_tokens": IN_TOKENS, "output_tokens": OUT_TOKENS}
    usage |= {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return _json(_claude([{"type": "text", "text": TEXT}], usage, "end_turn"))


def anthropic_events() -> list[bytes]:
    def event(kind: str, **fields: Any) -> bytes:
        return f"event: {kind}\ndata: ".encode() + _json({"type": kind, **fields}) + b"\n\n"

    usage = {"input_tokens": IN_TOKENS, "output_tokens": 1}
    block = {"type": "text", "text": ""}
    found = [
        event("message_start", message=_claude([], usage, None)),
        event("content_block_start", index=0, content_block=block),
    ]
    for word in _words(EVENTS - 5):
        delta = {"type": "text_delta", "text": word}
        found.append(event("content_block_delta", index=0, delta=delta))
    stop = {"stop_reason": "end_turn", "stop_sequence": None}
    found.append(event("content_block_stop", index=0))
    found.append(event("message_delta", delta=stop, usage={"output_tokens": OUT_TOKENS}))
    found.append(event("message_stop"))
    return found


# -- Gemini ------------------------------------------------------------------------------------


def _gemini(text: str, out: int, finish: str | None) -> dict[str, Any]:
    part = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    if finish:
        part["finishReason"] = finish
    usage = {"promptTokenCount": IN_TOKENS, "candidatesTokenCount": out}
    usage["totalTokenCount"] = IN_TOKENS + out
    head = {"candidates": [part], "usageMetadata": usage}
    return head | {"modelVersion": "gemini-2.5-flash-lite", "responseId": "r1"}


def gemini_answer() -> bytes:
    return _json(_gemini(TEXT, OUT_TOKENS, "STOP"))


def gemini_events() -> list[bytes]:
    words = _words(EVENTS)
    found = [_gemini(word, 3 * i, None) for i, word in enumerate(words[:-1], 1)]
    found.append(_gemini(words[-1], OUT_TOKENS, "STOP"))
    return [b"data: " + _json(event) + b"\r\n\r\n" for event in found]


def answers() -> dict[str, tuple[str, bytes]]:
    """Location of the static stand-in -> (content type, body)."""
    sse, plain = "text/event-stream", "application/json"
    return {
        "plain": (plain, openai_answer()),
        "burst": (sse, b"".join(openai_events())),
        "claude": (plain, anthropic_answer()),
        "claude-burst": (sse, b"".join(anthropic_events())),
        "gemini": (plain, gemini_answer()),
        "gemini-burst": (sse, b"".join(gemini_events())),
    }


def chunked(piece: bytes) -> bytes:
    """One chunk of a chunked HTTP/1.1 body."""
    return f"{len(piece):x}\r\n".encode() + piece + b"\r\n"


# -- customers ---------------------------------------------------------------------------------


def chat_body(model: str, *, stream: bool = False) -> bytes:
    """A short conversation, about 230 bytes."""
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Tell me something about the weather in Berlin, please."},
    ]
    body = {"model": model, "messages": messages, "max_tokens": 256, "temperature": 0.7}
    return _json(body | ({"stream": True} if stream else {}))


def _png(size: int, seed: int) -> str:
    """Base64 of something that begins as a PNG of 1024 x 1024 does and cannot be compressed."""
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(
        ">I4sIIBBBBB", 13, b"IHDR", 1024, 1024, 8, 2, 0, 0, 0
    )
    return base64.b64encode(header + random.Random(seed).randbytes(size - len(header))).decode()


def big_body(model: str, size: int = 10_000_000) -> bytes:
    """A prompt of ``size`` bytes: four images, which are nearly all of it, and a sentence."""
    raw = (size - 600) // 4 * 3 // 4 // 3 * 3
    parts: list[Any] = [{"type": "text", "text": "What do these have in common?"}]
    for seed in range(4):
        url = "data:image/png;base64," + _png(raw, seed)
        parts.append({"type": "image_url", "image_url": {"url": url}})
    messages = [{"role": "user", "content": parts}]
    return _json({"model": model, "messages": messages, "max_tokens": 256})
