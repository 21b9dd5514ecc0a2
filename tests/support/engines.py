"""Engines under test, and calls through them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from sellapi.upstream.adapter import UpstreamFailure
from sellapi.upstream.client import Call, Engine, EngineOptions
from sellapi.upstream.engine_asyncio import AsyncioEngine
from sellapi.upstream.engine_httpx import HttpxEngine

KEY = "sk-provider-secret"
ENGINES: dict[str, Callable[[EngineOptions], Any]] = {
    "asyncio": AsyncioEngine,
    "httpx": HttpxEngine,
}
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
"""The one of the tests, and the one of the server."""


@asynccontextmanager
async def running(kind: str, **options: Any) -> AsyncIterator[Any]:
    engine = ENGINES[kind](EngineOptions(**options))
    try:
        yield engine
    finally:
        await engine.close()


def call(url: str, **options: Any) -> Call:
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    return Call(f"{url}/v1/chat/completions?q=1", headers, b'{"a":1}', **options)


async def fetch(engine: Engine, call: Call, limit: int = 1 << 20) -> tuple[int, bytes]:
    async with engine.open(call) as reply:
        return reply.status, await reply.read(limit)


async def failing(engine: Engine, call: Call, limit: int = 1 << 20) -> UpstreamFailure:
    with pytest.raises(UpstreamFailure) as caught:
        await fetch(engine, call, limit)
    told = f"{caught.value} {caught.value.error.body()}"
    for secret in ("127.0.0.1", "localhost", call.url.split("/")[2], KEY, "completions"):
        assert secret not in told
    return caught.value


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))
