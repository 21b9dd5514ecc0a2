r"""Server-sent events: taking a provider's stream apart, writing our own.

The splitter follows the WHATWG event-stream grammar (LF, CRLF and CR end lines, one BOM is skipped,
lines starting with a colon are comments, several ``data:`` lines are joined by LF). It works on
bytes: U+2028, U+2029 and U+0085 are text there, as the grammar wants. Event names are dropped: every
provider's JSON says its own type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

__all__ = ["DONE", "MAX_EVENT", "EventTooLong", "Splitter", "comment", "data", "error"]

DONE = b"data: [DONE]\n\n"
MAX_EVENT = 32 * 1024 * 1024
"""Bytes one event may have; an inlined image is the longest there is."""

_BOM = b"\xef\xbb\xbf"


class EventTooLong(ValueError):
    """An event grew beyond the limit without ending."""


class Splitter:
    """Cuts bytes, arriving in any pieces, into the data of events.

    What is kept between two calls is at most one unfinished event. A long event costs linear time
    however small the pieces are.
    """

    __slots__ = ("_after_cr", "_limit", "_parts", "_size", "_started", "_tail_lf", "empty")

    def __init__(self, limit: int = MAX_EVENT) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self._started = False
        self._after_cr = False
        self._tail_lf = False
        self.empty = False
        """Whether the next byte begins an event: nothing is kept of the bytes before."""

    def feed(self, data: bytes) -> list[bytes]:
        """The data of each event these bytes complete, in order; events without data are left out.

        Raises `EventTooLong`.
        """
        self.empty = False
        if self._after_cr or b"\r" in data:
            data = self._normalise(data)
        if not data:
            return []
        if not self._started:
            data = b"".join((*self._parts, data))
            if len(data) < len(_BOM) and _BOM.startswith(data):
                self._parts = [data]
                return []
            self._started = True
            self._parts = []
            data = data.removeprefix(_BOM)
        ends_here = b"\n\n" in data or (self._tail_lf and data[:1] == b"\n")
        self._tail_lf = data[-1:] == b"\n"
        if self._parts:
            self._parts.append(data)
        elif not ends_here:
            self._parts = [data]
        if not ends_here:
            self._size += len(data)
            if self._size > self._limit:
                raise EventTooLong(f"an event is longer than {self._limit} bytes")
            return []
        if self._parts:
            data = b"".join(self._parts)
        blocks = data.split(b"\n\n")
        rest = blocks.pop()
        self._parts = [rest] if rest else []
        self._size = len(rest)
        self.empty = not rest and not self._after_cr
        events = []
        for block in blocks:
            if block[:6] == b"data: " and b"\n" not in block:
                events.append(block[6:])
            elif (found := _data_of(block)) is not None:
                events.append(found)
        return events

    def end(self) -> list[bytes]:
        """The data of an event that the end of the stream left without its blank line.

        The grammar drops such an event; providers forget the last blank line, so it is handed out
        and the reader judges by its content whether it is whole.
        """
        rest = b"".join(self._parts)
        self._parts, self._size = [], 0
        found = _data_of(rest)
        return [] if found is None else [found]

    def _normalise(self, data: bytes) -> bytes:
        """The same bytes with LF line ends; a CRLF may be cut between two pieces."""
        if self._after_cr and data[:1] == b"\n":
            data = data[1:]
            self._after_cr = False
        if data:
            self._after_cr = data[-1] == 13
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _data_of(block: bytes) -> bytes | None:
    """The joined data lines of one event's bytes; None when it has none (comments, names)."""
    found: list[bytes] = []
    for line in block.split(b"\n"):
        if line.startswith(b"data:"):
            found.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line == b"data":
            found.append(b"")
    return b"\n".join(found) if found else None


def data(payload: bytes) -> bytes:
    """One event; ``payload`` is JSON without raw line ends."""
    return b"data: " + payload + b"\n\n"


def comment(text: str) -> bytes:
    """A line clients ignore: a keep-alive, or a word for people reading the raw stream."""
    return b": " + " ".join(text.split()).encode() + b"\n\n"


def error(body: Mapping[str, Any]) -> bytes:
    """An error event; ``body`` is `ApiError.body`, ``{"error": {…}}``."""
    return data(orjson.dumps(body))
