"""Credits: exact amounts of prepaid money.

One credit is worth $0.00001. The ledger counts whole *microcredits* (1 credit = 1,000,000
microcredits, each worth 1e-11 USD) in integers; no float ever touches an amount.
"""

from __future__ import annotations

import re

from sellapi.errors import UsageError

__all__ = [
    "MAX_CREDITS",
    "MICRO",
    "credits_to_usd",
    "format_credits",
    "format_usd",
    "parse_credits",
    "parse_usd",
]

MICRO = 1_000_000
"""Microcredits in a credit."""

MAX_CREDITS = 10**10
"""The largest amount a person may type, in credits."""

_AMOUNT = re.compile(r"(?P<whole>[0-9]{1,11})(?:\.(?P<fraction>[0-9]{1,6}))?", re.ASCII)
_MAX_USD = 10**9


def _parse(text: str, what: str, most: int) -> int:
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise UsageError(
            f"{text!r} is not {what}: write digits with at most 6 decimals, for example 12.5"
        )
    value = int(match["whole"]) * MICRO + int((match["fraction"] or "").ljust(6, "0"))
    if value > most * MICRO:
        raise UsageError(f"{text!r} is too large: at most {most:,} is accepted")
    return value


def parse_credits(text: str) -> int:
    """Microcredits from an amount typed by a person, ``"12.5"`` -> 12_500_000.

    ASCII digits, at most 6 decimals, at most 10^10 credits. Raises `UsageError` otherwise.
    """
    return _parse(text, "an amount of credits", MAX_CREDITS)


def parse_usd(text: str) -> int:
    """Micro-dollars (USD 1e-6) from an amount typed by a person; raises `UsageError`."""
    return _parse(text, "an amount in USD", _MAX_USD)


def _format(value: int) -> str:
    sign = "-" if value < 0 else ""
    whole, fraction = divmod(abs(value), MICRO)
    digits = f"{fraction:06d}".rstrip("0")
    return f"{sign}{whole}.{digits}" if digits else f"{sign}{whole}"


def format_credits(microcredits: int) -> str:
    """Decimal credits, exact, without trailing zeros: 12_500_000 -> ``"12.5"``."""
    return _format(microcredits)


def format_usd(micro_usd: int) -> str:
    """Decimal dollars from USD 1e-6, exact, without trailing zeros."""
    return _format(micro_usd)


def credits_to_usd(microcredits: int) -> str:
    """What an amount of microcredits is worth in USD, exact (1e-11 USD each)."""
    sign = "-" if microcredits < 0 else ""
    whole, fraction = divmod(abs(microcredits), 10**11)
    digits = f"{fraction:011d}".rstrip("0")
    return f"{sign}{whole}.{digits}" if digits else f"{sign}{whole}"
