"""The same trouble in each provider's own words: what a fake one answers next."""

from __future__ import annotations

import json
from typing import Any

from tests.support.fake_anthropic import event
from tests.support.fake_gemini import Scripted
from tests.support.fake_openai import Response, raw_reply
from tests.support.world import World

__all__ = ["KINDS", "reply", "say_error", "say_text_then", "stream_error"]

KINDS = ("openai", "anthropic", "gemini")

_GOOGLE = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_CLAUDE = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_body(kind: str, status: int, message: str) -> dict[str, Any]:
    """The body of a refusal."""
    if kind == "openai":
        error = {"message": message, "type": "some_error", "param": None, "code": None}
        return {"error": error}
    if kind == "anthropic":
        error = {"type": _CLAUDE.get(status, "api_error"), "message": message}
        return {"type": "error", "error": error, "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy"}
    error = {"code": status, "message": message, "status": _GOOGLE.get(status, "INTERNAL")}
    return {"error": error}


def reply(
    world: World, kind: str, status: int, body: bytes, headers: dict[str, str] | None = None
) -> None:
    """The provider's next answer, whole."""
    headers = {"content-type": "application/json"} | (headers or {})
    if kind == "openai":
        path = "/chat/completions"
        world.openai.script_once(path, Response(status, headers, [body]))
    elif kind == "anthropic":
        lines = [f"HTTP/1.1 {status} X", *(f"{k}: {v}" for k, v in headers.items())]
        lines += ["request-id: req_011CSHoEeqs5C35K2UUqR7Fy", f"content-length: {len(body)}"]
        world.anthropic.script.append([("\r\n".join(lines) + "\r\n\r\n").encode() + body])
    else:
        world.google.script.append(Scripted(status, body, headers))


def say_error(world: World, kind: str, status: int, message: str, **headers: str) -> None:
    """The next call is refused."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    reply(world, kind, status, json.dumps(error_body(kind, status, message)).encode(), named)


def stream_error(kind: str, status: int, message: str) -> bytes:
    """An error as an event under HTTP 200."""
    body = error_body(kind, status, message)
    if kind == "openai":
        body["error"]["code"] = status
    if kind == "anthropic":
        return event("error", error=body["error"])
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def say_text_then(world: World, kind: str, rest: bytes, text: str = "Once upon") -> None:
    """The next stream begins with ``text``, goes on with ``rest`` and ends there."""
    data = {"content-type": "text/event-stream"}
    if kind == "openai":
        head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        delta = {"role": "assistant", "content": text}
        chunk = head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        begun = b"data: " + json.dumps(chunk).encode() + b"\n\n"
        world.openai.script_once("/chat/completions", raw_reply(begun + rest))
        return
    if kind == "anthropic":
        message = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": []}
        usage = {"input_tokens": 10, "output_tokens": 1}
        begun = event("message_start", message=message | {"usage": usage})
        block = {"type": "text", "text": ""}
        begun += event("content_block_start", index=0, content_block=block)
        delta = {"type": "text_delta", "text": text}
        begun += event("content_block_delta", index=0, delta=delta)
    else:
        content = {"role": "model", "parts": [{"text": text}]}
        begun = (
            b"data: " + json.dumps({"candidates": [{"content": content}]}).encode() + b"\r\n\r\n"
        )
    reply(world, kind, 200, begun + rest, data)
