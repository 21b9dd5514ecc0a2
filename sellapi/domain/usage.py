"""What a request used, in disjoint buckets."""

from __future__ import annotations

import msgspec

__all__ = ["MAX_COUNT", "TOKEN_BUCKETS", "Usage"]

TOKEN_BUCKETS = (
    "input",
    "cache_read",
    "cache_write",
    "cache_write_1h",
    "audio_input",
    "image_input",
    "output",
    "image_output",
)
"""Names of the token buckets; every token of a request is in exactly one of them."""
MAX_COUNT = 10**9
"""A larger token count is no count: no model reads or writes so much in one request, and what it
costs may not fit into the ledger's integers."""
_COUNTED = (*TOKEN_BUCKETS, "images")


class Usage(msgspec.Struct, frozen=True):
    """A provider's usage normalised to disjoint, non-negative buckets.

    ``input`` is the uncached text input, ``cache_write`` the five-minute cache write, ``output``
    holds reasoning tokens too (``reasoning`` names how many of them: a subset, not a bucket),
    ``images`` counts delivered images. Units: tokens, except ``images``.
    """

    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    audio_input: int = 0
    image_input: int = 0
    output: int = 0
    image_output: int = 0
    images: int = 0
    reasoning: int = 0
    estimated: bool = False
    raw: bytes = b""
    """The provider's own usage object as JSON, b"" when it sent none."""

    def __post_init__(self) -> None:
        try:
            every_bit = (  # of whole numbers, negative as soon as one is
                self.input
                | self.cache_read
                | self.cache_write
                | self.cache_write_1h
                | self.audio_input
                | self.image_input
                | self.output
                | self.image_output
                | self.images
                | self.reasoning
            )
        except TypeError:
            every_bit = -1
        if every_bit < 0:
            raise ValueError("usage buckets must be non-negative whole numbers")
        if self.reasoning > self.output:
            raise ValueError("reasoning tokens are a subset of output")

    @property
    def total_input(self) -> int:
        """All input tokens, cached or not: what long-context steps compare."""
        return (
            self.input
            + self.cache_read
            + self.cache_write
            + self.cache_write_1h
            + self.audio_input
            + self.image_input
        )

    @property
    def total_output(self) -> int:
        return self.output + self.image_output

    def buckets(self) -> dict[str, int]:
        """The non-zero buckets, by name, images included."""
        return {n: count for n in _COUNTED if (count := getattr(self, n))}

    def to_json(self) -> str:
        """Buckets and reasoning as a request's row keeps them."""
        kept = self.buckets() | {"reasoning": self.reasoning}
        return "{" + ",".join([f'"{name}":{count}' for name, count in kept.items()]) + "}"
