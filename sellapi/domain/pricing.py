"""Prices and charges, in integers.

A token price is an integer of USD 1e-6 per million tokens, that is of 1e-12 USD per token. An image
price is an integer of USD 1e-6 per image. A charge adds ``count * price`` over the buckets in
1e-12 USD and is rounded once, up, to the next microcredit (1e-11 USD).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from sellapi.domain.credits import format_usd
from sellapi.domain.usage import TOKEN_BUCKETS, Usage

__all__ = ["ChargeLine", "Prices", "charge", "class_of_size", "explain", "image_price_key"]

_PICO_PER_IMAGE_UNIT = 1_000_000  # USD 1e-6 in 1e-12 USD
_PICO_PER_MICROCREDIT = 10

_INPUT_SIDE = ("input", "cache_read", "cache_write", "cache_write_1h", "audio_input", "image_input")


_LONGEST_EDGE = {"1K": 1_999, "2K": 2_999, "4K": 4_096}
"""Up to which longest edge, in pixels, a size class serves."""


def class_of_size(size: str) -> str | None:
    """The class a ``WIDTHxHEIGHT`` is drawn in by makers that draw in classes; None for others."""
    width, _, height = size.partition("x")
    if not (width.isdecimal() and height.isdecimal() and len(size) <= 11):
        return None
    longest = max(int(width), int(height))
    return next((name for name, edge in _LONGEST_EDGE.items() if longest <= edge), None)


def image_price_key(size: str, quality: str) -> str:
    """The name of an image price that holds for one size and quality: ``1024x1024:high``."""
    return f"{size}:{quality}"


@dataclass(frozen=True)
class Prices:
    """One version of a model's prices; ``None`` means the operator stated none.

    Token prices in USD 1e-6 per million tokens, image prices in USD 1e-6 per image. ``images`` maps
    ``SIZE:QUALITY``, ``SIZE:*``, ``*:QUALITY`` or ``*:*`` to a price, where SIZE may be a class (``2K``)
    that holds for every size of it which has no price of its own. ``long_*`` apply to the whole
    request once its total input exceeds ``long_context`` tokens.
    """

    input: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None
    audio_input: int | None = None
    image_input: int | None = None
    output: int | None = None
    image_output: int | None = None
    images: dict[str, int] = field(default_factory=dict)
    long_context: int | None = None
    long_input: int | None = None
    long_output: int | None = None
    long_cache_read: int | None = None
    long_cache_write: int | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, int) and value < 0:
                raise ValueError(f"price {item.name} must not be negative")

    @property
    def stated(self) -> bool:
        """Whether there is any price at all; a model without one is never callable."""
        return bool(self.images) or self.input is not None or self.output is not None

    def tokens(self, total_input: int) -> dict[str, int]:
        """The price that holds for each token bucket when the request has ``total_input`` tokens.

        A missing cache-read price is the input price, a missing cache-write price 1.25 (5 min) or
        2 times (1 h) the input price, rounded up; any other missing one the dearest stated price of
        its direction. Only a model whose every price is zero has a bucket that costs nothing.
        """
        if self.long_context is not None and total_input > self.long_context:
            return self._long_rates
        return self._rates

    @cached_property
    def _rates(self) -> dict[str, int]:
        return self._work_out(long=False)

    @cached_property
    def _long_rates(self) -> dict[str, int]:
        return self._work_out(long=True)

    def _work_out(self, *, long: bool) -> dict[str, int]:
        stated = {name: getattr(self, name) for name in TOKEN_BUCKETS}
        if long:
            for name, value in (
                ("input", self.long_input),
                ("output", self.long_output),
                ("cache_read", self.long_cache_read),
                ("cache_write", self.long_cache_write),
            ):
                if value is not None:
                    stated[name] = value
            if self.long_input is not None:
                # what was not restated for the long step follows the long input price
                for name, value in (
                    ("cache_read", self.long_cache_read),
                    ("cache_write", self.long_cache_write),
                ):
                    if value is None:
                        stated[name] = None
                if self.cache_write_1h is not None and self.input:
                    stated["cache_write_1h"] = -(
                        -self.cache_write_1h * self.long_input // self.input
                    )
        dearest_input = max((stated[n] for n in _INPUT_SIDE if stated[n] is not None), default=None)
        dearest_output = max(
            (stated[n] for n in ("output", "image_output") if stated[n] is not None), default=None
        )
        dearest_any = max(dearest_input or 0, dearest_output or 0)
        base = stated["input"]
        if base is None:
            base = dearest_input if dearest_input is not None else dearest_any
        out = dearest_output if dearest_output is not None else dearest_any
        fallback = {
            "input": base,
            "cache_read": base,
            "cache_write": -(-base * 5 // 4),
            "cache_write_1h": base * 2,
            "audio_input": base if dearest_input is None else dearest_input,
            "image_input": base if dearest_input is None else dearest_input,
            "output": out,
            "image_output": out,
        }
        return {n: fallback[n] if stated[n] is None else stated[n] for n in TOKEN_BUCKETS}

    def per_image(self, size: str, quality: str) -> int:
        """USD 1e-6 for one image of a size and quality; the dearest stated one when none matches.

        0 when images of this model are priced by tokens.
        """
        for named in (size, class_of_size(size) or "*", "*"):
            for key in (image_price_key(named, quality), image_price_key(named, "*")):
                if key in self.images:
                    return self.images[key]
        return max(self.images.values(), default=0)

    @property
    def wants_step(self) -> bool:
        """Whether there are long prices, but no tokens above which they hold."""
        long = (self.long_input, self.long_output, self.long_cache_read, self.long_cache_write)
        return self.long_context is None and any(price is not None for price in long)

    def differing(self, other: Prices) -> set[str]:
        """The names of what is not the same."""
        names = {f.name for f in fields(self)}
        return {n for n in names if getattr(self, n) != getattr(other, n)}

    def carried(self, given: set[str], now: Prices) -> Prices:
        """This version, scheduled for a day, when ``now`` stands before it: what it was ``given``
        stays, the rest follows.
        """
        found = replace(now, **{name: getattr(self, name) for name in given})
        if found.wants_step:
            found = replace(found, long_context=self.long_context or now.long_context)
        return found

    def to_json(self) -> dict[str, Any]:
        """The stated prices as JSON-ready integers, for storage."""
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if getattr(self, f.name) not in (None, {})
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Prices:
        return cls(**data)

    def display(self) -> dict[str, Any]:
        """The stated prices as decimal strings (USD per million tokens, USD per image)."""
        shown: dict[str, Any] = {}
        for name, value in self.to_json().items():
            if name == "images":
                shown[name] = {k: format_usd(v) for k, v in value.items()}
            else:
                shown[name] = value if name == "long_context" else format_usd(value)
        return shown


@dataclass(frozen=True, slots=True)
class ChargeLine:
    """One line of a receipt's arithmetic: ``count`` units at ``price`` (USD 1e-6 per ``per``)."""

    bucket: str
    count: int
    price: int
    per: int
    """1,000,000 for tokens, 1 for images."""

    @property
    def pico_usd(self) -> int:
        """The line's cost in 1e-12 USD."""
        return self.count * self.price * (1 if self.per != 1 else _PICO_PER_IMAGE_UNIT)


