"""A stocked shop, served: a strict fake provider behind it, a customer in front of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from openai import AsyncOpenAI

from tests.support.fake_openai import FakeOpenAI
from tests.support.running import Running, Shopkeeper, running

CHAT = "test/chat"
EMBED = "test/embed"
IMAGE = "test/image"
PRO = "test/pro"
HELLO: list[Any] = [{"role": "user", "content": "Hello!"}]
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
"""At the prices of `CHAT` (0.1 and 0.2 credits a token) 2 credits."""


def completion(text: str = "Hi.", *, finish: str = "stop", usage: Any = USAGE) -> dict[str, Any]:
    """A whole answer as a provider sends it."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
    body = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "chat-1"}
    return body | {"choices": [choice]} | ({} if usage is None else {"usage": usage})


def chunk(text: str | None = None, *, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """One event of a provider's stream."""
    delta = {} if text is None else {"content": text}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "chat-1"}
    return head | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]} | more


def usage_chunk(usage: Any = USAGE) -> dict[str, Any]:
    return chunk() | {"choices": [], "usage": usage}


def events(text: str) -> list[Any]:
    """The ``data:`` values of a stream; comments are skipped, ``[DONE]`` stays a string."""
    found: list[Any] = []
    for block in text.split("\n\n"):
        if block.startswith("data: "):
            value = block.removeprefix("data: ")
            found.append(value if value == "[DONE]" else json.loads(value))
    return found


def told(text: str) -> Any:
    """The ``: sellapi {…}`` comment of a stream."""
    line = next(b for b in text.split("\n\n") if b.startswith(": sellapi "))
    return json.loads(line.removeprefix(": sellapi "))


@dataclass
class Front:
    """Everything a test of the API reaches for; ``account`` is a free one with 10,000 credits."""

    fake: FakeOpenAI
    shop: Shopkeeper
    run: Running
    http: httpx.AsyncClient
    provider: int
    account: int
    key: str
    clients: list[AsyncOpenAI] = field(default_factory=list)

    def openai(self, key: str | None = None, **options: Any) -> AsyncOpenAI:
        options = {"max_retries": 0, **options}
        client = AsyncOpenAI(base_url=self.run.url, api_key=key or self.key, **options)
        self.clients.append(client)
        return client

    async def post(
        self, path: str, body: Any = None, *, key: str | None = None, **options: Any
    ) -> httpx.Response:
        """A POST to ``/v1`` + path, with the customer's key; ``body`` as JSON, or raw bytes."""
        headers = {"authorization": f"Bearer {key or self.key}"} | options.pop("headers", {})
        if isinstance(body, bytes):
            headers = {"content-type": "application/json"} | headers
            return await self.http.post(self.run.url + path, content=body, headers=headers)
        return await self.http.post(self.run.url + path, json=body, headers=headers, **options)

    async def chat(self, *, key: str | None = None, **fields: Any) -> httpx.Response:
        return await self.post(
            "/chat/completions", {"model": CHAT, "messages": HELLO} | fields, key=key
        )

    async def get(self, path: str, *, key: str | None = None, **headers: str) -> httpx.Response:
        auth = {"authorization": f"Bearer {key or self.key}"}
        return await self.http.get(self.run.url + path, headers=auth | headers)

    def balance(self) -> int:
        """Microcredits of the account."""
        return int(self.shop.account(self.account)["balance"])

    def requests(self) -> list[dict[str, Any]]:
        return self.shop.rows("SELECT * FROM requests ORDER BY id")

    async def settled(self, count: int = 1) -> list[dict[str, Any]]:
        """The request rows once nothing is running and ``count`` of them are there."""
        for _ in range(300):
            await self.run.quiet()
            rows = self.requests()
            if len(rows) >= count and all(r["state"] != "held" for r in rows):
                self.shop.assert_sound()
                return rows
            await asyncio.sleep(0.01)
        raise AssertionError(f"not settled: {self.requests()}")


@asynccontextmanager
async def open_front(
    folder: Path, *, strict: bool = True, tier: str = "free", grant: int = 10_000, **settings: Any
) -> AsyncIterator[Front]:
    path = folder / "sellapi.db"
    async with FakeOpenAI(strict=strict) as fake:
        shop = Shopkeeper.open(path)
        provider = shop.provider("fake", fake.url)
        known = {"max_output": 16_384, "context_length": 128_000}
        shop.model(CHAT, provider, upstream="chat-1", **known)
        shop.model(PRO, provider, upstream="chat-1", tier="pro", **known)
        shop.model(EMBED, provider, upstream="embed-1", mode="embedding", prices={"input": 20_000})
        shop.model(
            IMAGE, provider, upstream="image-1", mode="image", prices={"images": {"*:*": 40_000}}
        )
        account = shop.user("customer@example.com", tier=tier, grant=grant)
        key = shop.key(account)
        async with (
            running(path, **settings) as run,
            httpx.AsyncClient(timeout=20, verify=False) as http,
        ):
            front = Front(fake, shop, run, http, provider, account, key)
            try:
                yield front
            finally:
                for client in front.clients:
                    await client.close()
