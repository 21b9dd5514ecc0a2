"""Providers as running things: adapter, engine, credential. The only place that maps kinds to code."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from sellapi.domain.catalog import Kind, Provider
from sellapi.upstream.adapter import Adapter, Outbound, UpstreamFailure
from sellapi.upstream.client import Call, Engine, EngineOptions
from sellapi.upstream.guard import is_private_base_url, is_public, resolve

__all__ = ["Credential", "EngineFactory", "Link", "Registry", "build_adapter"]

SECRET_AGE_S = 5.0
"""A key file or variable is read again after this long, so that a new key needs no restart."""
SECRET_LEAST = 6
"""A header's value shorter than this is no secret, but may be a word of any message."""
NAME_AGE_S = 300.0
"""How long it is believed where a provider's name leads."""
NAME_WAIT_S = 3.0
NATIVE_HOSTS: Mapping[Kind, re.Pattern[str]] = {
    "openai": re.compile(
        r"api\.openai\.com|[^.]+\.(openai|cognitiveservices|services\.ai)\.azure\.com"
    )
}
"""Where a maker's own service answers, with its own refusals; Azure's are OpenAI's (wire notes 1.3)."""

EngineFactory = Callable[[Provider, EngineOptions], Engine]


def build_adapter(kind: Kind) -> Adapter:
    """The translator for a provider kind (imported when it is first needed)."""
    if kind == "anthropic":
        from sellapi.upstream.anthropic import AnthropicAdapter

        return AnthropicAdapter()
    if kind == "gemini":
        from sellapi.upstream.gemini import GeminiAdapter

        return GeminiAdapter()
    from sellapi.upstream.openai import OpenAIAdapter

    return OpenAIAdapter()


class Credential:
    """A provider's key, read from where the operator keeps it; never stored, never shown."""

    def __init__(self, provider: Provider, environ: Mapping[str, str] | None = None) -> None:
        self._provider = provider
        self._environ = os.environ if environ is None else environ
        self.needed = bool(provider.api_key_env or provider.api_key_file)
        self._value: str | None = None
        self._read_at = float("-inf")

    def __repr__(self) -> str:
        return f"Credential(of {self._provider.name})"

    def read(self) -> str | None:
        """The key, or None when there is none now."""
        now = time.monotonic()
        if now - self._read_at > SECRET_AGE_S:
            self._read_at = now
            self._value = self._fetch()
        return self._value

    def _fetch(self) -> str | None:
        if self._provider.api_key_env:
            return self._environ.get(self._provider.api_key_env, "").strip() or None
        if self._provider.api_key_file:
            try:
                return Path(self._provider.api_key_file).read_text("utf-8").strip() or None
            except (OSError, UnicodeDecodeError):
                return None
        return None


@dataclass(slots=True)
class Link:
    """A provider ready to be called."""

    provider: Provider
    adapter: Adapter
    engine: Engine
    credential: Credential
    base: str
    private: bool
    """The base URL says so itself (`is_private_base_url`); see `leads_inside`."""
    native: bool
    """The base URL is the maker's own (some refusals hold there only)."""
    trusted: bool = False
    """The operator lets it fetch what strangers name, wherever it stands."""
    _headers: tuple[str | None, dict[str, str]] | None = None
    _inside: tuple[float, bool] | None = None

    async def leads_inside(self) -> bool:
        """Whether the base URL leads into a private network, by a look-up of its name too.

        A provider in there must fetch nothing that a stranger names. A name that cannot be looked
        up counts as private. The answer holds for `NAME_AGE_S`.
        """
        if self.private or self.native or self.trusted:
            return self.private
        now = time.monotonic()
        if self._inside is None or now - self._inside[0] > NAME_AGE_S:
            self._inside = (now, await _resolves_inside(urlsplit(self.base).hostname or ""))
        return self._inside[1]

    @property
    def usable(self) -> bool:
        """Whether a call can be made at all: enabled, and its key is there."""
        credential = self.credential
        return self.provider.enabled and not (credential.needed and credential.read() is None)

    def call(
        self,
        outbound: Outbound,
        first_byte_s: float,
        idle_s: float,
        on_send: Callable[[], None] | None = None,
    ) -> Call:
        """The HTTP call for an outbound request, credential added."""
        headers = self._base_headers()
        if outbound.headers:
            headers = {**headers, **outbound.headers}
        url = self.base + outbound.path
        return Call(url, headers, outbound.body, first_byte_s, idle_s, on_send)

    def conceal(self, failure: UpstreamFailure) -> None:
        """Take what we authenticate with out of a provider's words, whatever it looks like."""
        values = [self.credential.read() or "", *self.provider.headers.values()]
        for secret in filter(lambda v: len(v) >= SECRET_LEAST, map(_expand, values)):
            if secret in str(failure) or secret in failure.error.message:
                failure.error.message = failure.error.message.replace(secret, "[removed]")
                failure.error.args = (failure.error.message,)
                failure.args = (str(failure).replace(secret, "[removed]"),)

    def _base_headers(self) -> dict[str, str]:
        secret = self.credential.read()
        if self._headers is None or self._headers[0] != secret:
            own = {k: _expand(v) for k, v in self.provider.headers.items()}
            self._headers = (secret, {**self.adapter.headers(secret), **own})
        return self._headers[1]


