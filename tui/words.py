"""How the screens write amounts, times and counts; integers in, words out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from rich.cells import cell_len
from rich.text import Text
from textual.color import Color

from sellapi.admin.words import clean, moment

__all__ = [
    "NONE",
    "Cell",
    "Tone",
    "ago",
    "amount",
    "clock",
    "colour",
    "compact",
    "day_time",
    "fit",
    "millis",
    "plain",
    "short_json",
    "state_tone",
    "tone_style",
    "usd",
    "worth",
]

Tone = Literal["", "dim", "good", "warn", "bad", "accent", "strong"]
MICRO = 1_000_000
NONE = "\N{EN DASH}"
"""Where there is nothing to show."""
_MICRO_PER_CENT = 10**9
"""A cent in microcredits (USD 1e-11 each)."""


class Cell(NamedTuple):
    """A table's cell: words and the meaning of their colour."""

    text: str
    tone: Tone = ""


def plain(text: object) -> str:
    """Foreign text on one line, harmless."""
    return clean(text)


def _grouped(value: int, unit: int, places: int) -> str:
    """``value / unit`` with ``places`` decimals, cut off, never rounded up."""
    sign = "-" if value < 0 else ""
    whole, rest = divmod(abs(value), unit)
    if not places:
        return f"{sign}{whole:,}"
    return f"{sign}{whole:,}.{rest * 10**places // unit:0{places}d}"


def amount(microcredits: int) -> str:
    """Credits with two decimals; what is less than a hundredth says so."""
    if 0 < abs(microcredits) < MICRO // 100:
        return "<0.01" if microcredits > 0 else ">-0.01"
    return _grouped(microcredits, MICRO, 2)


def usd(micro_usd: int) -> str:
    """Dollars and cents from USD 1e-6."""
    text = _grouped(micro_usd, MICRO, 2)
    return f"-${text[1:]}" if text.startswith("-") else f"${text}"


def worth(microcredits: int) -> str:
    """What credits are worth in dollars: cents, or four decimals below a dollar."""
    places = 2 if abs(microcredits) >= 100 * _MICRO_PER_CENT else 4
    text = _grouped(microcredits, 100 * _MICRO_PER_CENT, places)
    return f"-${text[1:]}" if text.startswith("-") else f"${text}"


def compact(count: int) -> str:
    """``1234567`` -> ``1.2M``; exact up to five digits."""
    if abs(count) < 100_000:
        return f"{count:,}"
    for unit, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if abs(count) >= unit:
            whole = count // unit
            return f"{whole:,}{letter}" if whole >= 100 else f"{count / unit:.1f}{letter}"
    return str(count)


def millis(value: int | None) -> str:
    """Milliseconds in at most six characters."""
    if value is None:
        return NONE
    if value < 10_000:
        return f"{value:,} ms" if value < 1_000 else f"{value / 1000:.2f} s"
    return f"{value / 1000:.0f} s"


def clock(ms: int) -> str:
    """``04:05:06`` UTC of unix milliseconds."""
    return moment(ms / 1000).strftime("%H:%M:%S")


def day_time(ms: int) -> str:
    """``2026-11-23 04:05:06`` UTC of unix milliseconds."""
    return moment(ms / 1000).strftime("%Y-%m-%d %H:%M:%S")


def ago(seconds: float) -> str:
    """``3m``, ``2h``, ``5d`` of a span."""
    for unit, letter in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= unit:
            return f"{int(seconds // unit)}{letter}"
    return f"{max(0, int(seconds))}s"


def fit(text: str, width: int, *, right: bool = False, end: bool = False) -> str:
    """Exactly ``width`` columns: cut with an ellipsis (``end``: at the start) or filled."""
    length = cell_len(text)
    if end and length > width:
        while text and cell_len(text) >= width:
            text = text[1:]
        text = f"…{text}"
        length = cell_len(text)
    if length > width:
        cut = Text(text)
        cut.truncate(width, overflow="ellipsis")
        text = cut.plain
        length = cell_len(text)
    space = " " * (width - length)
    return space + text if right else text + space


def short_json(value: Any) -> str:
    """``a=1 b=2`` of a small mapping, ``a, b`` of a list, for one line."""
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return plain(", ".join(map(_leaf, value)))
    if isinstance(value, Mapping):
        return plain(" ".join(f"{k}={_leaf(v)}" for k, v in value.items()))
    return plain(_leaf(value))


def _leaf(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return "{" + " ".join(f"{k}={_leaf(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(_leaf(v) for v in value) + "]"
    return str(value)


_STATES: dict[str, Tone] = {
    "active": "good",
    "settled": "good",
    "held": "accent",
    "voided": "warn",
    "swept": "warn",
    "suspended": "warn",
    "expired": "warn",
    "retired": "dim",
    "revoked": "dim",
    "deleted": "dim",
    "pro": "accent",
    "undelivered": "bad",
}


def state_tone(state: str) -> Tone:
    """The meaning of a state's colour."""
    return _STATES.get(state, "")


_TONES: dict[Tone, str] = {
    "good": "success",
    "warn": "warning",
    "bad": "error",
    "accent": "accent",
}


def colour(theme: Any, name: str) -> str:
    """A theme's colour (``primary``, ``success``, …) by the name Rich has for it.

    Textual's own names (``ansi_blue``: whatever the terminal calls blue) are none to Rich.
    """
    return Color.parse(getattr(theme, name) or theme.primary).rich_color.name


def tone_style(theme: Any, tone: Tone) -> str:
    """A rich style for a tone in a Textual theme."""
    if tone == "strong":
        return "bold"
    return colour(theme, _TONES[tone]) if tone in _TONES else tone
