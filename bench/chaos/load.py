"""Clients: real ones that want an answer, and rude ones that leave at every stage."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from bench.chaos.provider import FAULTS

__all__ = ["CHAT", "EMBED", "PRICES", "Answer", "Load"]

CHAT, FAILOVER, DEAD, EMBED = "chaos/chat", "chaos/failover", "chaos/dead", "chaos/embed"
PRICES = {
    CHAT: {"input": 123_457, "output": 987_653, "cache_read": 12_347},
    EMBED: {"input": 20_003},
}
for _same in (FAILOVER, DEAD):
    PRICES[_same] = PRICES[CHAT]
"""USD 1e-6 per million tokens: odd, so that rounding shows."""

STAGES = ("connected", "half a head", "half a body", "asked", "first bytes", "mid-stream", "stuck")
PATIENCE_S = 12.0
RUDE_S = 3.0


def price(model: str, order: dict[str, Any]) -> int:
    """Microcredits, by the client's own arithmetic: USD 1e-12 a token and price unit, rounded up."""
    rates = PRICES[model]
    pico = (order["i"] - order["c"]) * rates["input"]
    pico += order["c"] * rates.get("cache_read", 0) + order["o"] * rates.get("output", 0)
    return -(-pico // 10)


@dataclass(slots=True)
class Answer:
    """What a client got of one request; ``charged`` in microcredits as it was told."""

    request_id: str | None = None
    status: int = 0
    complete: bool = False
    """A 200 to its last byte."""
    charged: int | None = None
    expected: int | None = None
    """What the client's own arithmetic says; None where the provider reported no usage."""
    estimated: bool = False
    broken: bool = False
    """An error after the 200."""


def micro(text: str) -> int:
    whole, _, part = text.partition(".")
    return int(whole) * 1_000_000 + int((part + "000000")[:6])


@dataclass
class Load:
    """Runs clients until it is told to stop; ``answers`` is what they got."""

    url: str
    keys: list[str]
    rude_keys: list[str]
    """Of accounts of their own: who wants an answer is held to account for each of its charges."""
    seed: int = 0
    answers: list[Answer] = field(default_factory=list)
    sent: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    unwanted: Counter[str] = field(default_factory=Counter)
    stopping: bool = False

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    async def run(self, clients: int, rude: int) -> None:
        """Until `stopping`; every request is then ended one way or the other."""
        limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
        async with (
            httpx.AsyncClient(timeout=PATIENCE_S, limits=limits, trust_env=False) as http,
            asyncio.TaskGroup() as tasks,
        ):
            for _ in range(clients):
                tasks.create_task(self._again(lambda: self._polite(http)))
            for _ in range(rude):
                tasks.create_task(self._again(self._rude))

    async def _again(self, act: Callable[[], Any]) -> None:
        while not self.stopping:
            try:
                await act()
            except (OSError, httpx.ConnectError):
                self.seen["client: connection refused"] += 1
                await asyncio.sleep(0.1)

    # -- what is asked for -------------------------------------------------------------------------

    def _order(self) -> tuple[str, str, dict[str, Any], dict[str, Any]]:
        """``(path, model, order, body)`` of a random request."""
        pick = self._random
        fault = pick.choice(FAULTS) if pick.random() < 0.5 else "ok"
        order = {"f": fault, "i": pick.randint(3, 400), "n": pick.randint(2, 24)}
        order["c"] = pick.randint(0, order["i"]) if pick.random() < 0.3 else 0
        order["o"] = order["n"] + pick.randint(0, 30)
        if pick.random() < 0.2:
            order["o"] = order["c"] = 0
            return "/embeddings", EMBED, order, {"model": EMBED, "input": json.dumps(order)}
        roll = pick.random()
        model = FAILOVER if roll < 0.1 else DEAD if roll < 0.13 else CHAT
        messages = [{"role": "user", "content": json.dumps(order)}]
        body: dict[str, Any] = {"model": model, "messages": messages}
        if pick.random() < 0.7:
            body["max_tokens"] = 64
        if pick.random() < 0.5:
            body["stream"] = True
            if pick.random() < 0.5:
                body["stream_options"] = {"include_usage": True}
        return "/chat/completions", model, order, body

    # -- clients that want an answer ---------------------------------------------------------------

    async def _polite(self, http: httpx.AsyncClient) -> None:
        path, model, order, body = self._order()
        answer = Answer()
        if order["f"] != "no_usage" and not (order["f"] == "garbage" and "stream" not in body):
            answer.expected = price(model, order)
        headers = {"authorization": f"Bearer {self._random.choice(self.keys)}"}
        self.sent += 1
        try:
            async with http.stream("POST", self.url + path, json=body, headers=headers) as reply:
                answer.status = reply.status_code
                answer.request_id = reply.headers["x-request-id"]
                if reply.status_code != 200 or "stream" not in body:
                    self._whole(answer, reply, await reply.aread())
                else:
                    await self._stream(answer, reply, order)
        except httpx.ConnectError:
            self.sent -= 1
            raise
        except httpx.HTTPError as error:
            self.seen[f"client: lost ({type(error).__name__})"] += 1
        finally:
            if answer.request_id is not None:
                self.answers.append(answer)
        if answer.status == 503:
            await asyncio.sleep(0.2)

    def _whole(self, answer: Answer, reply: httpx.Response, data: bytes) -> None:
        self.seen[f"answer: {reply.status_code}"] += 1
        if reply.status_code == 200:
            answer.charged = micro(reply.headers["x-sellapi-credits-charged"])
            answer.complete = True
            return
        told = json.loads(data)["error"]
        if reply.status_code in (400, 401, 403, 404, 500):
            self.unwanted[f"{reply.status_code}: {told['message'][:120]}"] += 1
        if reply.status_code == 503 and "retry-after" not in reply.headers:
            self.unwanted["503 without Retry-After"] += 1

    async def _stream(self, answer: Answer, reply: httpx.Response, order: dict[str, Any]) -> None:
        done, lines = False, 0
        gives_up = order["f"] == "slow" and order["n"] > 10 and self._random.random() < 0.5
        async for line in reply.aiter_lines():
            lines += 1
            if gives_up and lines > 4:  # half a second before it could end
                self.seen["left: a slow stream, known by its id"] += 1
                return
            if '"sellapi":' in line or line.startswith(": sellapi "):
                found = json.loads(line.partition(" ")[2].removeprefix("sellapi "))
                told = found.get("sellapi", found)
                answer.charged = micro(told["credits_charged"])
                answer.estimated = told["estimated"]
            elif line.startswith('data: {"error"'):
                answer.broken = True
            done = done or line == "data: [DONE]"
        answer.complete = done
        self.seen["answer: stream " + ("complete" if done else "ended by an error")] += 1

    # -- clients that leave ------------------------------------------------------------------------

    async def _rude(self) -> None:
        stage = self._random.choice(STAGES)
        path, _, _, body = self._order()
        target = urlsplit(self.url)
        assert target.hostname is not None
        reader, writer = await asyncio.open_connection(target.hostname, target.port)
        self.seen[f"left: {stage}"] += 1
        try:
            async with asyncio.timeout(RUDE_S):
                await self._leave(stage, target.path + path, body, reader, writer)
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            pass
        finally:
            sock = writer.get_extra_info("socket")
            if self._random.random() < 0.5:  # a reset, not a polite end
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            with contextlib.suppress(Exception):
                await writer.wait_closed()

    async def _leave(
        self,
        stage: str,
        path: str,
        body: dict[str, Any],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        if stage in ("mid-stream", "stuck"):
            body["stream"] = "input" not in body
            if "input" in body:
                del body["stream"]
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {self._random.choice(self.rude_keys)}\r\n"
            f"content-length: {len(data)}\r\n\r\n"
        ).encode()
        if stage == "connected":
            return
        if stage == "half a head":
            writer.write(head[: len(head) // 2])
        elif stage == "half a body":
            writer.write(head + data[: len(data) // 2])
        else:
            writer.write(head + data)
            self.sent += 1
        await writer.drain()
        if stage == "first bytes":
            await reader.readexactly(1)
        elif stage == "mid-stream":
            for _ in range(self._random.randint(1, 6)):
                await reader.readuntil(b"\n\n")
        elif stage == "stuck":
            await asyncio.sleep(self._random.random())
        else:
            await asyncio.sleep(self._random.random() * 0.05)