async def _resolves_inside(host: str) -> bool:
    try:
        async with asyncio.timeout(NAME_WAIT_S):
            found = await resolve(host, 443)
    except (OSError, UnicodeError, TimeoutError):
        return True
    return not found or not all(map(is_public, found))


def _expand(value: str) -> str:
    """A header value ``env:NAME`` stands for the variable's value (secrets stay out of the database)."""
    return os.environ.get(value[4:], "") if value.startswith("env:") else value


class Registry:
    """The links of this process, kept in step with the catalog."""

    def __init__(
        self,
        engine: EngineFactory,
        *,
        connect_timeout_s: float = 5.0,
        trust_private: bool = False,
    ) -> None:
        self._engine = engine
        self._trust_private = trust_private
        self._connect_timeout_s = connect_timeout_s
        self._links: dict[int, Link] = {}
        self._broken: dict[int, Provider] = {}
        self._adapters: dict[str, Adapter] = {}
        self._retired: list[Engine] = []

    def sync(self, providers: Iterable[Provider]) -> list[tuple[Provider, str]]:
        """Make the links match these providers; a changed provider gets a new engine.

        Running calls keep the engine they have; it is closed when the registry is. A provider that
        cannot be set up is no reason to sell nothing at all: it is left out, tried again with the next
        change of the catalog, and returned once, with the kind of error (its words may hold a URL).
        """
        wanted = {p.id: p for p in providers}
        for provider_id, link in list(self._links.items()):
            if wanted.get(provider_id) != link.provider:
                self._retired.append(self._links.pop(provider_id).engine)
        known, self._broken = self._broken, {}
        news = []
        for provider_id, provider in wanted.items():
            if provider_id in self._links:
                continue
            try:
                self._links[provider_id] = self._link(provider)
            except Exception as error:  # of many kinds: a URL, a proxy, certificates, a library
                self._broken[provider_id] = provider
                if known.get(provider_id) != provider:
                    news.append((provider, type(error).__name__))
        return news

    def _link(self, provider: Provider) -> Link:
        adapter = self._adapters.get(provider.kind)
        if adapter is None:
            adapter = self._adapters[provider.kind] = build_adapter(provider.kind)
        options = EngineOptions(
            max_connections=provider.max_connections,
            queue_size=provider.max_connections,
            connect_timeout_s=self._connect_timeout_s,
            proxy=provider.proxy,
        )
        base = provider.base_url.rstrip("/")
        trusted = self._trust_private or provider.kind == "demo"  # the demo fetches nothing
        maker = NATIVE_HOSTS.get(provider.kind)
        return Link(
            provider,
            adapter,
            self._engine(provider, options),  # after what may raise: nobody would close it
            Credential(provider),
            base,
            private=not trusted and is_private_base_url(base),
            native=bool(maker and maker.fullmatch(urlsplit(base).hostname or "")),
            trusted=trusted,
        )

    def link(self, provider: Provider) -> Link:
        """The link of a provider of the current catalog; raises `KeyError` when there is none."""
        return self._links[provider.id]

    def conceal(self, provider: Provider, failure: UpstreamFailure) -> None:
        """See `Link.conceal`; a provider that is gone from the catalog has no link any more."""
        link = self._links.get(provider.id)
        if link is not None:
            link.conceal(failure)

    def usable(self, provider: Provider) -> bool:
        link = self._links.get(provider.id)
        return link is not None and link.usable

    def links(self) -> list[Link]:
        return list(self._links.values())

    def broken(self) -> list[Provider]:
        """Those that cannot be set up: they have no link."""
        return list(self._broken.values())

    async def close(self) -> None:
        for engine in (*self._retired, *(link.engine for link in self._links.values())):
            await engine.close()
