"""A stand-in for OpenAI on a real socket: strict about what it receives, scripted in what it answers.

::

    async with FakeOpenAI() as fake:
        ...point a provider of kind openai at ``fake.url`` (it ends in /v1)...
        assert fake.requests[-1].body["model"] == "gpt-5.4"

Without a script it answers like the demo provider. ``fake.script("/chat/completions", responder)``
changes that for all later calls of the path; a responder gets the `Received` request and returns a
`Response` (or awaits and returns one). ``fake.script_once`` queues responders that are used up first.
Ready-made responses: `json_reply`, `error_reply`, `stream_reply`, `raw_reply`.

Every request is checked (JSON, no key twice, the types of the official SDK); what is wrong with it
stands in ``Received.problems`` and in ``fake.problems``, and the answer is then a 400 (unless
``strict=False``). ``fake.aborted`` counts calls whose client left before the answer was complete.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from openai.types import embedding_create_params, image_generate_params
from openai.types.chat import completion_create_params
from pydantic import TypeAdapter, ValidationError

from sellapi.upstream import demo

__all__ = [
    "CUT",
    "FakeOpenAI",
    "Received",
    "Response",
    "error_reply",
    "json_reply",
    "problems_of",
    "raw_reply",
    "stream_reply",
]

CUT = object()
"""A step of `Response.steps`: close the connection here, in the middle of the body."""

_TYPES = {
    "/chat/completions": TypeAdapter(completion_create_params.CompletionCreateParams),
    "/embeddings": TypeAdapter(embedding_create_params.EmbeddingCreateParams),
    "/images/generations": TypeAdapter(image_generate_params.ImageGenerateParams),
}


@dataclass
class Received:
    """One request as it arrived; ``path`` is relative to the base URL, header names lower-case."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes
    body: Any = None
    problems: list[str] = field(default_factory=list)


@dataclass
class Response:
    """What to answer. ``steps``: bytes to send, floats to wait (seconds), or `CUT`.

    ``before_s`` is waited before the head is sent. With ``drop`` the connection is closed without
    any answer.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    steps: Iterable[Any] = ()
    before_s: float = 0.0
    drop: bool = False


Responder = Callable[[Received], Response | Awaitable[Response]]


def json_reply(value: Any, status: int = 200, **headers: str) -> Response:
    """A JSON body; keyword names are headers, underscores for dashes."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Response(
        status, {"content-type": "application/json"} | named, [json.dumps(value).encode()]
    )


def error_reply(
    status: int, message: str = "no", code: Any = None, param: str | None = None, **headers: str
) -> Response:
    """An error in OpenAI's shape."""
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return json_reply({"error": error}, status, **headers)


def raw_reply(*steps: Any, status: int = 200, content_type: str = "text/event-stream") -> Response:
    """Exactly these bytes, pauses and cuts."""
    return Response(status, {"content-type": content_type}, steps)


def stream_reply(events: Iterable[Any], *, done: bool = True, pause_s: float = 0.0) -> Response:
    """One ``data:`` event per value (bytes go out as they are), with a pause between them."""
    steps: list[Any] = []
    for event in events:
        data = event if isinstance(event, bytes) else json.dumps(event).encode()
        steps += [b"data: " + data + b"\n\n", pause_s]
    return raw_reply(*steps, *([b"data: [DONE]\n\n"] if done else []))


