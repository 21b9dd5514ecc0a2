"""What a new shop sells: list prices of November 2026, USD per million tokens.

Sources: genai-prices 0.2.3 and LiteLLM 1.106.2, compared; context and maximum from them too. The
prices are what the makers charge, so each is also its route's cost: margins start at zero and grow
with every price an operator raises. ``>N`` columns hold for the whole request above N input tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MODELS", "PACKS", "PROVIDERS", "TIERS", "DefaultModel"]

TIERS = (("free", 20, 60, "10000"), ("pro", 600, 3_000, "0"))
"""``(name, requests a minute per key, per account, credits a new user starts with)``."""

PACKS = (("starter", "500000", "5"), ("plus", "2000000", "20"), ("team", "10000000", "100"))
"""``(slug, credits, USD)``; a credit is worth $0.00001."""

PROVIDERS = (
    ("openai", "openai", "OPENAI_API_KEY"),
    ("anthropic", "anthropic", "ANTHROPIC_API_KEY"),
    ("gemini", "gemini", "GEMINI_API_KEY"),
)
"""``(name, kind, variable with its key)``."""


@dataclass(frozen=True, slots=True)
class DefaultModel:
    slug: str
    name: str
    provider: str
    upstream: str
    prices: dict[str, str | int | None]
    context: int
    max_output: int | None = None
    mode: str = "chat"
    tier: str = "pro"
    modalities: str = "text"
    images: tuple[str, ...] = ()
    cost: dict[str, str | int | None] | None = None
    """What the maker charges, when it is not the price."""
    later: tuple[str, dict[str, str | int | None]] | None = None
    """``(UTC day, prices)`` the maker announced."""


def _step(above: int, **prices: str) -> dict[str, str | int | None]:
    return {"long_context": above, **{f"long_{n}": p for n, p in prices.items()}}


_SEES = "text,image,file"
_HEARS = "text,image,audio,video,file"

MODELS = (
    DefaultModel(
        "anthropic/claude-sonnet-4.6",
        "Claude Sonnet 4.6",
        "anthropic",
        "claude-sonnet-4-6",
        {
            "input": "3",
            "cached_input": "0.30",
            "cache_write": "3.75",
            "cache_write_1h": "6",
            "output": "15",
        },
        1_000_000,
        128_000,
        modalities=_SEES,
    ),
    DefaultModel(
        "anthropic/claude-haiku-4.5",
        "Claude Haiku 4.5",
        "anthropic",
        "claude-haiku-4-5",
        {
            "input": "1",
            "cached_input": "0.10",
            "cache_write": "1.25",
            "cache_write_1h": "2",
            "output": "5",
        },
        200_000,
        64_000,
        modalities=_SEES,
    ),
    DefaultModel(
        "anthropic/claude-haiku-5.5",
        "Claude Haiku 5.5",
        "anthropic",
        "claude-haiku-5-5",
        {
            "input": "0.10",
            "cached_input": "0.01",
            "cache_write": "0.125",
            "output": "0.50",
            **_step(100_000, input="0.50", cached_input="0.05", cache_write="0.625", output="2.50"),
        },
        1_000_000,
        128_000,
        tier="free",
        modalities=_SEES,
    ),
    DefaultModel(
        "anthropic/claude-opus-5.5",
        "Claude Opus 5.5",
        "anthropic",
        "claude-opus-5-5",
        {
            "input": "4",
            "cached_input": "0.20",
            "cache_write": "5",
            "cache_write_1h": "8",
            "output": "20",
        },
        1_000_000,
        128_000,
        modalities=_SEES,
    ),
    DefaultModel(
        "openai/gpt-5.4",
        "GPT-5.4",
        "openai",
        "gpt-5.4",
        {
            "input": "2.50",
            "cached_input": "0.25",
            "output": "15",
            **_step(272_000, input="5", cached_input="0.50", output="22.50"),
        },
        1_050_000,
        128_000,
        modalities=_SEES,
    ),
    DefaultModel(
        "openai/gpt-5.4-nano",
        "GPT-5.4 nano",
        "openai",
        "gpt-5.4-nano",
        {"input": "0.20", "cached_input": "0.02", "output": "1.25"},
        400_000,
        128_000,
        tier="free",
        modalities=_SEES,
    ),
    DefaultModel(
        "openai/gpt-5-nano",
        "GPT-5 nano (until 2026-12-11)",
        "openai",
        "gpt-5-nano",
        {"input": "0.05", "cached_input": "0.005", "output": "0.40"},
        400_000,
        128_000,
        modalities=_SEES,
    ),
    DefaultModel(
        "openai/gpt-6-luna",
        "GPT-6 Luna",
        "openai",
        "gpt-6-luna",
        {
            "input": "0.10",
            "cached_input": "0.01",
            "cache_write": "0.125",
            "output": "0.50",
            **_step(272_000, input="0.20", cached_input="0.02", cache_write="0.25", output="0.75"),
        },
        1_050_000,
        128_000,
        tier="free",
        modalities=_SEES,
    ),
    DefaultModel(
        "openai/text-embedding-3-small",
        "Text Embedding 3 small",
        "openai",
        "text-embedding-3-small",
        {"input": "0.02"},
        8_191,
        mode="embedding",
        tier="free",
    ),
    DefaultModel(
        "google/gemini-3.1-flash-lite",
        "Gemini 3.1 Flash Lite",
        "gemini",
        "gemini-3.1-flash-lite",
        {"input": "0.25", "audio_input": "0.50", "cached_input": "0.025", "output": "1.50"},
        1_048_576,
        65_536,
        modalities=_HEARS,
    ),
    DefaultModel(
        "google/gemini-2.5-flash-lite",
        "Gemini 2.5 Flash Lite",
        "gemini",
        "gemini-2.5-flash-lite",
        {"input": "0.10", "audio_input": "0.30", "cached_input": "0.01", "output": "0.40"},
        1_048_576,
        65_536,
        tier="free",
        modalities=_HEARS,
    ),
    DefaultModel(
        "google/gemini-3.8-flash",
        "Gemini 3.8 Flash",
        "gemini",
        "gemini-3.8-flash",
        {"input": "0.75", "cached_input": "0.075", "output": "3.75"},
        1_048_576,
        65_536,
        modalities=_HEARS,
        later=("2027-01-01", {"input": "1.50", "cached_input": "0.15", "output": "7.50"}),
    ),
    DefaultModel(
        "google/gemini-3.1-flash-image",
        "Gemini 3.1 Flash Image",
        "gemini",
        "gemini-3.1-flash-image",
        {"input": "0.50", "output": "3", "image_output": "60"},
        131_072,
        32_768,
        mode="image",
        modalities="text,image",
    ),
    # Imagen 4 is shut down at its maker; the slug lives on, answered by the model that followed it.
    # Priced per image, above what the successor's image tokens cost us (about 1,120 of them for
    # 1024x1024 at $60 a million, 1,680 for any size it draws in 2K, 2,520 in 4K).
    DefaultModel(
        "google/imagen-4.0-generate-001",
        "Imagen 4 (shut down; answered by Gemini 3.1 Flash Image)",
        "gemini",
        "gemini-3.1-flash-image",
        {},
        131_072,
        mode="image",
        images=("*:*=0.07", "2K:*=0.105", "4K:*=0.16"),
        cost={"input": "0.50", "output": "3", "image_output": "60"},
    ),
)
