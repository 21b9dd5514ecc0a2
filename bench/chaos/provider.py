"""A provider that misbehaves on order: each request says in its last message what shall happen to it.

``python -m bench.chaos.provider PORT``; GET /stats answers how often each fault was played.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import sys
from collections import Counter
from typing import Any

FAULTS = (
    "ok",
    "slow",
    "reset_before",
    "reset_after",
    "truncate",
    "stall",
    "garbage",
    "no_usage",
    "status_429",
    "status_500",
    "status_503",
)
STALL_S = 20.0
played: Counter[str] = Counter()


def usage(order: dict[str, Any]) -> dict[str, Any]:
    total = order["i"] + order["o"]
    return {
        "prompt_tokens": order["i"],
        "completion_tokens": order["o"],
        "total_tokens": total,
        "prompt_tokens_details": {"cached_tokens": order["c"]},
    }


async def read_request(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *lines = head.split("\r\n")
    headers = dict(x.lower().split(": ", 1) for x in lines if ": " in x)
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
        return line, body
    return line, await reader.readexactly(int(headers.get("content-length", 0)))


def reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def head(status: int, length: int | None, kind: str = "application/json", extra: str = "") -> bytes:
    size = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    return f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\n{size}\r\n{extra}\r\n".encode()


class Stop(Exception):
    """The connection was ended on purpose."""


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError, Stop):
        while True:
            line, body = await read_request(reader)
            if line.startswith("GET /stats"):
                text = json.dumps(played).encode()
                writer.write(head(200, len(text)) + text)
                continue
            await answer(json.loads(body), writer)
            await writer.drain()
    writer.close()


async def answer(body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    text = body["input"] if "input" in body else body["messages"][-1]["content"]
    order = json.loads(text)
    fault = order["f"]
    played[fault] += 1
    if fault == "reset_before":
        reset(writer)
        raise Stop
    if fault == "stall":
        await asyncio.sleep(STALL_S)
        raise Stop
    if fault.startswith("status_"):
        status = int(fault[7:])
        error = json.dumps({"error": {"message": "chaos", "type": "chaos", "code": None}}).encode()
        extra = "retry-after: 1\r\n" if status == 429 else ""
        writer.write(head(status, len(error), extra=extra) + error)
        return
    if fault == "slow":
        await asyncio.sleep(0.3)
    if body.get("stream"):
        await stream(order, body, writer)
    else:
        await whole(order, body, writer)


async def whole(order: dict[str, Any], body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    fault = order["f"]
    if "input" in body:
        reply: dict[str, Any] = {
            "object": "list",
            "model": body["model"],
            "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}],
            "usage": {"prompt_tokens": order["i"], "total_tokens": order["i"]},
        }
    else:
        message = {"role": "assistant", "content": "word " * order["n"]}
        reply = {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": usage(order),
        }
    if fault == "no_usage":
        del reply["usage"]
    data = b"<html>oops" if fault == "garbage" else json.dumps(reply).encode()
    if fault in ("reset_after", "truncate"):
        writer.write(head(200, len(data)) + data[: len(data) // 2])
        await writer.drain()
        await asyncio.sleep(0.02)
        if fault == "reset_after":
            reset(writer)
        raise Stop
    writer.write(head(200, len(data)) + data)


async def stream(order: dict[str, Any], body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    fault = order["f"]
    writer.write(head(200, None, "text/event-stream"))

    def event(delta: dict[str, Any] | None, finish: str | None = None, **more: Any) -> bytes:
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
        base = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
        return b"data: " + json.dumps(base | {"choices": choices} | more).encode() + b"\n\n"

    async def send(data: bytes) -> None:
        writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await writer.drain()
        await asyncio.sleep(0.05 if fault == "slow" else 0.004)

    await send(event({"role": "assistant", "content": ""}))
    for index in range(order["n"]):
        if index == order["n"] // 2:
            if fault == "garbage":
                await send(b"data: {not json\n\n")
            if fault == "reset_after":
                reset(writer)
            if fault in ("reset_after", "truncate"):
                raise Stop
        await send(event({"content": "word " * order.get("w", 1)}))
    await send(event({}, "stop"))
    if fault != "no_usage" and (body.get("stream_options") or {}).get("include_usage"):
        await send(event(None, usage=usage(order)))
    await send(b"data: [DONE]\n\n")
    writer.write(b"0\r\n\r\n")


async def main(port: int) -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", port, limit=2**22, backlog=512)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
