"""Which engine carries calls to providers. The server and a provider's test build the same."""

from __future__ import annotations

from sellapi.domain.catalog import Provider
from sellapi.upstream.client import Engine, EngineOptions

__all__ = ["build_engine"]


def build_engine(name: str, provider: Provider, options: EngineOptions) -> Engine:
    """What carries calls to a provider; ``name`` is the setting ``engine``."""
    if provider.kind == "demo":
        from sellapi.upstream.demo import DemoEngine

        return DemoEngine()
    if name == "httpx":
        from sellapi.upstream.engine_httpx import HttpxEngine

        return HttpxEngine(options)
    from sellapi.upstream.engine_asyncio import AsyncioEngine

    return AsyncioEngine(options)
