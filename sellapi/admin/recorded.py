"""What the audit recorded, in the units everyone reads.

The audit keeps rows as the database has them: credits in millionths, dollars in millionths, seconds.
Whoever looks gets what all other documents have: decimal strings, UTC times, true and false.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from sellapi.admin.views import iso
from sellapi.domain.credits import format_credits, format_usd
from sellapi.domain.pricing import Prices

__all__ = ["CREDITS", "recorded"]

CREDITS = frozenset({"balance", "owed", "credits", "spend_limit", "signup_credits"})
"""Fields that hold credits, by name."""
FLAGS = frozenset({"enabled", "retry_on_timeout"})
"""Columns that hold yes or no as a number."""
NESTED = frozenset({"allowed_fields", "cost", "headers", "input_modalities", "ips", "models"})
"""Columns that hold JSON as text."""


def recorded(text: str | None) -> Any:
    """The recorded JSON, made readable; text that is none stays as it is."""
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if not isinstance(value, dict):
        return value
    return dict(_field(name, item) for name, item in value.items())


def _field(name: str, value: Any) -> tuple[str, Any]:
    if name in NESTED and isinstance(value, str):
        with suppress(ValueError):
            value = json.loads(value)
    if name in ("prices", "cost") and isinstance(value, dict):
        return name, _prices(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return name, value
    if name in FLAGS:
        return name, bool(value)
    if name in CREDITS:
        return name, format_credits(value)
    if name == "price_micro_usd":
        return "price_usd", format_usd(value)
    if name.endswith("_at"):
        return name, iso(value)
    if name == "before_ms":
        return "before", iso(value // 1000)
    return name, value


def _prices(value: dict[str, Any]) -> dict[str, Any]:
    try:
        return Prices.from_json(value).display()
    except (AttributeError, KeyError, TypeError, ValueError):
        return value  # of an older version: better as it stands than not at all