class FakeOpenAI:
    """The server; an async context manager."""

    def __init__(self, *, strict: bool = True, pause_s: float = 0.0) -> None:
        self.requests: list[Received] = []
        self.aborted = 0
        self.connections = 0
        self.strict = strict
        self._pause_s = pause_s
        self._always: dict[str, Responder] = {}
        self._once: dict[str, deque[Responder]] = {}
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def url(self) -> str:
        """What the provider's base URL is to be, with ``/v1``."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    @property
    def problems(self) -> list[str]:
        """What was wrong with the requests so far."""
        return [problem for request in self.requests for problem in request.problems]

    def script(self, path: str, responder: Responder | Response) -> None:
        """Answer all later calls to ``path`` in this way."""
        self._always[path] = _as_responder(responder)

    def script_once(self, path: str, *responders: Responder | Response) -> None:
        """Answer the next calls to ``path`` in these ways, one each."""
        self._once.setdefault(path, deque()).extend(map(_as_responder, responders))

    def unscript(self) -> None:
        """Answer like the demo provider again."""
        self._always.clear()
        self._once.clear()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**26)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- one connection

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while (received := await _receive(reader)) is not None:
                self.requests.append(received)
                received.problems += problems_of(received)
                if not await self._answer(received, reader, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            self.aborted += 1
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(Exception):
                await writer.wait_closed()

    async def _answer(
        self, received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Whether the connection stays open."""
        response = await self._response(received)
        if response.before_s:
            await _wait(reader, response.before_s)
        if response.drop:
            return False
        lines = [f"HTTP/1.1 {response.status} X"]
        lines += [f"{name}: {text}" for name, text in response.headers.items()]
        lines += ["x-request-id: req_fake0123456789", "openai-organization: org-secret12345"]
        lines += ["set-cookie: a=b", "transfer-encoding: chunked", "", ""]
        writer.write("\r\n".join(lines).encode())
        for step in response.steps:
            if step is CUT:
                await writer.drain()
                return False
            if isinstance(step, bytes):
                if step:
                    writer.write(b"%x\r\n%b\r\n" % (len(step), step))
            elif step:
                await writer.drain()
                await _wait(reader, step)
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _response(self, received: Received) -> Response:
        if received.problems and self.strict:
            return error_reply(400, "; ".join(received.problems))
        queue = self._once.get(received.path)
        responder = queue.popleft() if queue else self._always.get(received.path, self.demo)
        response = responder(received)
        return await response if inspect.isawaitable(response) else response

    def demo(self, received: Received) -> Response:
        """What the demo provider would answer."""
        status, stream, pieces = demo.answer(received.path, received.raw)
        steps: list[Any] = []
        for piece in pieces:
            steps += [piece, self._pause_s]
        kind = "text/event-stream" if stream else "application/json"
        return Response(status, {"content-type": kind}, steps)


def _as_responder(responder: Responder | Response) -> Responder:
    return (lambda _: responder) if isinstance(responder, Response) else responder


async def _receive(reader: asyncio.StreamReader) -> Received | None:
    """The next request of a connection; None when the client closed it between two."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {}
    for line in filter(None, lines):
        name, _, text = line.partition(":")
        headers[name.strip().lower()] = text.strip()
    raw = b""
    if headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            raw += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    elif length := int(headers.get("content-length", 0)):
        raw = await reader.readexactly(length)
    return Received(method, target.removeprefix("/v1"), headers, raw)


async def _wait(reader: asyncio.StreamReader, seconds: float) -> None:
    """Pause, but notice at once that the client left."""
    try:
        left = await asyncio.wait_for(reader.read(1), seconds)
    except TimeoutError:
        return
    if not left:
        raise ConnectionResetError("the client left")
    raise AssertionError("the client sent more before the answer was complete")


# --- strictness


def problems_of(received: Received) -> list[str]:
    if received.method != "POST":
        return []
    found = []
    if received.headers.get("content-type", "").partition(";")[0] != "application/json":
        found.append("content-type is not application/json")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in items]
        found.extend(f"{name} stands there twice" for name in names if names.count(name) > 1)
        return dict(items)

    try:
        received.body = json.loads(received.raw, object_pairs_hook=pairs)
    except ValueError as error:
        return [*found, f"not JSON: {error}"]
    adapter = _TYPES.get(received.path)
    if adapter is None:
        return [*found, f"unknown path {received.path}"]
    try:
        _exhaust(adapter.validate_python(received.body))
    except ValidationError as error:
        found += [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3]]
    return found


def _exhaust(value: Any) -> None:
    """Pydantic validates `Iterable` fields only while they are iterated."""
    if isinstance(value, dict):
        for item in value.values():
            _exhaust(item)
    elif not isinstance(value, str | bytes | int | float | None):
        for item in value:
            _exhaust(item)
