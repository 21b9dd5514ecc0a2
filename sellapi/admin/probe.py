"""One cheap real call to a provider: does its key work, is its URL right?"""

from __future__ import annotations

import asyncio
import time
from functools import partial

from sellapi.domain.catalog import Provider
from sellapi.upstream.adapter import UpstreamFailure
from sellapi.upstream.engines import build_engine
from sellapi.upstream.registry import Registry

__all__ = ["probe"]

TIMEOUT_S = 20.0
ANSWER_MAX = 1_000_000


def probe(provider: Provider, upstream_id: str, engine: str) -> tuple[bool, int, str]:
    """``(ok, milliseconds, message)``; the message holds no secret. Blocks for `TIMEOUT_S` at most.

    ``engine`` is the one that serves: another may get through where that one does not. The
    credential is read where the server reads it.
    """
    return asyncio.run(_probe(provider, upstream_id, engine))


async def _probe(provider: Provider, upstream_id: str, engine: str) -> tuple[bool, int, str]:
    registry = Registry(partial(build_engine, engine), connect_timeout_s=5.0)
    started = time.monotonic()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            broken = registry.sync([provider])
            if broken:
                message, ok = f"it cannot be set up ({broken[0][1]}): see base URL and proxy", False
            else:
                message, ok = await _ask(registry, provider, upstream_id)
    except UpstreamFailure as failure:
        message, ok = f"{failure.reason}: {failure.error.message}", False
    except TimeoutError:
        message, ok = f"no answer within {TIMEOUT_S:.0f} s", False
    finally:
        await registry.close()
    return ok, round((time.monotonic() - started) * 1000), message


async def _ask(registry: Registry, provider: Provider, upstream_id: str) -> tuple[str, bool]:
    link = registry.link(provider)
    outbound = link.adapter.probe(upstream_id)
    if outbound is None:
        return "not asked: a call would draw, and cost, an image", True
    call = link.call(outbound, TIMEOUT_S, TIMEOUT_S)
    async with link.engine.open(call) as reply:
        body = await reply.read(ANSWER_MAX)
        if 200 <= reply.status < 300:
            return "it answers", True
        failure = link.adapter.failure(reply.status, reply.headers, body)
        link.conceal(failure)
        if failure.key_refused:
            return f"it refused our key (HTTP {reply.status})", False
        return f"HTTP {reply.status}: {failure.error.message}", False
