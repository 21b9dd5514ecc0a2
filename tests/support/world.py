"""Three strict providers behind one gateway, and a customer's key: what a client meets in a test."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest
from sanic import Sanic

from tests.support.fake_anthropic import KEY as ANTHROPIC_KEY
from tests.support.fake_anthropic import FakeAnthropic
from tests.support.fake_gemini import FakeGemini, fake_gemini
from tests.support.fake_openai import FakeOpenAI
from tests.support.running import Running, Shopkeeper, running

__all__ = ["CHAT", "OPENAI_KEY", "World", "in_thread", "world"]

_names = itertools.count(1)
OPENAI_KEY = "sk-proj-FakeOpenAIKey0123456789"

CHAT = {
    "openai": "openai/gpt-5.4",
    "anthropic": "anthropic/claude-sonnet-4.6",
    "gemini": "google/gemini-3.1-flash-lite",
}
"""A chat model of each kind."""

_TEXT = {"input": 1_000_000, "output": 2_000_000}
_MODELS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("openai/gpt-5.4", "openai", "gpt-5.4", _TEXT),
    ("vendor/plain-1", "openai", "plain-1", _TEXT),
    ("anthropic/claude-sonnet-4.6", "anthropic", "claude-sonnet-4-6", _TEXT),
    ("anthropic/claude-haiku-4.5", "anthropic", "claude-haiku-4-5", _TEXT),
    ("anthropic/claude-opus-5.5", "anthropic", "claude-opus-5-5", _TEXT),
    ("google/gemini-3.1-flash-lite", "google", "gemini-3.1-flash-lite", _TEXT),
    ("google/gemini-2.5-flash-lite", "google", "gemini-2.5-flash-lite", _TEXT),
    ("openai/text-embedding-3-small", "openai", "text-embedding-3-small", {"input": 20_000}),
    ("google/gemini-embedding-001", "google", "gemini-embedding-001", {"input": 150_000}),
    ("openai/gpt-image-2", "openai", "gpt-image-2", {"images": {"*:*": 40_000}}),
    ("google/imagen-4.0-generate-001", "google", "imagen-4.0-generate-001", {"images": {"*:*": 4}}),
    (
        "google/gemini-3.1-flash-image",
        "google",
        "gemini-3.1-flash-image",
        {"input": 500_000, "output": 3_000_000, "image_output": 60_000_000},
    ),
)


def _mode(upstream: str) -> str:
    if "embedding" in upstream:
        return "embedding"
    return "image" if "image" in upstream else "chat"


@dataclass
class World:
    """Everything a test may look at; ``key`` belongs to a Pro account with plenty of credits."""

    gateway: Running
    openai: FakeOpenAI
    anthropic: FakeAnthropic
    google: FakeGemini
    shop: Shopkeeper
    key: str
    http: httpx.AsyncClient
    account: int = 0

    def newcomer(self, grant: int = 10_000_000) -> World:
        """The same world as another customer meets it; no script of an earlier one is left."""
        self.openai.unscript()
        self.anthropic.script.clear()
        self.google.script.clear()
        for seen in (self.openai.requests, self.anthropic.requests, self.anthropic.refusals):
            seen.clear()
        self.google.requests.clear()
        account = self.shop.user(f"{next(_names)}@example.com", tier="pro", grant=grant)
        return replace(self, key=self.shop.key(account), account=account)

    def client(self, **options: Any) -> openai.AsyncOpenAI:
        options = {"api_key": self.key, "base_url": self.gateway.url, "max_retries": 0, **options}
        return openai.AsyncOpenAI(**options)

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        """A bare POST below /v1; ``body`` is bytes or JSON."""
        return await self.http.post(
            self.gateway.url + path,
            headers={"authorization": f"Bearer {self.key}", **headers},
            content=body if isinstance(body, bytes) else orjson.dumps(body),
        )

    def last(self, kind: str) -> Any:
        """The body the provider of a kind received last."""
        if kind == "openai":
            return self.openai.requests[-1].body
        return self.anthropic.requests[-1] if kind == "anthropic" else self.google.requests[-1][1]

    def complaints(self) -> list[str]:
        """What providers refused because it breaks their rules."""
        return [*self.openai.problems, *self.anthropic.refusals]


@asynccontextmanager
async def world(path: Path, **settings: Any) -> AsyncIterator[World]:
    """Providers and gateway, served by the running loop; sound books at the end."""
    with pytest.MonkeyPatch.context() as patch, fake_gemini() as google:
        patch.setattr(Sanic, "test_mode", True)  # several apps in one process
        patch.setenv("WORLD_OPENAI_KEY", OPENAI_KEY)
        patch.setenv("WORLD_ANTHROPIC_KEY", ANTHROPIC_KEY)
        patch.setenv("WORLD_GOOGLE_KEY", google.key)
        async with FakeOpenAI() as fake, FakeAnthropic() as claude:
            shop = Shopkeeper.open(path / "world.db")
            key = _stock(shop, fake.url, claude.url, google.url)
            async with running(path / "world.db", **settings) as gateway:
                async with httpx.AsyncClient(verify=False, timeout=30) as http:
                    yield World(gateway, fake, claude, google, shop, key, http)
                await gateway.quiet()
                shop.assert_sound()


def _stock(shop: Shopkeeper, openai_url: str, anthropic_url: str, google_url: str) -> str:
    providers = {
        "openai": shop.provider("openai", openai_url, "openai", api_key_env="WORLD_OPENAI_KEY"),
        "anthropic": shop.provider(
            "anthropic", anthropic_url, "anthropic", api_key_env="WORLD_ANTHROPIC_KEY"
        ),
        "google": shop.provider("google", google_url, "gemini", api_key_env="WORLD_GOOGLE_KEY"),
    }
    for slug, provider, upstream, prices in _MODELS:
        shop.model(
            slug,
            providers[provider],
            mode=_mode(upstream),
            upstream=upstream,
            prices=prices,
            context_length=200_000,
            max_output=64_000 if upstream != "claude-sonnet-4-6" else 8_192,
        )
    return shop.key(shop.user("customer@example.com", tier="pro", grant=10_000_000))


@contextmanager
def in_thread(path: Path) -> Iterator[World]:
    """The same, served by a thread of its own: for clients that run in other processes."""
    ready: list[tuple[World, asyncio.AbstractEventLoop, asyncio.Event]] = []
    failed: list[BaseException] = []
    begun = threading.Event()

    async def serve() -> None:
        async with world(path) as found:
            over = asyncio.Event()
            ready.append((found, asyncio.get_running_loop(), over))
            begun.set()
            await over.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failed.append(error)
        finally:
            begun.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    begun.wait(30)
    if failed:
        raise failed[0]
    found, loop, over = ready[0]
    try:
        yield found
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(30)
        if failed:
            raise failed[0]
