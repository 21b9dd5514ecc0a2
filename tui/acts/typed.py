"""What people type into forms, made into values."""

from __future__ import annotations

from sellapi.domain.credits import parse_usd
from sellapi.errors import UsageError
from tui.acts.act import Line
from tui.words import plain

__all__ = ["differing", "number", "seconds", "whole"]


def whole(label: str, text: str) -> int | None:
    """A whole number a person typed, None for nothing; raises `UsageError`."""
    if not text:
        return None
    digits = text.replace(",", "")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 13):
        raise UsageError(f"{label}: {text!r} is no whole number")
    return int(digits)


def seconds(text: str) -> float | None:
    """Seconds a person typed; raises `UsageError`."""
    return None if not text else parse_usd(text) / 1_000_000


def number(text: str) -> int:
    """The number of a key or an entry; raises `UsageError`."""
    if not (text.isascii() and text.isdigit() and len(text) < 18):
        raise UsageError(f"{plain(text)!r} is no number")
    return int(text)


def differing(lines: list[Line]) -> list[Line]:
    """The lines of a change; a form in which nothing was changed is refused."""
    if not lines:
        raise UsageError("nothing differs from how it is: change a field, or Esc")
    return lines
