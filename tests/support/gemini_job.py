"""Jobs for the Gemini adapter, as the gateway would make them."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from sellapi.domain.quirks import quirks_for
from sellapi.upstream.adapter import Job


def gemini_job(body: dict[str, Any], model: str = "gemini-3.1-flash-lite", **more: Any) -> Job:
    """A job for a client's body; ``stream``, ``n`` and the token limit are taken from it."""
    stated = body.get("max_completion_tokens") or body.get("max_tokens")
    settings: dict[str, Any] = {
        "mode": "chat",
        "stream": bool(body.get("stream")),
        "include_usage": bool((body.get("stream_options") or {}).get("include_usage")),
        "n": body.get("n") or 1,
        "output_limit": stated or 65_536,
        "client_stated_limit": stated is not None,
        "account_tag": "acct-tag",
    }
    return Job(
        fields=msgspec.json.decode(orjson.dumps(body), type=dict[str, msgspec.Raw]),
        slug=f"google/{model}",
        upstream_id=model,
        quirks=quirks_for("gemini", model),
        request_id="req_test",
        created=1_790_000_000,
        **(settings | more),
    )
