"""Jobs for the OpenAI adapter, as the gateway would make them."""

import msgspec

from sellapi.domain.quirks import quirks_for
from sellapi.upstream.adapter import Job


def openai_job(mode="chat", upstream_id="gpt-5.4", *, body=None, **more) -> Job:
    """A job whose client sent ``body``."""
    usual = {
        "chat": {"model": "openai/gpt-5.4", "messages": [{"role": "user", "content": "Hi"}]},
        "embedding": {"model": "openai/gpt-5.4", "input": ["a", "b"]},
        "image": {"model": "openai/gpt-5.4", "prompt": "sun"},
    }
    raw = msgspec.json.encode(usual[mode] | (body or {}))
    fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    made = {
        "slug": "openai/gpt-5.4",
        "quirks": quirks_for("openai", upstream_id),
        "request_id": "req_abc",
        "created": 1790000001,
        "account_tag": "acct-0123abcd",
    }
    return Job(mode=mode, fields=fields, upstream_id=upstream_id, **(made | more))
