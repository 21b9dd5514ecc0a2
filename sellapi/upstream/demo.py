"""A provider inside the process: OpenAI's protocol without a socket, a key or a bill.

`DemoEngine` satisfies `client.Engine`. It receives the calls `OpenAIAdapter` writes and answers
OpenAI's bytes, the same ones for the same request, so that the whole shop can be tried offline.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import orjson

from sellapi.errors import UpstreamFailed
from sellapi.upstream.adapter import UpstreamFailure
from sellapi.upstream.client import Call, Reply, Take
from sellapi.upstream.demo_chat import Completion, complete
from sellapi.upstream.demo_media import embeddings, images

__all__ = ["BASE_URL", "DemoEngine", "answer"]

BASE_URL = "http://demo.invalid/v1"
_PAUSE_S = 0.004
"""Between two pieces of a stream, so that one sees it stream."""


class DemoEngine:
    """Answers every call at once, or in visible pieces when a stream is asked for."""

    def __init__(self, pause_s: float = _PAUSE_S) -> None:
        self._pause_s = pause_s

    @asynccontextmanager
    async def open(self, call: Call) -> AsyncIterator[Reply]:
        if call.on_send is not None:
            call.on_send()
        await asyncio.sleep(0)
        path = call.url.partition("/v1")[2]
        status, stream, pieces = answer(path, call.body)
        yield DemoReply(status, stream, pieces, self._pause_s)

    async def close(self) -> None:
        """There is nothing to close."""


class DemoReply:
    """Satisfies `client.Reply`."""

    def __init__(self, status: int, stream: bool, pieces: list[bytes], pause_s: float) -> None:
        self.status = status
        kind = "text/event-stream" if stream else "application/json"
        self.headers: Mapping[str, str] = {"content-type": kind}
        self._pieces = iter(pieces)
        self._pause_s = pause_s if stream else 0.0

    async def chunk(self, take: Take | None = None) -> bytes | None:  # noqa: ARG002 - may be asked
        piece = next(self._pieces, None)
        if piece is not None and self._pause_s:
            await asyncio.sleep(self._pause_s)
        return piece

    async def read(self, limit: int) -> bytes:
        body = b"".join(self._pieces)
        if len(body) > limit:
            raise UpstreamFailure(UpstreamFailed("The answer is too long."), reason="garbage")
        return body

    def said_all(self) -> None:
        """There is no connection to keep."""


def answer(path: str, body: bytes) -> tuple[int, bool, list[bytes]]:
    """Status, whether it is a stream, and the pieces of the body for a POST to ``path``."""
    try:
        request = orjson.loads(body)
        if not isinstance(request, dict):
            raise TypeError("the body must be an object")
        if path == "/chat/completions":
            done = complete(request, int(time.time()))
            return 200, bool(request.get("stream")), _chat(request, done)
        if path == "/embeddings":
            return 200, False, [orjson.dumps(embeddings(request))]
        if path == "/images/generations":
            return 200, False, [orjson.dumps(images(request, int(time.time())))]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return 400, False, [_error(f"The demo provider cannot read this request: {error}")]
    return 404, False, [_error(f"The demo provider does not know {path}")]


def _error(message: str) -> bytes:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return orjson.dumps({"error": error})


def _chat(request: Mapping[str, Any], done: Completion) -> list[bytes]:
    if not request.get("stream"):
        return [orjson.dumps(done.whole())]
    options = request.get("stream_options") or {}
    chunks = done.chunks(include_usage=bool(options.get("include_usage")))
    return [b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks] + [b"data: [DONE]\n\n"]
