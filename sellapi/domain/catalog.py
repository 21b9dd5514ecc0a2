"""What is for sale: models, their routes to providers, tiers and packs. Immutable snapshots."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sellapi.domain.pricing import Prices
from sellapi.domain.quirks import Quirks

__all__ = [
    "DEFAULT_MAX_OUTPUT",
    "KINDS",
    "MODES",
    "TIERS",
    "Catalog",
    "Kind",
    "Mode",
    "Model",
    "Provider",
    "Route",
    "Tier",
]

Kind = Literal["openai", "anthropic", "gemini", "demo"]
Mode = Literal["chat", "embedding", "image"]

KINDS: tuple[Kind, ...] = ("openai", "anthropic", "gemini")
"""Kinds an operator may add; ``demo`` exists inside ``serve --demo`` only."""
MODES: tuple[Mode, ...] = ("chat", "embedding", "image")
TIERS = ("free", "pro")

DEFAULT_MAX_OUTPUT = 16_384
"""Tokens an answer may have when the operator stated no maximum."""
DEFAULT_CONTEXT = 128_000
DEFAULT_CONNECTIONS = 256
DEFAULT_TIMEOUT_S = 600.0
"""Of a provider for which the operator stated none; the schema says the same."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One account at one provider. Secrets stay where they are: an environment variable or a file."""

    id: int
    name: str
    kind: Kind
    base_url: str
    api_key_env: str | None = None
    api_key_file: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    max_connections: int = DEFAULT_CONNECTIONS
    timeout_s: float = DEFAULT_TIMEOUT_S
    """Seconds an unstreamed call may take to its first byte, and a stream may be silent."""
    proxy: str | None = None
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Route:
    """One way to answer for a model: a provider and the id it knows the model by."""

    id: int
    provider: Provider
    upstream_id: str
    quirks: Quirks
    priority: int = 0
    """Routes are tried from the lowest priority number up."""
    weight: int = 1
    """Routes of equal priority share the load by weight."""
    timeout_s: float | None = None
    max_concurrency: int | None = None
    retry_on_timeout: bool = False
    """Whether the next route may be tried after a timeout (the first may still be billed)."""
    cost: Prices | None = None
    """What the provider charges us, for margins and loss."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model as customers know it."""

    id: int
    slug: str
    name: str
    mode: Mode
    tier: str
    enabled: bool
    price_id: int
    prices: Prices
    routes: tuple[Route, ...]
    context_length: int | None = None
    max_output: int | None = None
    input_modalities: tuple[str, ...] = ("text",)
    allowed_fields: frozenset[str] = frozenset()
    """Billing fields the operator allows for this model at its price (money.md)."""
    created_at: int = 0

    @property
    def output_limit(self) -> int:
        """Most tokens of an answer; where the operator has not said it, it is assumed, and the provider
        is told (`Priced.bounded`).
        """
        return self.max_output or DEFAULT_MAX_OUTPUT

    @property
    def context_limit(self) -> int:
        return self.context_length or DEFAULT_CONTEXT

    @property
    def reasoning(self) -> bool:
        """Whether any route may think before it answers (then an answer needs more room)."""
        return any(route.quirks.reasoning for route in self.routes)


@dataclass(frozen=True, slots=True)
class Tier:
    """Limits of a tier, requests per moving minute, and the credits a new user starts with."""

    name: str
    rpm: int
    account_rpm: int
    signup_credits: int
    """Microcredits."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """A consistent snapshot of everything for sale, at ``version``.

    ``next_change_at`` is the unix time a scheduled price takes over; the snapshot must be read
    again then.
    """

    version: int
    models: dict[str, Model]
    tiers: dict[str, Tier]
    next_change_at: float | None = None
