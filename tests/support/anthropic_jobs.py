"""Jobs for the Anthropic translator's tests."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from sellapi.domain.quirks import quirks_for
from sellapi.upstream.adapter import Job


def job(body: dict[str, Any], model: str = "claude-sonnet-4-6", **more: Any) -> Job:
    """A chat job for a client's body; ``more`` are fields of `Job`."""
    body = {"messages": [{"role": "user", "content": "Hello!"}], **body}
    fields = msgspec.json.decode(orjson.dumps(body), type=dict[str, msgspec.Raw])
    values: dict[str, Any] = {
        "mode": "chat",
        "fields": fields,
        "slug": f"anthropic/{model}",
        "upstream_id": model,
        "quirks": quirks_for("anthropic", model),
        "request_id": "req_1",
        "created": 1_790_000_000,
        "output_limit": 4_096,
    }
    return Job(**{**values, **more})