def explain(
    prices: Prices, usage: Usage, *, size: str = "auto", quality: str = "auto"
) -> list[ChargeLine]:
    """The lines a charge is the rounded sum of, empty buckets left out."""
    rates = prices.tokens(usage.total_input)
    lines = [
        ChargeLine(name, count, rates[name], 1_000_000)
        for name in TOKEN_BUCKETS
        if (count := getattr(usage, name))
    ]
    if usage.images and prices.images:
        # A model priced per image is not charged for image tokens as well.
        lines = [line for line in lines if line.bucket != "image_output"]
        if prices.input is None and prices.output is None:
            lines = []
        lines.append(ChargeLine("images", usage.images, prices.per_image(size, quality), 1))
    return lines


def charge(prices: Prices, usage: Usage, *, size: str = "auto", quality: str = "auto") -> int:
    """Microcredits for a usage: the sum of the lines `explain` shows, rounded up once.

    Written out, without the lines' objects, because every request pays it twice.
    """
    rates = prices.tokens(usage.total_input)
    by_image = bool(usage.images and prices.images)
    total = 0
    if not by_image or prices.input is not None or prices.output is not None:
        total = (
            usage.input * rates["input"]
            + usage.output * rates["output"]
            + usage.cache_read * rates["cache_read"]
            + usage.cache_write * rates["cache_write"]
            + usage.cache_write_1h * rates["cache_write_1h"]
            + usage.audio_input * rates["audio_input"]
            + usage.image_input * rates["image_input"]
        )
        if not by_image:
            total += usage.image_output * rates["image_output"]
    if by_image:
        total += usage.images * prices.per_image(size, quality) * _PICO_PER_IMAGE_UNIT
    return -(-total // _PICO_PER_MICROCREDIT)
