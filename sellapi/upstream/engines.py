"""Which engine carries calls to providers, and over which proxies it goes.

The server and a provider's test build the same.
"""

from __future__ import annotations

from importlib.util import find_spec

from sellapi.domain.catalog import Provider
from sellapi.upstream.client import Engine, EngineOptions

__all__ = ["build_engine", "wanted_for_proxy"]


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


def wanted_for_proxy(name: str, proxy: str) -> str | None:
    """What an engine lacks to go over a proxy; None when it goes. Until then it refuses all calls."""
    from sellapi.upstream.dial import Proxy

    if name != "httpx" and Proxy.read(proxy) is not None:
        return None
    lacking = [] if name == "httpx" else ["SELLAPI_ENGINE=httpx"]
    if proxy.startswith("socks") and find_spec("socksio") is None:
        lacking.append("the package httpx[socks]")
    return " and ".join(lacking) or None
