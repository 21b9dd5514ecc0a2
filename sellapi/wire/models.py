"""The public model object: OpenAI's fields, OpenRouter's pricing names, ours.

`pricing` is in USD per token or image, `credits` the same in credits, both decimal strings.
"""

from __future__ import annotations

from typing import Any

from sellapi.domain.catalog import Model
from sellapi.domain.pricing import Prices

__all__ = ["model_json", "pricing_json"]

_NAMES = {
    "input": "prompt",
    "output": "completion",
    "cache_read": "input_cache_read",
    "cache_write": "input_cache_write",
    "cache_write_1h": "input_cache_write_1h",
    "audio_input": "audio",
    "image_input": "image_input",
    "image_output": "image_output",
}
_USD_DIGITS = 12  # a token price unit is 1e-12 USD per token
_CREDIT_DIGITS = 7  # one credit is 1e-5 USD


def _decimal(value: int, digits: int) -> str:
    """``value`` units of 10^-digits, exact, without trailing zeros."""
    whole, fraction = divmod(value, 10**digits)
    tail = f"{fraction:0{digits}d}".rstrip("0")
    return f"{whole}.{tail}" if tail else str(whole)


def pricing_json(prices: Prices, *, in_credits: bool) -> dict[str, Any]:
    """Prices per token and per image."""
    digits = _CREDIT_DIGITS if in_credits else _USD_DIGITS
    shown: dict[str, Any] = {"prompt": "0", "completion": "0"}
    for name, public in _NAMES.items():
        value = getattr(prices, name)
        if value is not None:
            shown[public] = _decimal(value, digits)
    if prices.images:
        # an image price unit is 1e-6 USD per image: a million times a token price unit
        scaled = {k: _decimal(v * 1_000_000, digits) for k, v in prices.images.items()}
        dearest = max(prices.images.values()) * 1_000_000
        shown["image"] = _decimal(dearest, digits)
        if len(scaled) > 1:
            shown["images"] = scaled
    if prices.long_context is not None:
        shown["long_context"] = {"above_tokens": prices.long_context}
        for name, public in (
            ("long_input", "prompt"),
            ("long_output", "completion"),
            ("long_cache_read", "input_cache_read"),
            ("long_cache_write", "input_cache_write"),
        ):
            value = getattr(prices, name)
            if value is not None:
                shown["long_context"][public] = _decimal(value, digits)
    return shown


def model_json(model: Model) -> dict[str, Any]:
    """One model as GET /v1/models shows it, without ``available``."""
    return {
        "id": model.slug,
        "object": "model",
        "created": model.created_at,
        "owned_by": model.slug.partition("/")[0] if "/" in model.slug else "sellapi",
        "name": model.name,
        "mode": model.mode,
        "tier": model.tier,
        "context_length": model.context_limit,
        "max_output_tokens": model.output_limit if model.mode == "chat" else None,
        "input_modalities": list(model.input_modalities),
        "pricing": pricing_json(model.prices, in_credits=False),
        "credits": pricing_json(model.prices, in_credits=True),
    }
