"""Words typed by people, made into values: times, durations, e-mails, networks; and cleaning text."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from datetime import UTC, date, datetime

from sellapi.errors import UsageError

__all__ = [
    "DAY",
    "clean",
    "csv_cell",
    "earlier",
    "later",
    "moment",
    "parse_day",
    "parse_email",
    "parse_expiry",
    "parse_ips",
    "parse_name",
    "parse_since",
    "split_list",
]

DAY = 86_400
NAME_MAX = 200
_DURATION = re.compile(r"([0-9]{1,6})(s|m|h|d|w)|0", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": DAY, "w": 7 * DAY}
_LAST = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())
"""The last second that can be written."""
_TYPED_END = int(datetime(9999, 1, 1, tzinfo=UTC).timestamp())
"""From here on no time may be typed: what is a day later has to be one that can be written."""
_EMAIL = re.compile(r"[^\s@\"'<>(),;:\\\x00-\x1f\x7f]{1,64}@[^\s@\"'<>(),;:\\\x00-\x1f\x7f]{1,190}")
# Control characters, and those that change the direction or visibility of what stands around them.
_UNSAFE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)


def clean(text: object) -> str:
    """Foreign text made harmless for a terminal: control and invisible characters become ``�``."""
    return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", str(text))


def csv_cell(value: object) -> str:
    """A CSV cell no spreadsheet takes for a formula: ``=``, ``+``, ``-``, ``@`` get a quote.

    Plain numbers stay numbers, negative ones too.
    """
    text = "" if value is None else clean(value)
    if text[:1] in ("=", "+", "-", "@") and not re.fullmatch(r"-[0-9]+(\.[0-9]+)?", text, re.ASCII):
        return "'" + text
    return text


def moment(seconds: float) -> datetime:
    """A stored time in UTC, or the nearest that can be written: a look at it never fails."""
    return datetime.fromtimestamp(min(max(seconds, 0), _LAST), UTC)


def _typed(at: int, text: str) -> int:
    if not 0 <= at < _TYPED_END:
        raise UsageError(f"{clean(text)!r} leads out of the years 1970 to 9998")
    return at


def _duration(text: str) -> int:
    """Seconds from ``30d``, ``24h``, ``90m``, ``45s``, ``2w``; raises `UsageError`."""
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None:
        raise UsageError(f"{clean(text)!r} is no duration: write for example 24h, 30d or 2w")
    return int(match[1]) * _SECONDS[match[2]] if match[1] else 0


def later(text: str, now: int) -> int:
    """Unix seconds when a duration (``24h``) is over; raises `UsageError`."""
    return _typed(now + _duration(text), text)


def earlier(text: str, now: int) -> int:
    """Unix seconds a duration (``24h``) ago; raises `UsageError`."""
    return _typed(now - _duration(text), text)


def parse_day(text: str) -> int:
    """Unix seconds of a UTC day's start, ``2026-12-01``; raises `UsageError`."""
    try:
        day = date.fromisoformat(text.strip())
    except ValueError:
        raise UsageError(f"{clean(text)!r} is no date: write for example 2026-12-01") from None
    return _typed(int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()), text)


def _is_day(text: str) -> bool:
    """Whether it is a day and no duration; raises `UsageError` when it is neither."""
    word = text.strip().lower()
    day = re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", word, re.ASCII)
    if day is None and _DURATION.fullmatch(word) is None:
        raise UsageError(
            f"{clean(text)!r} is no time: write a duration (24h, 30d, 2w) or a UTC day (2026-12-01)"
        )
    return day is not None


def parse_since(text: str, now: int) -> int:
    """Unix seconds of a moment: a duration ago (``24h``) or the start of a UTC day."""
    return parse_day(text) if _is_day(text) else earlier(text, now)


def parse_expiry(text: str, now: int) -> int | None:
    """Unix seconds from ``30d`` (from now) or a UTC day (its start); ``never`` is None."""
    if text.strip().lower() in ("never", "none"):
        return None
    at = parse_day(text) if _is_day(text) else later(text, now)
    if at <= now:
        raise UsageError(f"{text!r} is in the past: an expiry lies ahead")
    return at


def parse_email(text: str) -> str:
    """An e-mail in lower case; raises `UsageError`."""
    email = text.strip().lower()
    if len(email) > 254 or not _EMAIL.fullmatch(email) or clean(email) != email:
        raise UsageError(f"{clean(text)!r} is no e-mail address")
    return email


def parse_name(text: str) -> str:
    """What people call a user, a key or a model; raises `UsageError`."""
    name = text.strip()
    if len(name) > NAME_MAX:
        raise UsageError(f"a name has at most {NAME_MAX} characters")
    if clean(name) != name:
        raise UsageError(f"{clean(name)!r}: a name has no control or invisible characters")
    return name


def split_list(text: str) -> list[str]:
    """``"a, b"`` -> ``["a", "b"]``, in order, without repeats; raises `UsageError` when empty.

    A script's empty variable is a mistake: only a word like ``none`` lifts what a list restricts.
    """
    parts = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not parts:
        raise UsageError(f"{clean(text)!r} lists nothing: write names with commas, or none")
    return parts


def parse_ips(parts: Iterable[str]) -> list[str]:
    """Networks in CIDR form; raises `UsageError`."""
    try:
        return [str(ipaddress.ip_network(part, strict=False)) for part in parts]
    except ValueError as error:
        raise UsageError(f"{error}: write addresses like 203.0.113.7 or 10.0.0.0/8") from None
