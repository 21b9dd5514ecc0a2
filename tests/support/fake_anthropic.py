"""An Anthropic that runs here: a real HTTP server that refuses what the real one refuses.

    async with FakeAnthropic() as fake:
        ... fake.url, fake.requests

Answers are deterministic: thinking (signed) when the request has it on, a call of a tool when one is
forced or the last user text says ``call NAME``, otherwise ``You said: …``. `script` holds replies
that go out instead, one a request: bytes of a whole HTTP/1.1 reply, sent in the pieces given, after
which the connection closes.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, Self

from tests.support.fake_anthropic_rules import check, sign, thinks

KEY = "sk-ant-fake"


class FakeAnthropic:
    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        """Bodies received, refused ones too."""
        self.headers: list[dict[str, str]] = []
        self.refusals: list[str] = []
        self.script: list[list[bytes]] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                line, *rest = head.strip().split("\r\n")
                headers = {k.lower(): v.strip() for k, _, v in (h.partition(":") for h in rest)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                if self.script:
                    self.requests.append(json.loads(body))
                    for piece in self.script.pop(0):
                        writer.write(piece)
                        await writer.drain()
                    break
                status, mime, reply = self.answer(line, headers, body)
                writer.write(
                    f"HTTP/1.1 {status} X\r\ncontent-type: {mime}\r\nrequest-id: req_fake123\r\n"
                    f"content-length: {len(reply)}\r\n\r\n".encode()
                    + reply
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client left, or the test is over
        finally:
            self._tasks.discard(task)
            writer.close()

    def answer(self, line: str, headers: dict[str, str], raw: bytes) -> tuple[int, str, bytes]:
        """(status, content type, body) for one request."""
        self.headers.append(headers)
        if headers.get("x-api-key") != KEY:
            return _error(401, "authentication_error", "invalid x-api-key")
        if not line.startswith("POST /v1/messages "):
            return _error(404, "not_found_error", "Not Found")
        if headers.get("anthropic-version") != "2023-06-01":
            return _error(400, "invalid_request_error", "anthropic-version: unknown")
        body = json.loads(raw)
        self.requests.append(body)
        refusal = check(body)
        if refusal == "model not found":
            return _error(404, "not_found_error", f"model: {body['model']}")
        if refusal is not None:
            self.refusals.append(refusal)
            return _error(400, "invalid_request_error", refusal)
        message = respond(body)
        if body.get("stream"):
            return 200, "text/event-stream", events(message)
        return 200, "application/json", json.dumps(message).encode()


def _error(status: int, kind: str, message: str) -> tuple[int, str, bytes]:
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_fake1"}
    return status, "application/json", json.dumps(body).encode()


def respond(body: dict[str, Any]) -> dict[str, Any]:
    """The Message for a valid request."""
    content: list[dict[str, Any]] = []
    if thinks(body):
        thought = "Let me think."
        signature = sign(body["model"], thought)
        content.append({"type": "thinking", "thinking": thought, "signature": signature})
    text, names = _last_text(body), [tool["name"] for tool in body.get("tools", ())]
    choice = body.get("tool_choice", {"type": "auto"})
    wanted = [n for n in re.findall(r"call ([\w-]+)", text) if n in names]
    if choice["type"] == "tool":
        wanted = [choice["name"]]
    elif choice["type"] == "any":
        wanted = wanted or names[:1]
    elif choice["type"] == "none":
        wanted = []
    if choice.get("disable_parallel_tool_use"):
        wanted = wanted[:1]
    number = len(body["messages"])
    for index, name in enumerate(wanted):
        call = {"type": "tool_use", "id": f"toolu_{number}_{index}", "name": name}
        content.append({**call, "input": {"city": "Zürich"} if index == 0 else {}})
    if not wanted:
        schema = body.get("output_config", {}).get("format", {}).get("schema")
        said = json.dumps(_filled(schema, text)) if schema else f"You said: {text}"
        content.append({"type": "text", "text": said})
    usage = {"input_tokens": 10, "output_tokens": 7, "cache_creation_input_tokens": 3}
    usage |= {"cache_read_input_tokens": 5}
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": content,
        "stop_reason": "tool_use" if wanted else "end_turn",
        "stop_sequence": None,
        "usage": usage,
    }


def _filled(schema: dict[str, Any], text: str) -> Any:
    """A value of a simple schema."""
    kind = schema.get("type")
    if kind == "object":
        return {name: _filled(s, text) for name, s in schema["properties"].items()}
    if kind == "array":
        return [_filled(schema["items"], text)]
    return {"integer": 4, "number": 4, "boolean": True}.get(str(kind), text)


def _last_text(body: dict[str, Any]) -> str:
    content = body["messages"][-1]["content"]
    if isinstance(content, str):
        return content
    last = content[-1]
    if last["type"] == "tool_result":
        return str(last.get("content"))
    return str(last.get("text", last["type"]))


def event(kind: str, **fields: Any) -> bytes:
    data = json.dumps({"type": kind, **fields}, ensure_ascii=False)
    return f"event: {kind}\ndata: {data}\n\n".encode()


def events(message: dict[str, Any]) -> bytes:
    """The same Message as a stream, text and arguments in several pieces."""
    usage = message["usage"]
    start = {**message, "content": [], "stop_reason": None}
    start["usage"] = {**usage, "output_tokens": 1}
    out = [event("message_start", message=start), event("ping")]
    for index, block in enumerate(message["content"]):
        out.append(event("content_block_start", index=index, content_block=_empty(block)))
        out += [event("content_block_delta", index=index, delta=d) for d in _deltas(block)]
        out.append(event("content_block_stop", index=index))
    delta = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    if "stop_details" in message:
        delta["stop_details"] = message["stop_details"]
    out.append(event("message_delta", delta=delta, usage={"output_tokens": usage["output_tokens"]}))
    out.append(event("message_stop"))
    return b"".join(out)


def _empty(block: dict[str, Any]) -> dict[str, Any]:
    blank = {"text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}}
    blank["tool_use"] = {"input": {}}
    return {**block, **blank.get(block["type"], {})}


def _deltas(block: dict[str, Any]) -> list[dict[str, Any]]:
    if block["type"] == "text":
        text = block["text"]
        return [{"type": "text_delta", "text": text[i : i + 5]} for i in range(0, len(text), 5)]
    if block["type"] == "thinking":
        return [
            {"type": "thinking_delta", "thinking": block["thinking"]},
            {"type": "signature_delta", "signature": block["signature"]},
        ]
    if block["type"] == "tool_use":
        text = json.dumps(block["input"], ensure_ascii=False) if block["input"] else ""
        pieces = ["", *(text[i : i + 6] for i in range(0, len(text), 6))]
        return [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return []
